"""Rows whose network changes, but not its loss (S13) or its mean over the data (S14)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import GeneralLinear, Group, Orthogonal, SignedPermutation, Stabiliser
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._records import Parts, Recipe, kernel, normal

_MEAN = (0.7, -0.4, 1.1, 0.3)


def _contrastive(rng: np.random.Generator) -> Parts:
    """A loss of the inner products of two views' features: each should match its own partner."""

    def network(params, views) -> tuple[Array, Array]:
        return views[0] @ params["kernel"], views[1] @ params["kernel"]

    def apply(params, views) -> Array:
        a, b = network(params, views)
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(a @ b.T, axis=-1)))

    def on(group: Group, label: str = "_ h") -> Symmetry:
        return Symmetry({"kernel": label}, {"h": group})

    def draw(rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        return normal(rng, batch, 4), normal(rng, batch, 4)

    wrong = (("GL(m)", on(GeneralLinear(3))), ("O(n) on the inputs", on(Orthogonal(4), "h _")))
    return Parts(on(Orthogonal(3)), apply, {"kernel": kernel(rng, 4, 3)}, draw, wrong, "loss", network)


def _mean_error(rng: np.random.Generator) -> Parts:
    """The mean error of a linear map on data of known mean: W acts on it through W x̄ alone.

    W is (m, n) in the text and moves as W A⁻¹; the kernel is its transpose and moves as A⁻ᵀ W^T, exponent -1.
    """

    def network(params, batch) -> Array:
        return batch[0] @ params["kernel"] - batch[1]

    def apply(params, batch) -> Array:
        return jnp.mean(network(params, batch), axis=0)

    target = kernel(rng, 4, 3)

    def draw(rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        x = rng.standard_normal((batch, 4))
        x = jnp.asarray(x - x.mean(0, keepdims=True) + np.asarray([_MEAN]), target.dtype)
        return x, x @ target

    def on(group: Group) -> Symmetry:
        return Symmetry({"kernel": "x* _"}, {"x": group})

    other = Stabiliser(GeneralLinear(4), (1.0, 0.0, 0.0, 0.0))
    wrong = (
        ("all of GL(n)", on(GeneralLinear(4))),
        ("the stabiliser of another vector", on(other)),
        ("signed permutations", on(SignedPermutation(4))),
    )
    params = {"kernel": kernel(rng, 4, 3)}
    symmetry = on(Stabiliser(GeneralLinear(4), _MEAN))
    return Parts(symmetry, apply, params, draw, wrong, "distribution", network)


RECIPES = (
    Recipe("contrastive", "Example 1.3.2", 3, _contrastive, "S13"),
    Recipe("mean_error", "Example 1.3.7; y is in R^m (DA-E4)", 9, _mean_error, "S14"),
)
