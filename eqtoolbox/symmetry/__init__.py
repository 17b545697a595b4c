"""How a group acts on parameters: labels, `Symmetry`, `Equivariance`, orbits, averages, the catalogue."""

from eqtoolbox.symmetry._equivariance import Equivariance
from eqtoolbox.symmetry._labels import Atom, LeafLabel
from eqtoolbox.symmetry._labels import parse as parse_label
from eqtoolbox.symmetry._layout import Factor
from eqtoolbox.symmetry._orbits import Split, SplitInfo, generator_matrix, orbit_dimension, split
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry._transforms import elements, lie_derivative, sample_orbit, symmetrize

__all__ = [
    "Atom",
    "Equivariance",
    "Factor",
    "LeafLabel",
    "Split",
    "SplitInfo",
    "Symmetry",
    "elements",
    "generator_matrix",
    "lie_derivative",
    "orbit_dimension",
    "parse_label",
    "sample_orbit",
    "split",
    "symmetrize",
]
