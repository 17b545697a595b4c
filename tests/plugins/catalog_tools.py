"""Tools for the tests of the catalogue: elements drawn with NumPy, programs compiled quickly, relative errors."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from eqtoolbox.groups import (
    GeneralLinear,
    Monomial,
    MonomialElement,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Product,
    SignFlip,
    Stabiliser,
    Translation,
    Trivial,
    Wreath,
    WreathElement,
)

COUNT = 5

#: For programs that run a few times: compiling them well would take longer than running them.
quick_jit = partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def random_element(group, rng):
    """An element of a group: orthogonal matrices by QR, scalings and singular values in [1/2, 2]."""
    match group:
        case Trivial():
            return ()
        case Permutation(n):
            return rng.permutation(n)
        case SignFlip(n):
            return rng.choice([-1, 1], n).astype(np.int8)
        case PositiveScaling():
            return 2.0 ** rng.uniform(-1, 1, group.dimension)
        case Translation(n):
            return rng.standard_normal(n)
        case Monomial():
            scale = 2.0 ** rng.uniform(-1, 1, (group.num_scales, group.n))
            sign = rng.choice([-1, 1], (group.num_signs, group.n)).astype(np.int8)
            return MonomialElement(rng.permutation(group.n), scale, sign)
        case Orthogonal(n):
            return np.linalg.qr(rng.standard_normal((n, n)))[0]
        case GeneralLinear(n):
            left, right = (random_element(Orthogonal(n), rng) for _ in range(2))
            return (left * 2.0 ** rng.uniform(-1, 1, (1, n))) @ right
        case Stabiliser():
            n, v = group.n, group.fixed / np.linalg.norm(group.fixed)
            rest = np.linalg.qr(np.column_stack([v, rng.standard_normal((n, n - 1))]))[0][:, 1:]
            shear = 0 if group.is_orthogonal else np.outer(v, rest @ rng.standard_normal(n - 1))
            return np.outer(v, v) + rest @ random_element(type(group.of)(n - 1), rng) @ rest.T + shear
        case Product():
            return tuple(random_element(g, rng) for g in group.groups)
        case Wreath():
            inner = [random_element(group.inner, rng) for _ in range(group.copies)]
            return WreathElement(random_element(group.outer, rng), _stack(inner))
    raise TypeError(f"no way to draw from {group}")


def _stack(trees):
    return jax.tree.map(lambda *x: np.stack(x), *trees)


def elements(symmetry, seed):
    """``COUNT`` elements, stacked."""
    rng = np.random.default_rng(seed)
    return _stack([{f.key: random_element(f.group, rng) for f in symmetry.factors} for _ in range(COUNT)])


def repeated(tree):
    """A tree ``COUNT`` times along a new leading axis."""
    return jax.tree.map(lambda x: np.broadcast_to(x, (COUNT, *np.shape(x))), jax.device_get(tree))


def distance(a, b):
    """The largest difference of two trees, relative to the largest entry of the second."""
    pairs = list(zip(*(jax.tree.leaves(jax.device_get(t)) for t in (a, b)), strict=True))
    return max(np.abs(x - y).max() for x, y in pairs) / max(np.abs(y).max() for _, y in pairs)


def flat(tree):
    """All leaves as one vector."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def output_change(apply, params, moved, inputs):
    """The largest change of the outputs from θ to the stacked points ``moved``; and the largest output at θ.

    ``apply`` is mapped over stacked parameters.
    """
    points = jax.tree.map(lambda a, b: np.concatenate([a[None], b]), *jax.device_get((params, moved)))
    outputs = jax.device_get(apply(points, inputs))
    first = jax.tree.map(lambda y: np.broadcast_to(y[:1], (COUNT, *y.shape[1:])), outputs)
    size = max(np.abs(y).max() for y in jax.tree.leaves(first))
    return distance(jax.tree.map(lambda y: y[1:], outputs), first), size


def orbit_change(symmetry, apply, params, inputs, seed=0):
    """The largest change of ``apply(params, inputs)`` under ``COUNT`` random elements."""
    moved = quick_jit(jax.vmap(symmetry.act, (0, None)))(elements(symmetry, seed), params)
    return output_change(quick_jit(jax.vmap(apply, (0, None))), params, moved, inputs)[0]
