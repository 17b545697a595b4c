"""Where a search over an orbit is: positions, the parameters there, and the slope of an objective along the group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import GeneralLinear
from eqtoolbox.linalg import vary_with
from eqtoolbox.symmetry import Equivariance, Symmetry

Params = Any
Vector = Any  # an algebra vector, or a λ less the identity
Value = Callable[[Params], Array]


class Place(NamedTuple):
    """A point of the orbit.

    Attributes:
      position: how it is reached: a group element, or a λ.
      params: the parameters there.
      condition: how badly conditioned the element is, at least 1 but for rounding; 1 where it is not known.
    """

    position: Any
    params: Params
    condition: Array


class Way(Protocol):
    """How to move on an orbit."""

    def start(self, params: Params) -> Place:
        """The place where nothing has moved."""
        ...

    def slope(self, value: Value, place: Place) -> tuple[Array, Vector]:
        """The value of a function of the parameters at a place, and its gradient in the directions of ``move``."""
        ...

    def move(self, place: Place, step: Vector) -> Place:
        """The place one step further."""
        ...

    def light(self, place: Place) -> Place:
        """What a search has to remember of a place."""
        ...

    def params(self, place: Place) -> Params:
        """The parameters at a place that is remembered so."""
        ...


@dataclass(frozen=True, eq=False)
class Composing:
    """Steps from the place where one is, multiplied up: the element acts on the first θ, once.

    So θ is rounded once however many steps there are, and no exponential is differentiated: the slope at a place is
    the pairing of a gradient with the generators there.
    """

    sym: Symmetry
    origin: Params
    exact: str

    def start(self, params: Params) -> Place:
        g = self.sym.with_inverse(self.sym.identity(_float(params)))
        return Place(g, params, condition(g))

    def slope(self, value: Value, place: Place) -> tuple[Array, Vector]:
        found, gradient = jax.value_and_grad(value)(place.params)
        return found, self.sym.pullback(place.params, gradient)

    def move(self, place: Place, step: Vector) -> Place:
        # Inverted anew each time: a product of inverses would gather their errors.
        g = self.sym.with_inverse(self.sym.compose(element(self.sym, step, self.exact), place.position))
        return Place(g, self.sym.act(g, self.origin), condition(g))

    def light(self, place: Place) -> Place:
        return place._replace(params=())

    def params(self, place: Place) -> Params:
        return self.sym.act(place.position, self.origin)


@dataclass(frozen=True, eq=False)
class _Whole:
    """Remembers the parameters too."""

    def light(self, place: Place) -> Place:
        return place

    def params(self, place: Place) -> Params:
        return place.params


@dataclass(frozen=True, eq=False)
class Accumulating(_Whole):
    """One λ from the first θ, to which steps are added."""

    eq: Equivariance
    origin: Params
    sym: Symmetry | None = None

    def start(self, params: Params) -> Place:
        return Place(_in_dtype(self.eq.identity, params), params, jnp.ones((), _float(params)))

    def slope(self, value: Value, place: Place) -> tuple[Array, Vector]:
        return jax.value_and_grad(lambda lam: value(self.eq.act(self.origin, lam)))(place.position)

    def move(self, place: Place, step: Vector) -> Place:
        lam = jax.tree.map(jnp.add, place.position, step)
        size = jnp.ones((), _float(self.origin))
        if self.sym is not None:
            size = condition(self.sym.with_inverse(self.sym.exp(lam)))
        return Place(lam, self.eq.act(self.origin, lam), size)


@dataclass(frozen=True, eq=False)
class Retracting(_Whole):
    """A new λ at each step, from where one is; the position is the λ of the last step."""

    eq: Equivariance

    def start(self, params: Params) -> Place:
        return Place(_in_dtype(self.eq.identity, params), params, jnp.ones((), _float(params)))

    def slope(self, value: Value, place: Place) -> tuple[Array, Vector]:
        lam = _in_dtype(self.eq.identity, place.params)
        return jax.value_and_grad(lambda lam: value(self.eq.act(place.params, lam)))(lam)

    def move(self, place: Place, step: Vector) -> Place:
        lam = jax.tree.map(jnp.add, _in_dtype(self.eq.identity, place.params), step)
        return Place(lam, self.eq.act(place.params, lam), place.condition)


def element(sym: Symmetry, step: Vector, exact: str) -> Any:
    """The group element of an algebra vector: its exponential, or 1 + T for the matrices of GL, which is cheaper.

    Either comes with its exact inverse.
    """
    linear = (
        {f.key for f in sym.factors if isinstance(f.group, GeneralLinear)} if exact == "inverse" else set()
    )
    others = {key: x for key, x in step.items() if key not in linear}
    g = sym.exp(others) if others else sym.identity(jnp.result_type(*jax.tree.leaves(step)))
    return {**g, **{key: jnp.eye(len(x), dtype=x.dtype) + x for key, x in step.items() if key in linear}}


def condition(g: Any) -> Array:
    """The largest condition number of the matrices of an element, as ‖M‖‖M⁻¹‖/n in the Frobenius norm.

    It lies between κ/n and κ. Only matrices that come with their inverses count: permutations, signs and scalings
    lose no accuracy, however uneven they are.
    """
    pairs = [x for x in jax.tree.leaves(g, is_leaf=_is_pair) if _is_pair(x)]
    sizes = [jnp.linalg.norm(m, axis=(-2, -1)) * jnp.linalg.norm(d, axis=(-2, -1)) for m, d in pairs]
    each = [jnp.max(s) / m.shape[-1] for s, (m, _) in zip(sizes, pairs, strict=True)]
    return jnp.max(jnp.stack(each)) if each else jnp.ones(())


def _is_pair(x: Any) -> bool:
    return getattr(x, "_fields", None) == ("matrix", "dual")


def _float(params: Params) -> Any:
    return jnp.result_type(jnp.float32, *[x for x in jax.tree.leaves(params) if is_real(x)])


def is_real(x: Any) -> bool:
    """Whether an array holds real numbers."""
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))


def _in_dtype(lam: Any, params: Params) -> Any:
    cast = jax.tree.map(lambda x: jnp.asarray(x, _float(params)) if is_real(x) else jnp.asarray(x), lam)
    return vary_with(cast, params)
