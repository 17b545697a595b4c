"""Charges of a symmetry, the laws they obey under gradient flow and optimizers, and their tracking in training.

==================================  ===================================================================================
needs                               functions
==================================  ===================================================================================
a linear or affine Symmetry         ``charge_fn``, ``charged``, ``residual``, ``currents``, ``drift``, laws, tracking
any Equivariance with an identity   ``charge_fn`` (one direction), ``asymmetry``, ``charged_directions``, ``flow_rate``
an optax optimizer                  ``track_charges``, ``observe_charges``, ``metrics``; with a ``Law`` its exact law
gradients of examples or parts      ``noise_drift``, ``flow_drift``, ``one_step_expectation``, ``flow_drift_by_trace``
a model                             ``count_laws``
the variances of the weights        ``charge_moments``, ``activation_charge_moments``
an element-wise or radial σ, X = I  ``activation_charge``, ``row_radial_charge``
==================================  ===================================================================================
"""

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
from eqtoolbox.noether._radial import row_radial_charge
from eqtoolbox.noether._track import (
    ChargeState,
    NoiseState,
    TrackChargesState,
    metrics,
    observe_charges,
    track_charges,
)
from eqtoolbox.noether._transform import act_on_charges, charge_rate

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
    "act_on_charges",
    "activation_charge",
    "activation_charge_moments",
    "activation_integral",
    "asymmetry",
    "charge_fn",
    "charge_moments",
    "charge_rate",
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
    "row_radial_charge",
    "track_charges",
]
