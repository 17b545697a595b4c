"""Factors of an averaged curvature as a file that says what they are factors of."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.curvature import Blocks, Commutant
from eqtoolbox.ensemble._errors import EnsembleError
from eqtoolbox.pages import DamagedError, load_tree, save_tree
from eqtoolbox.symmetry import Symmetry

FORMAT = "eqtoolbox-factors"


def save_factors(path: Path, com: Commutant, blocks: Blocks, **about: Any) -> None:
    """Writes blocks with their commutant, as an .npz file, whole or not at all.

    Args:
      path: of the file.
      com: the commutant.
      blocks: for each component matrices (*family, m, m).
      **about: texts, numbers and arrays to keep beside them.
    """
    save_tree(
        Path(path),
        {
            "format": FORMAT,
            "symmetry": com.symmetry.to_json(),
            "leaves": [[name, list(shape)] for name, shape in com.leaves],
            "diagonal": list(com.diagonal),
            "diagonal_above": com.diagonal_above,
            "components": [[c.name, np.asarray(blocks[c.name])] for c in com.components],
            "about": about,
        },
    )


def load_factors(path: Path | str) -> tuple[Commutant, Blocks]:
    """The commutant and the blocks of a file that ``save_factors`` or a run wrote.

    Args:
      path: of the file, such as ``runs/relu/factors-t20.npz``.

    Returns:
      The commutant, of a tree with the same leaves, and the blocks.

    Raises:
      EnsembleError: the file is missing, damaged, or something else.
    """
    try:
        found = load_tree(Path(path))
    except FileNotFoundError as error:
        raise EnsembleError(f"there is no file {str(path)!r}") from error
    except DamagedError as error:
        raise EnsembleError(f"{error}: it is no file of factors, or not whole") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise EnsembleError(f"{path} is no file of factors")
    # Ordered, so that the leaves keep their order whatever tree they were of.
    tree = OrderedDict(
        (name, jax.ShapeDtypeStruct(tuple(shape), jnp.float32)) for name, shape in found["leaves"]
    )
    com = Commutant(
        Symmetry.from_json(found["symmetry"]),
        tree,
        diagonal=tuple(found["diagonal"]),
        diagonal_above=found["diagonal_above"],
    )
    return com, {name: jnp.asarray(block) for name, block in found["components"]}
