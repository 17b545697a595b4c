"""Many models at once: drawn, trained and measured in batches, on any number of devices and hosts."""

from eqtoolbox.ensemble._config import PRESETS, EnsembleConfig
from eqtoolbox.ensemble._ensemble import LAYOUTS, Ensemble
from eqtoolbox.ensemble._errors import EnsembleError, Stopped
from eqtoolbox.ensemble._factors import load_factors, save_factors
from eqtoolbox.ensemble._law import Law, law
from eqtoolbox.ensemble._models_last import models_last
from eqtoolbox.ensemble._net import Net
from eqtoolbox.ensemble._plan import Plan, choose_plan, memory_limit
from eqtoolbox.ensemble._run import connect, leave, run_ensemble
from eqtoolbox.ensemble._statistics import (
    Model,
    Statistic,
    charges,
    covariance_blocks,
    factors,
    flat_gradients,
    full_covariance,
    gradients,
    hessians,
    losses,
    second_moment,
)
from eqtoolbox.ensemble._stream import State, Stream, default_chunk, device_mesh

__all__ = [
    "LAYOUTS",
    "PRESETS",
    "Ensemble",
    "EnsembleConfig",
    "EnsembleError",
    "Law",
    "Model",
    "Net",
    "Plan",
    "State",
    "Statistic",
    "Stopped",
    "Stream",
    "charges",
    "choose_plan",
    "connect",
    "covariance_blocks",
    "default_chunk",
    "device_mesh",
    "factors",
    "flat_gradients",
    "full_covariance",
    "gradients",
    "hessians",
    "law",
    "leave",
    "load_factors",
    "losses",
    "memory_limit",
    "models_last",
    "run_ensemble",
    "save_factors",
    "second_moment",
]
