"""What the symmetry would be without the small numbers that keep divisions finite: never part of the exact group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from eqtoolbox.inference._explain import explanation
from eqtoolbox.inference._infer import remember
from eqtoolbox.inference._passes import frozen_leaves, is_concrete, settled
from eqtoolbox.inference._solve import build
from eqtoolbox.inference._verify import random_change
from eqtoolbox.linalg import check_number
from eqtoolbox.symmetry import Symmetry, leaf_paths

#: Random elements that the error is measured with.
SAMPLES = 3


@dataclass(frozen=True)
class UpToEps:
    """A symmetry of a model whose small constants are taken for zero.

    Attributes:
      symmetry: of that model: broken in the given one, by its constants only.
      exact: of the given model.
      neglected: pairs (operation and source line, constant).
      error: largest relative change of the outputs of the given model under random elements; None without arrays.
    """

    symmetry: Symmetry
    exact: Symmetry
    neglected: tuple[tuple[str, float], ...]
    error: float | None

    def __str__(self) -> str:
        lines = [f"broken only by constants: {self.symmetry}", f"exact: {self.exact}"]
        lines += [f"neglected {number:g} in {place}" for place, number in self.neglected]
        lines += [] if self.error is None else [f"outputs change by {self.error:.1e}"]
        return "\n".join(lines)


def infer_up_to_eps(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    frozen: Sequence[str] = (),
    largest: float = 1e-3,
) -> UpToEps:
    """The symmetry that a model would have if the small numbers it adds, such as the ε of a normalisation, were zero.

    A normalisation divides by sqrt(variance + ε), which is invariant to the scale of what comes in but for ε. The
    scalings that this breaks, of each channel or of a whole kernel, are not exact and ``infer_symmetry`` does not
    return them; they are what is meant where normalised networks are called scale invariant.

    >>> import jax, jax.numpy as jnp
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> def apply(p, x):
    ...     h = x @ p["a"]
    ...     return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6) @ p["b"]
    >>> found = infer_up_to_eps(apply, params, jnp.ones((5, 3)))
    >>> found.symmetry.dimension - found.exact.dimension, [f"{number:g}" for _, number in found.neglected]
    (1, ['1e-06'])

    Args:
      apply: as for ``infer_symmetry``.
      params: arrays or ``ShapeDtypeStruct``.
      *inputs: arrays or ``ShapeDtypeStruct``.
      frozen: glob patterns of leaves that must not move.
      largest: constants up to this size are taken for zero where they are added, or where a maximum or minimum is
        taken with them.

    Returns:
      An ``UpToEps``, with the exact symmetry beside; both include scalings of whole leaves.

    Raises:
      TypeError: ``frozen`` is one string, or ``largest`` no number.
      ValueError: a pattern matches no leaf, or ``largest`` is not positive.
    """
    check_number(largest, "`largest`")
    if not largest > 0:
        raise ValueError(f"`largest` must be positive, got {largest!r}")
    found = []
    still = frozen_leaves(leaf_paths(params), frozen)
    for negligible in (0.0, largest):
        analysis, values = settled(apply, params, inputs, still, negligible)
        symmetry, spaces = build(analysis, values, whole_leaves=True)
        remember(symmetry, params, explanation(symmetry, spaces, analysis, values))
        found.append((symmetry, analysis))
    (exact, _), (symmetry, analysis) = found
    error = None
    if is_concrete(params, inputs):
        change = random_change(symmetry, apply)
        error = max(float(change(jax.random.key(seed), params, inputs)) for seed in range(SAMPLES))
    return UpToEps(symmetry, exact, tuple(analysis.neglected.items()), error)
