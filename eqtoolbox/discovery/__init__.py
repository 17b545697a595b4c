"""Symmetries found from data: null spaces of generator equations, learned generators, lifts, and an audit."""

from eqtoolbox.discovery._algebra import LieAlgebra, lie_algebra
from eqtoolbox.discovery._audit import Audit, Certificate, audit, default_family
from eqtoolbox.discovery._axes import axis_family
from eqtoolbox.discovery._course import Course, symmetry_course
from eqtoolbox.discovery._equations import DEFINITIONS
from eqtoolbox.discovery._families import (
    Family,
    action_family,
    affine_family,
    direct_sum,
    feature_family,
    linear_family,
    symmetry_family,
    translation_family,
)
from eqtoolbox.discovery._laws import (
    additivity_residual,
    bracket_residual,
    flow,
    flow_residual,
    infinitesimal,
    level_set_field,
    orthogonality,
)
from eqtoolbox.discovery._learned import (
    Weights,
    corrected_terms,
    field_basis,
    init_mlp,
    learn,
    printed_action,
    printed_terms,
    relative_invariance,
)
from eqtoolbox.discovery._lifts import (
    SubNetwork,
    lift_deeper,
    lift_smaller_batch,
    lift_subnetwork,
    lift_wider,
)
from eqtoolbox.discovery._novelty import Novelty, novelty
from eqtoolbox.discovery._null_space import MAX_GENERATORS, NullSpace, null_space, null_spaces
from eqtoolbox.discovery._readable import readable_basis
from eqtoolbox.discovery._triangular import triangular_factor

__all__ = [
    "DEFINITIONS",
    "MAX_GENERATORS",
    "Audit",
    "Certificate",
    "Course",
    "Family",
    "LieAlgebra",
    "Novelty",
    "NullSpace",
    "SubNetwork",
    "Weights",
    "action_family",
    "additivity_residual",
    "affine_family",
    "audit",
    "axis_family",
    "bracket_residual",
    "corrected_terms",
    "default_family",
    "direct_sum",
    "feature_family",
    "field_basis",
    "flow",
    "flow_residual",
    "infinitesimal",
    "init_mlp",
    "learn",
    "level_set_field",
    "lie_algebra",
    "lift_deeper",
    "lift_smaller_batch",
    "lift_subnetwork",
    "lift_wider",
    "linear_family",
    "novelty",
    "null_space",
    "null_spaces",
    "orthogonality",
    "printed_action",
    "printed_terms",
    "readable_basis",
    "relative_invariance",
    "symmetry_course",
    "symmetry_family",
    "translation_family",
    "triangular_factor",
]
