"""The exact structure of curvature that a symmetry forces, and estimators built on it."""

from eqtoolbox.curvature import _carry  # noqa: F401  (registers how a state is carried along)
from eqtoolbox.curvature._commutant import Blocks, Commutant
from eqtoolbox.curvature._components import Component, Member
from eqtoolbox.curvature._gauss_newton import SymmetryGaussNewtonState, symmetry_gauss_newton
from eqtoolbox.curvature._piece import Piece
from eqtoolbox.curvature._spectrum import ApplyInfo, BlockSpectrum
from eqtoolbox.curvature._symo import ScaleBySymmetryState, interval, memory, scale_by_symmetry, symo
from eqtoolbox.curvature._whitening import Factors

__all__ = [
    "ApplyInfo",
    "BlockSpectrum",
    "Blocks",
    "Commutant",
    "Component",
    "Factors",
    "Member",
    "Piece",
    "ScaleBySymmetryState",
    "SymmetryGaussNewtonState",
    "interval",
    "memory",
    "scale_by_symmetry",
    "symmetry_gauss_newton",
    "symo",
]
