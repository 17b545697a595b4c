"""What an optimizer remembers, carried along when its parameters are teleported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import random_like, scan
from eqtoolbox.symmetry import Equivariance, Symmetry, carry_state, is_masked, present

Params = Any
Buffers = Literal["transport", "keep", "reset"]

#: Fields of optax states that hold (means of) gradients, and of their squares.
GRADIENTS = frozenset({"trace", "mu", "ema", "acc_grads", "exp_avg", "m", "m1", "m2", "grad_sum", "grad"})
SQUARES = frozenset({"nu", "nu_max", "sum_of_squares", "exp_avg_sq", "n", "grad_sum_sq", "e_g"})
#: States in which a name of these means something else.
_OTHERWISE = frozenset({"ScaleByAdanState", "MechanicState", "ScaleBySM3State", "COCOBState", "MuonState"})
#: Random vectors for the squares under a map that is known only by its products.
PROBES = 16


@dataclass(frozen=True, eq=False)
class Motion:
    """A move of the parameters along an orbit, as it looks to trees like them.

    A state of an optimizer that has a method ``transport(motion)`` is given one, and returns what it becomes.

    Attributes:
      sym: the symmetry.
      element: the group element of a ``Symmetry``; of an ``Equivariance`` a λ, or with ``path`` a stack of them,
        applied one after the other.
      before: the parameters before.
      path: whether ``element`` is a stack.
    """

    sym: Symmetry | Equivariance
    element: Any
    before: Params
    path: bool = False

    def covector(self, gradient: Params) -> Params:
        """A gradient moved along: ∇L(g·θ) = (D g)⁻ᵀ ∇L(θ) for an invariant L.

        Raises:
          TypeError: an ``Equivariance`` has no ``act_inverse``.

        Reference:
          Zhao, "Symmetry in Neural Networks" (2026), proposition 4.5.1.
        """
        if isinstance(self.sym, Symmetry):
            part = present(self.sym, gradient)
            return part.act_dual({f.key: self.element[f.key] for f in part.factors}, gradient)
        act, back = self.sym.act, self.sym.act_inverse
        if back is None:
            raise TypeError("to carry gradients along, the Equivariance needs an `act_inverse`")

        def step(carry: tuple[Params, Params], lam: Any) -> tuple[tuple[Params, Params], None]:
            params, v = carry
            params = act(params, lam)
            # (D H)⁻ᵀ is the transpose of D (H⁻¹) at the new parameters.
            return (params, jax.vjp(lambda p: back(p, lam), params)[1](v)[0]), None

        return scan(step, (self.before, gradient), self._stack())[0][1]

    def squares(self, second_moment: Params) -> Params:
        """Squares of gradients moved along: v → (A∘A) v for gradients that move by A.

        So it is for the mean of squares of uncorrelated entries, and of any entries where A permutes, scales and
        flips signs. Of a map that is not an axis action the entries of A are not known: an unbiased estimate with
        random signs, ``PROBES`` of them.
        """
        if isinstance(self.sym, Symmetry) and self.sym.is_linear:
            squared = jax.tree.map(_square, self.sym.with_inverse(self.element))
            part = present(self.sym, second_moment)
            return part.act_dual({f.key: squared[f.key] for f in part.factors}, second_moment)
        root = jax.tree.map(lambda v: jnp.sqrt(jnp.maximum(v, 0)), second_moment)

        def add(total: Params, k: Array) -> tuple[Params, None]:
            key = jax.random.fold_in(jax.random.key(0), k)
            moved = self.covector(jax.tree.map(jnp.multiply, random_like(key, root, "rademacher"), root))
            return jax.tree.map(lambda t, x: t + jnp.square(x) / PROBES, total, moved), None

        zero = jax.tree.map(jnp.zeros_like, second_moment)
        return scan(add, zero, jnp.arange(PROBES))[0]

    def vector(self, direction: Params) -> Params:
        """A direction moved along: d/dt g·(θ + t v) = (D g) v."""

        def act(params: Params, lam: Any) -> Params:
            return self.sym.act(lam, params) if isinstance(self.sym, Symmetry) else self.sym.act(params, lam)

        def step(carry: tuple[Params, Params], lam: Any) -> tuple[tuple[Params, Params], None]:
            return jax.jvp(lambda p: act(p, lam), (carry[0],), (carry[1],)), None

        return scan(step, (self.before, direction), self._stack())[0][1]

    def _stack(self) -> Any:
        return self.element if self.path else jax.tree.map(lambda x: jnp.asarray(x)[None], self.element)


def transport_state(motion: Motion, state: Any, fresh: Any, how: Buffers) -> Any:
    """The state of an optax optimizer after its parameters have moved.

    Args:
      motion: how they moved.
      state: the state.
      fresh: what ``init`` makes of the new parameters.
      how: "transport": gradients move as covectors and their squares as ``Motion.squares`` says, a state with a
        method ``transport`` as that says, one of a class with a rule in ``symmetry.carry_state`` as the rule says,
        and any other state that is shaped like the parameters is made anew.
        "keep": nothing moves. "reset": every state that holds something shaped like the parameters is made anew,
        its count included, for a bias correction by an old count would be wrong; schedules go on.

    Returns:
      The new state, in the dtypes of the old one.
    """
    if how == "keep":
        return state
    return _like(_Walk(motion, how)(state, fresh), state)


@dataclass(frozen=True, eq=False)
class _Walk:
    """Goes through a state and what ``init`` makes of the new parameters, at the same time."""

    motion: Motion
    how: Buffers

    def __call__(self, state: Any, fresh: Any, white: bool = False) -> Any:
        """The new state; ``white`` where gradients come divided by the root of their squares, and so do not scale."""
        if self.how == "transport":
            if callable(getattr(state, "transport", None)):
                return state.transport(self.motion)
            carried = carry_state(state, self.motion, fresh)
            if carried is not NotImplemented:
                return carried
        if hasattr(state, "_fields"):
            return self._node(state, fresh, white)
        if isinstance(state, (tuple, list)):
            new = []
            for s, f in zip(state, fresh, strict=True):
                new.append(self(s, f, white))
                white = white or any(name in SQUARES for name in _buffers(s, self.motion.before))
            return type(state)(new)
        if isinstance(state, dict):
            return {key: self(s, fresh[key], white) for key, s in state.items()}
        return state

    def _node(self, state: Any, fresh: Any, white: bool) -> Any:
        buffers = _buffers(state, self.motion.before)
        known = type(state).__name__ not in _OTHERWISE and all(b in GRADIENTS | SQUARES for b in buffers)
        if buffers and (self.how == "reset" or not known):
            return fresh
        new = {}
        for name in state._fields:
            value = getattr(state, name)
            if name not in buffers:
                new[name] = self(value, getattr(fresh, name), white)
            elif name in SQUARES:
                new[name] = self.motion.squares(value)
            else:
                new[name] = value if white else self.motion.covector(value)
        return state._replace(**new)


def _buffers(state: Any, params: Params) -> list[str]:
    """The fields of a state that are shaped like the parameters."""
    return [name for name in getattr(state, "_fields", ()) if _is_buffer(getattr(state, name), params)]


def second_moment_of(state: Any, params: Params) -> tuple[Params, bool]:
    """The squares of gradients in the state of an optimizer, and whether they are a sum of all of them.

    Raises:
      ValueError: there are none, or several.
    """
    found: list[tuple[str, Any]] = []

    def search(node: Any) -> None:
        if hasattr(node, "_fields"):
            for name in node._fields:
                value = getattr(node, name)
                if name in SQUARES and _is_buffer(value, params):
                    found.append((name, value))
                else:
                    search(value)
        elif isinstance(node, (tuple, list)):
            for value in node:
                search(value)
        elif isinstance(node, dict):
            for value in node.values():
                search(value)

    search(state)
    if len(found) != 1:
        raise ValueError(
            "the objective needs the second moments of the inner optimizer, one tree of them; its state has "
            f"{[name for name, _ in found]}"
        )
    ((name, value),) = found
    return value, name == "sum_of_squares"


def _is_buffer(value: Any, params: Params) -> bool:
    """Whether it has the structure and shapes of the parameters, or of a part of them that is not masked out."""
    if value is None or (isinstance(value, (tuple, list)) and not value):
        return False
    mine, theirs = (jax.tree.flatten(tree, is_leaf=is_masked) for tree in (value, params))
    if mine[1] != theirs[1] or all(is_masked(x) for x in mine[0]):
        return False
    return all(
        is_masked(a) or is_masked(b) or jnp.shape(a) == jnp.shape(b)
        for a, b in zip(mine[0], theirs[0], strict=True)
    )


def _square(x: Array) -> Array:
    """The square of real numbers and signs; indices of a permutation as they are."""
    moves = jnp.issubdtype(x.dtype, jnp.floating) or x.dtype == jnp.int8
    return x * x if moves else x


def _like(new: Any, old: Any) -> Any:
    """``new`` in the dtypes of ``old``, so that a state does not change under ``jax.lax.cond`` or ``scan``."""
    return jax.tree.map(lambda a, b: jnp.asarray(a).astype(jnp.asarray(b).dtype), new, old)
