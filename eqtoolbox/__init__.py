"""Symmetries of neural-network parameters as first-class pytree transforms in JAX.

A symmetry is an object that acts on a parameter pytree; everything else is derived from it.
"""

from eqtoolbox import groups, linalg, testing
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.symmetry import Equivariance, Symmetry

__all__ = ["Batch", "Equivariance", "Problem", "Symmetry", "groups", "linalg", "testing"]
