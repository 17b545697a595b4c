"""``teleport``: an optax wrapper that moves the parameters along their orbit now and then."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.linalg import any_of_batch, check_choice, cond
from eqtoolbox.orbits._objectives import Objective, gradient_norm
from eqtoolbox.orbits._places import is_real
from eqtoolbox.orbits._search import Limits, Refused, Search, TeleportInfo, checked_search
from eqtoolbox.orbits._transport import Buffers, Motion, second_moment_of, transport_state
from eqtoolbox.symmetry import Equivariance, Symmetry, is_masked, present

Params = Any
Orbit = Symmetry | Equivariance | Callable[..., Equivariance]


class TeleportState(NamedTuple):
    """The state of ``teleport``.

    Attributes:
      inner_state: that of the optimizer.
      teleport_count: the number of steps.
      teleports: the number of teleports in which a step was taken.
      teleport_info: of the last teleport, with an empty tuple for the element; zeros before the first.
    """

    inner_state: Any
    teleport_count: Array
    teleports: Array
    teleport_info: TeleportInfo


def teleport(
    inner: optax.GradientTransformation,
    sym: Orbit,
    *,
    objective: Objective = gradient_norm,
    every: int | Callable[[Array], Any] = 100,
    steps: int = 10,
    learning_rate: float | Array = 0.1,
    maximize: bool | None = None,
    buffers: Buffers = "transport",
    joint: bool = True,
    retract: bool | None = None,
    exact: Literal["exp", "inverse"] = "inverse",
    loss_tolerance: float | None = None,
    max_condition: float | None = None,
    max_curvature: float | Array | None = None,
    max_growth: float = 5.0,
    max_step: float | None = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that it teleports: moves the parameters to a better place of their orbit, now and then.

    A step with a teleport is ``teleport_params``, then a step of the optimizer from there, with the gradient there.
    What the optimizer remembers is carried along. All other steps are those of the optimizer, and cost what they
    cost.

    >>> import jax, jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.GeneralLinear(2)})
    >>> loss = lambda p: jnp.sum((p["v"] @ p["u"] - 1) ** 2)
    >>> tx = eqt.orbits.teleport(optax.sgd(1e-3), sym, objective=eqt.orbits.gradient_norm, every=100)
    >>> state = tx.init(params)
    >>> updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)

    The updates hold the move, so that the result of ``optax.apply_updates`` is rounded as sums are. ``inner`` may
    be a chain; what is chained behind a teleport would scale the move too. With a ``value`` or ``grad`` among the
    extra arguments, as optax's line searches have them, ``inner`` gets those at the new place.

    Args:
      inner: the optimizer.
      sym: the symmetry. An ``Equivariance`` that depends on data can be given by a function of extra arguments of
        ``update``, by their names: ``lambda batch: orbits.feature_action(..., batch["x"], ...)``.
      objective: what is optimised, as for ``teleport_params``. One with an argument ``second_moment``, such as
        ``preconditioned_gradient_norm``, is given that of the inner optimizer.
      every: teleport in each so many steps, the first time at the end of them; or a function of the number of steps
        so far that says whether to, ``lambda t: t == 5``.
      steps: as for ``teleport_params``.
      learning_rate: as there.
      maximize: as there.
      buffers: "transport" moves gradients that are remembered as gradients, squares as squares, and any other state
        as its method ``transport(motion)`` or the rule for its class in ``symmetry.carry_state`` says, or else
        makes it anew: that of ``scale_by_symmetry`` is moved under compact groups; "keep" leaves all as it is;
        "reset" makes all anew.
      joint: as for ``teleport_params``.
      retract: as there.
      exact: as there.
      loss_tolerance: as there.
      max_condition: as there.
      max_curvature: as there; 1/η for descent with the learning rate η. Without it a large teleport can make descent
        diverge.
      max_growth: as there.
      max_step: as there.

    Returns:
      A transformation whose ``update`` needs ``params`` and ``value_fn``, the loss as a function of the parameters;
      extra arguments with the names of further arguments of ``value_fn`` are handed to it. Its state is a
      ``TeleportState``, with the ``TeleportInfo`` of the last teleport.

    Raises:
      TypeError: an argument is of the wrong kind; ``buffers="transport"`` with an ``Equivariance`` that has no
        ``act_inverse``.
      ValueError: an argument is out of range; in ``update``, no ``params`` or ``value_fn`` are given.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), algorithm 1 and section 5.4, where buffers are kept or reset, or
      "teleported" in a way that is not said. A gradient is a covector: ∇L(g·θ) = (D g)⁻ᵀ∇L(θ).
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(f"teleport: `inner` must be an optax transformation, got {inner!r}")
    check_choice(buffers, "buffers", ("transport", "keep", "reset"))
    if not callable(every) and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"teleport: `every` must be a positive integer or a function, got {every!r}")
    wants_moments = _has_argument(objective, "second_moment")
    limits = Limits(loss_tolerance, None, max_condition, max_curvature, max_growth, max_step)

    def search_on(sym: Any, objective: Objective) -> Search:
        if buffers == "transport" and isinstance(sym, Equivariance) and sym.act_inverse is None:
            raise TypeError(
                "teleport: buffers='transport' needs an Equivariance with an `act_inverse`; there is buffers='reset'"
            )
        return checked_search(
            sym,
            objective,
            maximize,
            steps,
            learning_rate,
            joint=joint,
            retract=retract,
            exact=exact,
            limits=limits,
            what="teleport",
        )

    by_data = not isinstance(sym, (Symmetry, Equivariance)) and callable(sym)
    if not by_data:
        search_on(sym, objective)
    optimizer = optax.with_extra_args_support(inner)

    def init(params: Params) -> TeleportState:
        return TeleportState(
            optimizer.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), _no_info(params)
        )

    def update(
        updates: Params,
        state: Any,
        params: Params | None = None,
        *,
        value_fn: Callable[..., Array] | None = None,
        **extra_args: Any,
    ) -> tuple[Params, TeleportState]:
        if params is None or value_fn is None:
            raise ValueError(
                "teleport: call update(…, params, value_fn=loss): it needs the loss at other parameters"
            )
        given = {name: x for name, x in extra_args.items() if _has_argument(value_fn, name)}
        loss = lambda p: value_fn(p, **given)  # noqa: E731
        own: Any = sym
        if by_data:
            make: Any = sym
            own = make(**{name: x for name, x in extra_args.items() if _has_argument(sym, name)})
        elif isinstance(sym, Symmetry):
            own = present(sym, params)
        find = objective
        if wants_moments:
            moment, summed = second_moment_of(state.inner_state, params)
            find = _with_moments(objective, moment, summed)
        search = search_on(own, find)

        def move() -> _Moved:
            new, info = search.run(loss, params)
            taken = info.accepted > 0
            path = isinstance(own, Equivariance) and search.retract
            motion = Motion(own, info.element, params, path)
            # A covector also where `updates` are the gradient of another batch.
            gradient = motion.covector(updates) if isinstance(own, Symmetry) else jax.grad(loss)(new)
            inner_state = transport_state(motion, state.inner_state, optimizer.init(new), buffers)
            moved = _Moved(new, gradient, inner_state, info._replace(element=()), taken.astype(jnp.int32))
            return jax.tree.map(lambda a, b: jnp.where(taken, a, b).astype(b.dtype), moved, still(info))

        def still(info: TeleportInfo | None = None) -> _Moved:
            last = state.teleport_info if info is None else info._replace(element=())
            last = jax.tree.map(
                lambda a, b: jnp.asarray(a).astype(jnp.asarray(b).dtype), last, state.teleport_info
            )
            return jax.tree.map(
                jnp.asarray, _Moved(params, updates, state.inner_state, last, jnp.zeros((), jnp.int32))
            )

        count = state.teleport_count
        now = jnp.asarray(every(count) if callable(every) else count % every == every - 1)
        # Of many models at once, the branch is taken where any of them teleports.
        there = cond(any_of_batch(now), lambda: _where(now, move(), still()), still)
        if "grad" in extra_args:
            extra_args["grad"] = there.gradient
        if "value" in extra_args:
            value = extra_args["value"]
            extra_args["value"] = jnp.where(
                there.moved > 0, there.info.loss.astype(jnp.asarray(value).dtype), value
            )
        step, inner_state = optimizer.update(
            there.gradient, there.inner_state, there.params, value_fn=value_fn, **extra_args
        )
        total = jax.tree.map(
            lambda u, new, old: u + (new - old).astype(u.dtype) if is_real(u) else u,
            step,
            there.params,
            params,
        )
        return total, TeleportState(
            inner_state, jnp.asarray(optax.safe_increment(count)), state.teleports + there.moved, there.info
        )

    return optax.GradientTransformationExtraArgs(init, update)


class _Moved(NamedTuple):
    """What a step of the optimizer starts from."""

    params: Params
    gradient: Params
    inner_state: Any
    info: TeleportInfo
    moved: Array


def _where(condition: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _with_moments(objective: Objective, moment: Params, summed: bool) -> Objective:
    extra = {"accumulate": summed} if _has_argument(objective, "accumulate") else {}
    return functools.partial(objective, second_moment=moment, **extra)


def _has_argument(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _no_info(params: Params) -> TeleportInfo:
    dtype = jnp.result_type(
        jnp.float32, *[x for x in jax.tree.leaves(params, is_leaf=is_masked) if not is_masked(x)]
    )
    number = lambda: jnp.zeros((), dtype)  # noqa: E731
    count = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    return TeleportInfo(
        objective_before=number(),
        objective=number(),
        loss_before=number(),
        loss=number(),
        loss_error=number(),
        accepted=count(),
        refused=Refused(*(count() for _ in Refused._fields)),
        condition=number(),
        evaluations=count(),
        element=(),
    )
