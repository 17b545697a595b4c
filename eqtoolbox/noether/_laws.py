"""Exact laws of charges under the optimizers whose updates are linear in gradients, and their continuous limits.

For an invariant loss ⟨∇L, X_ξ(θ)⟩ = 0, so that of the step of gradient descent with momentum and decay,

    m' = β m + g + λ θ,   d = m'  or, for Nesterov,  d = g + λ θ + β m',   θ' = (1 - ηκ) θ - η d,

the charge C = ⟨θ, Mθ⟩ and the cross term R = ⟨m, Mθ⟩ obey, with P = β R + λ C and D = P, or λ C + β P for Nesterov,

    C' = (1 - ηκ)² C - 2η (1 - ηκ) D + η² ⟨d, Md⟩,       R' = (1 - ηκ) P - η ⟨m', Md⟩,

whatever the step size, with mini-batches and schedules. Neither θ nor its charge is read again after the start: the
whole drift is in ⟨d, Md⟩ and ⟨m', Md⟩.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from eqtoolbox.groups import Affine, AffineElement, Group, Product, Translation
from eqtoolbox.noether._charges import charge_fn
from eqtoolbox.noether._pairing import Charges, Params, pairing, widen
from eqtoolbox.symmetry import Symmetry

Schedule = Callable[[ArrayLike], ArrayLike]
Number = ArrayLike | Schedule


@dataclass(frozen=True)
class Law:
    """An update rule of gradient descent, with the names and the meaning they have in optax.

    ========================================================  ======================================================
    optimizer                                                 law
    ========================================================  ======================================================
    ``optax.sgd(0.1, momentum=0.9, nesterov=True)``           ``Law(0.1, momentum=0.9, nesterov=True)``
    ``chain(add_decayed_weights(w), sgd(0.1, 0.9))``          ``Law(0.1, momentum=0.9, l2=w)``
    ``chain(trace(0.9), add_decayed_weights(w), scale(-lr))``  ``Law(lr, momentum=0.9, weight_decay=w)`` (decoupled)
    ========================================================  ======================================================

    Attributes:
      learning_rate: η, a number or a schedule of the step count.
      momentum: β, likewise.
      nesterov: whether the step looks ahead.
      l2: λ, added to the gradient as λθ before the momentum; the same on all leaves the symmetry acts on.
      weight_decay: κ, decoupled: the step adds -ηκθ; likewise.
    """

    learning_rate: Number
    momentum: Number = 0.0
    nesterov: bool = False
    l2: Number = 0.0
    weight_decay: Number = 0.0

    def __post_init__(self):
        for name in ("learning_rate", "momentum", "l2", "weight_decay"):
            value = getattr(self, name)
            if value is None or isinstance(value, (str, bool)):
                raise TypeError(f"Law: {name} must be a number or a schedule, got {value!r}")
            if isinstance(value, (int, float)) and not 0 <= value < float("inf"):
                raise ValueError(f"Law: {name} must be a finite number, not negative, got {value!r}")
        if isinstance(self.momentum, (int, float)) and self.momentum >= 1:
            raise ValueError(f"Law: momentum must be below 1, got {self.momentum!r}")

    def at(self, count: ArrayLike) -> Rates:
        """The numbers of step ``count``."""

        def value(x: Number) -> ArrayLike:
            return x(count) if callable(x) else x

        return Rates(*(value(x) for x in (self.learning_rate, self.momentum, self.l2, self.weight_decay)))


class Rates(NamedTuple):
    """The numbers of one step: η, β, λ and κ."""

    learning_rate: Any
    momentum: Any
    l2: Any
    weight_decay: Any


class LawState(NamedTuple):
    """What a law carries from step to step.

    Attributes:
      law_count: the number of steps.
      law_charge: the charges C it predicts.
      law_cross: R = ⟨m, X_ξ(θ)⟩; an empty tuple without momentum.
      law_buffer: the momentum buffer m, like the parameters; an empty tuple without momentum.
    """

    law_count: Array
    law_charge: Charges
    law_cross: Charges
    law_buffer: Any


def law_init(law: Law, sym: Symmetry, params: Params) -> LawState:
    """The state of a law at the first parameters; the buffer is 0.

    Raises:
      TypeError: ``sym`` is discrete.
    """
    return law_from(law, charge_fn(sym)(params), params)


def law_from(law: Law, charges: Charges, params: Params) -> LawState:
    """``law_init`` where the charges of the parameters are known."""
    zero, start = jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, charges)
    if _absent(law.momentum):
        return LawState(zero, start, (), ())
    buffer = jax.tree.map(jnp.zeros_like, widen(params))
    return LawState(zero, start, jax.tree.map(jnp.zeros_like, charges), buffer)


def law_step(law: Law, sym: Symmetry, state: LawState, params: Params, gradient: Params) -> LawState:
    """The charges after one more step, from the gradient alone (and, for L2 decay, the λθ in the buffer).

    The gradient may be that of a mini-batch: every loss that is invariant obeys the same law.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "h*", "v": "h"}, {"h": groups.PositiveScaling(1)})
    >>> loss = lambda p: jnp.sum(p["u"] * p["v"] - 1) ** 2
    >>> params, law = {"u": jnp.array([2.0]), "v": jnp.array([1.0])}, Law(0.1)
    >>> gradient = jax.grad(loss)(params)
    >>> state = law_step(law, sym, law_init(law, sym, params), params, gradient)
    >>> moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    >>> bool(jnp.allclose(state.law_charge["h"], charge_fn(sym)(moved)["h"]))
    True

    Args:
      law: the update rule.
      sym: the symmetry.
      state: of ``law_init`` or the step before.
      params: θ before the step.
      gradient: ∇L(θ), raw: before momentum and decay.

    Returns:
      The state after the step.

    Reference:
      EQ-4.1a and DA-T30 without momentum and decay.
    """
    eta, beta, lam, kappa = law.at(state.law_count)
    keep = 1 - eta * kappa
    charge, momentum = state.law_charge, not _absent(law.momentum)
    push = widen(gradient)
    if not _absent(law.l2):
        push = _add(push, lam, widen(params))
    buffer = _add(push, beta, state.law_buffer) if momentum else push
    step = _add(push, beta, buffer) if law.nesterov else buffer
    before = _add(_scaled(lam, charge), beta, state.law_cross) if momentum else _scaled(lam, charge)
    along = _add(_scaled(lam, charge), beta, before) if law.nesterov else before
    quadratic = pairing(sym, step, step)
    linear = linear_charges(sym, charge)

    def moved(c: Array, d: Array, q: Array, is_linear: bool) -> Array:
        if is_linear:
            return (keep * c - eta * d).astype(c.dtype)
        return (keep**2 * c - 2 * eta * keep * d + eta**2 * q).astype(c.dtype)

    def crossed(r: Array, p: Array, q: Array, is_linear: bool) -> Array:
        return (p if is_linear else keep * p - eta * q).astype(r.dtype)

    count = state.law_count + 1
    after = jax.tree.map(moved, charge, along, quadratic, linear)
    if not momentum:
        return LawState(count, after, (), ())
    both = pairing(sym, buffer, step) if law.nesterov else quadratic
    cross = jax.tree.map(crossed, state.law_cross, before, both, linear)
    buffer = jax.tree.map(lambda new, old: new.astype(old.dtype), buffer, state.law_buffer)
    return LawState(count, after, cross, buffer)


def linear_charges(sym: Symmetry, charges: Charges) -> Any:
    """Which charges are linear in θ (shifts) rather than quadratic: a tree of booleans like ``charges``."""
    flags = {}
    for f in sym.factors:
        if f.key in charges:
            flags[f.key] = _linear(f.group, charges[f.key])
    return flags


def _linear(group: Group, charge: Any) -> Any:
    if isinstance(group, Affine):
        return AffineElement(False, None if charge.shift is None else True)  # pyright: ignore[reportArgumentType]
    if isinstance(group, Product):
        pairs = zip(group.groups, charge, strict=True)
        return tuple(None if c is None else _linear(g, c) for g, c in pairs)
    return jax.tree.map(lambda _: isinstance(group, Translation), charge)


def decayed(sym: Symmetry, charges: Charges, rate: ArrayLike, time: ArrayLike) -> Charges:
    """The charges along gradient flow with weight decay, θ' = -∇L - λθ: e^{-2λt} C, and e^{-λt} C for shifts."""
    linear = linear_charges(sym, charges)
    return jax.tree.map(lambda c, one: jnp.exp(-(1 if one else 2) * rate * time) * c, charges, linear)


