"""Many models at once: drawn, trained and measured in batches, on any number of devices and hosts."""

from eqtoolbox.ensemble._ensemble import LAYOUTS, Ensemble
from eqtoolbox.ensemble._models_last import models_last
from eqtoolbox.ensemble._net import Net
from eqtoolbox.ensemble._plan import Plan, choose_plan, memory_limit
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
    "Ensemble",
    "Model",
    "Net",
    "Plan",
    "State",
    "Statistic",
    "Stream",
    "charges",
    "choose_plan",
    "covariance_blocks",
    "default_chunk",
    "device_mesh",
    "factors",
    "flat_gradients",
    "full_covariance",
    "gradients",
    "hessians",
    "losses",
    "memory_limit",
    "models_last",
    "second_moment",
]
