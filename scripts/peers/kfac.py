"""K-FAC for networks of dense layers as an optax transformation that is also given the layers' statistics.

Compact and plain, to compare with. It sees more than gradients: the inputs of the layers, and the derivatives of the
model's own predictive distribution by their outputs. Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature" (2015), block-diagonal: section 3 the factors, 6.3 the factored damping.
Their rescaling by the exact quadratic model, adaptive damping and momentum are left out: the program kfac-jax has
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array, lax
from peers.momentum import nesterov_average

HIGHEST = lax.Precision.HIGHEST
Path = tuple[str, ...]


class Factors(NamedTuple):
    """Of one layer: A, the second moment of its inputs (with a last 1 for a bias), and G, that of the derivatives."""

    inputs: Array
    outputs: Array


def squared_probe(key: Array, outputs: Array) -> Array:
    """One random vector for each example, of covariance ∂²ℓ/∂f² = I: the Fisher information of ½|f - y|²."""
    return jax.random.rademacher(key, (1, *outputs.shape), outputs.dtype)


def categorical_probe(key: Array, logits: Array) -> Array:
    """The derivative of the cross-entropy by the logits at a label drawn from the model, one for each example."""
    p = jax.nn.softmax(logits)
    label = jax.random.categorical(key, logits)
    return (p - jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype))[None]


def squared_columns(outputs: Array) -> Array:
    """All unit vectors: with them G is exact."""
    k = outputs.shape[-1]
    columns = jnp.eye(k, dtype=outputs.dtype).reshape(k, *(1,) * (outputs.ndim - 1), k)
    return jnp.broadcast_to(columns, (k, *outputs.shape))


def categorical_columns(logits: Array) -> Array:
    """√p_k (e_k - p) for every class k: their outer products add up to diag p - p pᵀ, and G is exact."""
    p = jax.nn.softmax(logits)
    return jnp.moveaxis(jnp.sqrt(p), -1, 0)[..., None] * (squared_columns(logits) - p[None])


def statistics(
    apply: Callable[[Any, Array], Array], params: Any, inputs: Array, probes: Callable[[Array], Array]
) -> dict[Path, Factors]:
    """The factors of every ``flax.linen.Dense`` of a model on one batch.

    Args:
      apply: (params, inputs) -> outputs (n, ..., k), calling the modules.
      params: nested dicts, as Flax makes them.
      inputs: n examples.
      probes: outputs -> stack of vectors (s, n, ..., k) whose outer products, added over s, make up ∂²ℓ/∂f² of
        each example, or do so on average.

    Returns:
      By the path of the module, its factors: means over examples, sums over further axes such as time.
    """

    def run(perturbations: Mapping[Path, Array] | None) -> tuple[Array, dict[Path, tuple[Array, Array]]]:
        seen: dict[Path, tuple[Array, Array]] = {}

        def watch(following, args, kwargs, context):
            out = following(*args, **kwargs)
            if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
                path = context.module.path
                if path in seen:
                    raise ValueError(
                        f"the layer {'/'.join(path)} is used twice: K-FAC has no factors for that"
                    )
                seen[path] = args[0], out
                out = out if perturbations is None else out + perturbations[path]
            return out

        with nn.intercept_methods(watch):
            return apply(params, inputs), seen

    _, shapes = jax.eval_shape(lambda: run(None))
    zeros = {path: jnp.zeros(out.shape, out.dtype) for path, (_, out) in shapes.items()}
    outputs, pull, seen = jax.vjp(run, zeros, has_aux=True)
    derivatives = jax.vmap(lambda u: pull(u)[0])(probes(outputs))
    n = len(inputs)
    flat = flatten_dict(params)
    found = {}
    for path, (h, _) in seen.items():
        h = h.reshape(-1, h.shape[-1])
        if (*path, "bias") in flat:
            h = jnp.concatenate([h, jnp.ones((len(h), 1), h.dtype)], axis=1)
        g = derivatives[path].reshape(-1, derivatives[path].shape[-1])
        found[path] = Factors(_second_moment(h, n), _second_moment(g, n))
    return found


def _second_moment(x: Array, n: int) -> Array:
    return jnp.matmul(x.T, x, precision=HIGHEST) / n


class KfacState(NamedTuple):
    """State of ``scale_by_kfac``.

    Attributes:
      kfac_count: steps taken.
      factors: averages of the factors by layer.
      eigen: for each factor its eigenvalues and eigenvectors, as last computed.
    """

    kfac_count: Array
    factors: dict[Path, Factors]
    eigen: dict[Path, Any]


def _layers(params: Any) -> dict[Path, tuple[int, int]]:
    """The sizes of A and G of every layer; every leaf must belong to one."""
    flat = flatten_dict(params)
    sizes = {}
    for path, leaf in flat.items():
        layer = path[:-1]
        if path[-1] == "kernel" and leaf.ndim == 2:
            sizes[layer] = (leaf.shape[0] + ((*layer, "bias") in flat), leaf.shape[1])
        elif path[-1] != "bias" or (*layer, "kernel") not in flat:
            raise ValueError(
                f"K-FAC: every leaf must be the kernel or bias of a Dense, got {'/'.join(path)} of {leaf.shape}"
            )
    return sizes


def scale_by_kfac(
    damping: float | Array = 1e-3, decay: float = 0.95, every: int = 1, *, factored: bool = True
) -> optax.GradientTransformationExtraArgs:
    """(A ⊗ G + damping)^(-1) ∇L, layer by layer.

    Args:
      damping: λ, absolute.
      decay: of the factors' averages, which are corrected for their start at zero.
      every: steps between eigendecompositions.
      factored: damp the factors, A + π √λ and G + √λ / π with π² the ratio of their mean eigenvalues; otherwise
        damp their product.

    Returns:
      A transformation whose ``update`` has the argument ``statistics``, those of the batch.
    """

    def init(params):
        factors, eigen = {}, {}
        for path, sizes in _layers(params).items():
            dtype = jnp.result_type(flatten_dict(params)[(*path, "kernel")])
            factors[path] = Factors(*(jnp.zeros((k, k), dtype) for k in sizes))
            eigen[path] = tuple((jnp.ones(k, dtype), jnp.eye(k, dtype=dtype)) for k in sizes)
        return KfacState(jnp.zeros([], jnp.int32), factors, eigen)

    def update(updates, state, params=None, *, statistics, **extra):
        del params, extra
        if set(statistics) != set(state.factors):
            raise ValueError(f"K-FAC: statistics must be of {set(state.factors)}, got {set(statistics)}")
        count = optax.safe_increment(state.kfac_count)
        factors = jax.tree.map(lambda f, new: decay * f + (1 - decay) * new, state.factors, statistics)
        correction = 1 - decay**count

        def fresh():
            return {p: tuple(tuple(jnp.linalg.eigh(f / correction)) for f in fs) for p, fs in factors.items()}

        due = state.kfac_count % every == 0
        eigen = fresh() if every == 1 else lax.cond(due, fresh, lambda: state.eigen)
        flat = dict(flatten_dict(updates))
        for path, parts in eigen.items():
            weight, bias = flat[(*path, "kernel")], flat.get((*path, "bias"))
            g = weight if bias is None else jnp.concatenate([weight, bias[None]])
            g = _solve(g, *parts, damping, factored)
            flat[(*path, "kernel")] = g if bias is None else g[:-1]
            if bias is not None:
                flat[(*path, "bias")] = g[-1]
        return unflatten_dict(flat), KfacState(count, factors, eigen)

    return optax.GradientTransformationExtraArgs(init, update)


def _solve(g: Array, inputs: tuple[Array, Array], outputs: tuple[Array, Array], damping, factored) -> Array:
    (a, va), (b, vb) = inputs, outputs
    a, b = jnp.maximum(a, 0), jnp.maximum(b, 0)
    if factored:
        tiny = jnp.finfo(g.dtype).tiny
        pi = jnp.sqrt(jnp.maximum(jnp.mean(a), tiny) / jnp.maximum(jnp.mean(b), tiny))
        root = jnp.sqrt(jnp.asarray(damping, g.dtype))
        scale = (a + pi * root)[:, None] * (b + root / pi)[None]
    else:
        scale = a[:, None] * b[None] + damping
    inner = jnp.matmul(jnp.matmul(va.T, g, precision=HIGHEST), vb, precision=HIGHEST) / scale
    return jnp.matmul(jnp.matmul(va, inner, precision=HIGHEST), vb.T, precision=HIGHEST)


def kfac(
    learning_rate: optax.ScalarOrSchedule,
    *,
    damping: float | Array = 1e-3,
    decay: float = 0.95,
    every: int = 1,
    momentum: float = 0.9,
    factored: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """K-FAC with Nesterov's momentum after the inverse.

    Args:
      learning_rate: a number or a schedule.
      damping: see ``scale_by_kfac``.
      decay: see ``scale_by_kfac``.
      every: see ``scale_by_kfac``.
      momentum: 0 for none.
      factored: see ``scale_by_kfac``.

    Returns:
      The optimizer; ``update`` has the argument ``statistics``.
    """
    parts = [scale_by_kfac(damping, decay, every, factored=factored)]
    if momentum:
        parts.append(nesterov_average(momentum))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
