"""Charges tracked in training: an optax wrapper that looks on, and a bare element for a chain."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.linalg import cond
from eqtoolbox.noether._charges import charge_fn, residual
from eqtoolbox.noether._drift import change, noise_drift
from eqtoolbox.noether._laws import Law, LawState, law_from, law_step, linear_charges
from eqtoolbox.noether._pairing import Charges, Params, project
from eqtoolbox.symmetry import Symmetry, check_symmetry, is_masked, present


class NoiseState(NamedTuple):
    """What stochastic gradient flow predicts.

    Attributes:
      noise_drift: the expected drift of the charges since the start.
      noise_variance: the variance of that prediction, from the spread of the gradients.
    """

    noise_drift: Charges
    noise_variance: Charges


class ChargeState(NamedTuple):
    """The charges of a run, and what moved them.

    Attributes:
      charge_count: the number of steps.
      charge: C after the last recorded step: C(θ) measured before it, plus what the step adds.
      charge_start: C at the first parameters.
      charge_drift: the exact drift since then; with ``every=1`` the sum of ⟨u, M(2θ + u)⟩ over the updates u.
      charge_residual: ‖⟨g, Xθ⟩‖ / (‖g‖‖θ‖) of each factor at the last recorded step; not there where no gradient is
        seen.
      charge_law: the ``LawState`` of the update rule; an empty tuple where none was given.
      charge_noise: the ``NoiseState``; likewise.
    """

    charge_count: Array
    charge: Charges
    charge_start: Charges
    charge_drift: Charges
    charge_residual: dict[str, Array] | tuple[()]
    charge_law: LawState | tuple[()]
    charge_noise: NoiseState | tuple[()]


class TrackChargesState(NamedTuple):
    """The state of ``track_charges``.

    Attributes:
      inner_state: that of the optimizer.
      charge_state: the charges.
    """

    inner_state: Any
    charge_state: ChargeState


def track_charges(
    inner: optax.GradientTransformation, sym: Symmetry, *, every: int = 1, law: Law | None = None
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer, or a chain of any transformations, and keeps the charges of a symmetry in its state.

    It sees the raw gradients and the final updates, and leaves both alone: training is the same bit for bit. Read
    the state with ``metrics``. All arithmetic on charges is in float32 at least, also for bfloat16 parameters.

    >>> import jax, jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.GeneralLinear(2)})
    >>> tx = eqt.track_charges(optax.sgd(1e-2, momentum=0.9), sym)
    >>> state = tx.init(params)
    >>> grads = jax.grad(lambda p: jnp.sum((p["v"] @ p["u"] - 1) ** 2))(params)
    >>> updates, state = tx.update(grads, state, params)
    >>> sorted(eqt.noether.metrics(state))
    ['charge/h/norm', 'drift/h', 'residual/h', 'unexplained/h']

    Args:
      inner: the optimizer.
      sym: a symmetry with generators. A factor whose leaves are all masked out (``optax.MaskedNode``) is left out.
      every: charges are looked at every so many steps. With 1 the drift is the exact sum over the updates; else
        the difference of the charges themselves, and a law still takes every step.
      law: the update rule of ``inner``. Then the charges it predicts are kept, from the gradients alone, and, where
        ``update`` is given ``gradient_samples``, what stochastic gradient flow predicts.

    Returns:
      A transformation whose ``update`` needs ``params`` and takes ``gradient_samples`` besides what ``inner`` takes: a
      stack of at least two independent gradients, per example or of microbatches, whose mean is the gradient.

    Raises:
      TypeError: ``sym`` is not a ``Symmetry`` or discrete, ``inner`` no transformation, ``law`` no ``Law``.
      ValueError: ``every`` is not a positive integer; in ``update``, there are no ``params``, or ``gradient_samples``
        without a law; some leaves of an orbit are masked out and others not.

    Reference:
      Yang & Ziyin, section 4.1 and Corollary 2; Zhao (2026), Proposition A.4.1.
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(f"track_charges: `inner` must be an optax transformation, got {inner!r}")
    every = _checked(sym, every, law)
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> TrackChargesState:
        state = _start(sym, params, law, gradients=True)
        return TrackChargesState(inner.init(params), state)

    def update(
        updates: Params,
        state: Any,
        params: Params | None = None,
        *,
        gradient_samples: Params | None = None,
        **extra_args: Any,
    ) -> tuple[Params, TrackChargesState]:
        params = _needed(params)
        if gradient_samples is not None:
            if law is None:
                raise ValueError(
                    "track_charges: a prediction from `gradient_samples` needs the step size: give law=Law(...)"
                )
            extra_args["gradient_samples"] = gradient_samples
        gradient = updates
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        seen = _Seen(params, gradient, updates, gradient_samples)
        return updates, TrackChargesState(inner_state, _advance(sym, state.charge_state, seen, every, law))

    return optax.GradientTransformationExtraArgs(init, update)


def observe_charges(
    sym: Symmetry, *, observes: Literal["gradients", "updates"], every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """A bare element of an ``optax.chain`` that keeps charges; ``track_charges`` sees more.

    An element cannot know what reaches it, so it has to be told. At the head of a chain, ``"gradients"``: it keeps
    the charges, their difference from the start up to the step before, and the invariance residual. At the end,
    ``"updates"``: the charges and the exact drift, but no residual.

    Args:
      sym: as for ``track_charges``.
      observes: what reaches this place of the chain.
      every: as for ``track_charges``.

    Returns:
      A transformation that leaves its input alone; its state is a ``ChargeState``.

    Raises:
      TypeError: as for ``track_charges``.
      ValueError: ``observes`` is neither, or as for ``track_charges``.
    """
    if observes not in ("gradients", "updates"):
        raise ValueError(f"observe_charges: `observes` must be 'gradients' or 'updates', got {observes!r}")
    every = _checked(sym, every, None)
    gradients = observes == "gradients"

    def init(params: Params) -> ChargeState:
        return _start(sym, params, None, gradients)

    def update(
        updates: Params, state: Any, params: Params | None = None, **_: Any
    ) -> tuple[Params, ChargeState]:
        given = (updates, None) if gradients else (None, updates)
        return updates, _advance(sym, state, _Seen(_needed(params), *given, None), every, None)

    return optax.GradientTransformationExtraArgs(init, update)


class _Seen(NamedTuple):
    """What one step shows: θ before it, the raw gradient, the final update (or θ after it), a stack of gradients."""

    params: Params
    gradient: Params | None
    updates: Params | None
    samples: Params | None


def _checked(sym: Symmetry, every: int, law: Law | None) -> int:
    check_symmetry(sym, "track_charges")
    sym.zero_algebra()  # refuses a discrete one
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"track_charges: `every` must be a positive integer, got {every!r}")
    if law is not None and not isinstance(law, Law):
        raise TypeError(f"track_charges: `law` must be an eqtoolbox.noether.Law, got {law!r}")
    return every


def _needed(params: Params | None) -> Params:
    if params is None:
        raise ValueError("track_charges: the charges are those of the parameters: call update(…, params)")
    return params


def _start(sym: Symmetry, params: Params, law: Law | None, gradients: bool) -> ChargeState:
    if jax.tree.leaves(params, is_leaf=is_masked):
        sym = present(sym, params)
        start = charge_fn(sym)(params)
    else:  # optax.tree.map_params asks for the structure of a state with a placeholder
        start = project(sym, sym.zero_algebra())
    zero = jax.tree.map(jnp.zeros_like, start)
    keys = sym.zero_algebra() if gradients else {}
    size = jnp.result_type(jnp.float32, *jax.tree.leaves(start))
    return ChargeState(
        charge_count=jnp.zeros((), jnp.int32),
        charge=jax.tree.map(jnp.copy, start),
        charge_start=start,
        charge_drift=zero,
        charge_residual={key: jnp.zeros((), size) for key in keys} if gradients else (),
        charge_law=() if law is None else law_from(law, start, params),
        charge_noise=() if law is None else NoiseState(*(jax.tree.map(jnp.copy, zero) for _ in range(2))),
    )


def _advance(sym: Symmetry, state: ChargeState, seen: _Seen, every: int, law: Law | None) -> ChargeState:
    """The state after one step: the law takes every step, all else is looked at every so many."""
    sym = present(sym, seen.params)
    count = state.charge_count

    def look() -> _Looked:
        return _like(_look(sym, state, seen, every, law), kept)

    # Where it is looked at now and then, the step's result is passed on, not its update: the update would otherwise
    # have to be kept in memory for a branch that is seldom taken.
    if every > 1 and seen.updates is not None:
        seen = seen._replace(updates=optax.apply_updates(seen.params, seen.updates))
    kept = _Looked(state.charge, state.charge_drift, state.charge_residual, state.charge_noise)
    looked = look() if every == 1 else cond((count + 1) % every == 0, look, lambda: kept)
    law_state = state.charge_law
    if law is not None and isinstance(law_state, LawState):
        law_state = _like(law_step(law, sym, law_state, seen.params, seen.gradient), law_state)
    return ChargeState(
        charge_count=jnp.asarray(optax.safe_increment(count)),
        charge=looked.charge,
        charge_start=state.charge_start,
        charge_drift=looked.drift,
        charge_residual=looked.residual,
        charge_law=law_state,
        charge_noise=looked.noise,
    )


class _Looked(NamedTuple):
    """The part of a ``ChargeState`` that is looked at every so many steps."""

    charge: Charges
    drift: Charges
    residual: dict[str, Array] | tuple[()]
    noise: NoiseState | tuple[()]


def _look(sym: Symmetry, state: ChargeState, seen: _Seen, every: int, law: Law | None) -> _Looked:
    charges, left, noise = charge_fn(sym), state.charge_residual, state.charge_noise
    if seen.updates is not None and every == 1:
        step = change(sym, seen.params, seen.updates)
        charge = jax.tree.map(jnp.add, charges(seen.params), step)
        drift = jax.tree.map(jnp.add, state.charge_drift, step)
    else:
        charge = charges(seen.params if seen.updates is None else seen.updates)
        drift = jax.tree.map(jnp.subtract, charge, state.charge_start)
    if seen.gradient is not None:
        left = residual(sym, seen.params, seen.gradient)
    if law is not None and seen.samples is not None:
        noise = _predict(sym, state, seen.samples, every, law)
    return _Looked(charge, drift, left, noise)


def _predict(sym: Symmetry, state: ChargeState, samples: Params, every: int, law: Law) -> NoiseState:
    """Adds σ²Tr(Σ∇²C) over the time of ``every`` steps; with momentum the step size is η/(1 - β).

    The mean of the n samples is the gradient of the step, so that the noise of the step is that of one over n. Decay
    takes its part of the charges that are expected.
    """
    assert isinstance(state.charge_noise, NoiseState)
    eta, beta, lam, kappa = law.at(state.charge_count)
    estimate = noise_drift(sym, samples)
    rate = (eta / (1 - beta)) ** 2 * every / estimate.samples
    keep = (1 - eta * (kappa + lam / (1 - beta))) ** every

    def moved(d: Array, start: Array, value: Array, one: bool) -> Array:
        kept = keep if one else keep**2
        return kept * (start + d) - start + rate * value

    linear = linear_charges(sym, state.charge_start)
    drift = jax.tree.map(moved, state.charge_noise.noise_drift, state.charge_start, estimate.value, linear)
    variance = jax.tree.map(
        lambda v, e: keep**4 * v + (rate * e) ** 2, state.charge_noise.noise_variance, estimate.standard_error
    )
    return NoiseState(drift, variance)


def _like(new: Any, old: Any) -> Any:
    """``new`` in the dtypes of ``old``, so that a state does not change under ``jax.lax.cond`` or ``scan``."""
    return jax.tree.map(lambda a, b: jnp.asarray(a).astype(b.dtype), new, old)


def metrics(state: Any) -> dict[str, Array]:
    """What a ``ChargeState`` says, as a flat dict of scalars for any logger; works under ``jit``.

    For each factor ``h``: ``charge/h/norm``; ``drift/h``, the norm of the drift since the start; ``residual/h``, the
    alarm for a broken symmetry; ``unexplained/h``, the norm of what moved the charges besides the updates (rounding of
    low-precision parameters, or a change of them between steps). With a law also ``law/h``, how far the predicted
    charges are from the measured ones, and ``noise/h`` and ``noise_error/h``, the norm of the drift that stochastic
    gradient flow predicts and of its standard error.

    Args:
      state: of ``track_charges`` or ``observe_charges``, or any optimizer state that holds exactly one of them.

    Returns:
      The dict.

    Raises:
      ValueError: the state holds no charges, or those of several trackers.
    """

    def is_charges(x: Any) -> bool:
        return isinstance(x, ChargeState)

    found = [s for s in jax.tree.leaves(state, is_leaf=is_charges) if is_charges(s)]
    if len(found) != 1:
        raise ValueError(f"metrics: the state must hold the charges of one tracker, got {len(found)}")
    (s,) = found
    out: dict[str, Array] = {}
    for key in s.charge_start:
        drift = s.charge_drift[key]
        out[f"charge/{key}/norm"] = _norm(s.charge[key])
        out[f"drift/{key}"] = _norm(drift)
        out[f"unexplained/{key}"] = _norm(_minus(_minus(s.charge[key], s.charge_start[key]), drift))
        if s.charge_law:
            out[f"law/{key}"] = _norm(_minus(s.charge_law.law_charge[key], s.charge[key]))
            out[f"noise/{key}"] = _norm(s.charge_noise.noise_drift[key])
            out[f"noise_error/{key}"] = _norm(jax.tree.map(jnp.sqrt, s.charge_noise.noise_variance[key]))
    for key, value in dict(s.charge_residual).items():
        out[f"residual/{key}"] = value
    return out


def _minus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.subtract, a, b)


def _norm(tree: Any) -> Array:
    return jnp.sqrt(jnp.stack([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]).sum())
