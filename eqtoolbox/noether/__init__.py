"""Charges of a symmetry, the laws they obey under gradient flow and optimizers, and their tracking in training."""

from eqtoolbox.noether._charges import charge_fn, currents, residual
from eqtoolbox.noether._count import LawCount, count_laws
from eqtoolbox.noether._drift import (
    Drift,
    drift,
    flow_drift,
    flow_drift_by_trace,
    noise_drift,
    one_step_expectation,
)
from eqtoolbox.noether._field import (
    ChargedDirections,
    asymmetry,
    charged_directions,
    field_charge_fn,
    flow_rate,
)
from eqtoolbox.noether._initial import (
    ChargeMoments,
    activation_charge,
    activation_charge_moments,
    activation_integral,
    charge_moments,
)
from eqtoolbox.noether._laws import (
    FrictionRates,
    Law,
    LawState,
    Rates,
    decayed,
    friction_rates,
    law_init,
    law_step,
)
from eqtoolbox.noether._pairing import FactorCharges, charged, pairing
from eqtoolbox.noether._track import (
    ChargeState,
    NoiseState,
    TrackChargesState,
    metrics,
    observe_charges,
    track_charges,
)

__all__ = [
    "ChargeMoments",
    "ChargeState",
    "ChargedDirections",
    "Drift",
    "FactorCharges",
    "FrictionRates",
    "Law",
    "LawCount",
    "LawState",
    "NoiseState",
    "Rates",
    "TrackChargesState",
    "activation_charge",
    "activation_charge_moments",
    "activation_integral",
    "asymmetry",
    "charge_fn",
    "charge_moments",
    "charged",
    "charged_directions",
    "count_laws",
    "currents",
    "decayed",
    "drift",
    "field_charge_fn",
    "flow_drift",
    "flow_drift_by_trace",
    "flow_rate",
    "friction_rates",
    "law_init",
    "law_step",
    "metrics",
    "noise_drift",
    "observe_charges",
    "one_step_expectation",
    "pairing",
    "residual",
    "track_charges",
]
