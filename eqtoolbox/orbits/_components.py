"""Minima of deep linear nets and of the scalar residual net: coordinates, components, paths inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

Matrices = Sequence[Array]


def linear_minimum(coordinates: Matrices, inputs: Array, targets: Array) -> tuple[Array, ...]:
    """The minimum of ‖Y - W_l ⋯ W_1 X‖ with coordinates g_1, …, g_{l-1} in GL(h).

    f(g) = (g_1 X⁻¹, g_2, …, g_{l-1}, Y g_1⁻¹ g_2⁻¹ ⋯ g_{l-1}⁻¹) maps GL(h)^{l-1} one to one onto the zero-loss
    set, which is one orbit of GL(h)^{l-1}.

    Args:
      coordinates: invertible matrices g_i, shape (h, h).
      inputs: X, shape (h, h), invertible; columns are samples.
      targets: Y, likewise.

    Returns:
      W_1, …, W_l.

    Raises:
      ValueError: shapes differ.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.2.1, equation (B.1).
    """
    g = _square(coordinates, inputs, targets)
    last = targets
    for x in g:
        last = last @ jnp.linalg.inv(x)
    return (g[0] @ jnp.linalg.inv(inputs), *g[1:], last)


def linear_coordinates(weights: Matrices, inputs: Array) -> tuple[Array, ...]:
    """The coordinates (W_1 X, W_2, …, W_{l-1}) of a minimum: the inverse of ``linear_minimum``."""
    w = _square(weights, inputs)
    return (w[0] @ inputs, *w[1:-1])


def linear_component(weights: Matrices, inputs: Array) -> tuple[int, ...]:
    """The component of the zero-loss set that a minimum is in: the signs of det(W_1 X), det W_2, …, det W_{l-1}.

    There are 2^{l-1} of them, whatever the width; two minima are joined by a zero-loss path where these agree.

    Args:
      weights: W_1, …, W_l.
      inputs: X.

    Returns:
      Signs +1 and -1.

    Raises:
      ValueError: shapes differ, or a matrix is singular.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Corollary 3.2.2.
    """
    signs = tuple(int(np.sign(np.linalg.det(np.asarray(g)))) for g in linear_coordinates(weights, inputs))
    if 0 in signs:
        raise ValueError("a minimum has invertible matrices, got a singular one")
    return signs


def linear_path(
    start: Matrices, end: Matrices, inputs: Array, targets: Array
) -> Callable[[Any], tuple[Array, ...]]:
    """A zero-loss path between two minima of one component of a deep linear net.

    Each coordinate moves from g to g' = Q S g, Q a rotation and S positive definite, as Q^t S^t g. Powers of
    rotations are taken plane by plane, so that half turns have them too.

    Args:
      start: W_1, …, W_l at t = 0.
      end: those at t = 1.
      inputs: X.
      targets: Y.

    Returns:
      The function t -> W_1, …, W_l.

    Raises:
      ValueError: the two are in different components.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), section 3.2.1; the path is not printed.
    """
    a, b = linear_component(start, inputs), linear_component(end, inputs)
    if a != b:
        raise ValueError(
            f"the minima are in different components, {a} and {b}: every path between them rises"
        )
    first, last = linear_coordinates(start, inputs), linear_coordinates(end, inputs)
    powers = [
        _power_of(np.asarray(h) @ np.linalg.inv(np.asarray(g))) for g, h in zip(first, last, strict=True)
    ]

    def path(t: Any) -> tuple[Array, ...]:
        return linear_minimum([p(t) @ g for p, g in zip(powers, first, strict=True)], inputs, targets)

    return path


def permute_to_component(
    weights: Matrices, other: Matrices, inputs: Array
) -> tuple[tuple[Array, ...], list[Array]]:
    """Permutes the hidden units of one minimum so that it is in the component of another, for widths above 1.

    The permuted tuple is (P_1 W_1, P_2 W_2 P_1⁻¹, …, W_l P_{l-1}⁻¹); P_i exchanges the first two units where the
    signs differ, given P_{i-1}.

    Args:
      weights: W_1, …, W_l.
      other: another minimum of the same shapes.
      inputs: X.

    Returns:
      The permuted weights, and the permutations as index vectors.

    Raises:
      ValueError: the width is 1, where there is nothing to permute, and the components differ.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.3.2, printed with the permutations on the wrong
      side and two inverses missing.
    """
    mine, wanted = linear_component(weights, inputs), linear_component(other, inputs)
    h = weights[0].shape[0]
    if h == 1 and mine != wanted:
        raise ValueError("a single unit has no permutation that changes its sign")
    swapped = np.arange(h)
    swapped[:2] = swapped[:2][::-1]
    permutations, odd = [], False
    for a, b in zip(mine, wanted, strict=True):
        # The coordinate g_i becomes P_i g_i P_{i-1}⁻¹.
        odd = odd != (a != b)
        permutations.append(jnp.asarray(swapped if odd else np.arange(h)))
    result = []
    for i, w in enumerate(weights):
        left = permutations[i] if i < len(permutations) else jnp.arange(h)
        right = permutations[i - 1] if i else jnp.arange(h)
        result.append(w[left][:, right])
    return tuple(result), permutations


def residual_component(weights: Sequence[Any], skip: float) -> int:
    """The component of the minima of |Y - W_3 (W_2 W_1 + ε) X| in scalars that (W_1, W_2, W_3) is in.

    With a = W_1 W_2 + ε ≠ 0 the minima are the graph of W_3 = Y/(aX), so that they have the components of the
    plane without the hyperbola W_1 W_2 = -ε: four for ε = 0, three otherwise.

    Args:
      weights: W_1, W_2, W_3.
      skip: ε.

    Returns:
      0 for the component between the two branches (a of the sign of ε), 1 and 2 for those beyond them, by the
      sign of W_1; for ε = 0 the quadrants 0 to 3, counter-clockwise from W_1, W_2 > 0.

    Raises:
      ValueError: a = 0, where there is no minimum.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.2.3.
    """
    w1, w2 = float(weights[0]), float(weights[1])
    a = w1 * w2 + skip
    if a == 0:
        raise ValueError(f"W1 W2 + ε must not be 0, got W1 = {w1}, W2 = {w2}, ε = {skip}")
    if skip == 0:
        return (0 if w2 > 0 else 3) if w1 > 0 else (1 if w2 > 0 else 2)
    return 0 if a * skip > 0 else 1 if w1 > 0 else 2


def residual_path(
    start: Sequence[Any], end: Sequence[Any], inputs: float, targets: float, skip: float
) -> Callable[[Any], tuple[Array, Array, Array]]:
    """A zero-loss path between two minima of one component of the scalar residual net.

    Between the branches both points go straight to the origin, W_1 W_2 + ε keeping its sign; beyond a branch
    log|W_1| and log|W_2| move straight.

    Args:
      start: W_1, W_2, W_3 at t = 0.
      end: those at t = 1.
      inputs: X, not 0.
      targets: Y, not 0.
      skip: ε.

    Returns:
      The function t -> W_1, W_2, W_3.

    Raises:
      ValueError: the two are in different components.
    """
    a, b = residual_component(start, skip), residual_component(end, skip)
    if a != b:
        raise ValueError(
            f"the minima are in different components, {a} and {b}: every path between them rises"
        )
    p, q = (jnp.asarray([float(x[0]), float(x[1])]) for x in (start, end))
    star = skip != 0 and a == 0

    def path(t: Any) -> tuple[Array, Array, Array]:
        if star:
            w = jnp.maximum(1 - 2 * t, 0) * p + jnp.maximum(2 * t - 1, 0) * q
        else:
            w = jnp.sign(p) * jnp.exp((1 - t) * jnp.log(jnp.abs(p)) + t * jnp.log(jnp.abs(q)))
        return w[0], w[1], targets / ((w[0] * w[1] + skip) * inputs)

    return path


def _square(matrices: Matrices, *more: Array) -> list[Array]:
    """The matrices as arrays, all of one square shape."""
    found = [jnp.asarray(m) for m in matrices]
    shapes = {m.shape for m in (*found, *(jnp.asarray(m) for m in more))}
    if not found or len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[0] != shape[1]:
        raise ValueError(f"need square matrices of one size, got shapes {[m.shape for m in found]}")
    return found


def _power_of(matrix: np.ndarray) -> Callable[[Any], Array]:
    """t -> Q^t S^t for a matrix Q S with positive determinant."""
    from scipy.linalg import schur

    left, sizes, right = np.linalg.svd(matrix)
    turn, basis = schur(left @ right, output="real")  # pyright: ignore[reportAssignmentType]
    n, angles, planes = len(matrix), [], []
    # Rotations are normal: blocks of a turn in a plane, 1, and -1 in pairs that make half turns.
    i, ones, minus = 0, [], []
    while i < n:
        if i + 1 < n and abs(turn[i + 1, i]) > 1e-10:
            angles.append(float(np.arctan2(turn[i + 1, i], turn[i, i])))
            planes.append((i, i + 1))
            i += 2
        else:
            (ones if turn[i, i] > 0 else minus).append(i)
            i += 1
    for j in range(0, len(minus), 2):
        angles.append(np.pi)
        planes.append((minus[j], minus[j + 1]))

    def power(t: Any) -> Array:
        rotation = jnp.eye(n)
        for angle, (i, j) in zip(angles, planes, strict=True):
            c, s = jnp.cos(t * angle), jnp.sin(t * angle)
            rotation = rotation.at[i, i].set(c).at[j, j].set(c).at[i, j].set(-s).at[j, i].set(s)
        stretch = (right.T * jnp.asarray(sizes)[None, :] ** t) @ right
        return basis @ rotation @ basis.T @ stretch

    return power
