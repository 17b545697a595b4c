"""Differentiable constraints by symmetry as a wrapper of any optax optimizer."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer
from jax.experimental import checkify

from eqtoolbox.linalg import check_number, cond
from eqtoolbox.mirror._constraints import Constraint
from eqtoolbox.mirror._factors import Factors, flat, is_float, penalty, unflat
from eqtoolbox.mirror._reparametrize import check_constraint
from eqtoolbox.symmetry import is_masked

Params = Any
Outside = Literal["raise", "resync", "ignore"]


class DCSState(NamedTuple):
    """The state of ``dcs``.

    Attributes:
      dcs_count: the number of steps.
      dcs_factors: w, u, v in at least float32: the masters of the parameters.
      dcs_gap: before the last step, the largest |θ − T(w, u, v)| of a leaf over its largest entry, above rounding.
      dcs_slack: how far the last update leaves each leaf from T(w, u, v), by the rounding of parameters and updates.
      inner_state: that of the optimizer, on the factors.
    """

    dcs_count: Array
    dcs_factors: Factors
    dcs_gap: Array
    dcs_slack: Array
    inner_state: Any


def dcs(
    inner: optax.GradientTransformation,
    constraint: Constraint,
    strength: optax.ScalarOrSchedule,
    *,
    changed: Outside = "raise",
) -> optax.GradientTransformationExtraArgs:
    """Trains θ = T(w, u, v) with decay of w and u by any optimizer; parameters and model stay as they are.

    The factors live in the state, in at least float32. The gradient of θ is pulled back to them, 2α(w, u) is added,
    ``inner`` steps, and the update is T(new) − θ. It therefore stands outermost: nothing may change the update after
    it, and clipping or noise goes into ``inner`` (on the factors) or before it (on the gradient of θ). Wrappers that
    leave out whole steps, as ``MultiSteps`` and ``apply_if_finite``, may stand around it.

    >>> import jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"w": jnp.array([0.3, -0.2])}
    >>> tx = eqt.dcs(optax.sgd(0.1, momentum=0.9), eqt.mirror.sparse(), strength=5e-4)
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": jnp.array([1.0, 0.0])}, state, params)
    >>> params = optax.apply_updates(params, updates)

    The state holds w, u and v and that of ``inner`` for them, in at least float32: with ``sparse()`` four copies of the
    parameters where momentum alone has one, six where Adam has two; with ``group_sparse`` about two and three; with
    ``low_rank`` four and six for square matrices.

    Args:
      inner: the optimizer. Its own weight decay would decay w, u and v.
      constraint: one of this room; it says which penalty on θ the decay amounts to.
      strength: α of α(‖w‖² + ‖u‖²), in the gradient: with SGD, momentum and a learning rate, as L2 regularisation.
        A number, a traced one, or a schedule of the number of steps.
      changed: what to do where parameters are not what the last update made them, because something stands around
        this or they were set: "raise" a ValueError (under ``jit`` only with ``checkify``, so look at ``dcs_gap``),
        "resync", which makes the factors anew from the parameters and leaves the state of ``inner``, or "ignore",
        which puts the parameters back to T(w, u, v).

    Returns:
      A transformation whose ``update`` needs ``params``. Updates have the dtype of the gradients: with bfloat16
      gradients, params + update is T(w, u, v) rounded to bfloat16 where that lies within a factor of two of the
      parameter, else it is off by a rounding of their difference until the next step; with float32 gradients it
      always is. Leaves that are masked out or hold no floats are left alone. ``value``, ``grad`` and ``value_fn`` are
      handed on as those of the penalised loss of the factors, for line searches and L-BFGS.

    Raises:
      TypeError: ``inner`` is no transformation, ``constraint`` no constraint, ``strength`` no number.
      ValueError: ``strength`` is negative, or ``changed`` unknown; in ``update``, there are no ``params``, or they
        were changed and ``changed`` is "raise".

    Reference:
      Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024), sec. 2.6, equation (7), with the T of
      ``linear``, which is faithful for every O.
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(f"dcs: `inner` must be an optax transformation, got {inner!r}")
    check_constraint(constraint, "dcs")
    if changed not in get_args(Outside):
        raise ValueError(f"dcs: `changed` must be one of {get_args(Outside)}, got {changed!r}")
    if not callable(strength):
        check_number(strength, "dcs: `strength`")
        if isinstance(strength, numbers.Real) and not strength >= 0:
            raise ValueError(f"dcs: `strength` must not be negative, got {strength!r}")
    wrapper = _Wrapper(optax.with_extra_args_support(inner), constraint, strength, changed)
    return optax.GradientTransformationExtraArgs(wrapper.init, wrapper.update)


