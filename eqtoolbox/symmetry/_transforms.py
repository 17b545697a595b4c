"""Functional transforms that a symmetry gives: averages over it, derivatives along it, orbits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import Product
from eqtoolbox.linalg import Estimate, moments_estimate, moments_init, moments_update, scan
from eqtoolbox.symmetry._paths import is_inexact
from eqtoolbox.symmetry._print import count_text
from eqtoolbox.symmetry._symmetry import Params, Symmetry, Vector, check_symmetry

#: Finite groups up to this order are averaged over exactly.
EXACT_LIMIT = 50_000


def sample_orbit(sym: Symmetry, params: Params, count: int, *, key: Array) -> Params:
    """Random points of the orbit of θ: ``count`` models with the same outputs.

    Args:
      sym: the symmetry.
      params: the parameters θ.
      count: how many.
      key: a typed key.

    Returns:
      A pytree like ``params`` with a leading axis of length ``count``.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: ``count`` is not a positive integer.
    """
    check_symmetry(sym, "sample_orbit")
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"sample_orbit: `count` must be a positive integer, got {count!r}")
    return jax.vmap(lambda k: sym.act(sym.sample(k), params))(jax.random.split(key, count))


def lie_derivative(sym: Symmetry, f: Callable[[Params], Any], params: Params, xi: Vector) -> Any:
    """The derivative of f along a generator, d/dt f(act(exp(t ξ), θ)) at t = 0; zero for an invariant f.

    Args:
      sym: a symmetry with generators.
      f: a function of the parameters.
      params: the parameters θ.
      xi: an algebra vector.

    Returns:
      A pytree like f(θ).

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
    """
    check_symmetry(sym, "lie_derivative")

    def tangent(leaf: Any, direction: Any) -> Any:
        return direction if is_inexact(leaf) else np.zeros(jnp.shape(leaf), jax.dtypes.float0)

    direction = jax.tree.map(tangent, params, sym.generator(xi, params))
    return jax.jvp(f, (params,), (direction,))[1]


def elements(sym: Symmetry) -> Any:
    """Every element of a finite symmetry, stacked along a leading axis.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: the group is infinite or has more than ``EXACT_LIMIT`` elements.
    """
    check_symmetry(sym, "elements")
    if sym.order is None or sym.order > EXACT_LIMIT:
        raise ValueError(
            f"the symmetry has {count_text(sym.order)} elements, more than {EXACT_LIMIT}: sample it instead"
        )
    parts = Product(*(f.group for f in sym.factors)).elements() if sym.factors else ()
    return {f.key: part for f, part in zip(sym.factors, parts, strict=True)}


def symmetrize(
    sym: Symmetry,
    f: Callable[[Params], Any],
    *,
    operator: bool = False,
    samples: int | None = None,
    key: Array | None = None,
) -> Callable[[Params], Estimate]:
    """The Reynolds operator: the average of a function, or of an operator, over the group.

    For a function, (R f)(θ) = E_g f(g θ): invariant. For an operator A on parameter space (a Hessian-vector
    product, say), the twirl (R A)(v) = E_g g⁻¹ A(g v): it commutes with the group. The sum is exact over a
    group of up to ``EXACT_LIMIT`` elements; otherwise, or when ``samples`` is given, an average over Haar
    distributed elements with its standard error.

    Args:
      sym: a compact symmetry.
      f: a function of a parameter pytree; with ``operator`` it returns a pytree like its argument.
      operator: whether ``f`` is an operator.
      samples: number of random elements, at least 2; None for the exact average.
      key: a typed key, with ``samples``.

    Returns:
      A function of the parameters that returns an ``Estimate(value, standard_error, samples)``; the standard
      error of an exact average is 0.

    Raises:
      TypeError: ``sym`` is no symmetry, or not compact, so that it has no invariant distribution.
      ValueError: it is too large to enumerate and ``samples`` or ``key`` is missing.
    """
    check_symmetry(sym, "symmetrize")
    if not sym.is_compact:
        raise TypeError(
            "only a compact symmetry has an invariant average; average over its maximal compact subgroup, "
            f"sym.compact(), instead of {sym!r}"
        )
    if samples is None and (sym.order is None or sym.order > EXACT_LIMIT):
        raise ValueError(
            f"the symmetry has {count_text(sym.order)} elements: give samples= and key= for a random average"
        )
    if samples is not None and (samples < 2 or key is None):
        raise ValueError(f"a random average needs samples >= 2 and a key, got samples={samples}, key={key}")

    def term(g: Any, params: Params) -> Any:
        value = f(sym.act(g, params))
        return sym.act(sym.inverse(g), value) if operator else value

    def averaged(params: Params) -> Estimate:
        if samples is None:
            group, count = elements(sym), sym.order
        else:
            group, count = jax.vmap(sym.sample)(jax.random.split(jax.random.clone(key), samples)), samples

        def add(state, g):
            return moments_update(state, term(g, params)), None

        like = jax.eval_shape(term, sym.identity(), params)
        state, _ = scan(add, moments_init(like), group, length=count)
        estimate = moments_estimate(state)
        if samples is None:
            return estimate._replace(standard_error=jax.tree.map(jnp.zeros_like, estimate.value))
        return estimate

    return averaged
