"""Rows of attention: S10 and S11."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import GeneralLinear, Group, Permutation, PositiveScaling, Trivial, Wreath
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._attention import attention
from eqtoolbox.symmetry.catalog._records import Parts, Recipe, kernel, normal

_WIDTH, _HEADS, _DIM_K, _DIM_V = 6, 3, 2, 3


def _sequences(rng: np.random.Generator, batch: int) -> tuple[Array, Array, Array]:
    """Queries of one length, keys and values of another."""
    return normal(rng, batch, 4, _WIDTH), normal(rng, batch, 5, _WIDTH), normal(rng, batch, 5, _WIDTH)


def _single(rng: np.random.Generator) -> Parts:
    params = {"query": kernel(rng, _WIDTH, 3), "key": kernel(rng, _WIDTH, 3), "value": kernel(rng, _WIDTH, 4)}

    def apply(params, inputs) -> Array:
        q, k, v = (x @ params[name] for x, name in zip(inputs, ("query", "key", "value"), strict=True))
        logits = jnp.einsum("bik,bjk->bij", q, k) / 3**0.5
        return jax.nn.softmax(logits, axis=-1) @ v

    def on(group: Group, key: str = "_ k*", **more: str) -> Symmetry:
        return Symmetry({"query": "_ k", "key": key, **more}, {"k": group})

    wrong = (
        ("g on queries and keys alike", on(GeneralLinear(3), "_ k")),
        ("keys scaled, not divided", on(PositiveScaling(3), "_ k")),
        ("values move", Symmetry({"value": "_ v"}, {"v": GeneralLinear(4)})),
    )
    return Parts(on(GeneralLinear(3)), apply, params, _sequences, wrong)


def _multi_head(rng: np.random.Generator) -> Parts:
    """Kernels flattened head by head, as the concatenation of the text has them."""
    width_k, width_v = _HEADS * _DIM_K, _HEADS * _DIM_V
    params = {
        "query": {"kernel": kernel(rng, _WIDTH, width_k), "bias": normal(rng, width_k)},
        "key": {"kernel": kernel(rng, _WIDTH, width_k), "bias": normal(rng, width_k)},
        "value": {"kernel": kernel(rng, _WIDTH, width_v), "bias": normal(rng, width_v)},
        "out": {"kernel": kernel(rng, width_v, _WIDTH), "bias": normal(rng, _WIDTH)},
    }

    def apply(params, inputs) -> Array:
        def project(x: Array, layer) -> Array:
            y = x @ layer["kernel"] + layer["bias"].reshape(1, 1, -1)
            return y.reshape(*x.shape[:2], _HEADS, -1)

        q, k, v = (project(x, params[n]) for x, n in zip(inputs, ("query", "key", "value"), strict=True))
        logits = jnp.einsum("bihk,bjhk->bhij", q, k) / _DIM_K**0.5
        mixed = jnp.einsum("bhij,bjhv->bihv", jax.nn.softmax(logits, axis=-1), v)
        out = params["out"]
        return mixed.reshape(*mixed.shape[:2], -1) @ out["kernel"] + out["bias"].reshape(1, 1, -1)

    dim_k, dim_v = GeneralLinear(_DIM_K), GeneralLinear(_DIM_V)
    values = {"value/kernel": "_ (heads vo)", "value/bias": "(heads vo)", "out/kernel": "(heads vo*) _"}
    logits = {
        "query/kernel": "_ (heads qk)",
        "query/bias": "(heads qk)",
        "key/kernel": "_ (heads qk*)",
        "key/bias": "(heads qk*)",
    }

    def on(labels: dict[str, str], space: str, group: Group) -> Symmetry:
        return Symmetry(labels, {("heads", space): Wreath(group, Trivial(_HEADS))})

    whole = {path: f"{'_ ' * (label[0] == '_')}(heads 2)" for path, label in logits.items()}
    wrong = (
        ("W^O moves with a, not a⁻ᵀ", on({**values, "out/kernel": "(heads vo) _"}, "vo", dim_v)),
        (
            "keys move as queries",
            on({**logits, "key/kernel": "_ (heads qk)", "key/bias": "(heads qk)"}, "qk", dim_k),
        ),
        ("the query bias stays", on({**logits, "query/bias": "_"}, "qk", dim_k)),
        ("the head is the fast index of W^O", on({**values, "out/kernel": "(vo* heads) _"}, "vo", dim_v)),
        ("queries and keys change heads, values do not", Symmetry(whole, {"heads": Permutation(_HEADS)})),
    )
    return Parts(attention(params, heads=_HEADS), apply, params, _sequences, wrong)


RECIPES = (
    Recipe("attention", "Example 1.2.11; K and V have equally many rows (DA-E4)", 9, _single, "S10"),
    Recipe(
        "multi_head",
        "Example 1.2.12, with biases and exchange of heads; W^O in blocks of d_v rows (DA-E4)",
        _HEADS * (_DIM_K**2 + _DIM_V**2),
        _multi_head,
        "S11",
    ),
)
