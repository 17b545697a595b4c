"""Constraints by name, as reparametrisations θ = T(w, u, v) with a mirror symmetry at the constraint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from eqtoolbox.mirror._factors import (
    Factors,
    chosen,
    divided,
    flat,
    is_float,
    larger_factor,
    penalty,
    unflat,
    wide,
)
from eqtoolbox.mirror._mirror import Mirror, from_map
from eqtoolbox.symmetry import is_masked

Params = Any

#: w² − u² at the start: every factor then has a gradient where θ = 0, and θ can change its sign.
IMBALANCE = 0.1


@dataclass(frozen=True)
class Constraint:
    """A constraint Oᵀθ = 0 that weight decay on the factors of θ = T(w, u, v) prefers.

    Made by ``sparse``, ``group_sparse``, ``low_rank``, ``tied``, ``merged`` and ``linear``; used by ``dcs``,
    ``reparametrize`` and ``prune``.

    Attributes:
      imbalance: w² − u² at the start.
    """

    imbalance: float

    def __post_init__(self):
        value = self.imbalance
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"`imbalance` must be a number that is not negative, got {value!r}")

    def split(self, params: Params) -> Factors:
        """Factors with T(w, u, v) = θ, in at least float32."""
        raise NotImplementedError

    def join(self, factors: Factors) -> Params:
        """θ = T(w, u, v), in the precision of the factors."""
        raise NotImplementedError

    def norm(self, params: Params) -> Array:
        """The least ‖w‖² + ‖u‖² of all factors of θ: the penalty on θ that decay of the factors amounts to."""
        return penalty(replace(self, imbalance=0.0).split(params))


@dataclass(frozen=True)
class Sparse(Constraint):
    """Made by ``sparse``."""

    where: tuple[str, ...]

    def split(self, params: Params) -> Factors:
        leaves = flat(params)
        mine = chosen(params, self.where, "sparse", lambda x: True)
        w = {p: larger_factor(jnp.abs(wide(leaves[p])), self.imbalance) for p in mine}
        u = {p: divided(wide(leaves[p]), w[p]) for p in mine}
        return Factors(unflat(w, params), unflat(u, params), rest(params, mine))

    def join(self, factors: Factors) -> Params:
        w, u = flat(factors.w), flat(factors.u)
        return filled(factors.v, {p: w[p] * u[p] for p, x in w.items() if not is_masked(x)})


def sparse(*where: str, imbalance: float = IMBALANCE) -> Sparse:
    """Single weights that are 0: θ = w ⊙ u on chosen leaves, with O = I there ("spred").

    Decay α(‖w‖² + ‖u‖²) has the minima of L(θ) + 2α‖θ‖₁: for the lasso of scikit-learn, (1/2n)‖y − Xθ‖² + a‖θ‖₁,
    take α = a/2.

    A step of size η on the factors moves θ by about η(w² + u²) times its gradient: by less for small weights, which
    is what makes them vanish, and by more for large ones.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox.mirror import sparse
    >>> factors = sparse("kernel").split({"kernel": jnp.array([3.0, 0.0]), "bias": jnp.ones(2)})
    >>> sparse("kernel").join(factors)["kernel"].tolist()
    [3.0, 0.0]

    Args:
      *where: globs of leaf paths; every leaf of real numbers when there is none.
      imbalance: w² − u² at the start, the same for every weight. With 0 a weight that is 0 stays 0.

    Returns:
      The constraint.

    Raises:
      TypeError: a glob is not a string.
      ValueError: ``imbalance`` is negative.

    Reference:
      Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024), sec. 2.6; Ziyin & Wang, "spred" (2023).
    """
    return Sparse(imbalance, globs(where))


@dataclass(frozen=True)
class LowRank(Constraint):
    """Made by ``low_rank``."""

    where: tuple[str, ...]

    def split(self, params: Params) -> Factors:
        leaves = flat(params)
        w, u = {}, {}
        for path in chosen(params, self.where, "low_rank", lambda x: jnp.ndim(x) > 1):
            x = wide(leaves[path])
            left, s, right = jnp.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
            a = larger_factor(s, self.imbalance)
            w[path] = (left * a[None]).reshape(*x.shape[:-1], -1)
            u[path] = divided(s, a)[:, None] * right
        return Factors(unflat(w, params), unflat(u, params), rest(params, w))

    def join(self, factors: Factors) -> Params:
        w, u = flat(factors.w), flat(factors.u)
        return filled(factors.v, {p: product(w[p], u[p]) for p, x in w.items() if not is_masked(x)})


def low_rank(*where: str, imbalance: float = IMBALANCE) -> LowRank:
    """Matrices of low rank: W = A B, with as many columns of A as W has singular values.

    Decay α(‖A‖² + ‖B‖²) has the minima of L(W) + 2α‖W‖_*, the nuclear norm (Srebro et al., 2004). The symmetry is
    the double rotation A Ω, Ωᵀ B; its mirrors are (I − 2nnᵀ) for every direction n.

    Args:
      *where: globs of leaf paths; when there is none, every leaf with two axes or more. A leaf with more than two is
        the matrix whose columns are its last axis: the output channels of a convolution.
      imbalance: a² − b² of the two factors of each singular value at the start. With 0, rank that is lost stays so.

    Returns:
      The constraint.

    Raises:
      TypeError: a glob is not a string.
      ValueError: ``imbalance`` is negative.

    Reference:
      Ziyin (2024), sec. 3.2 and Theorem 3.
    """
    return LowRank(imbalance, globs(where))


@dataclass(frozen=True)
class Projected(Constraint):
    """T = (I − P)v + O(w ⊙ u) for coordinates z = Oᵀθ."""

    def order(self, params: Params) -> Any:
        """z = Oᵀθ."""
        raise NotImplementedError

    def lift(self, z: Any, like: Params) -> Params:
        """O z, a tree like ``like``."""
        raise NotImplementedError

    def halves(self, z: Any) -> tuple[Any, Any]:
        """w and u with the product z."""
        w = jax.tree.map(lambda x: larger_factor(jnp.abs(x), self.imbalance), z)
        return w, jax.tree.map(divided, z, w)

    def product(self, w: Any, u: Any) -> Any:
        """z, from w and u."""
        return jax.tree.map(jnp.multiply, w, u)

    def without(self, params: Params) -> Params:
        """(I − P)θ."""
        return jax.tree.map(_minus, params, self.lift(self.order(params), params))

    def split(self, params: Params) -> Factors:
        params = jax.tree.map(wide, params)
        w, u = self.halves(self.order(params))
        return Factors(w, u, self.without(params))

    def join(self, factors: Factors) -> Params:
        back = self.lift(self.product(factors.w, factors.u), factors.v)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), self.without(factors.v), back)


@dataclass(frozen=True)
class Linear(Projected):
    """Made by ``linear``."""

    mirror: Mirror

    def order(self, params: Params) -> Any:
        return self.mirror.order(params)

    def lift(self, z: Any, like: Params) -> Params:
        return self.mirror.lift(z, like)

    def split(self, params: Params) -> Factors:
        if not any(isinstance(x, Tracer) for x in jax.tree.leaves(params)):
            self.mirror.check(params, tolerance=1e-3)
        return super().split(params)


def linear(
    order: Mirror | Callable[[Params], Any],
    lift: Callable[[Any], Params] | None = None,
    *,
    imbalance: float = IMBALANCE,
) -> Linear:
    """Any linear constraint Oᵀθ = 0: T = (I − P)v + O[(Oᵀw) ⊙ (Oᵀu)], P = OOᵀ.

    The paper prints (Pw) ⊙ (Pu) in its (7), which reaches every θ only where P is diagonal: for n = (1, −1)/√2 the
    product n ⊙ n lies in the kernel of P. Decay α(‖w‖² + ‖u‖²) has the minima of L(θ) + 2α‖Oᵀθ‖₁, in which the basis
    of the columns of O matters. Only Oᵀw and Oᵀu are kept: what w and u have outside plays no part.

    Args:
      order: a ``Mirror``; or a function θ -> z = Oᵀθ, as for ``from_map``.
      lift: with a function, z -> Oz; its transpose when None.
      imbalance: w² − u² at the start.

    Returns:
      The constraint.

    Raises:
      TypeError: ``order`` is neither, or a mirror has a ``lift`` besides.
      ValueError: ``imbalance`` is negative; when it is used outside of ``jit``, the columns of O are not orthonormal.

    Reference:
      Ziyin (2024), sec. 2.6, equation (7).
    """
    if isinstance(order, Mirror) if lift is not None else not (isinstance(order, Mirror) or callable(order)):
        raise TypeError(f"linear needs a Mirror, or one or two functions, got {order!r} and {lift!r}")
    return Linear(imbalance, order if isinstance(order, Mirror) else from_map(order, lift))


@dataclass(frozen=True)
class Tied(Projected):
    """Made by ``tied``."""

    pairs: tuple[tuple[str, str], ...]

    def order(self, params: Params) -> Any:
        leaves = flat(params)
        return tuple((leaves[a] - leaves[b]) / jnp.sqrt(2.0) for a, b in self._found(leaves))

    def lift(self, z: Any, like: Params) -> Params:
        leaves = {path: jnp.zeros_like(x) for path, x in flat(like).items() if not is_masked(x)}
        for (a, b), x in zip(self._found(leaves), z, strict=True):
            leaves[a], leaves[b] = x / jnp.sqrt(2.0), -x / jnp.sqrt(2.0)
        return unflat(leaves, like)

    def _found(self, leaves: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        for a, b in self.pairs:
            for path in (a, b):
                if path not in leaves or not is_float(leaves[path]):
                    raise ValueError(
                        f"tied: {path!r} is no leaf of real numbers; there are {', '.join(leaves)}"
                    )
            if jnp.shape(leaves[a]) != jnp.shape(leaves[b]):
                raise ValueError(
                    f"tied: {a!r} and {b!r} must have one shape, got {jnp.shape(leaves[a])} and "
                    f"{jnp.shape(leaves[b])}"
                )
        return self.pairs


def tied(pairs: Sequence[tuple[str, str]], *, imbalance: float = IMBALANCE) -> Tied:
    """Leaves that are equal: Oᵀθ = (θ_a − θ_b)/√2 for each pair.

    Decay α(‖w‖² + ‖u‖²) has the minima of L(θ) + √2 α Σ‖θ_a − θ_b‖₁: entries are tied one by one.

    Args:
      pairs: of leaf paths; no leaf is in two of them.
      imbalance: w² − u² at the start.

    Returns:
      The constraint.

    Raises:
      TypeError: a pair is not two strings.
      ValueError: a leaf is in two pairs, or ``imbalance`` is negative; when it is used, a leaf is missing or two have
        different shapes.

    Reference:
      Ziyin (2024), sec. 3.3, equation (11).
    """
    if not (isinstance(pairs, Iterable) and all(isinstance(p, Iterable) for p in pairs)):
        raise TypeError(f"tied needs pairs of leaf paths, got {pairs!r}")
    found = tuple((pair,) if isinstance(pair, str) else tuple(pair) for pair in pairs)
    if not found or any(len(p) != 2 or not all(isinstance(x, str) for x in p) for p in found):
        raise TypeError(f"tied needs pairs of leaf paths, got {pairs!r}")
    names = [name for pair in found for name in pair]
    if len(set(names)) < len(names):
        raise ValueError(f"tied: a leaf must be in one pair only, got {pairs!r}")
    return Tied(imbalance, found)  # pyright: ignore[reportArgumentType]


def product(a: Array, b: Array) -> Array:
    """a b over the last axis of a, in full precision on accelerators too: parameters, not activations."""
    return jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)


def globs(where: tuple[str, ...]) -> tuple[str, ...]:
    """The globs; one that matches everything when there is none."""
    for glob in where:
        if not isinstance(glob, str):
            raise TypeError(f"a glob of leaf paths must be a string such as '*/kernel', got {glob!r}")
    return where or ("*",)


def rest(params: Params, mine: Any) -> Params:
    """The leaves that are not ``mine``, copied in at least float32."""
    return unflat({p: wide(x) for p, x in flat(params).items() if p not in mine and not is_masked(x)}, params)


def filled(v: Params, leaves: Mapping[str, Array]) -> Params:
    """``v`` with these leaves where it is masked out."""
    return unflat({**{p: x for p, x in flat(v).items() if not is_masked(x)}, **leaves}, v)


def _minus(a: Array, b: Array) -> Array:
    return a - b.astype(a.dtype)
