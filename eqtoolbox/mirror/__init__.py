"""Mirrors: reflection symmetries of a loss and the constraints Oᵀθ = 0 that they put on training.

A symmetric point Oᵀθ = 0 is never left by a gradient step (a stationary condition). It is reached where weight decay
or the noise of SGD is strong: ``lyapunov``, ``critical_learning_rate`` and the ``*_weight_decay`` functions say when.

=============================  ====================================================================================
question                       function
=============================  ====================================================================================
which mirrors are there        ``of`` (of a ``Symmetry``), ``reflection``, ``from_directions``, ``from_map``
is a symmetric point better    ``local_weight_decay``, and for whole spaces ``rescaling_weight_decay``,
                               ``rank_weight_decay``, ``merging_weight_decay``
does gradient descent collapse ``gd_weight_decay``
does SGD collapse              ``lyapunov``, ``critical_learning_rate``, ``sgd_weight_decay``, ``phase_diagram``
are all minima symmetric       ``global_weight_decay``
impose a constraint            ``dcs``, ``reparametrize`` with ``sparse``, ``tied``, …; then ``prune``, ``keep_zeros``
keep plasticity                ``random_bias``
what collapses in training     ``track_mirrors`` and ``approached``; ``satisfied``, ``dead_units``, ``effective_rank``,
                               ``correlation_blocks``, ``neural_collapse``
=============================  ====================================================================================

Weight decay is γ of γ‖θ‖² everywhere, as in the paper: it adds 2γ to every eigenvalue of the Hessian, and is half of
what optax and PyTorch call weight decay (``optax_weight_decay``).

Reference:
  Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024).
"""

from eqtoolbox.mirror._constraints import Constraint, linear, low_rank, sparse, tied
from eqtoolbox.mirror._critical import CriticalRate, critical_learning_rate, sgd_weight_decay
from eqtoolbox.mirror._dcs import DCSState, dcs
from eqtoolbox.mirror._decay import (
    Escape,
    GlobalDecay,
    LocalDecay,
    gd_weight_decay,
    global_weight_decay,
    hessian_blocks,
    local_weight_decay,
    split_gradient,
)
from eqtoolbox.mirror._diagnostics import (
    Blocks,
    EffectiveRank,
    NeuralCollapse,
    correlation_blocks,
    dead_parameters,
    dead_units,
    effective_rank,
    neural_collapse,
    satisfied,
    silent_units,
    unit_norms,
)
from eqtoolbox.mirror._factors import Factors
from eqtoolbox.mirror._groups import group_sparse, merged
from eqtoolbox.mirror._keep_zeros import KeepZerosState, keep_zeros
from eqtoolbox.mirror._lyapunov import curvatures, lyapunov
from eqtoolbox.mirror._mirror import Mirror, direct_sum, from_directions, from_map
from eqtoolbox.mirror._monitor import (
    Approached,
    MirrorState,
    TrackMirrorsState,
    approached,
    mirror_metrics,
    track_mirrors,
)
from eqtoolbox.mirror._of import Family, Mirrors, of, reflection
from eqtoolbox.mirror._phase import PhaseDiagram, draw_batches, phase_diagram
from eqtoolbox.mirror._plasticity import random_bias
from eqtoolbox.mirror._prune import LowRankFactors, PruneInfo, prune
from eqtoolbox.mirror._reparametrize import Reparametrized, reparametrize
from eqtoolbox.mirror._restricted import optax_weight_decay
from eqtoolbox.mirror._theorems import merging_weight_decay, rank_weight_decay, rescaling_weight_decay

__all__ = [
    "Approached",
    "Blocks",
    "Constraint",
    "CriticalRate",
    "DCSState",
    "EffectiveRank",
    "Escape",
    "Factors",
    "Family",
    "GlobalDecay",
    "KeepZerosState",
    "LocalDecay",
    "LowRankFactors",
    "Mirror",
    "MirrorState",
    "Mirrors",
    "NeuralCollapse",
    "PhaseDiagram",
    "PruneInfo",
    "Reparametrized",
    "TrackMirrorsState",
    "approached",
    "correlation_blocks",
    "critical_learning_rate",
    "curvatures",
    "dcs",
    "dead_parameters",
    "dead_units",
    "direct_sum",
    "draw_batches",
    "effective_rank",
    "from_directions",
    "from_map",
    "gd_weight_decay",
    "global_weight_decay",
    "group_sparse",
    "hessian_blocks",
    "keep_zeros",
    "linear",
    "local_weight_decay",
    "low_rank",
    "lyapunov",
    "merged",
    "merging_weight_decay",
    "mirror_metrics",
    "neural_collapse",
    "of",
    "optax_weight_decay",
    "phase_diagram",
    "prune",
    "random_bias",
    "rank_weight_decay",
    "reflection",
    "reparametrize",
    "rescaling_weight_decay",
    "satisfied",
    "sgd_weight_decay",
    "silent_units",
    "sparse",
    "split_gradient",
    "tied",
    "track_mirrors",
    "unit_norms",
]
