"""Charges of a symmetry, the laws they obey under gradient flow and optimizers, and their tracking in training."""

from eqtoolbox.noether._charges import charge_fn, currents, residual
from eqtoolbox.noether._count import LawCount, count_laws
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
from eqtoolbox.noether._pairing import FactorCharges, charged, pairing

__all__ = [
    "ChargeMoments",
    "ChargedDirections",
    "FactorCharges",
    "LawCount",
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
    "field_charge_fn",
    "flow_rate",
    "pairing",
    "residual",
]
