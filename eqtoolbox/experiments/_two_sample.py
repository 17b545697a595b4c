"""Whether samples of parameters come from a distribution that a symmetry leaves alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import Orthogonal, Permutation, SignedPermutation
from eqtoolbox.symmetry import Symmetry

Params = Any

#: The groups of the paper, from the largest to the smallest: each contains the next.
GROUPS = {"O": Orthogonal, "B": SignedPermutation, "S": Permutation}
#: Below this a probability says that the distribution is not invariant, and above ``PLAUSIBLE`` that it may be.
IMPLAUSIBLE, PLAUSIBLE = 1e-9, 1e-4


def invariance_p(sym: Symmetry, samples: Params, key: Array) -> float:
    """The probability of a difference as large as seen, if the distribution were invariant.

    Half of the samples is left as it is, each of the others is moved by a random element of its own: the
    distributions are the same exactly if the symmetry leaves the distribution alone. They are compared by
    Kolmogorov-Smirnov tests of some functions of the parameters, none of which is invariant.

    Args:
      sym: a compact symmetry.
      samples: a stack of trees, an even number of them.
      key: of the elements.

    Returns:
      The smallest probability of all tests times their number, at most 1.
    """
    from scipy.stats import ks_2samp

    still, moved = jax.device_get(_compared(sym, samples, key))
    values = [ks_2samp(x, y, method="asymp").pvalue for x, y in zip(still.T, moved.T, strict=True)]  # pyright: ignore
    return float(min(1.0, len(values) * min(values)))


@jax.jit
def _compared(sym: Symmetry, samples: Params, key: Array) -> tuple[Array, Array]:
    """Functions of the samples of one half, and of those of the other half, moved."""
    count = jax.tree.leaves(samples)[0].shape[0] // 2
    still, rest = (jax.tree.map(lambda x, i=i: x[i * count : (i + 1) * count], samples) for i in (0, 1))
    keys = jax.random.split(key, count)
    moved = jax.vmap(lambda k, params: sym.act(sym.sample(k), params))(keys, rest)
    return _features(still), _features(moved)


def _features(samples: Params) -> Array:
    """Functions of each sample, shape (n, features), rounded so that ties stay ties."""
    found, rng = [], np.random.default_rng(0)
    for x in jax.tree.leaves(samples):
        x = x.reshape(len(x), -1)
        w, v = rng.normal(size=(2, 1, x.shape[1])).astype(x.dtype)
        found += [
            jnp.sum(x, 1),
            jnp.sum(x**3, 1),
            jnp.sum(x**4, 1),
            jnp.max(x, 1),
            jnp.sum(jnp.abs(x) < 1e-6, 1).astype(x.dtype),
            jnp.sum(x * w, 1),
            jnp.sum(x**2 * v, 1),
        ]
    return jnp.stack(found, 1).astype(jnp.float32).round(5)
