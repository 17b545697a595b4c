"""The exact symmetry of a model, read off its jaxpr."""

from eqtoolbox.inference._affine import AffineRedundancies, AffineRedundancy, affine_redundancies
from eqtoolbox.inference._affine_fold import Folded, Gain, fold_norms
from eqtoolbox.inference._analysis import Analysis, Value, register_rule, rules
from eqtoolbox.inference._check import Check, check
from eqtoolbox.inference._eps import UpToEps, infer_up_to_eps
from eqtoolbox.inference._explain import Explanation, SpaceReport
from eqtoolbox.inference._export import PermutationSpec, axis_integers, axis_labels, permutation_spec
from eqtoolbox.inference._infer import explain, explained, infer_symmetry
from eqtoolbox.inference._jaxpr import Equation

__all__ = [
    "AffineRedundancies",
    "AffineRedundancy",
    "Analysis",
    "Check",
    "Equation",
    "Explanation",
    "Folded",
    "Gain",
    "PermutationSpec",
    "SpaceReport",
    "UpToEps",
    "Value",
    "affine_redundancies",
    "axis_integers",
    "axis_labels",
    "check",
    "explain",
    "explained",
    "fold_norms",
    "infer_symmetry",
    "infer_up_to_eps",
    "permutation_spec",
    "register_rule",
    "rules",
]
