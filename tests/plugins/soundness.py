"""Is an inferred symmetry of a random program sound? Errors must be rounding: they shrink with the precision."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from catalog_tools import random_element
from random_programs import Recipe, inputs, parameters_of, program

from eqtoolbox import Symmetry, infer_symmetry

#: Relative error in float64 that needs no second look.
CLEAR = 1e-9
#: What a larger one must be of that in float32: rounding shrinks by 2e-9 between the two.
SHRINK = 1e-5

#: Outputs below this are taken for sums that vanish but for rounding, such as that of centred numbers.
SMALL = 1e-4


class Verdict(NamedTuple):
    """What was found for a program.

    Attributes:
      symmetry: inferred, in float64.
      error: relative change of the outputs under a random element, in float64.
      coarse: the same in float32, where the error in float64 needs a second look; else 0.
      sound: whether it is rounding.
    """

    symmetry: Symmetry
    error: float
    coarse: float
    sound: bool


def judge(recipe: Recipe, seed: int = 0) -> Verdict:
    """Infers the symmetry of a program and tries a random element of it. Call it in 64-bit mode."""
    f = program(recipe)
    sym = infer_symmetry(f, parameters_of(recipe), inputs(), verify=False)
    error = _error(sym, recipe, seed, np.float64) if sym.factors else 0.0
    coarse = _error(sym, recipe, seed, np.float32) if error > CLEAR else 0.0
    return Verdict(sym, error, coarse, error <= CLEAR or error <= SHRINK * coarse)


def _error(sym: Symmetry, recipe: Recipe, seed: int, dtype) -> float:
    f, p, x = program(recipe), parameters_of(recipe, 2 * seed, dtype), inputs(2 * seed + 1, dtype=dtype)
    rng = np.random.default_rng(seed)
    g = {f.key: random_element(f.group, rng) for f in sym.factors}
    moved = sym.act(jax.tree.map(lambda a: jnp.asarray(a, dtype if a.dtype == float else None), g), p)
    worst = 0.0
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(f(q, x))) for q in (p, moved)), strict=True):
        size = np.max(np.abs(a), initial=SMALL)
        if not (np.isfinite(a).all() and np.isfinite(b).all() and size < 1e100):
            continue  # overflow says nothing
        worst = max(worst, float(np.max(np.abs(a - b), initial=0) / size))
    return worst
