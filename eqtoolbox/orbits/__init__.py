"""Orbits: moving inside them, curves on minima, and what connects two trained networks."""

from eqtoolbox.orbits._curves import (
    curvature,
    curvature_of,
    curve,
    curve_curvature,
    curve_derivatives,
    curve_directions,
    curve_to,
    mean_curvature,
    orbit_derivatives,
)
from eqtoolbox.orbits._displacement import expected_distance

__all__ = [
    "curvature",
    "curvature_of",
    "curve",
    "curve_curvature",
    "curve_derivatives",
    "curve_directions",
    "curve_to",
    "expected_distance",
    "mean_curvature",
    "orbit_derivatives",
]
