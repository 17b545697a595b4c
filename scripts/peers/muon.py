"""Muon with its momentum after the orthogonalisation instead of before it.

The orthogonalisation is that of ``optax.contrib.muon`` with ``beta=0``; only the order is ours.
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from peers.matrices import split_axis
from peers.momentum import nesterov_average


def dimension_numbers(params: Any) -> Any:
    """Which axes Muon takes for rows and columns: a leaf of more than two axes is one matrix; vectors get Adam."""

    def axes(leaf):
        if leaf.ndim < 2:
            return None
        rows = split_axis(leaf.shape)
        return optax.contrib.MuonDimensionNumbers(tuple(range(rows)), tuple(range(rows, leaf.ndim)))

    return jax.tree.map(axes, params)


def muon_after(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.9
) -> optax.GradientTransformation:
    """Orthogonalises the raw gradient, then Nesterov's momentum; vectors get Adam, as in ``optax.contrib.muon``.

    Args:
      learning_rate: a number or a schedule, for both.
      momentum: 0 for none.

    Returns:
      The optimizer.
    """
    steps = [
        optax.contrib.muon(
            1.0, beta=0.0, nesterov=False, muon_weight_dimension_numbers=dimension_numbers
        ),  # descends
        *([nesterov_average(momentum)] if momentum else []),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
    ]
    return optax.partition(
        {"matrix": optax.chain(*steps), "vector": optax.nadamw(learning_rate, weight_decay=0.0)},
        lambda params: jax.tree.map(lambda p: "matrix" if p.ndim > 1 else "vector", params),
    )