class FrictionRates(NamedTuple):
    """The first two derivatives in time of the charges under friction.

    Attributes:
      first: Ċ = 2⟨θ', Mθ⟩.
      second: C̈ = 2⟨θ', Mθ'⟩ - γĊ.
    """

    first: Charges
    second: Charges


def friction_rates(sym: Symmetry, params: Params, velocity: Params, friction: Any) -> FrictionRates:
    """The law C̈ + γĊ = 2⟨θ', Mθ'⟩ of the charges under θ'' = -γθ' - ∇L: heavy ball as its step size vanishes.

    The currents of antisymmetric generators decay as e^{-γt} instead (``currents``). For linear charges the right
    side is 0.

    Args:
      sym: a symmetry.
      params: θ.
      velocity: θ', like ``params``.
      friction: γ.

    Returns:
      Ċ and C̈.
    """
    cross, kinetic = pairing(sym, params, velocity), pairing(sym, velocity, velocity)
    linear = linear_charges(sym, cross)
    first = jax.tree.map(lambda c, one: c if one else 2 * c, cross, linear)
    second = jax.tree.map(lambda c, k, one: -friction * c + (0 if one else 2 * k), first, kinetic, linear)
    return FrictionRates(first, second)


def _absent(x: Number) -> bool:
    """Whether a rate is the number 0, known without its value being traced."""
    return isinstance(x, (int, float)) and x == 0


def _scaled(factor: ArrayLike, tree: Any) -> Any:
    return jax.tree.map(lambda x: factor * x, tree)


def _add(tree: Any, factor: ArrayLike, other: Any) -> Any:
    """tree + factor · other, in the dtypes of the first."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(factor, x.dtype) * y.astype(x.dtype), tree, other)