@dataclass(frozen=True)
class _Wrapper:
    inner: optax.GradientTransformationExtraArgs
    constraint: Constraint
    strength: Any
    changed: str

    def init(self, params: Params) -> DCSState:
        kept = _floats(params)
        if jax.tree.leaves(kept):
            factors = self.constraint.split(kept)
            slack = _distances(params, self.constraint.join(factors))
        else:  # optax.tree.map_params asks for the structure of a state with a placeholder
            factors, slack = Factors(params, params, params), jnp.zeros(0, jnp.float32)
        return DCSState(
            dcs_count=jnp.zeros((), jnp.int32),
            dcs_factors=factors,
            dcs_gap=jnp.zeros((), jnp.float32),
            dcs_slack=slack,
            inner_state=self.inner.init(factors),
        )

    def update(
        self,
        updates: Params,
        state: Any,
        params: Params | None = None,
        *,
        value: Any = None,
        grad: Params | None = None,
        value_fn: Callable[..., Array] | None = None,
        **extra_args: Any,
    ) -> tuple[Params, DCSState]:
        if params is None:
            raise ValueError("dcs: the update is T(w, u, v) − θ: call update(…, params)")
        factors, gap = self._factors(state, params)
        theta, pull = jax.vjp(self.constraint.join, factors)
        alpha: Any = self.strength(state.dcs_count) if callable(self.strength) else self.strength

        def pulled(gradient: Params) -> Factors:
            (found,) = pull(_cast(gradient, theta))
            decayed = jax.tree.map(
                lambda g, x: g + (2 * alpha * x).astype(g.dtype), found[:2], (factors.w, factors.u)
            )
            return Factors(decayed[0], decayed[1], found.v)

        if value is not None:
            extra_args["value"] = value + alpha * penalty(factors)
        if grad is not None:
            extra_args["grad"] = pulled(grad)
        if value_fn is not None:
            extra_args["value_fn"] = self._value_fn(value_fn, alpha, params)
        steps, inner_state = self.inner.update(pulled(updates), state.inner_state, factors, **extra_args)
        new: Any = optax.apply_updates(factors, steps)
        emitted, slack = _emit(params, updates, self.constraint.join(new))
        count = jnp.asarray(optax.safe_increment(state.dcs_count))
        return emitted, DCSState(count, new, gap, slack, inner_state)

    def _factors(self, state: DCSState, params: Params) -> tuple[Factors, Array]:
        """The factors to start from, and how far the parameters are from what the last update made them."""
        factors, target = state.dcs_factors, self.constraint.join(state.dcs_factors)
        scale = _sizes(params, target)
        excess = jnp.maximum(_distances(params, target) - 2 * state.dcs_slack, 0)
        excess = jnp.where(excess > _rounding(params) * scale, excess / jnp.where(scale > 0, scale, 1), 0)
        gap = jnp.max(excess).astype(jnp.float32)
        moved = gap > 0
        if self.changed == "raise":
            text = (
                "dcs: the parameters are not what the last update made them (by {gap} of the largest entry of a "
                "leaf): dcs must stand outermost; to set parameters in training, use changed='resync'"
            )
            if isinstance(gap, Tracer):
                checkify.debug_check(~moved, text, gap=gap)
            elif moved:
                raise ValueError(text.format(gap=f"{float(gap):.1e}"))
        if self.changed == "resync":
            kept = _floats(params)

            def anew() -> Factors:
                return _cast(self.constraint.split(kept), factors)

            factors = cond(moved, anew, lambda: factors)
        return factors, gap

    def _value_fn(self, value_fn: Callable[..., Array], alpha: Any, like: Params) -> Callable[..., Array]:
        def of_factors(factors: Factors, *args: Any, **kwargs: Any) -> Array:
            there = {p: x for p, x in flat(self.constraint.join(factors)).items() if not is_masked(x)}
            theta = unflat({**flat(like), **there}, like)
            return value_fn(_cast(theta, like), *args, **kwargs) + alpha * penalty(factors)

        return of_factors


def _emit(params: Params, updates: Params, target: Params) -> tuple[Params, Array]:
    """Updates that make the parameters the target, in the dtypes of the gradients, and how far they miss it."""
    made, missed = {}, []
    p, g, t = flat(params), flat(updates), flat(target)
    for path, gradient in g.items():
        if is_masked(t[path]):
            made[path] = gradient
            continue
        goal = t[path].astype(p[path].dtype).astype(t[path].dtype)
        made[path] = (goal - p[path].astype(goal.dtype)).astype(gradient.dtype)
        reached = (p[path] + made[path]).astype(p[path].dtype)
        missed.append(jnp.max(jnp.abs(reached - t[path]), initial=0))
    return unflat(made, updates), jnp.stack(missed).astype(jnp.float32)


def _distances(params: Params, target: Params) -> Array:
    """max |θ − T| of each leaf that is there."""
    return _leafwise(params, target, lambda p, t: jnp.max(jnp.abs(p - t), initial=0))


def _sizes(params: Params, target: Params) -> Array:
    """The largest entry of each leaf, of either."""

    def largest(p: Any, t: Array) -> Array:
        return jnp.max(jnp.maximum(jnp.abs(p).astype(t.dtype), jnp.abs(t)), initial=0)

    return _leafwise(params, target, largest)


def _leafwise(params: Params, target: Params, function: Callable[[Any, Array], Array]) -> Array:
    p, t = flat(params), flat(target)
    found = [function(p[path], x) for path, x in t.items() if not is_masked(x)]
    return jnp.stack([x.astype(jnp.float32) for x in found])


def _rounding(params: Params) -> Array:
    leaves = [x for x in flat(params).values() if is_float(x)]
    return jnp.array([4 * float(max(jnp.finfo(x.dtype).eps, jnp.finfo(jnp.float32).eps)) for x in leaves])


def _floats(params: Params) -> Params:
    """The leaves of real numbers, the others masked out."""
    return unflat({path: x for path, x in flat(params).items() if is_float(x)}, params)


def _cast(tree: Any, like: Any) -> Any:
    """In the dtypes of ``like``, masked where that is."""

    def cast(x: Any, y: Any) -> Any:
        return y if is_masked(y) else jnp.asarray(x).astype(jnp.result_type(y))

    return jax.tree.map(cast, tree, like, is_leaf=is_masked)
