"""Rows of normalisations and the softmax: S6, S6b and S7.

Scale invariance is exact without the small eps that implementations add to a variance (with eps = 1e-5 it holds
up to about 1e-5), so these rows normalise without it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import GeneralLinear, Group, PositiveScaling, Scaling, SignFlip, Translation
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._records import Parts, Recipe, affine, kernel, normal, times, vectors

_X = vectors(4)


def _layer(rng: np.random.Generator, width: int) -> dict[str, Array]:
    return {"kernel": kernel(rng, 4, width), "bias": normal(rng, width)}


def standardise(z: Array, axis: int | tuple[int, ...]) -> Array:
    """Subtracts the mean and divides by the standard deviation over ``axis``; no eps."""
    z = z - jnp.mean(z, axis, keepdims=True)
    return z / jnp.sqrt(jnp.mean(jnp.square(z), axis, keepdims=True))


def _batch_apply(params, x: Array) -> Array:
    return standardise(affine(params, x), 0)


def _layer_apply(params, x: Array) -> Array:
    return standardise(affine(params, x), -1)


def _on(kernel_label: str, bias_label: str, **groups: Group) -> Symmetry:
    return Symmetry({"kernel": kernel_label, "bias": bias_label}, {**groups})


def _batch(rng: np.random.Generator) -> Parts:
    wrong = (
        ("sign flips: the output changes sign", _on("_ h", "h", h=SignFlip(6))),
        ("GL(m)", _on("_ h", "h", h=GeneralLinear(6))),
        ("the rows scaled, not the columns", _on("n _", "_", n=PositiveScaling(4))),
    )
    return Parts(_on("_ h", "h", h=PositiveScaling(6)), _batch_apply, _layer(rng, 6), _X, wrong)


def _batch_bias(rng: np.random.Generator) -> Parts:
    wrong = (("the kernel shifted", _on("_ t", "_", t=Translation(6))),)
    return Parts(_on("_ _", "t", t=Translation(6)), _batch_apply, _layer(rng, 6), _X, wrong)


def _layer_scale(rng: np.random.Generator) -> Parts:
    wrong = (
        ("one scaling per row of W (per unit)", _on("_ h", "h", h=PositiveScaling(6))),
        ("the sign: the output changes sign", _on("_ _ | c", "_ | c", c=SignFlip(1))),
        ("the bias not scaled", _on("_ _ | c", "_", c=Scaling())),
    )
    return Parts(_on("_ _ | c", "_ | c", c=Scaling()), _layer_apply, _layer(rng, 6), _X, wrong)


def _layer_shift(rng: np.random.Generator) -> Parts:
    wrong = (
        ("every unit shifted on its own", _on("_ t", "_", t=Translation(6))),
        ("the bias shifted unit by unit", _on("_ _", "t", t=Translation(6))),
    )
    symmetry = _on("t _", "_ | u", t=Translation(4), u=Translation(1))
    return Parts(symmetry, _layer_apply, _layer(rng, 6), _X, wrong)


def _group_scale(rng: np.random.Generator) -> Parts:
    def apply(params, x: Array) -> Array:
        z = affine(params, x)
        return standardise(z.reshape(len(z), 2, 3), -1).reshape(z.shape)

    wrong = (
        ("one scaling per unit", _on("_ h", "h", h=PositiveScaling(6))),
        ("groups taken with stride", _on("_ (_ g)", "(_ g)", g=PositiveScaling(2))),
    )
    return Parts(_on("_ (g _)", "(g _)", g=PositiveScaling(2)), apply, _layer(rng, 6), _X, wrong)


def _weight(rng: np.random.Generator) -> Parts:
    params = {"v": kernel(rng, 4, 6), "g": normal(rng, 6)}

    def apply(params, x: Array) -> Array:
        norms = jnp.linalg.norm(params["v"], axis=0, keepdims=True)
        return jnp.tanh(times(x @ (params["v"] / norms), params["g"]))

    def on(g: str, group: Group) -> Symmetry:
        return Symmetry({"v": "_ h", "g": g}, {"h": group})

    wrong = (
        ("the gain scaled along", on("h", PositiveScaling(6))),
        ("signs of v alone", on("_", SignFlip(6))),
    )
    return Parts(on("_", PositiveScaling(6)), apply, params, _X, wrong)


def _softmax(rng: np.random.Generator) -> Parts:
    def apply(params, x: Array) -> Array:
        return jax.nn.softmax(affine(params, x), axis=-1)

    wrong = (
        ("the wrong axis: every class shifted on its own", _on("_ t", "_", t=Translation(3))),
        ("scaling of all logits", _on("_ _ | c", "_ | c", c=Scaling())),
        ("the shift of one class's bias", _on("_ _", "t", t=Translation(3))),
    )
    symmetry = _on("t _", "_ | u", t=Translation(4), u=Translation(1))
    return Parts(symmetry, apply, _layer(rng, 3), _X, wrong)


RECIPES = (
    Recipe(
        "batch_norm",
        "Example 1.2.7, statistics of the batch; invariant under R₊^m, m rows of W (DA-E2)",
        6,
        _batch,
        "S6",
    ),
    Recipe("batch_norm_bias", "Example 1.2.7: a bias before the norm is free", 6, _batch_bias, "S6"),
    Recipe("layer_norm", "after Example 1.2.7: one scaling for all of W", 1, _layer_scale, "S6b"),
    Recipe(
        "layer_norm_shift",
        "LayerNorm subtracts what is common to all units, as Example 1.2.8",
        5,
        _layer_shift,
        "S6b",
    ),
    Recipe("group_norm", "after Example 1.2.7: one scaling per group", 2, _group_scale, "S6b"),
    Recipe("weight_norm", "after Example 1.2.7: g v/|v|", 6, _weight, "S6b"),
    Recipe(
        "softmax", "Example 1.2.8; the softmax is over the classes of each sample (DA-E3)", 5, _softmax, "S7"
    ),
)
