"""The four definitions of a symmetry of a network as checks that return how far one is from satisfied.

For a network f(θ, x) with a cost, a group acting on the parameters is

* a functional network symmetry: f(g θ, x) = f(θ, x) for all g, θ, x;
* a functional loss symmetry: the same of the loss, while f may change;
* a data-dependent symmetry: f(g (θ, X), x) = f(θ, x) for the x in X only, the action depending on X;
* a distribution symmetry: E_x f(g θ, x) = E_x f(θ, x).

Each check takes stacked elements (``jax.vmap(sym.sample)(keys)``) and returns the largest error over them
relative to the size of the outputs; NaN where a moved network gives NaN. ``definition_errors`` returns all of
them at once, and ``IMPLICATIONS`` which follow from which.

Reference:
  Zhao, "Symmetry in Neural Networks" (2026), Definitions 1.2.1, 1.3.1, 1.3.3, 1.3.4, 1.3.6 and figure 1.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Element = Any
Params = Any
Outputs = Any  # a pytree of arrays whose first axis runs over the samples

#: Pairs (a, b) of fields of ``DefinitionErrors``: a symmetry in the sense of a is one in the sense of b. No
#: converse holds. A distribution symmetry of f is *not* one of the loss: a mean of costs is not a cost of means.
IMPLICATIONS: tuple[tuple[str, str], ...] = (
    ("functional", "functional_loss"),
    ("functional", "data_dependent"),
    ("functional", "distribution"),
    ("functional_loss", "data_dependent_loss"),
    ("functional_loss", "distribution_loss"),
    ("data_dependent", "data_dependent_loss"),
)


class DefinitionErrors(NamedTuple):
    """The relative error of each definition, for the network and for its loss.

    Attributes:
      functional: of f on all inputs (1.2.1).
      functional_loss: of the loss on all inputs (1.3.1).
      data_dependent: of f on the data X the action was given (1.3.4).
      data_dependent_loss: of the loss on these data.
      distribution: of the mean of f (1.3.6).
      distribution_loss: of the mean of the loss.
    """

    functional: Array
    functional_loss: Array
    data_dependent: Array
    data_dependent_loss: Array
    distribution: Array
    distribution_loss: Array

    def holds(self, tolerance: float) -> dict[str, bool]:
        """Which definitions are satisfied up to ``tolerance``; NaN counts as not."""
        return {name: bool(error <= tolerance) for name, error in self._asdict().items()}


def relative_error(value: Outputs, reference: Outputs) -> Array:
    """The largest |value - reference| over the largest |reference|, leaf by leaf; 0 where both vanish.

    Args:
      value: a pytree of arrays.
      reference: one of the same structure and shapes.

    Returns:
      A scalar; infinite where only the reference vanishes, NaN where an array has NaN.
    """

    def leaf(a: Array, b: Array) -> Array:
        a, b = jnp.asarray(a), jnp.asarray(b)
        if a.shape != b.shape:
            raise ValueError(f"outputs of different shapes: {a.shape} and {b.shape}")
        return _ratio(jnp.max(jnp.abs(a - b)), jnp.max(jnp.abs(b)))

    return _largest(jax.tree.map(leaf, value, reference))


def functional_error(
    act: Callable[[Element, Params], Params],
    function: Callable[[Params, Any], Outputs],
    params: Params,
    inputs: Any,
    elements: Element,
) -> Array:
    """How far an action is from a functional network symmetry (Definition 1.2.1).

    Args:
      act: (g, θ) -> gθ. A data-dependent action has its data fixed: ``lambda g, p: action.act(g, p, x)``.
      function: (θ, inputs) -> outputs, of the whole batch.
      params: the parameters θ.
      inputs: a batch, for a data-dependent action other than the data of ``act``.
      elements: group elements, stacked along a leading axis.

    Returns:
      The largest relative error over the elements, a scalar.
    """
    reference = function(params, inputs)

    def error(g: Element) -> Array:
        return relative_error(function(act(g, params), inputs), reference)

    return jnp.max(jax.vmap(error)(elements))


def functional_loss_error(
    act: Callable[[Element, Params], Params],
    function: Callable[[Params, Any], Outputs],
    output_loss: Callable[[Outputs], Array],
    params: Params,
    inputs: Any,
    elements: Element,
) -> Array:
    """How far an action is from a functional loss symmetry (Definition 1.3.1).

    Args:
      act: as for ``functional_error``.
      function: as for ``functional_error``.
      output_loss: outputs -> the loss of every sample (a scalar would hide errors that cancel).
      params: the parameters θ.
      inputs: a batch.
      elements: stacked group elements.

    Returns:
      The largest relative error over the elements, a scalar.
    """
    return functional_error(act, lambda p, x: output_loss(function(p, x)), params, inputs, elements)


def data_dependent_error(
    act: Callable[[Element, Params, Any], Params],
    function: Callable[[Params, Any], Outputs],
    params: Params,
    batches: Any,
    elements: Element,
) -> Array:
    """How far an action is from a data-dependent symmetry (Definition 1.3.4).

    Args:
      act: (g, θ, X) -> θ', such as ``DataDependentAction.act``, or ``lambda g, p, x: sym.act(g, p)``.
      function: (θ, X) -> outputs.
      params: the parameters θ.
      batches: data sets X, stacked along a leading axis.
      elements: stacked group elements.

    Returns:
      The largest relative error over data sets and elements, a scalar.
    """

    def error(batch: Any) -> Array:
        return functional_error(lambda g, p: act(g, p, batch), function, params, batch, elements)

    return jnp.max(jax.vmap(error)(batches))


def distribution_error(
    act: Callable[[Element, Params], Params],
    function: Callable[[Params, Any], Outputs],
    params: Params,
    inputs: Any,
    elements: Element,
    weights: Array | None = None,
) -> Array:
    """How far an action is from a distribution symmetry (Definition 1.3.6).

    The distribution is that of the samples given, so that the check is exact, not statistical.

    Args:
      act: as for ``functional_error``.
      function: (θ, inputs) -> outputs, whose leaves have the samples on their first axis.
      params: the parameters θ.
      inputs: samples x.
      elements: stacked group elements.
      weights: the probability of each sample, shape (k,); uniform when None.

    Returns:
      The largest change of E f over the elements, relative to the largest E |f|; a scalar.
    """

    def mean(y: Array) -> Array:
        if weights is None:
            return jnp.mean(y, 0)
        return jnp.tensordot(weights.astype(y.dtype), y, axes=1, precision=jax.lax.Precision.HIGHEST)

    reference = function(params, inputs)

    def error(g: Element) -> Array:
        def leaf(a: Array, b: Array) -> Array:
            return _ratio(jnp.max(jnp.abs(mean(a) - mean(b))), jnp.max(mean(jnp.abs(b))))

        return _largest(jax.tree.map(leaf, function(act(g, params), inputs), reference))

    return jnp.max(jax.vmap(error)(elements))


def definition_errors(
    act: Callable[[Element, Params, Any], Params],
    function: Callable[[Params, Any], Outputs],
    output_loss: Callable[[Outputs], Array],
    params: Params,
    batches: Any,
    elements: Element,
) -> DefinitionErrors:
    """All definitions at once, for one action.

    The action is given each data set in turn. The functional definitions are then read on the samples of all
    data sets, the data-dependent ones on the data set given, the distribution ones on the mean over all samples.

    Args:
      act: (g, θ, X) -> θ'; a symmetry that ignores the data is ``lambda g, p, x: sym.act(g, p)``.
      function: (θ, X) -> outputs, whose leaves have the samples on their first axis.
      output_loss: outputs -> the loss of every sample, shape (k,).
      params: the parameters θ.
      batches: data sets X, stacked along a leading axis: leaves of shape (sets, k, ...).
      elements: stacked group elements.

    Returns:
      The six errors.
    """
    everything = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)

    def loss(p: Params, x: Any) -> Array:
        return output_loss(function(p, x))

    def on_batch(batch: Any) -> tuple[Array, ...]:
        def fixed(g: Element, p: Params) -> Params:
            return act(g, p, batch)

        return tuple(
            check(fixed, f, params, data, elements)
            for check, data in (
                (functional_error, everything),
                (functional_error, batch),
                (distribution_error, everything),
            )
            for f in (function, loss)
        )

    return DefinitionErrors(*(jnp.max(e) for e in jax.vmap(on_batch)(batches)))


def _ratio(error: Array, scale: Array) -> Array:
    """The quotient, with 0 / 0 = 0."""
    return jnp.where(error == 0, 0.0, error / jnp.where(scale == 0, 1, scale)) * jnp.where(
        (scale == 0) & (error > 0), jnp.inf, 1
    )


def _largest(errors: Any) -> Array:
    """The largest of a pytree of scalars, 0 of none."""
    leaves = jax.tree.leaves(errors)
    return jnp.max(jnp.stack(leaves)) if leaves else jnp.zeros(())
