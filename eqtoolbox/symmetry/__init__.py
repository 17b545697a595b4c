"""How a group acts on parameters: labels, `Symmetry`, `Equivariance`, orbits, averages, the catalogue."""

from eqtoolbox.symmetry._carry import carry_state
from eqtoolbox.symmetry._cocycles import (
    Cocycle,
    Laws,
    batch_cocycle,
    linear_cocycle,
    pseudo_inverse_map,
    rotation_cocycle,
)
from eqtoolbox.symmetry._data_dependent import DataDependentAction
from eqtoolbox.symmetry._definitions import (
    IMPLICATIONS,
    DefinitionErrors,
    data_dependent_error,
    definition_errors,
    distribution_error,
    functional_error,
    functional_loss_error,
)
from eqtoolbox.symmetry._equivariance import Equivariance
from eqtoolbox.symmetry._labels import Atom, LeafLabel
from eqtoolbox.symmetry._labels import parse as parse_label
from eqtoolbox.symmetry._layout import Block, Factor, Plan, cut, join_blocks
from eqtoolbox.symmetry._masked import is_masked, present
from eqtoolbox.symmetry._orbits import Split, SplitInfo, generator_matrix, orbit_dimension, split
from eqtoolbox.symmetry._paths import leaf_paths, locate
from eqtoolbox.symmetry._rotations import inverse_rotation_to, rotation, rotation_to, spherical_angles
from eqtoolbox.symmetry._symmetry import Symmetry, check_symmetry
from eqtoolbox.symmetry._transforms import elements, lie_derivative, sample_orbit, symmetrize

__all__ = [
    "IMPLICATIONS",
    "Atom",
    "Block",
    "Cocycle",
    "DataDependentAction",
    "DefinitionErrors",
    "Equivariance",
    "Factor",
    "Laws",
    "LeafLabel",
    "Plan",
    "Split",
    "SplitInfo",
    "Symmetry",
    "batch_cocycle",
    "carry_state",
    "check_symmetry",
    "cut",
    "data_dependent_error",
    "definition_errors",
    "distribution_error",
    "elements",
    "functional_error",
    "functional_loss_error",
    "generator_matrix",
    "inverse_rotation_to",
    "is_masked",
    "join_blocks",
    "leaf_paths",
    "lie_derivative",
    "linear_cocycle",
    "locate",
    "orbit_dimension",
    "parse_label",
    "present",
    "pseudo_inverse_map",
    "rotation",
    "rotation_cocycle",
    "rotation_to",
    "sample_orbit",
    "spherical_angles",
    "split",
    "symmetrize",
]
