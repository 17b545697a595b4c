"""How charges are distributed at initialisation: exact means and variances for independent weights.

The charges of a symmetry are quadratic, and their moments are sums over the entries of small matrices. The charge of
an element-wise activation on whitened inputs is an integral (Zhao, equation 2.17), and so are its moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import Monomial, PositiveScaling, Slot, Translation
from eqtoolbox.linalg import broadcast_prefix
from eqtoolbox.noether._pairing import Charges, project
from eqtoolbox.symmetry import Factor, Plan, Symmetry, check_symmetry, leaf_paths

Params = Any

#: Nodes of the Gauss-Legendre rule on each side of 0.
NODES = 200
#: Normal weights are integrated up to this many standard deviations.
TAIL = 14.0


class ChargeMoments(NamedTuple):
    """Exact moments of charges.

    Attributes:
      mean: like the charges.
      variance: like the charges, entry by entry. Entries on different units are uncorrelated.
    """

    mean: Any
    variance: Any


def charge_moments(
    sym: Symmetry, params: Params, variances: Params, fourth_moments: Params | None = None
) -> ChargeMoments:
    """Mean and variance of ``charge_fn(sym)`` when all weights are independent and symmetric about 0.

    A charge θᵀBθ + ℓᵀθ of independent entries with variances v and fourth moments μ has the mean Σ B_ii v_i and the
    variance Σ_ij 2 B_ij² v_i v_j + Σ_i B_ii² (μ_i - 3 v_i²) + Σ_i ℓ_i² v_i. Entries on axes that nothing acts on add
    equal parts, so that the cost does not depend on them.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox.symmetry import catalog
    >>> shapes = {"V": {"kernel": jnp.zeros((100, 8))}, "U": {"kernel": jnp.zeros((8, 30))}}
    >>> variances = {"V": {"kernel": 1 / 100}, "U": {"kernel": 1 / 8}}           # V ~ N(0, 1/n), U ~ N(0, 1/h)
    >>> moments = charge_moments(catalog.mlp(shapes, ["V", "U"], "relu"), shapes, variances)
    >>> mean, variance = moments.mean["h1"][0, 0], moments.variance["h1"][0, 0]   # 1 - m/h and 2/n + 2m/h²
    >>> round(float(mean), 4), round(float(variance), 4)
    (-2.75, 0.9575)

    Args:
      sym: a symmetry with charges.
      params: the parameters or their shapes.
      variances: a pytree prefix of ``params`` with v for each leaf or subtree, 0 for leaves that start at 0.
      fourth_moments: the same with E w⁴: 3v² for normal weights, which is the default, 9v²/5 for uniform ones.

    Returns:
      The moments, in the shapes of the charges.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: a variance is no number or negative, a fourth moment less than its square, or one of the trees
        is no prefix of the parameters.

    Reference:
      Zhao (2026), section 2.6, where E[Q] = m - h is printed for Q = ½Tr(UᵀU - VVᵀ) at V ~ N(0, 1/n), U ~ N(0, 1/h):
      it is (m - h)/2, and the variance is (m/h + h/n)/2 (DA-E14).
    """
    check_symmetry(sym, "charge_moments")
    zero = sym.zero_algebra()
    second = _spread(variances, params, "variances")
    given = fourth_moments is not None
    fourth = _spread(fourth_moments, params, "fourth_moments") if given else [3 * v**2 for v in second]
    for path, v, mu in zip(leaf_paths(params), second, fourth, strict=True):
        if not (v >= 0 and mu >= v**2 * (1 - 1e-6)):
            raise ValueError(
                f"leaf {path!r}: a variance must not be negative and a fourth moment at least its square, got {v} and "
                f"{mu}"
            )
    plans = sym.plans(params)
    return jax.jit(lambda: _sum_up(sym, zero, list(plans.values()), second, fourth))()


def _sum_up(
    sym: Symmetry, zero: Any, plans: list[Plan], second: list[float], fourth: list[float]
) -> ChargeMoments:
    """The moments, block by block of each leaf."""
    like = jax.eval_shape(lambda: project(sym, zero))
    mean = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
    variance = dict(mean)
    for plan, v, mu in zip(plans, second, fourth, strict=True):
        for block in plan.blocks:
            for factor, slots in block.job:
                if factor.key not in like:
                    continue
                part = _block(sym, factor, slots, block.shape, zero[factor.key])
                excess = mu - 3 * v**2
                key = factor.key
                mean[key] = jax.tree.map(lambda old, t, v=v: old + v * t, mean[key], part.trace)
                variance[key] = jax.tree.map(
                    lambda old, f, d, c, v=v, e=excess: old + 2 * v**2 * f + e * d + v * c,
                    variance[key],
                    part.squares,
                    part.diagonal,
                    part.linear,
                )
    return ChargeMoments(mean, variance)


class _Part(NamedTuple):
    """Σ B_ii, Σ B_ij², Σ B_ii² and Σ ℓ_i² of one block, each like the charges of the factor."""

    trace: Charges
    squares: Charges
    diagonal: Charges
    linear: Charges


def _block(
    sym: Symmetry, factor: Factor, slots: tuple[Slot, ...], shape: tuple[int, ...], zero: Any
) -> _Part:
    """The sums for one block, of which the axes that the factor does not act on are cut to one entry."""
    used = {s.axis for s in slots} | {s.parent for s in slots} | {axis for s in slots for _, axis in s.index}
    small = tuple(size if axis in used else 1 for axis, size in enumerate(shape))
    size, copies = math.prod(small), math.prod(shape) // math.prod(small)
    dtype = jnp.result_type(float)

    def pairing(x: Array, y: Array) -> Charges:
        tangent = lambda xi: factor.group.tangent_slots(xi, x.reshape(small), slots)  # noqa: E731
        (mu,) = jax.linear_transpose(tangent, zero)(y.reshape(small))
        return project(sym, {factor.key: mu})[factor.key]

    eye = jnp.eye(size, dtype=dtype)
    still = jnp.zeros(size, dtype)
    diagonal_only = isinstance(factor.group, (PositiveScaling, Monomial, Translation))

    def entry(x: Array, y: Array) -> Charges:
        there, back = pairing(x, y), pairing(y, x)
        return jax.tree.map(
            lambda a, b, c, d: (a + b - c - d) / 2, there, back, pairing(still, y), pairing(still, x)
        )

    def row(x: Array) -> tuple[Charges, Charges, Charges]:
        own, linear = entry(x, x), pairing(still, x)
        if diagonal_only:
            return own, jax.tree.map(jnp.square, own), jax.tree.map(jnp.square, linear)
        others = jax.vmap(lambda y: entry(x, y))(eye)
        squares = jax.tree.map(lambda b: jnp.sum(b**2, 0), others)
        return own, squares, jax.tree.map(jnp.square, linear)

    own, squares, linear = jax.lax.map(row, eye)
    total = lambda tree: jax.tree.map(lambda a: copies * jnp.sum(a, 0), tree)  # noqa: E731
    return _Part(total(own), total(squares), total(jax.tree.map(jnp.square, own)), total(linear))


def _spread(prefix: Params, params: Params, name: str) -> list[float]:
    """A number for each leaf of ``params`` from a prefix tree."""
    spread = jax.tree.leaves(broadcast_prefix(prefix, params, name))
    for path, v in zip(leaf_paths(params), spread, strict=True):
        if jnp.ndim(v):
            raise ValueError(
                f"leaf {path!r} of `{name}` must be one number for all of its entries, got the shape {jnp.shape(v)}"
            )
    return [float(v) for v in spread]


def activation_integral(activation: Callable[[Array], Array], v: Array, *, nodes: int = 64) -> Array:
    """∫₀ᵛ σ(x)/σ'(x) dx, entry by entry: v²/2 for the identity, sinh²(v)/2 for tanh, v + eᵛ - 1 for the sigmoid.

    Where σ = 0 the integrand counts as 0: max(v, 0)²/2 for ReLU, for which σ and σ' vanish together. Where σ' alone
    vanishes the integral is infinite.

    >>> import jax.numpy as jnp
    >>> round(float(activation_integral(jnp.tanh, jnp.float32(1.0)) / (jnp.sinh(1.0) ** 2 / 2)), 5)
    1.0

    Args:
      activation: σ, acting entry by entry, smooth between 0 and v.
      v: any array.
      nodes: of the Gauss-Legendre rule.

    Returns:
      An array like ``v``.

    Raises:
      TypeError: ``activation`` is no function.

    Reference:
      Zhao (2026), equation (2.17).
    """
    if not callable(activation):
        raise TypeError(f"`activation` must be a function, got {activation!r}")
    points, weights = np.polynomial.legendre.leggauss(nodes)
    v = jnp.asarray(v)

    def ratio(x: Array) -> Array:
        value, slope = jax.jvp(activation, (x,), (jnp.ones_like(x),))
        return jnp.where(value == 0, 0, value / jnp.where(value == 0, 1, slope))

    t = jnp.asarray((points + 1) / 2, v.dtype)
    w = jnp.asarray(weights / 2, v.dtype)
    return v * jnp.tensordot(ratio(jnp.multiply.outer(v, t)), w, 1)


def activation_charge(activation: Callable[[Array], Array], incoming: Array, outgoing: Array) -> Array:
    """½‖U_:a‖² - Σ_j ∫₀^V_aj σ/σ' for each hidden unit a of U σ(V X) with X = I.

    Conserved by gradient flow for every loss, unit by unit, if and only if X = I: not for XXᵀ = I with more examples
    than inputs.

    Args:
      activation: σ, acting entry by entry.
      incoming: V, shape (h, n): the transpose of a Flax kernel.
      outgoing: U, shape (m, h).

    Returns:
      Shape (h,).

    Raises:
      ValueError: the shapes do not fit.

    Reference:
      Zhao (2026), equation (2.17), for each unit in place of the sum over all.
    """
    if jnp.ndim(incoming) != 2 or jnp.ndim(outgoing) != 2 or incoming.shape[0] != outgoing.shape[1]:
        raise ValueError(
            f"`incoming` must be (h, n) and `outgoing` (m, h), got {jnp.shape(incoming)} and {jnp.shape(outgoing)}"
        )
    return jnp.sum(outgoing**2, 0) / 2 - jnp.sum(activation_integral(activation, incoming), 1)


def activation_charge_moments(
    activation: Callable[[Array], Array],
    inputs: int,
    outputs: int,
    incoming_variance: float,
    outgoing_variance: float,
) -> ChargeMoments:
    """Mean and variance of one unit's ``activation_charge`` for independent normal weights.

    The total over h units has h times both. For V ~ N(0, 1/n) and U ~ N(0, 1/h) the totals are

    ========  =======================  ================================================================
    σ         mean                     variance
    ========  =======================  ================================================================
    identity  (m - h)/2                (m/h + h/n)/2
    ReLU      m/2 - h/4                m/(2h) + 5h/(16n)
    tanh      m/2 - hn(e^{2/n} - 1)/4  m/(2h) + hn[(e^{8/n} + 1)/2 - e^{4/n}]/16
    sigmoid   m/2 - hn(e^{1/2n} - 1)   m/(2h) + hn[1/n + (2/n)e^{1/2n} + e^{1/n}(e^{1/n} - 1)]
    ========  =======================  ================================================================

    Args:
      activation: σ, acting entry by entry, smooth on each side of 0.
      inputs: n.
      outputs: m.
      incoming_variance: of the entries of V.
      outgoing_variance: of the entries of U.

    Returns:
      Two numbers, by Gauss-Legendre quadrature in float64.

    Raises:
      ValueError: a size or a variance is not positive, or a moment is not finite.

    Reference:
      Zhao (2026), section 2.6.
    """
    for name, value in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
    for name, value in (("incoming_variance", incoming_variance), ("outgoing_variance", outgoing_variance)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be positive, got {value!r}")
    points, weights = np.polynomial.legendre.leggauss(NODES)
    deviation = math.sqrt(incoming_variance)
    x = deviation * TAIL * (points + 1) / 2
    density = TAIL * weights / 2 * np.exp(-((x / deviation) ** 2) / 2) / math.sqrt(2 * math.pi)
    with jax.enable_x64(True):
        sides = [np.asarray(activation_integral(activation, jnp.asarray(side))) for side in (x, -x)]
    first = sum(float(density @ side) for side in sides)
    second = sum(float(density @ side**2) for side in sides)
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(
            f"∫σ/σ' overflows within {TAIL:.0f} standard deviations of {deviation:.3g}: no moment was found"
        )
    mean = outputs * outgoing_variance / 2 - inputs * first
    variance = outputs * outgoing_variance**2 / 2 + inputs * (second - first**2)
    return ChargeMoments(mean, variance)
