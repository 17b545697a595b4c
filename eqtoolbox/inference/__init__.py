"""The exact symmetry of a model, read off its jaxpr."""

from eqtoolbox.inference._analysis import Analysis, Value, register_rule, rules
from eqtoolbox.inference._explain import Explanation, SpaceReport
from eqtoolbox.inference._infer import explain, infer_symmetry
from eqtoolbox.inference._jaxpr import Equation

__all__ = [
    "Analysis",
    "Equation",
    "Explanation",
    "SpaceReport",
    "Value",
    "explain",
    "infer_symmetry",
    "register_rule",
    "rules",
]
