"""How a group acts on parameters."""

from eqtoolbox.symmetry._labels import Atom, LeafLabel
from eqtoolbox.symmetry._labels import parse as parse_label
from eqtoolbox.symmetry._layout import Factor
from eqtoolbox.symmetry._symmetry import Symmetry

__all__ = ["Atom", "Factor", "LeafLabel", "Symmetry", "parse_label"]
