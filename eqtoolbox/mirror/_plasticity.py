"""Keeping a network plastic: a random fixed bias on its parameters, so that decay does not prefer symmetric points."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

from jax import Array

from eqtoolbox.linalg import check_number, random_like
from eqtoolbox.mirror._constraints import globs
from eqtoolbox.mirror._factors import chosen, flat, unflat
from eqtoolbox.symmetry import is_masked

Params = Any


def random_bias(
    params: Params, scale: float, *, key: Array, where: str | tuple[str, ...] = ()
) -> tuple[Params, Callable[[Params], Params]]:
    """The parameters behind a random fixed bias: θ = φ + β, β ~ N(0, scale²).

    Train φ with the loss L(φ + β). What depends on φ itself, weight decay above all, no longer knows the symmetry:
    decay pulls towards θ = β, which is no symmetric point, so that Oᵀθ = 0 is not preferred any more. The second fix of
    the paper, noise on the gradients, is ``optax.add_noise(eta, gamma, key)`` in front of the optimizer; it removes the
    absorbing states themselves.

    Without anything that depends on φ the bias does nothing: a step of any optimizer that sees only gradients moves φ
    as it would move θ. The points Oᵀθ = 0 are as absorbing as before, at Oᵀφ = −Oᵀβ.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox.mirror import random_bias
    >>> params = {"w": jnp.ones(2)}
    >>> free, biased = random_bias(params, 0.01, key=jax.random.key(0))
    >>> bool(jnp.allclose(biased(free)["w"], params["w"]))
    True
    >>> loss = lambda p: jnp.sum(p["w"] ** 2)
    >>> grads = jax.grad(lambda free: loss(biased(free)))(free)

    Args:
      params: θ, a pytree.
      scale: the standard deviation of β; the paper's is 0.01.
      key: a typed key.
      where: globs of the leaves that get one; every leaf of real numbers when there is none.

    Returns:
      φ = θ − β, and the function φ -> φ + β, to be called in the loss.

    Raises:
      TypeError: ``scale`` is no number.
      ValueError: ``scale`` is negative, or a glob matches no leaf.

    Reference:
      Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024), sec. 3.4.
    """
    check_number(scale, "random_bias: `scale`")
    if isinstance(scale, numbers.Real) and not scale >= 0:
        raise ValueError(f"random_bias: `scale` must not be negative, got {scale!r}")
    where = globs((where,) if isinstance(where, str) else tuple(where))
    leaves = flat(params)
    mine = chosen(params, where, "random_bias", lambda x: True)
    drawn = random_like(key, {path: leaves[path] for path in mine})
    bias = {path: (scale * x).astype(x.dtype) for path, x in drawn.items()}

    def shifted(tree: Params, sign: int) -> Params:
        found = {p: x for p, x in flat(tree).items() if not is_masked(x)}
        return unflat(
            {p: x + sign * bias[p].astype(x.dtype) if p in bias else x for p, x in found.items()}, tree
        )

    return shifted(params, -1), lambda free: shifted(free, 1)
