"""The tables of rows and models."""

from __future__ import annotations

from collections.abc import Iterable

import jax
from jax import Array

from eqtoolbox.symmetry.catalog import (
    _models_flax,
    _models_small,
    _rows_attention,
    _rows_dense,
    _rows_loss,
    _rows_norms,
)
from eqtoolbox.symmetry.catalog._records import Model, Recipe, Row

_BATCH = 8


def _table(*groups: Iterable[Recipe]) -> dict[str, Recipe]:
    return {recipe.full_name: recipe for group in groups for recipe in group}


_ROWS = _table(_rows_dense.RECIPES, _rows_norms.RECIPES, _rows_attention.RECIPES, _rows_loss.RECIPES)
_MODELS = _table(_models_flax.RECIPES, _models_small.RECIPES)


def row_names() -> tuple[str, ...]:
    """The names of all rows: the number in the dissertation and a word, as in "S3/relu2"."""
    return tuple(_ROWS)


def rows(*names: str, key: Array | None = None) -> tuple[Row, ...]:
    """The rows S1 to S14 of the catalogue: each a small network with the symmetry stated for it.

    Example:
      >>> from eqtoolbox.symmetry import catalog
      >>> for row in catalog.rows("S3/relu2", "S7"):
      ...     print(row.id, row.symmetry.dimension, row.reference)
      S3 13 Example 1.2.4, degree 2
      S7 5 Example 1.2.8; the softmax is over the classes of each sample (DA-E3)

    Args:
      *names: of the rows wanted, among ``row_names()``, or all of a number, as in "S3"; every row by default.
      key: typed key of the parameters and inputs.

    Returns:
      The rows; parameters and inputs have the default float (float64 under ``jax.enable_x64``).

    Raises:
      ValueError: there is no row of that name.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), secs. 1.2 and 1.3.
    """
    key = jax.random.key(0) if key is None else key
    return tuple(recipe.row(key, _BATCH) for recipe in _pick(_ROWS, names, "row"))


def model_names() -> tuple[str, ...]:
    """The names of all models; the first six are those by which labels are judged."""
    return tuple(_MODELS)


def models(*names: str, key: Array | None = None) -> tuple[Model, ...]:
    """Whole models with their symmetries and the dimensions of their orbits.

    Example:
      >>> from eqtoolbox.symmetry import catalog
      >>> (model,) = catalog.models("fused_qkv")
      >>> model.symmetry.axes["qkv/kernel"], model.orbit_dimension
      ('_ (heads qk + heads qk* + heads vo)', 36)

    Args:
      *names: of the models wanted, among ``model_names()``; all of them by default.
      key: typed key of the parameters and inputs.

    Returns:
      The models; parameters and inputs have the default float (float64 under ``jax.enable_x64``).

    Raises:
      ValueError: there is no model of that name.
    """
    key = jax.random.key(0) if key is None else key
    return tuple(recipe.model(key, _BATCH) for recipe in _pick(_MODELS, names, "model"))


def _pick(table: dict[str, Recipe], names: tuple[str, ...], what: str) -> list[Recipe]:
    picked = []
    for name in names or table:
        found = [recipe for full, recipe in table.items() if name in (full, recipe.id)]
        if not found:
            raise ValueError(f"there is no {what} {name!r}; there are {', '.join(table)}")
        picked += found
    return picked
