"""Optimising an objective over an orbit: `teleport_params`, and the printed procedure for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from eqtoolbox.linalg import (
    check_integer,
    check_like,
    check_number,
    coarsest_dtype,
    hvp,
    rounding,
    scan,
    tree_vdot,
)
from eqtoolbox.orbits._objectives import Loss, Objective, direction_of, gradient_norm, identity_and_action
from eqtoolbox.orbits._places import Accumulating, Composing, Place, Retracting, Way
from eqtoolbox.symmetry import Equivariance, Symmetry

Params = Any

#: Largest relative change of the loss, by the coarsest dtype of the parameters.
LOSS_TOLERANCES = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 3e-2, "float16": 4e-3}
#: Largest condition number of a group element, likewise.
CONDITIONS = {"float64": 1e6, "float32": 30.0, "bfloat16": 30.0, "float16": 30.0}


class Refused(NamedTuple):
    """Why steps were refused: how many, by the first rule that they break.

    Attributes:
      nonfinite: the loss, the objective or the parameters were not finite.
      size: the parameters were more than ``max_growth`` times as large as before.
      condition: a matrix of the group element had a condition number above ``max_condition``.
      curvature: the loss was more curved along its gradient than ``max_curvature``.
      loss: the loss changed by more than ``loss_tolerance``.
      objective: the objective did not get better.
    """

    nonfinite: Array
    size: Array
    condition: Array
    curvature: Array
    loss: Array
    objective: Array


class TeleportInfo(NamedTuple):
    """What a teleport did.

    Attributes:
      objective_before: the objective at the first θ.
      objective: that at the last.
      loss_before: the loss at the first θ.
      loss: that at the last.
      loss_error: |loss - loss_before| / |loss_before|.
      accepted: how many steps were taken.
      refused: how many were not, and why.
      condition: the largest condition number of the matrices of the group element; 1 where there are none.
      evaluations: how often the objective and its slope were evaluated.
      element: what moved θ: a group element of a ``Symmetry``; of an ``Equivariance`` a λ, or with ``retract`` a
        stack of them, to be applied one after the other.
    """

    objective_before: Array
    objective: Array
    loss_before: Array
    loss: Array
    loss_error: Array
    accepted: Array
    refused: Refused
    condition: Array
    evaluations: Array
    element: Any


class Limits(NamedTuple):
    """When a step is refused; see ``teleport_params``."""

    loss_tolerance: Any
    loss_floor: Any
    max_condition: Any
    max_curvature: Any
    max_growth: Any
    max_step: Any


def teleport_params(
    sym: Symmetry | Equivariance,
    loss: Loss,
    params: Params,
    *,
    objective: Objective = gradient_norm,
    maximize: bool | None = None,
    steps: int = 10,
    learning_rate: float | Array = 0.1,
    joint: bool = True,
    retract: bool | None = None,
    exact: Literal["exp", "inverse"] = "inverse",
    initial: Any = None,
    loss_tolerance: float | None = None,
    max_condition: float | None = None,
    max_curvature: float | Array | None = None,
    max_growth: float = 5.0,
    max_step: float | None = 0.5,
) -> tuple[Params, TeleportInfo]:
    """Moves θ along its orbit to where an objective is better, the loss unchanged.

    Gradient steps on the group, from where one is. A step is taken only if the objective gets better, the loss stays
    and the group element is sound; the learning rate is doubled after a step that is taken, and quartered after one
    that is refused. Every step costs one evaluation of the objective and its slope, taken or not; nothing of the
    size of the group squared is formed. Usable under ``jit`` and ``vmap``.

    >>> import jax.numpy as jnp, eqtoolbox as eqt
    >>> params = {"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.GeneralLinear(2)})
    >>> loss = lambda p: jnp.sum((p["v"] @ p["u"] - 1) ** 2)
    >>> moved, info = eqt.orbits.teleport_params(sym, loss, params)
    >>> bool(info.objective > 2 * info.objective_before), bool(info.loss_error < 1e-6)
    (True, True)

    Args:
      sym: a symmetry with generators, or an ``Equivariance`` with an identity.
      loss: θ -> a scalar, data closed over.
      params: the parameters θ.
      objective: (loss, θ) -> a scalar, differentiable; ``functools.partial`` sets its options.
      maximize: whether it is to grow; may be left out for the objectives of this room.
      steps: how many steps are tried.
      learning_rate: of the first step.
      joint: all factors of the group at once; False for one after the other, layer by layer.
      retract: every step starts from the identity again, at the place reached; False for one algebra vector (λ) to
        which steps are added. By default True for a ``Symmetry``, False for an ``Equivariance``.
      exact: "inverse" for 1 + T with its exact inverse where the group is GL, which is cheaper, or "exp" for
        exponentials throughout. All other groups have exponentials.
      initial: an algebra vector (or λ) to start from instead of the identity. If the objective ends worse than at
        θ, θ is returned.
      loss_tolerance: the largest change of the loss, relative to that at the first θ; 1e-6 in float32, 1e-12 in
        float64.
      max_condition: the largest condition number of the matrices of the group element; 30 in float32, 1e6 in float64.
      max_curvature: the largest gᵀ∇²L g / gᵀg with g = ∇L at the place reached, or none. The steepest places are
        the most curved ones: descent with a learning rate η needs less than 2/η there, and goes furthest down at
        1/η. It costs a Hessian product for each step.
      max_growth: how many times as large as before the parameters may become, in norm.
      max_step: the largest norm of a step, for each factor (each leaf of λ); None for no limit.

    Returns:
      The parameters, and what was done: ``info.refused`` says why steps were not taken.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete, or an ``Equivariance`` without an identity.
      ValueError: an argument is out of range, ``initial`` is not like an algebra vector, or a label does not fit its
        leaf.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), algorithms 1 and 2. They print 1 + T with 1 - T for its inverse,
      which changes the loss, and take every step.
    """
    search = checked_search(
        sym,
        objective,
        maximize,
        steps,
        learning_rate,
        joint=joint,
        retract=retract,
        exact=exact,
        initial=initial,
        limits=Limits(loss_tolerance, None, max_condition, max_curvature, max_growth, max_step),
        what="teleport_params",
    )
    return jax.jit(partial(search.run, loss))(params)


def teleport_as_printed(
    sym: Symmetry | Equivariance,
    loss: Loss,
    params: Params,
    *,
    objective: Objective | None = None,
    maximize: bool | None = None,
    steps: int = 10,
    learning_rate: float | Array = 0.1,
    retract: bool | None = None,
    initial: Any = None,
) -> tuple[Params, TeleportInfo]:
    """The inner loop of algorithm 1 as it is printed: steps of a fixed learning rate, every one of them taken.

    For reproduction: nothing is refused, and ``info.loss_error`` says by how much the loss was changed. With
    ``feature_action(..., element="first_order", residual=False)`` it is the published procedure.

    Args:
      sym: as for ``teleport_params``.
      loss: as there.
      params: as there.
      objective: as there; ‖∇L‖² when None.
      maximize: as there.
      steps: how many.
      learning_rate: of all of them.
      retract: as there.
      initial: as there; the result may be worse than θ.

    Returns:
      As ``teleport_params``.

    Raises:
      TypeError: as ``teleport_params``.
      ValueError: likewise.

    Reference:
      Zhao (2026), algorithms 1 and 2.
    """
    squared = lambda loss, params: gradient_norm(loss, params, squared=True)  # noqa: E731
    search = checked_search(
        sym,
        squared if objective is None else objective,
        True if objective is None and maximize is None else maximize,
        steps,
        learning_rate,
        retract=retract,
        initial=initial,
        limits=None,
        what="teleport_as_printed",
    )
    return jax.jit(partial(search.run, loss))(params)


@dataclass(frozen=True, eq=False)
class Search:
    """The options of a search, checked."""

    sym: Symmetry | Equivariance
    objective: Objective
    maximize: bool
    steps: int
    learning_rate: Any
    joint: bool
    retract: bool
    exact: str
    initial: Any
    limits: Limits | None

    def run(self, loss: Loss, params: Params) -> tuple[Params, TeleportInfo]:
        if isinstance(self.sym, Symmetry):
            self.sym.check(params)
        if self.initial is not None:
            check_like(
                self.initial, identity_and_action(self.sym, "a teleport")[0], "initial", "the identity"
            )
        way = self._way(params)
        sign = 1.0 if self.maximize else -1.0

        def look(place: Place) -> _Seen:
            value, slope = way.slope(lambda p: self.objective(loss, p), place)
            up = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), sign * x, 0).astype(x.dtype), slope)
            return _Seen(way.light(place), value, loss(place.params), _norm(place.params), up)

        start, size = way.start(params), _norm(params)
        like = jax.eval_shape(look, start)
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)._replace(place=way.light(start))
        parts = len(jax.tree.leaves(empty.slope))
        rates = jnp.full((parts,), self.learning_rate, jnp.result_type(jnp.float32, like.value))
        given = 1 + (self.initial is not None)  # looks at places that are not the search's own
        stacked = isinstance(way, Retracting)

        def attempt(carry: _Carry, k: Array) -> tuple[_Carry, Any]:
            first, seen, rates, kinds = carry
            limits = None if self.limits is None else _filled(self.limits, params)
            moving = jnp.ones((parts,), bool) if self.joint else jnp.arange(parts) == (k - given) % parts
            step, used = _step(seen.slope, rates, moving, None if limits is None else limits.max_step)
            if self.initial is not None:
                step = jax.tree.map(lambda a, b: jnp.where(k == 1, a, b).astype(b.dtype), self.initial, step)
            # The first look is at θ itself: one look in the program is half of its compilation.
            place = way.move(seen.place, step)
            if not isinstance(way, Composing):  # there a step of 0 is exactly none
                place = _where(k == 0, start, place)
            new = look(place)
            first = _where(k == 0, _First(new.value, new.loss), first)
            kind = jnp.zeros((), jnp.int32)
            if limits is not None:
                flat = _is_flat(loss, place.params, limits)
                kind = _judge(first, size, seen.value, new, limits, sign, flat)
            kind = jnp.where(k < given, 0, kind)
            ok = kind == 0
            if limits is not None:
                tried = jnp.where(moving, jnp.where(ok, 2 * used, used / 4), rates)
                rates = jnp.where(k < given, rates, tried)
            kinds = kinds.at[kind].add(jnp.where(k < given, 0, 1))
            taken = jax.tree.map(lambda x: jnp.where(ok, x, 0), step) if stacked else ()
            return _Carry(first, _where(ok, new, seen), rates, kinds), taken

        kinds = jnp.zeros((len(Refused._fields) + 1,), jnp.int32)
        count = self.steps + given
        begin = _Carry(_First(empty.value, empty.loss), empty, rates, kinds)
        (first, last, _, kinds), path = scan(attempt, begin, jnp.arange(count))
        path = jax.tree.map(lambda x: x[1:], path)
        accepted, moved = kinds[0], way.params(last.place)
        if self.initial is not None and self.limits is not None:
            # The first move was not judged: all of it is now.
            limits = _filled(self.limits, params)
            back = _judge(first, size, first.value, last, limits, sign, _is_flat(loss, moved, limits)) != 0
            there = empty._replace(value=first.value, loss=first.loss)
            last = _where(back, there, last)
            path = jax.tree.map(lambda x: jnp.where(back, 0, x), path)
            accepted = jnp.where(back, 0, accepted)
            moved = _where(back, params, moved)
        elif self.initial is None:
            moved = _where(accepted == 0, params, moved)
        element = last.place.position
        if stacked:
            element = jax.tree.map(lambda one, rest: one[None] + rest, start.position, path)
        small = jnp.finfo(first.loss.dtype).tiny
        info = TeleportInfo(
            objective_before=first.value,
            objective=last.value,
            loss_before=first.loss,
            loss=last.loss,
            loss_error=jnp.abs(last.loss - first.loss) / jnp.maximum(jnp.abs(first.loss), small),
            accepted=accepted,
            refused=Refused(*kinds[1:]),
            condition=last.place.condition,
            evaluations=jnp.asarray(count, jnp.int32),
            element=element,
        )
        return moved, info

    def _way(self, params: Params) -> Way:
        if isinstance(self.sym, Symmetry):
            if self.retract:
                return Composing(self.sym, params, self.exact)
            return Accumulating(Equivariance.of(self.sym), params, self.sym)
        return Retracting(self.sym) if self.retract else Accumulating(self.sym, params)


class _Seen(NamedTuple):
    """A place, and what is found there; the slope points to where the objective gets better."""

    place: Place
    value: Array
    loss: Array
    size: Array
    slope: Any


class _First(NamedTuple):
    """What is found at the first θ."""

    value: Array
    loss: Array


class _Carry(NamedTuple):
    """What goes from one look to the next: what was first seen, what is best, the rates, and counts by ``_judge``."""

    first: _First
    best: _Seen
    rates: Array
    kinds: Array


def _where(condition: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def checked_search(
    sym: Any,
    objective: Any,
    maximize: bool | None,
    steps: int,
    learning_rate: Any,
    *,
    joint: bool = True,
    retract: bool | None = None,
    exact: str = "inverse",
    initial: Any = None,
    limits: Limits | None,
    what: str,
) -> Search:
    identity_and_action(sym, what)
    check_integer(steps, f"{what}: steps", 1)
    check_number(learning_rate, f"{what}: `learning_rate`")
    if not isinstance(learning_rate, Tracer) and not learning_rate > 0:
        raise ValueError(f"{what}: `learning_rate` must be positive, got {learning_rate!r}")
    if exact not in ("exp", "inverse"):
        raise ValueError(f"{what}: `exact` must be 'exp' or 'inverse', got {exact!r}")
    if limits is not None:
        for name, value, least in zip(Limits._fields, limits, (0, 0, 1, 0, 1, 0), strict=True):
            if value is not None:
                check_number(value, f"{what}: `{name}`")
                if not isinstance(value, Tracer) and not value >= least:
                    raise ValueError(f"{what}: `{name}` must be at least {least}, got {value!r}")
    return Search(
        sym,
        objective,
        direction_of(objective, maximize, what),
        steps,
        learning_rate,
        joint,
        isinstance(sym, Symmetry) if retract is None else retract,
        exact,
        initial,
        limits,
    )


def _filled(limits: Limits, params: Params) -> Limits:
    """The limits with their defaults for these dtypes.

    Where the loss is as small as the square of rounding errors, it is rounding itself, and may change.
    """
    dtype = coarsest_dtype(params)
    tolerance, worst = limits.loss_tolerance, limits.max_condition
    return limits._replace(
        loss_tolerance=LOSS_TOLERANCES[dtype] if tolerance is None else tolerance,
        loss_floor=(16 * rounding(dtype)) ** 2 if limits.loss_floor is None else limits.loss_floor,
        max_condition=CONDITIONS[dtype] if worst is None else worst,
    )


def _step(slope: Any, rates: Array, moving: Array, most: Any) -> tuple[Any, Array]:
    """Rate times slope for each part that moves, of norm at most ``most``; and the rates that were used."""
    leaves, treedef = jax.tree.flatten(slope)
    new, used = [], []
    for i, leaf in enumerate(leaves):
        rate = rates[i]
        if most is not None:
            norm = _norm(leaf)
            rate = jnp.minimum(rate, most / jnp.where(norm > 0, norm, 1))
        new.append((jnp.where(moving[i], rate, 0) * leaf).astype(leaf.dtype))
        used.append(rate.astype(rates.dtype))
    return jax.tree.unflatten(treedef, new), jnp.stack(used)


def _norm(tree: Any) -> Array:
    """The norm in one pass over the leaves. Where it overflows a step is none, or is refused."""
    return jnp.sqrt(tree_vdot(tree, tree))


def _judge(
    first: _First, size: Array, value: Array, new: _Seen, limits: Limits, sign: float, flat: Array
) -> Array:
    """0 for a step that is taken, else one more than the number of the rule it breaks, in the order of ``Refused``."""
    finite = jnp.isfinite(new.value) & jnp.isfinite(new.loss) & jnp.isfinite(new.size)
    fair = new.size <= limits.max_growth * size
    sound = new.place.condition <= limits.max_condition
    allowed = jnp.maximum(limits.loss_tolerance * jnp.abs(first.loss), limits.loss_floor)
    same = jnp.abs(new.loss - first.loss) <= allowed
    better = sign * (new.value - value) > 4 * jnp.finfo(new.value.dtype).eps * jnp.abs(value)
    broken = jnp.stack([~finite, ~fair, ~sound, ~flat, ~same, ~better])
    return jnp.where(broken.any(), jnp.argmax(broken) + 1, 0).astype(jnp.int32)


def _is_flat(loss: Loss, params: Params, limits: Limits) -> Array:
    if limits.max_curvature is None:
        return jnp.asarray(True)
    return _curvature(loss, params) <= limits.max_curvature


def _curvature(loss: Loss, params: Params) -> Array:
    gradient = jax.grad(loss)(params)
    square = tree_vdot(gradient, gradient)
    return tree_vdot(gradient, hvp(loss, params, gradient)) / jnp.where(square > 0, square, 1)
