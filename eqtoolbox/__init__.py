"""Symmetries of neural-network parameters as first-class pytree transforms in JAX.

A symmetry is an object that acts on a parameter pytree; everything else is derived from it.
"""

from eqtoolbox import curvature, groups, identities, inference, linalg, noether, testing, zoo
from eqtoolbox.curvature import scale_by_symmetry, symo
from eqtoolbox.inference import infer_symmetry
from eqtoolbox.noether import track_charges
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
    "groups",
    "identities",
    "infer_symmetry",
    "inference",
    "lie_derivative",
    "linalg",
    "noether",
    "orbit_dimension",
    "sample_orbit",
    "scale_by_symmetry",
    "split",
    "symmetrize",
    "symo",
    "testing",
    "track_charges",
    "zoo",
]
