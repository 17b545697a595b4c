"""How charges move: in one step, exactly; in expectation under noise; and by stochastic gradient flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import Estimate, leading_size, per_example_grads, tree_vdot
from eqtoolbox.noether._laws import linear_charges
from eqtoolbox.noether._pairing import Charges, Params, pairing, widen
from eqtoolbox.symmetry import Symmetry


class Drift(NamedTuple):
    """The change of the charges in one step θ -> θ + u, for any optimizer.

    Attributes:
      total: C(θ + u) - C(θ) = source + second, without the cancellation of a difference.
      source: 2⟨u, Mθ⟩, what is of first order in the step: 0 for u = -η∇L, and for Adam and other
        preconditioners the term that breaks the conservation law.
      second: ⟨u, Mu⟩.
    """

    total: Charges
    source: Charges
    second: Charges


def drift(sym: Symmetry, params: Params, updates: Params) -> Drift:
    """The exact one-step change of every charge, from the update alone.

    Args:
      sym: a symmetry with generators.
      params: θ before the step.
      updates: u, what is added to it.

    Returns:
      A ``Drift``.

    Raises:
      TypeError: ``sym`` is discrete.
      ValueError: a leaf of ``updates`` is not like that of ``params``.

    Reference:
      EQ-4.1a; Zhao (2026), Proposition A.4.1.
    """
    cross, square = pairing(sym, params, updates), pairing(sym, updates, updates)
    linear = linear_charges(sym, cross)
    source = jax.tree.map(lambda c, one: c if one else 2 * c, cross, linear)
    second = jax.tree.map(lambda q, one: jnp.zeros_like(q) if one else q, square, linear)
    return Drift(change(sym, params, updates), source, second)


def change(sym: Symmetry, params: Params, updates: Params) -> Charges:
    """C(θ + u) - C(θ) by one pairing: ⟨u, M(2θ + u)⟩."""
    params, updates = widen(params), widen(updates)
    ahead = jax.tree.map(lambda p, u: 2 * p + u.astype(p.dtype), params, updates)
    return pairing(sym, ahead, updates)


def noise_drift(sym: Symmetry, gradient_samples: Params) -> Estimate:
    """½Tr(Σ∇²C) = Tr(ΣM), Σ the covariance of one gradient, from a stack of independent ones.

    Args:
      sym: a symmetry with generators.
      gradient_samples: n ≥ 2 gradients g_i, per example or of microbatches, with a leading axis on every leaf.

    Returns:
      An ``Estimate`` of charges: Σ_i ⟨g_i - ḡ, M(g_i - ḡ)⟩ / (n - 1), unbiased, and its standard error from the
      spread of the terms. 0 for linear charges.

    Raises:
      ValueError: fewer than two gradients, leaves with leading axes of several sizes, or gradients of other shapes than
        the labels say.
    """
    n = leading_size(gradient_samples, "gradient_samples")
    sym.check(jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape[1:], g.dtype), gradient_samples))
    if n < 2:
        raise ValueError(f"a covariance needs at least two gradients, got a stack of {n}")
    wide = widen(gradient_samples)
    centred = jax.tree.map(lambda g: g - jnp.mean(g, 0, keepdims=True), wide)
    terms = jax.vmap(lambda g: pairing(sym, g, g))(centred)
    linear = linear_charges(sym, terms)

    def value(t: Array, one: bool) -> Array:
        return jnp.zeros_like(t[0]) if one else jnp.sum(t, 0) / (n - 1)

    def error(t: Array, one: bool) -> Array:
        return jnp.zeros_like(t[0]) if one else jnp.std(t, 0, ddof=1) * (math.sqrt(n) / (n - 1))

    return Estimate(jax.tree.map(value, terms, linear), jax.tree.map(error, terms, linear), n)


def flow_drift(sym: Symmetry, gradient_samples: Params, strength: Any) -> Estimate:
    """The rate dC/dt = σ²Tr(Σ∇²C) of the charges under stochastic gradient flow (Corollary 2).

    The flow is dθ = -∇L dt + √2 σ Σ^½ dW; SGD with step size η and batches of B examples is close to it with
    σ² = η / 2B, up to a bias of order η (``one_step_expectation`` is exact).

    Args:
      sym: a symmetry with generators.
      gradient_samples: as for ``noise_drift``.
      strength: σ².

    Returns:
      An ``Estimate`` of charges per unit of time.

    Reference:
      Yang & Ziyin, Corollary 2. Its second form is ``flow_drift_by_trace``.
    """
    estimate = noise_drift(sym, gradient_samples)
    value, error = (jax.tree.map(lambda c: 2 * strength * c, part) for part in estimate[:2])
    return Estimate(value, error, estimate.samples)


def flow_drift_by_trace(
    sym: Symmetry,
    batch_loss: Callable[[Params, Any], Array],
    params: Params,
    batch: Any,
    strength: Any,
    *,
    batch_size: int | None = None,
) -> Charges:
    """The second form of Corollary 2: dC/dt = -(σ²/2)⟨∇C, ∂_θ Tr Σ⟩, by differentiating the trace of the noise.

    It needs no charge of the gradients, and the loss to be invariant example by example. The last line of the
    printed proof loses the minus sign. Equal to ``flow_drift`` times (n - 1)/n: Σ is here that of the n examples
    themselves, as in the paper.

    Args:
      sym: a symmetry with generators.
      batch_loss: parameters and a batch to a scalar, the mean over examples.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      strength: σ².
      batch_size: examples at a time.

    Returns:
      Charges per unit of time.
    """

    def trace(p: Params) -> Array:
        grads = per_example_grads(batch_loss, p, batch, batch_size=batch_size)
        centred = jax.tree.map(lambda g: g - jnp.mean(g, 0, keepdims=True), grads)
        return tree_vdot(centred, centred) / jax.tree.leaves(grads)[0].shape[0]

    slope = pairing(sym, params, jax.grad(trace)(params))
    linear = linear_charges(sym, slope)
    return jax.tree.map(lambda c, one: -strength * c / (2 if one else 1), slope, linear)


def one_step_expectation(
    sym: Symmetry,
    gradient_samples: Params,
    learning_rate: Any,
    batch_size: int,
    *,
    replacement: bool = True,
) -> Charges:
    """The exact expectation of the change of the charges in one step of SGD, over the choice of the batch.

    E ΔC = η² (⟨ḡ, Mḡ⟩ + Tr(ΣM)/B) with Σ the covariance of the n examples; without replacement the second term
    has the factor (n - B)/(n - 1).

    Args:
      sym: a symmetry with generators.
      gradient_samples: the gradients of all n examples, stacked.
      learning_rate: η.
      batch_size: B.
      replacement: whether the examples of a batch are drawn independently.

    Returns:
      Charges; 0 for linear ones.
    """
    wide = widen(gradient_samples)
    n = jax.tree.leaves(wide)[0].shape[0]
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), wide)
    drift_of_mean = pairing(sym, mean, mean)
    noise = noise_drift(sym, gradient_samples).value
    share = (n - 1) / n * (1.0 if replacement else (n - batch_size) / (n - 1)) / batch_size
    linear = linear_charges(sym, noise)

    def leaf(a: Array, b: Array, one: bool) -> Array:
        return jnp.zeros_like(b) if one else learning_rate**2 * (a + share * b)

    return jax.tree.map(leaf, drift_of_mean, noise, linear)
