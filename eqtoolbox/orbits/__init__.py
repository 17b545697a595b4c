"""Orbits: moving inside them, curves on minima, and what connects two trained networks."""

from eqtoolbox.orbits._align import Alignment, align, match_weights, weight_distance
from eqtoolbox.orbits._barrier import Barrier, barrier, barrier_along, interpolate
from eqtoolbox.orbits._chords import (
    bounded_chord_barrier,
    chord_barrier,
    chord_distance_bound,
    chord_factor,
    orbit_distance_bound,
    scale_for_barrier,
)
from eqtoolbox.orbits._components import (
    linear_component,
    linear_coordinates,
    linear_minimum,
    linear_path,
    permute_to_component,
    residual_component,
    residual_path,
)
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
from eqtoolbox.orbits._features import feature_action
from eqtoolbox.orbits._landscapes import Landscape, booth, ellipse, quadratic, rosenbrock
from eqtoolbox.orbits._merge import Merge, merge
from eqtoolbox.orbits._objectives import (
    gradient_norm,
    hessian_top_eigenvalue,
    hessian_trace,
    orbit_curvature,
    parameter_norm,
    preconditioned_gradient_norm,
    quantisation_error,
    sharpness,
)
from eqtoolbox.orbits._search import Refused, TeleportInfo, teleport_as_printed, teleport_params
from eqtoolbox.orbits._teleport import TeleportState, teleport
from eqtoolbox.orbits._transport import Motion

__all__ = [
    "Alignment",
    "Barrier",
    "Landscape",
    "Merge",
    "Motion",
    "Refused",
    "TeleportInfo",
    "TeleportState",
    "align",
    "barrier",
    "barrier_along",
    "booth",
    "bounded_chord_barrier",
    "chord_barrier",
    "chord_distance_bound",
    "chord_factor",
    "curvature",
    "curvature_of",
    "curve",
    "curve_curvature",
    "curve_derivatives",
    "curve_directions",
    "curve_to",
    "ellipse",
    "expected_distance",
    "feature_action",
    "gradient_norm",
    "hessian_top_eigenvalue",
    "hessian_trace",
    "interpolate",
    "linear_component",
    "linear_coordinates",
    "linear_minimum",
    "linear_path",
    "match_weights",
    "mean_curvature",
    "merge",
    "orbit_curvature",
    "orbit_derivatives",
    "orbit_distance_bound",
    "parameter_norm",
    "permute_to_component",
    "preconditioned_gradient_norm",
    "quadratic",
    "quantisation_error",
    "residual_component",
    "residual_path",
    "rosenbrock",
    "scale_for_barrier",
    "sharpness",
    "teleport",
    "teleport_as_printed",
    "teleport_params",
    "weight_distance",
]
