"""Mirrors: reflection symmetries of a loss and the constraints Oᵀθ = 0 that they put on training.

Reference:
  Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024).
"""

from eqtoolbox.mirror._constraints import Constraint, linear, low_rank, sparse, tied
from eqtoolbox.mirror._dcs import DCSState, dcs
from eqtoolbox.mirror._factors import Factors
from eqtoolbox.mirror._groups import group_sparse, merged
from eqtoolbox.mirror._mirror import Mirror, direct_sum, from_directions, from_map
from eqtoolbox.mirror._of import Family, Mirrors, of, reflection
from eqtoolbox.mirror._plasticity import random_bias
from eqtoolbox.mirror._prune import LowRankFactors, PruneInfo, prune
from eqtoolbox.mirror._reparametrize import Reparametrized, reparametrize

__all__ = [
    "Constraint",
    "DCSState",
    "Factors",
    "Family",
    "LowRankFactors",
    "Mirror",
    "Mirrors",
    "PruneInfo",
    "Reparametrized",
    "dcs",
    "direct_sum",
    "from_directions",
    "from_map",
    "group_sparse",
    "linear",
    "low_rank",
    "merged",
    "of",
    "prune",
    "random_bias",
    "reflection",
    "reparametrize",
    "sparse",
    "tied",
]
