"""Infers the symmetry of many random programs and tries a random element of each.

    python scripts/fuzz_inference.py                     # 10,000 programs, about 25 minutes
    python scripts/fuzz_inference.py --programs 500 --seed 7

The outputs must not change beyond rounding: an error must shrink from float32 to float64. Exits with 1 if one does
not. Compiled operations are kept in a temporary folder, since a program rarely has one that none had before.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "plugins"))

from random_programs import random_recipe
from soundness import judge

EVERY = 500


@dataclass(frozen=True)
class Fuzz:
    """Tries random programs.

    Attributes:
      programs: how many.
      seed: of the programs.
      longest: most steps of a program.
    """

    programs: int = 10_000
    seed: int = 0
    longest: int = 6


def main(command: Fuzz) -> int:
    rng = np.random.default_rng(command.seed)
    start, worst, wrong, continuous, discrete = time.perf_counter(), 0.0, 0, 0, 0
    for i in range(command.programs):
        recipe = random_recipe(rng, command.longest)
        verdict = judge(recipe, seed=i % 5)
        continuous += verdict.symmetry.dimension > 0
        discrete += bool(verdict.symmetry.factors) and verdict.symmetry.dimension == 0
        if verdict.sound:
            worst = max(worst, verdict.error)
        else:
            wrong += 1
            print(
                f"WRONG by {verdict.error:.1e} (float32 {verdict.coarse:.1e}): {recipe}\n{verdict.symmetry}",
                flush=True,
            )
        if (i + 1) % EVERY == 0:
            jax.clear_caches()  # else they grow without bound
        if (i + 1) % EVERY == 0 or i + 1 == command.programs:
            print(
                f"{i + 1} programs in {time.perf_counter() - start:.0f} s: {continuous} with generators, {discrete} "
                f"discrete, {i + 1 - continuous - discrete} with none; {wrong} wrong; largest error {worst:.1e}",
                flush=True,
            )
    return int(wrong > 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        sys.exit(main(tyro.cli(Fuzz, description=__doc__)))
