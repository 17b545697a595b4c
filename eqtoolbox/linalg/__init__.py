"""Matrix-free linear algebra on pytrees: products first, dense matrices only where asked for.

Curvature products (``hvp``, ``ggn_vp``, ``fisher_vp``), Lanczos with error bounds, eigenpairs, spectral
densities, stochastic traces with standard errors, per-example gradients, numerical rank by gap and
streaming moments.
"""

from eqtoolbox.linalg._batching import any_of_batch
from eqtoolbox.linalg._checks import (
    broadcast_prefix,
    check_choice,
    check_integer,
    check_like,
    check_number,
    leading_size,
    name_leaf,
)
from eqtoolbox.linalg._eigenpairs import EigenInfo, Eigenpairs, top_eigenpairs
from eqtoolbox.linalg._estimate import Estimate
from eqtoolbox.linalg._lanczos import Ritz, lanczos
from eqtoolbox.linalg._manual import cond, fori_loop, linear_transpose, scan, vary_with, while_loop
from eqtoolbox.linalg._moments import (
    Moments,
    moments_covariance,
    moments_estimate,
    moments_init,
    moments_mean,
    moments_merge,
    moments_psum,
    moments_standard_error,
    moments_update,
    moments_update_batch,
    moments_variance,
)
from eqtoolbox.linalg._operators import ggn_fn, ggn_vp, hvp, hvp_fn, to_dense
from eqtoolbox.linalg._per_example import (
    fisher_vp,
    gradient_covariance_vp,
    per_example_grads,
    per_example_losses,
    per_example_vdot,
    weighted_grad,
)
from eqtoolbox.linalg._precision import coarsest_dtype, float64, rounding, to_float64
from eqtoolbox.linalg._rank import Rank, numerical_rank, operator_rank, rank_from_singular_values
from eqtoolbox.linalg._spectrum import Spectrum, density_at, slq_trace, spectral_density
from eqtoolbox.linalg._trace import hutchinson_diagonal, hutchinson_trace, hutchpp_trace
from eqtoolbox.linalg._tree import (
    basis,
    orthonormalize,
    random_like,
    random_stack,
    ravel_stack,
    stack_combine,
    stack_vdot,
    tree_norm,
    tree_vdot,
    unravel_stack,
)

__all__ = [
    "EigenInfo",
    "Eigenpairs",
    "Estimate",
    "Moments",
    "Rank",
    "Ritz",
    "Spectrum",
    "any_of_batch",
    "basis",
    "broadcast_prefix",
    "check_choice",
    "check_integer",
    "check_like",
    "check_number",
    "coarsest_dtype",
    "cond",
    "density_at",
    "fisher_vp",
    "float64",
    "fori_loop",
    "ggn_fn",
    "ggn_vp",
    "gradient_covariance_vp",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "hutchpp_trace",
    "hvp",
    "hvp_fn",
    "lanczos",
    "leading_size",
    "linear_transpose",
    "moments_covariance",
    "moments_estimate",
    "moments_init",
    "moments_mean",
    "moments_merge",
    "moments_psum",
    "moments_standard_error",
    "moments_update",
    "moments_update_batch",
    "moments_variance",
    "name_leaf",
    "numerical_rank",
    "operator_rank",
    "orthonormalize",
    "per_example_grads",
    "per_example_losses",
    "per_example_vdot",
    "random_like",
    "random_stack",
    "rank_from_singular_values",
    "ravel_stack",
    "rounding",
    "scan",
    "slq_trace",
    "spectral_density",
    "stack_combine",
    "stack_vdot",
    "to_dense",
    "to_float64",
    "top_eigenpairs",
    "tree_norm",
    "tree_vdot",
    "unravel_stack",
    "vary_with",
    "weighted_grad",
    "while_loop",
]
