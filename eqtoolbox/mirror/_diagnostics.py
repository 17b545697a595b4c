"""Measures of collapse: dead units, effective ranks, blocks of equal neurons, neural collapse, satisfied mirrors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.linalg import check_integer, check_number, scan
from eqtoolbox.mirror._of import Mirrors
from eqtoolbox.mirror._theorems import find_factor, space_rows
from eqtoolbox.symmetry import Symmetry

Params = Any


def unit_norms(sym: Symmetry, params: Params, space: str) -> Array:
    """The norm of all weights of each unit of a space, on every leaf: 0 for a dead one.

    Args:
      sym: the symmetry.
      params: θ.
      space: the space.

    Returns:
      An array of shape (n,).

    Raises:
      ValueError: there is no such space.
    """
    find_factor(sym, space, "unit_norms")
    parts = [
        rows.astype(jnp.promote_types(rows.dtype, jnp.float32)) for rows in space_rows(sym, params, space)
    ]
    return jnp.sqrt(jnp.sum(jnp.concatenate(parts, axis=1) ** 2, axis=1))


def dead_units(sym: Symmetry, params: Params, space: str, tol: float = 1e-6) -> Array:
    """How many units of a space have weights of norm at most ``tol`` (MS-3.4); see ``unit_norms``."""
    return jnp.sum(unit_norms(sym, params, space) <= tol)


def silent_units(activations: Array, tol: float = 0.0) -> Array:
    """How many units are constant on the data, such as a ReLU that never fires.

    Args:
      activations: (examples, units); leading axes are examples.
      tol: largest spread of a silent unit.

    Returns:
      A count.
    """
    check_number(tol, "`tol`")
    x = _rows(activations)
    return jnp.sum(jnp.max(x, axis=0) - jnp.min(x, axis=0) <= tol)


def dead_parameters(gradients: Params, tol: float = 0.0) -> Array:
    """How many parameters have a gradient of at most ``tol`` on every example or batch (the paper's dead neurons).

    Args:
      gradients: a stack of gradients along the leading axis of every leaf.
      tol: largest gradient of a dead parameter.

    Returns:
      A count.
    """
    counts = [jnp.sum(jnp.max(jnp.abs(g), axis=0) <= tol) for g in jax.tree.leaves(gradients)]
    return jnp.sum(jnp.stack(counts))


class EffectiveRank(NamedTuple):
    """Ranks of a matrix with singular values σ.

    Attributes:
      numerical: how many σ are above ``tol`` of the largest.
      stable: Σσ²/σ_max², Rudelson & Vershynin (2007).
      entropy: exp of the entropy of σ/Σσ, Roy & Vetterli (2007).
      participation: (Σσ²)²/Σσ⁴, the participation ratio of the spectrum of AAᵀ.
      singular_values: σ, decreasing.
    """

    numerical: Array
    stable: Array
    entropy: Array
    participation: Array
    singular_values: Array


def effective_rank(matrix: Array, tol: float = 1e-3) -> EffectiveRank:
    """The rank of a matrix by four standard definitions, all 0 for the zero matrix and r for r equal σ.

    >>> import jax.numpy as jnp
    >>> found = effective_rank(jnp.diag(jnp.array([2.0, 2.0, 2.0, 0.0])))
    >>> int(found.numerical), *(round(float(x), 3) for x in found[1:4])
    (3, 3.0, 3.0, 3.0)

    Args:
      matrix: of shape (m, n), or a stack of matrices.
      tol: for ``numerical``, relative to the largest singular value.

    Returns:
      An ``EffectiveRank``.
    """
    s = jnp.linalg.svd(matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32)), compute_uv=False)
    top = jnp.max(s, axis=-1, keepdims=True)
    s = jnp.where(top > 0, s / jnp.where(top > 0, top, 1), 0)
    square = s**2
    total = jnp.sum(s, axis=-1, keepdims=True)
    share = s / jnp.where(total > 0, total, 1)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0), axis=-1)
    fourth = jnp.sum(square**2, axis=-1)
    some = top[..., 0] > 0
    return EffectiveRank(
        jnp.sum(s > tol, axis=-1),
        jnp.sum(square, axis=-1),
        jnp.where(some, jnp.exp(entropy), 0),
        jnp.where(some, jnp.sum(square, axis=-1) ** 2 / jnp.where(fourth > 0, fourth, 1), 0),
        s * top,
    )


class Blocks(NamedTuple):
    """Neurons that do the same.

    Attributes:
      correlation: of the neurons over the data, sorted; 0 for a silent neuron, also with itself.
      order: the neurons in the order of the entries of the top eigenvector, as the rows of ``correlation``.
      labels: the block of each neuron (not sorted): connected by |correlation| above the threshold.
      count: how many blocks.
      homogeneous: the share of neurons in a block with another one.
      mean: the mean |correlation| of two different neurons.
    """

    correlation: Array
    order: Array
    labels: Array
    count: Array
    homogeneous: Array
    mean: Array


def correlation_blocks(activations: Array, threshold: float = 0.9) -> Blocks:
    """Blocks of correlated neurons (MS-F3c): what merging under a permutation symmetry looks like.

    Args:
      activations: (examples, neurons); leading axes are examples.
      threshold: |correlation| from which on two neurons belong together.

    Returns:
      ``Blocks``.
    """
    check_number(threshold, "`threshold`")
    x = _rows(activations)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - jnp.mean(x, axis=0, keepdims=True)
    scale = jnp.sqrt(jnp.sum(x**2, axis=0, keepdims=True))
    x = jnp.where(scale > 0, x / jnp.where(scale > 0, scale, 1), 0)
    correlation = jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)
    n = correlation.shape[0]
    order = jnp.argsort(jnp.linalg.eigh(correlation)[1][:, -1])
    linked = (jnp.abs(correlation) > threshold) | jnp.eye(n, dtype=bool)

    def spread(labels: Array, _: None) -> tuple[Array, None]:
        return jnp.min(jnp.where(linked, labels[None, :], n), axis=1), None

    labels = scan(spread, jnp.arange(n), None, length=n)[0]
    sizes = jnp.sum(labels[:, None] == labels[None, :], axis=1)
    pairs = jnp.sum(jnp.abs(correlation)) - jnp.sum(jnp.diagonal(correlation))
    return Blocks(
        correlation[order][:, order],
        order,
        labels,
        jnp.sum(labels == jnp.arange(n)),
        jnp.mean(sizes > 1),
        pairs / max(n * (n - 1), 1),
    )


class NeuralCollapse(NamedTuple):
    """The four measures of neural collapse, each 0 where it is complete.

    Attributes:
      within: NC1, tr(Σ_W Σ_B⁺)/C.
      norms: NC2, the coefficient of variation of the norms of the centred class means.
      angles: NC2, the mean |cos + 1/(C - 1)| over pairs of class means.
      duality: NC3, ‖W/‖W‖ - M/‖M‖‖ of classifier and class means; NaN without weights.
      nearest: NC4, the share of examples that the classifier does not put to the nearest class mean; NaN without.
    """

    within: Array
    norms: Array
    angles: Array
    duality: Array
    nearest: Array


def neural_collapse(
    features: Array, labels: Array, classes: int, weights: Array | None = None, bias: Array | None = None
) -> NeuralCollapse:
    """NC1 to NC4 of Papyan, Han & Donoho (2020).

    Args:
      features: (examples, d), of the penultimate layer.
      labels: (examples,), integers below ``classes``; every class must occur.
      classes: C, at least 2.
      weights: of the last layer, (d, C), for NC3 and NC4.
      bias: of the last layer, (C,).

    Returns:
      A ``NeuralCollapse``.

    Raises:
      ValueError: the shapes do not fit.
    """
    classes = check_integer(classes, "classes", 2)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        got = f"{features.shape}, {labels.shape}"
        raise ValueError(f"`features` must be (examples, d) and `labels` (examples,), got {got}")
    if weights is not None and weights.shape != (features.shape[1], classes):
        raise ValueError(f"`weights` must have shape {(features.shape[1], classes)}, got {weights.shape}")
    member = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    means = jnp.matmul(member.T, features) / jnp.sum(member, axis=0)[:, None]
    centred = means - jnp.mean(means, axis=0, keepdims=True)
    rest = features - means[labels]
    within = jnp.matmul(rest.T, rest) / features.shape[0]
    between = jnp.matmul(centred.T, centred) / classes
    lengths = jnp.linalg.norm(centred, axis=1)
    units = centred / lengths[:, None]
    cosines = jnp.matmul(units, units.T)
    others = ~np.eye(classes, dtype=bool)
    duality = nearest = jnp.asarray(jnp.nan, features.dtype)
    if weights is not None:
        turned = weights.T / jnp.linalg.norm(weights)
        duality = jnp.linalg.norm(turned - centred / jnp.linalg.norm(centred))
        logits = jnp.matmul(features, weights) + (0 if bias is None else bias[None])
        distances = jnp.sum((features[:, None] - means[None]) ** 2, axis=-1)
        nearest = jnp.mean(jnp.argmax(logits, axis=1) != jnp.argmin(distances, axis=1))
    return NeuralCollapse(
        # the C - 1 directions of the class means are all there is to invert
        jnp.trace(jnp.matmul(within, jnp.linalg.pinv(between, rtol=1e-5, hermitian=True))) / classes,
        jnp.std(lengths) / jnp.mean(lengths),
        jnp.sum(jnp.where(others, jnp.abs(cosines + 1 / (classes - 1)), 0)) / (classes * (classes - 1)),
        duality,
        nearest,
    )


def satisfied(
    mirrors: Mirrors, params: Params, tol: float = 1e-6, *, batch_size: int = 64
) -> dict[str, Array]:
    """How many mirrors of each family are satisfied: ‖Oᵀθ‖ ≤ ``tol`` ‖θ‖.

    Args:
      mirrors: from ``of``.
      params: θ.
      tol: relative to the norm of all parameters.
      batch_size: how many reflections of θ are held at a time.

    Returns:
      A flat dict: "mirror/{kind}/{space}/satisfied" to a count.
    """
    check_number(tol, "`tol`")
    if not isinstance(mirrors, Mirrors):
        raise TypeError(f"`mirrors` must come from mirror.of, got {mirrors!r}")
    limit = tol * jnp.sqrt(sum(jnp.sum(jnp.asarray(x, float) ** 2) for x in jax.tree.leaves(params)))
    return {
        f"mirror/{f.kind}/{f.space}/satisfied": jnp.sum(f.distances(params, batch_size=batch_size) <= limit)
        for f in mirrors.families
    }


def _rows(activations: Array) -> Array:
    """Activations as (examples, units)."""
    if jnp.ndim(activations) < 2:
        got = jnp.shape(activations)
        raise ValueError(f"`activations` must have an axis of examples and one of units, got shape {got}")
    return jnp.reshape(activations, (-1, activations.shape[-1]))
