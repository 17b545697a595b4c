"""Averages of several networks that were brought together by their symmetry first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import check_integer
from eqtoolbox.orbits._align import match_weights, weight_distance
from eqtoolbox.symmetry import Symmetry

Params = Any


class Merge(NamedTuple):
    """What ``merge`` made.

    Attributes:
      params: the average of the aligned networks.
      aligned: the networks, each moved along its orbit; the first as it was.
      elements: the elements that moved them; the first is the identity.
      spread: √Σ w_i ‖θ_i - mean‖², before and after every round; it never grows.
    """

    params: Params
    aligned: tuple[Params, ...]
    elements: tuple[Any, ...]
    spread: tuple[float, ...]


def merge(
    sym: Symmetry,
    models: Sequence[Params],
    *,
    weights: Sequence[float] | None = None,
    only: str | None = None,
    key: Array | None = None,
    rounds: int = 5,
) -> Merge:
    """Averages networks after each was aligned to the average of the others.

    All are aligned to the first, which stays; then each of them in turn to the mean of all the others, until the
    spread no longer falls. A move that would raise the distance to that mean is not made.

    Args:
      sym: the symmetry of all.
      models: at least two parameter pytrees of the same shapes.
      weights: of the average, positive; equal when None.
      only: as for ``align``.
      key: as for ``align``.
      rounds: at most that many rounds over all networks.

    Returns:
      A ``Merge``.

    Raises:
      TypeError: as for ``align``.
      ValueError: fewer than two networks, weights that are not positive, or as for ``align``.

    Reference:
      Ainsworth, Hayase & Srinivasa, "Git Re-Basin" (2023), Algorithm 3, for permutations and without a network
      that stays.
    """
    models = list(models)
    check_integer(rounds, "rounds", 1)
    if len(models) < 2:
        raise ValueError(f"merge needs at least two networks, got {len(models)}")
    given = [1.0] * len(models) if weights is None else [float(w) for w in weights]
    if len(given) != len(models) or not all(0 < w < float("inf") for w in given):
        raise ValueError(f"`weights` must be {len(models)} positive numbers, got {weights!r}")
    w = [x / sum(given) for x in given]
    first = [match_weights(sym, m, to=models[0], only=only, key=key) for m in models[1:]]
    aligned = [models[0], *(f.aligned for f in first)]
    elements = [sym.identity(), *(f.element for f in first)]
    spread = [_spread(models, w), _spread(aligned, w)]
    for _ in range(rounds if len(models) > 2 else 0):
        for i in range(1, len(models)):
            others = [j for j in range(len(models)) if j != i]
            target = _mean([aligned[j] for j in others], [w[j] for j in others])
            found = match_weights(sym, aligned[i], to=target, only=only, key=key)
            if found.after < found.before * (1 - 1e-6):
                elements[i] = sym.compose(found.element, elements[i])
                aligned[i] = sym.act(elements[i], models[i])
        spread.append(_spread(aligned, w))
        if not spread[-1] < spread[-2] * (1 - 1e-6):
            break
    return Merge(_mean(aligned, w), tuple(aligned), tuple(elements), tuple(spread))


def _mean(models: Sequence[Params], weights: Sequence[float]) -> Params:
    """The weighted mean; whole numbers are those of the first."""
    total = sum(weights)

    def leaf(*x: Any) -> Array:
        first = jnp.asarray(x[0])
        if not jnp.issubdtype(first.dtype, jnp.inexact):
            return first
        wide = jnp.promote_types(first.dtype, jnp.float32)
        parts = [w / total * jnp.asarray(y, wide) for w, y in zip(weights, x, strict=True)]
        return sum(parts[1:], parts[0]).astype(first.dtype)

    return jax.tree.map(leaf, *models)


def _spread(models: Sequence[Params], weights: Sequence[float]) -> float:
    mean = _mean(models, weights)
    return float(
        sum(w * float(weight_distance(m, mean)) ** 2 for w, m in zip(weights, models, strict=True)) ** 0.5
    )
