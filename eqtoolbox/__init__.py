"""Symmetries of neural-network parameters as first-class pytree transforms."""

from eqtoolbox import groups
from eqtoolbox.symmetry import Symmetry

__all__ = ["Symmetry", "groups"]
