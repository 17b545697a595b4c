"""Small models written as pure functions, with their labels by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import (
    GeneralLinear,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    SignedPermutation,
    Stabiliser,
    Trivial,
    Wreath,
)
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._attention import attention
from eqtoolbox.symmetry.catalog._dense import mlp
from eqtoolbox.symmetry.catalog._records import (
    Groups,
    Parts,
    Recipe,
    add,
    affine,
    dense,
    feed_forward,
    kernel,
    normal,
    times,
    vectors,
)

_X = vectors(4)


def _layer_norm(h: Array) -> Array:
    """Layer norm with the usual eps, without gain."""
    h = h - jnp.mean(h, -1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-5)


def _norm_between(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 3)
    params["norm"] = {"scale": 1 + normal(rng, 7, scale=0.3), "bias": normal(rng, 7)}

    def apply(params, x: Array) -> Array:
        h = times(_layer_norm(affine(params["Dense_0"], x)), params["norm"]["scale"])
        return affine(params["Dense_1"], add(h, params["norm"]["bias"]))

    axes = {
        "Dense_0": {"kernel": "_ h^0", "bias": "h^0"},
        "norm": {"scale": "h", "bias": "h"},
        "Dense_1": {"kernel": "h* _"},
    }
    return Parts(Symmetry(axes, {"h": Monomial(7, 1, 1)}), apply, params, _X)


def _norm_without_gain(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 3)

    def apply(params, x: Array) -> Array:
        return affine(params["Dense_1"], _layer_norm(affine(params["Dense_0"], x)))

    axes = {"Dense_0": {"kernel": "_ h", "bias": "h"}, "Dense_1": {"kernel": "h _"}}
    wrong = (("all of O(7)", Symmetry(axes, {"h": Orthogonal(7)})),)
    return Parts(Symmetry(axes, {"h": Stabiliser(Orthogonal(7))}), apply, params, _X, wrong)


def _softmax_classifier(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 6, 4)
    logits = feed_forward(jnp.tanh)

    def apply(params, x: Array) -> Array:
        return jax.nn.softmax(logits(params, x), axis=-1)

    return Parts(mlp(params, ("Dense_0", "Dense_1"), "tanh"), apply, params, _X)


def _concatenated(rng: np.random.Generator) -> Parts:
    """A head on the concatenation of two branches and the input."""
    params = {
        "a": {"kernel": kernel(rng, 4, 5), "bias": normal(rng, 5)},
        "b": {"kernel": kernel(rng, 4, 4), "bias": normal(rng, 4)},
        "head": {"kernel": kernel(rng, 13, 3), "bias": normal(rng, 3)},
    }

    def apply(params, x: Array) -> Array:
        branches = [jax.nn.relu(affine(params[name], x)) for name in "ab"]
        return affine(params["head"], jnp.concatenate([*branches, x], axis=-1))

    axes = {name: {"kernel": f"_ {name}", "bias": name} for name in "ab"}
    groups: Groups = {"a": Monomial(5, 1), "b": Monomial(4, 1)}

    def on(head: str) -> Symmetry:
        return Symmetry({**axes, "head": {"kernel": f"{head} _"}}, groups)

    wrong = (("the branches in another order", on("(b* + a* + 4)")), ("the input first", on("(4 + a* + b*)")))
    return Parts(on("(a* + b* + 4)"), apply, params, _X, wrong)


def _depthwise(rng: np.random.Generator) -> Parts:
    """Convolution, ReLU, depthwise convolution, ReLU, convolution, on sequences."""
    params = {
        "first": {"kernel": kernel(rng, 3, 2, 6), "bias": normal(rng, 6)},
        "depthwise": {"kernel": kernel(rng, 3, 1, 6), "bias": normal(rng, 6)},
        "last": {"kernel": kernel(rng, 1, 6, 3), "bias": normal(rng, 3)},
    }

    def convolve(layer, x: Array, groups: int = 1) -> Array:
        y = jax.lax.conv_general_dilated(
            x,
            layer["kernel"],
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )
        return add(y, layer["bias"])

    def apply(params, x: Array) -> Array:
        h = jax.nn.relu(convolve(params["first"], x))
        return convolve(params["last"], jax.nn.relu(convolve(params["depthwise"], h, 6)))

    axes = {
        "first": {"kernel": "... h{a:1}", "bias": "h{a:1}"},
        "depthwise": {"kernel": "... h{a:-1,b:1}", "bias": "h{b:1}"},
        "last": {"kernel": "... h{b:-1} _"},
    }
    return Parts(Symmetry(axes, {"h": Monomial(6, ("a", "b"))}), apply, params, vectors(5, 2))


def _weight_norm(rng: np.random.Generator) -> Parts:
    params = {"v": kernel(rng, 4, 6), "g": normal(rng, 6), "bias": normal(rng, 6), "out": kernel(rng, 6, 3)}

    def apply(params, x: Array) -> Array:
        unit = params["v"] / jnp.linalg.norm(params["v"], axis=0, keepdims=True)
        return jax.nn.gelu(add(times(x @ unit, params["g"]), params["bias"])) @ params["out"]

    axes = {"v": "_ h{scale:1,sign:1}", "g": "h{sign:1}", "bias": "h^0", "out": "h^0 _"}
    return Parts(Symmetry(axes, {"h": Monomial(6, ("scale",), ("sign",))}), apply, params, _X)


def _unit(h: Array) -> Array:
    return h / jnp.linalg.norm(h, axis=-1, keepdims=True)


def _unit_features(rng: np.random.Generator) -> Parts:
    params = {"a": kernel(rng, 4, 6), "b": kernel(rng, 6, 3)}
    symmetry = Symmetry({"a": "_ h", "b": "h _"}, {"h": Orthogonal(6)})
    return Parts(symmetry, lambda params, x: _unit(x @ params["a"]) @ params["b"], params, _X)


def _unit_queries(rng: np.random.Generator) -> Parts:
    params = {"query": kernel(rng, 4, 6), "key": kernel(rng, 4, 6), "value": kernel(rng, 4, 3)}

    def apply(params, x: Array) -> Array:
        q, k = _unit(x @ params["query"]), _unit(x @ params["key"])
        weights = jax.nn.softmax(3 * jnp.einsum("bih,bjh->bij", q, k), axis=-1)
        return weights @ (x @ params["value"])

    def on(key: str, group) -> Symmetry:
        return Symmetry({"query": "_ h", "key": key}, {"h": group})

    wrong = (("GL(6), as without the norms", on("_ h*", GeneralLinear(6))),)
    return Parts(on("_ h", Orthogonal(6)), apply, params, vectors(5, 4), wrong)


def _cosine_head(rng: np.random.Generator) -> Parts:
    params = {"a": kernel(rng, 4, 6), "head": kernel(rng, 6, 3)}

    def apply(params, x: Array) -> Array:
        return _unit(x @ params["a"]) @ _unit(params["head"].T).T

    axes = {"a": "_ h", "head": "h c"}
    return Parts(Symmetry(axes, {"h": Orthogonal(6), "c": PositiveScaling(3)}), apply, params, _X)


def _maxout(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 12, 3)
    params["Dense_1"]["kernel"] = kernel(rng, 6, 3)

    def apply(params, x: Array) -> Array:
        pieces = affine(params["Dense_0"], x)
        return affine(params["Dense_1"], jnp.max(pieces.reshape(len(x), 6, 2), axis=-1))

    def on(hidden: str) -> Symmetry:
        axes = {"Dense_0": {"kernel": f"_ {hidden}", "bias": hidden}, "Dense_1": {"kernel": "h* _"}}
        return Symmetry(axes, {("h", "piece"): Wreath(Permutation(2), Monomial(6, 1))})

    wrong = (("the unit as the fast index", on("(piece h)")),)
    return Parts(on("(h piece)"), apply, params, _X, wrong)


def _grouped_queries(rng: np.random.Generator) -> Parts:
    """Six heads of queries share two heads of keys and values."""
    params = {
        "query": {"kernel": kernel(rng, 6, 30).reshape(6, 6, 5)},
        "key": {"kernel": kernel(rng, 6, 10).reshape(6, 2, 5)},
        "value": {"kernel": kernel(rng, 6, 10).reshape(6, 2, 5)},
        "out": {"kernel": kernel(rng, 30, 4).reshape(6, 5, 4)},
    }

    def apply(params, x: Array) -> Array:
        q, k, v = (jnp.einsum("bid,dhk->bihk", x, params[n]["kernel"]) for n in ("query", "key", "value"))
        q = q.reshape(*x.shape[:2], 2, 3, 5)
        weights = jax.nn.softmax(jnp.einsum("bigqk,bjgk->bgqij", q, k) / 5**0.5, axis=-1)
        mixed = jnp.einsum("bgqij,bjgv->bigqv", weights, v)
        return jnp.einsum("bihv,hvd->bid", mixed.reshape(*x.shape[:2], 6, 5), params["out"]["kernel"])

    heads = {"query/kernel": "_ heads _", "out/kernel": "heads _ _"}
    wrong = (("query heads change groups", Symmetry(heads, {"heads": Permutation(6)})),)
    return Parts(attention(params), apply, params, vectors(5, 6), wrong)


def _experts(rng: np.random.Generator) -> dict[str, Array]:
    """Three tanh networks 4-6-3 stacked along a leading axis."""
    return {
        "in": jnp.stack([kernel(rng, 4, 6) for _ in range(3)]),
        "bias": normal(rng, 3, 6),
        "out": jnp.stack([kernel(rng, 6, 3) for _ in range(3)]),
    }


_EXPERT_AXES = {"in": "e _ h", "bias": "e h", "out": "e h _"}


def _expert_outputs(params, x: Array) -> Array:
    """Shape (experts, batch, features)."""

    def one(w: Array, b: Array, out: Array) -> Array:
        return jnp.tanh(add(x @ w, b)) @ out

    return jax.vmap(one)(params["in"], params["bias"], params["out"])


def _soft_experts(rng: np.random.Generator) -> Parts:
    params = _experts(rng) | {"gate": kernel(rng, 4, 3)}

    def apply(params, x: Array) -> Array:
        gates = jax.nn.softmax(x @ params["gate"], axis=-1)
        return jnp.einsum("be,ebo->bo", gates, _expert_outputs(params, x))

    group: Groups = {("e", "h"): Wreath(SignedPermutation(6), Permutation(3))}
    wrong = (("the gate stays", Symmetry(_EXPERT_AXES, group)),)
    return Parts(Symmetry({**_EXPERT_AXES, "gate": "_ e"}, group), apply, params, _X, wrong)


def _ensemble(mean: bool):
    def make(rng: np.random.Generator) -> Parts:
        def apply(params, x: Array) -> Array:
            y = _expert_outputs(params, x)
            return jnp.mean(y, axis=0) if mean else y

        def on(members) -> Symmetry:
            return Symmetry(_EXPERT_AXES, {("e", "h"): Wreath(SignedPermutation(6), members)})

        wrong = () if mean else (("members exchanged", on(Permutation(3))),)
        return Parts(on(Permutation(3) if mean else Trivial(3)), apply, _experts(rng), _X, wrong)

    return make


def _bilinear(rng: np.random.Generator) -> Parts:
    """x A (W + Wᵀ) B: one space on both axes of W."""
    params = {"a": kernel(rng, 4, 6), "w": kernel(rng, 6, 6), "b": kernel(rng, 6, 3)}

    def apply(params, x: Array) -> Array:
        return x @ params["a"] @ (params["w"] + params["w"].T) @ params["b"]

    def on(w: str, b: str) -> Symmetry:
        return Symmetry({"a": "_ h", "w": w, "b": b}, {"h": GeneralLinear(6)})

    wrong = (("W as a map of the space to itself", on("h* h", "h* _")),)
    return Parts(on("h* h*", "h _"), apply, params, _X, wrong)


def _tied_autoencoder(rng: np.random.Generator) -> Parts:
    symmetry = Symmetry({"a": "_ h"}, {"h": SignedPermutation(6)})
    return Parts(
        symmetry, lambda params, x: jnp.tanh(x @ params["a"]) @ params["a"].T, {"a": kernel(rng, 4, 6)}, _X
    )


def _two_spaces(rng: np.random.Generator) -> Parts:
    """tanh(tanh(x A) W) B: two spaces of one size, which a square W does not make one."""
    params = {"a": kernel(rng, 4, 6), "w": kernel(rng, 6, 6), "b": kernel(rng, 6, 3)}

    def apply(params, x: Array) -> Array:
        return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["w"]) @ params["b"]

    axes = {"a": "_ h1", "w": "h1 h2", "b": "h2 _"}
    groups: Groups = {"h1": SignedPermutation(6), "h2": SignedPermutation(6)}
    crossed = Symmetry({**axes, "w": "h2 h1"}, groups)
    return Parts(Symmetry(axes, groups), apply, params, _X, (("the axes of W exchanged", crossed),))


RECIPES = (
    Recipe("dense_norm_dense", "S(7)⋉R*^7, gain against reader", 7, _norm_between),
    Recipe("dense_norm_dense_no_gain", "O(7) fixing 1", 15, _norm_without_gain),
    Recipe("softmax_classifier", "B(6)", 0, _softmax_classifier),
    Recipe("concatenated", "S(5)⋉R₊^5, S(4)⋉R₊^4; the head's axis is a direct sum", 9, _concatenated),
    Recipe("depthwise", "S(6)⋉(R₊^2)^6", 12, _depthwise),
    Recipe("weight_norm", "S(6)⋉(R₊×Z₂)^6", 6, _weight_norm),
    Recipe("unit_features", "O(6)", 15, _unit_features),
    Recipe("unit_queries", "O(6)", 15, _unit_queries),
    Recipe("cosine_head", "O(6), and R₊^3 on the classes", 18, _cosine_head),
    Recipe("maxout", "S(2)≀(S(6)⋉R₊^6)", 6, _maxout),
    Recipe("grouped_queries", "(GL(5)×GL(5)×S(3))≀S(2)", 100, _grouped_queries),
    Recipe("soft_experts", "B(6)≀S(3)", 0, _soft_experts),
    Recipe("ensemble_mean", "B(6)≀S(3)", 0, _ensemble(mean=True)),
    Recipe("ensemble_stacked", "B(6)^3", 0, _ensemble(mean=False)),
    Recipe("bilinear", "GL(6), one space on both axes of W", 36, _bilinear),
    Recipe("tied_autoencoder", "B(6)", 0, _tied_autoencoder),
    Recipe("two_spaces", "B(6), B(6)", 0, _two_spaces),
)
