"""Symmetries of neural-network parameters as first-class pytree transforms in JAX.

A symmetry is an object that acts on a parameter pytree; everything else is derived from it.
Rooms and names are imported at their first use (PEP 562), so that a program pays only for what it needs.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eqtoolbox import (
        curvature,
        discovery,
        ensemble,
        groups,
        identities,
        inference,
        linalg,
        mirror,
        noether,
        orbits,
        symmetry,
        testing,
        zoo,
    )
    from eqtoolbox.curvature import scale_by_symmetry, symo
    from eqtoolbox.inference import infer_symmetry
    from eqtoolbox.mirror import dcs
    from eqtoolbox.noether import track_charges
    from eqtoolbox.orbits import teleport
    from eqtoolbox.problem import Batch, Problem
    from eqtoolbox.symmetry import (
        Equivariance,
        Symmetry,
        catalog,
        lie_derivative,
        orbit_dimension,
        sample_orbit,
        split,
        symmetrize,
    )

__all__ = [
    "Batch",
    "Equivariance",
    "Problem",
    "Symmetry",
    "catalog",
    "curvature",
    "dcs",
    "discovery",
    "ensemble",
    "groups",
    "identities",
    "infer_symmetry",
    "inference",
    "lie_derivative",
    "linalg",
    "mirror",
    "noether",
    "orbit_dimension",
    "orbits",
    "sample_orbit",
    "scale_by_symmetry",
    "split",
    "symmetrize",
    "symmetry",
    "symo",
    "teleport",
    "testing",
    "track_charges",
    "zoo",
]

# The module each name comes from, relative to this package; a room is its own.
_HOMES = {
    "Batch": "problem",
    "Equivariance": "symmetry",
    "Problem": "problem",
    "Symmetry": "symmetry",
    "dcs": "mirror",
    "infer_symmetry": "inference",
    "lie_derivative": "symmetry",
    "orbit_dimension": "symmetry",
    "sample_orbit": "symmetry",
    "scale_by_symmetry": "curvature",
    "split": "symmetry",
    "symmetrize": "symmetry",
    "symo": "curvature",
    "teleport": "orbits",
    "track_charges": "noether",
}
_ROOMS = {name: "symmetry.catalog" if name == "catalog" else name for name in __all__ if name not in _HOMES}


if not TYPE_CHECKING:  # to a type checker a name that is not there is an error

    def __getattr__(name):
        if name in _HOMES:
            value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        elif name in _ROOMS:
            value = importlib.import_module(f"{__name__}.{_ROOMS[name]}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
