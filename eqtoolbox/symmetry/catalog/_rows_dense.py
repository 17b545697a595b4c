"""Rows of dense layers: S1 to S5, S8, S9 and S12."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.groups import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    SignedPermutation,
    SignFlip,
)
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._dense import mlp
from eqtoolbox.symmetry.catalog._records import (
    Parts,
    Recipe,
    affine,
    dense,
    feed_forward,
    kernel,
    normal,
    vectors,
)

_THREE = ("Dense_0", "Dense_1", "Dense_2")
_X = vectors(4)


def _two(group: Group, write: str, read: str, bias: str | None = None) -> Symmetry:
    """Two layers with one hidden space; the hidden bias moves as the columns unless told otherwise."""
    axes = {
        "Dense_0/kernel": f"_ {write}",
        "Dense_0/bias": write if bias is None else bias,
        "Dense_1/kernel": f"{read} _",
    }
    return Symmetry(axes, {"h": group})


def _linear(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 6, 3)
    wrong = (
        ("readers move with g, not with its inverse transpose", _two(GeneralLinear(7), "h", "h")),
        ("the hidden bias stays", _two(GeneralLinear(7), "h", "h*", "_")),
        (
            "the outputs move",
            Symmetry({"Dense_2/kernel": "_ h", "Dense_2/bias": "h"}, {"h": GeneralLinear(3)}),
        ),
    )
    identity = zoo.activations()["linear"]
    return Parts(mlp(params, _THREE, "linear"), feed_forward(identity, identity), params, _X, wrong)


def _quadratic(rng: np.random.Generator) -> Parts:
    """σ(z) = z zᵀ, flattened: ρ(g) = g ⊗ g for every g in GL(h)."""
    params = {
        "Dense_0": {"kernel": kernel(rng, 4, 3), "bias": normal(rng, 3)},
        "Dense_1": {"kernel": kernel(rng, 9, 2)},
    }

    def apply(params, x: Array) -> Array:
        z = affine(params["Dense_0"], x)
        return affine(params["Dense_1"], jnp.einsum("bi,bj->bij", z, z).reshape(len(z), -1))

    wrong = (
        ("ρ(g) = g ⊗ 1", _two(GeneralLinear(3), "h", "(h* 3)")),
        ("ρ(g) = g ⊗ g⁻ᵀ", _two(GeneralLinear(3), "h", "(h* h)")),
    )
    return Parts(_two(GeneralLinear(3), "h", "(h* h*)"), apply, params, _X, wrong)


def _mixed_layers(rng: np.random.Generator) -> Parts:
    """Every layer by the rule of its own activation."""
    params = dense(rng, 4, 5, 6, 4, 3)
    layers = (*_THREE, "Dense_3")
    names = ("tanh", "relu2", "radial")
    apply = feed_forward(*(zoo.activations()[name] for name in names))
    wrong = (
        ("the rules of two layers exchanged", mlp(params, layers, ("relu2", "tanh", "radial"))),
        ("the radial layer as a linear one", mlp(params, layers, ("tanh", "relu2", "linear"))),
    )
    return Parts(mlp(params, layers, names), apply, params, _X, wrong)


def _relu(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 3, bias=False)
    axes = {"Dense_0/kernel": "_ h", "Dense_1/kernel": "h* _"}

    def on(group: Group) -> Symmetry:
        return Symmetry(axes, {"h": group})

    wrong = (("sign flips", on(SignFlip(7))), ("GL(h)", on(GeneralLinear(7))), ("O(h)", on(Orthogonal(7))))
    return Parts(on(PositiveScaling(7)), feed_forward(jax.nn.relu), params, _X, wrong)


def _leaky_relu(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 6, 3)
    wrong = (
        ("scalings of both signs", _two(Monomial(7, 1, 1), "h", "h*")),
        ("readers not divided", _two(Monomial(7, 1), "h", "h^0")),
        ("the hidden bias stays", _two(PositiveScaling(7), "h", "h*", "_")),
    )
    leaky = zoo.activations()["leaky_relu"]
    return Parts(mlp(params, _THREE, "leaky_relu"), feed_forward(leaky, leaky), params, _X, wrong)


def _relu2(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 6, 3)
    relu2 = zoo.activations()["relu2"]
    wrong = (("degree 1", mlp(params, _THREE, "relu")), ("sign flips", mlp(params, _THREE, "square")))
    return Parts(mlp(params, _THREE, "relu2"), feed_forward(relu2, relu2), params, _X, wrong)


def _cube(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 3)

    def cube(z: Array) -> Array:
        return z**3

    wrong = (
        ("degree 2, with signs", mlp(params, _THREE[:2], "square")),
        ("readers do not see the sign", _two(Monomial(7, "a", "s"), "h{a:1,s:1}", "h{a:-3}")),
    )
    return Parts(mlp(params, _THREE[:2], "cube"), feed_forward(cube), params, _X, wrong)


def _degrees(rng: np.random.Generator) -> Parts:
    """Units of three degrees: relu^p for p = 1 (units 0 to 2), 2 (3, 4) and 1/2 (5, 6)."""
    params = dense(rng, 4, 7, 3)

    def powers(z: Array) -> Array:
        a, b, c = jnp.split(jax.nn.relu(z), (3, 5), axis=-1)
        root = jnp.where(c > 0, jnp.sqrt(jnp.where(c > 0, c, 1)), 0)  # with derivatives of all orders at rest
        return jnp.concatenate([a, b**2, root], axis=-1)

    def with_degrees(read: str) -> Symmetry:
        axes = {
            "Dense_0/kernel": "_ (a + b + c)",
            "Dense_0/bias": "(a + b + c)",
            "Dense_1/kernel": f"{read} _",
        }
        return Symmetry(axes, {"a": PositiveScaling(3), "b": Monomial(2, 1), "c": PositiveScaling(2)})

    wrong = (
        ("two degrees exchanged", with_degrees("(a* + b^-1/2 + c^-2)")),
        ("one degree for all units", _two(PositiveScaling(7), "h", "h*")),
        ("units of different degrees permuted", _two(Permutation(7), "h", "h")),
    )
    return Parts(with_degrees("(a* + b^-2 + c^-1/2)"), feed_forward(powers), params, _X, wrong)


def _tanh(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 3)
    wrong = (
        ("GL(h)", _two(GeneralLinear(7), "h", "h*")),
        ("positive scalings", _two(PositiveScaling(7), "h", "h*")),
        ("readers do not see the sign", _two(SignFlip(7), "h", "h^0")),
    )
    return Parts(_two(SignFlip(7), "h", "h"), feed_forward(jnp.tanh), params, _X, wrong)


def _sin(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 6, 3)
    wrong = (
        ("the hidden bias keeps its sign", _two(SignFlip(7), "h", "h", "_")),
        ("O(h)", mlp(params, _THREE, "radial")),
    )
    return Parts(mlp(params, _THREE, "sin"), feed_forward(jnp.sin, jnp.sin), params, _X, wrong)


def _radial(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 3)
    wrong = (
        ("GL(h)", _two(GeneralLinear(7), "h", "h*")),
        ("positive scalings", _two(PositiveScaling(7), "h", "h*")),
        ("the hidden bias stays", _two(Orthogonal(7), "h", "h", "_")),
    )
    apply = feed_forward(zoo.activations()["radial"])
    return Parts(mlp(params, _THREE[:2], "radial"), apply, params, _X, wrong)


def _pointwise(rng: np.random.Generator) -> Parts:
    params = dense(rng, 4, 7, 6, 3)
    wrong = (
        ("sign flips", mlp(params, _THREE, "tanh")),
        ("scalings", mlp(params, _THREE, "relu")),
        (
            "readers not permuted",
            Symmetry({"Dense_0": {"kernel": "_ h", "bias": "h"}}, {"h": Permutation(7)}),
        ),
    )
    gelu = zoo.activations()["gelu"]
    return Parts(mlp(params, _THREE, "gelu"), feed_forward(gelu, gelu), params, _X, wrong)


def _radial_basis(rng: np.random.Generator) -> Parts:
    params = {
        "weight": normal(rng, 6),
        "width": jnp.asarray(rng.uniform(0.5, 2.0, 6), jnp.result_type(float)),
        "center": normal(rng, 6, 4),
    }

    def apply(params, x: Array) -> Array:
        offset = jnp.expand_dims(x, 1) - jnp.expand_dims(params["center"], 0)
        distance = jnp.linalg.norm(offset, axis=-1)
        return jnp.exp(-jnp.square(distance / jnp.expand_dims(params["width"], 0))) @ params["weight"]

    triples = {"weight": "k", "width": "k", "center": "k _"}
    wrong = (
        ("widths left behind", Symmetry({**triples, "width": "_"}, {"k": Permutation(6)})),
        ("centres left behind", Symmetry({**triples, "center": "_ _"}, {"k": Permutation(6)})),
        ("signs", Symmetry(triples, {"k": SignedPermutation(6)})),
    )
    return Parts(Symmetry(triples, {"k": Permutation(6)}), apply, params, _X, wrong)


def _low_rank(rng: np.random.Generator) -> Parts:
    params = {"kernel": kernel(rng, 4, 5), "u": kernel(rng, 4, 2), "v": kernel(rng, 2, 5)}

    def apply(params, x: Array) -> Array:
        return x @ (params["kernel"] + params["u"] @ params["v"])

    wrong = (
        ("g on both factors", Symmetry({"u": "_ r", "v": "r _"}, {"r": GeneralLinear(2)})),
        ("one factor alone", Symmetry({"u": "_ r"}, {"r": GeneralLinear(2)})),
    )
    return Parts(Symmetry({"u": "_ r", "v": "r* _"}, {"r": GeneralLinear(2)}), apply, params, _X, wrong)


RECIPES = (
    Recipe("linear", "Example 1.2.2", 83, _linear, "S1"),
    Recipe("quadratic", "Prop. 1.2.3, σ(z) = z zᵀ; b_1 is in R^h (DA-E1)", 9, _quadratic, "S2"),
    Recipe("mixed_layers", "Prop. 1.2.3 layer by layer, (A.9)", 12, _mixed_layers, "S2"),
    Recipe("relu", "Example 1.2.4", 7, _relu, "S3"),
    Recipe("leaky_relu", "Example 1.2.4; σ = max(z,0) + s min(z,0) (DA-E10)", 13, _leaky_relu, "S3"),
    Recipe("relu2", "Example 1.2.4, degree 2", 13, _relu2, "S3"),
    Recipe("cube", "Example 1.2.4, degree 3, with signs", 7, _cube, "S3"),
    Recipe("degrees", "Example 1.2.4, a degree for each unit", 7, _degrees, "S3"),
    Recipe("tanh", "Example 1.2.5; the group is Z_2^h, printed Z_2^n (DA-E2)", 0, _tanh, "S4"),
    Recipe("sin", "Example 1.2.5 for another odd function", 0, _sin, "S4"),
    Recipe("radial", "Prop. 1.2.6", 21, _radial, "S5"),
    Recipe("pointwise", "Example 1.2.9", 0, _pointwise, "S8"),
    Recipe("radial_basis", "Example 1.2.10", 0, _radial_basis, "S9"),
    Recipe("low_rank", "Example 1.2.13", 4, _low_rank, "S12"),
)
