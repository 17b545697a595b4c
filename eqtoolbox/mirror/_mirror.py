"""`Mirror`: a subspace O across which a loss is reflected into itself, as matrix-free maps on a pytree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from eqtoolbox.linalg import (
    check_like,
    linear_transpose,
    orthonormalize,
    random_like,
    stack_combine,
    stack_vdot,
    tree_norm,
    tree_vdot,
)
from eqtoolbox.symmetry import Equivariance

Params = Any
Coordinates = Any  # z: an array or a pytree of arrays in at least float32


class Subspace(Protocol):
    """The map Oᵀ of a mirror: hashable, without arrays of its own."""

    def order(self, directions: Any, params: Params) -> Coordinates:
        """Oᵀθ."""
        ...

    def lift(self, directions: Any, z: Coordinates, params: Params) -> Params:
        """O z, in at least float32."""
        ...

    def __hash__(self) -> int: ...


@partial(jax.tree_util.register_dataclass, data_fields=["directions"], meta_fields=["name", "subspace"])
@dataclass(frozen=True)
class Mirror:
    """An O-mirror: O has orthonormal columns, P = OOᵀ, and R = I - 2P is the reflection (MS-D1, MS-D2).

    It is a pytree that goes through ``jit`` and ``vmap``. One of a ``Symmetry`` or of a map has no arrays: it is
    hashable and may also be static. Nothing here is a matrix: ``order`` and ``lift`` are Oᵀ and O.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import mirror
    >>> params = {"u": jnp.array([3.0, 5.0]), "w": jnp.array([1.0, 5.0])}
    >>> n = {"u": jnp.array([1.0, 0.0]), "w": jnp.array([-1.0, 0.0])}
    >>> m = mirror.from_directions(n, name="u[0] = w[0]")
    >>> print(m)
    mirror u[0] = w[0]
    >>> m.complement(params)["u"].round(4).tolist(), round(float(m.distance(params)), 4)
    ([2.0, 5.0], 1.4142)

    Attributes:
      name: what it is, for people; its symmetric points are Oᵀθ = 0.
      subspace: how Oᵀ is computed.
      directions: the columns of O as a stack where they are given explicitly, else None.
    """

    name: str
    subspace: Subspace
    directions: Any = None

    def order(self, params: Params) -> Coordinates:
        """The order parameter z = Oᵀθ, which vanishes on the symmetric points.

        Args:
          params: θ, a pytree.

        Returns:
          A pytree of arrays in at least float32, ``dimension`` numbers in all.
        """
        return self.subspace.order(self.directions, params)

    def lift(self, z: Coordinates, params: Params) -> Params:
        """O z: the transpose of ``order``, a point of the subspace.

        Args:
          z: a pytree as ``order`` returns.
          params: a pytree (or its shapes) like the result.

        Returns:
          A pytree with the shapes and dtypes of ``params``.

        Raises:
          ValueError: naming the leaf of z that does not fit.
        """
        check_like(z, jax.eval_shape(self.order, params), "z", "mirror.order(params)")
        return _cast(self.subspace.lift(self.directions, z, params), params)

    def project(self, params: Params) -> Params:
        """Pθ = O Oᵀθ, the part that the reflection turns round (antisymmetric)."""
        return _cast(self._project(params), params)

    def complement(self, params: Params) -> Params:
        """(I - P)θ, the nearest symmetric point (MS-T1.3); of a gradient, its symmetric part."""
        return _minus(params, self._project(params), 1)

    def reflect(self, params: Params) -> Params:
        """Rθ = (I - 2P)θ."""
        return _minus(params, self._project(params), 2)

    def distance(self, params: Params) -> Array:
        """‖Oᵀθ‖ = ‖Pθ‖, how far θ is from the symmetric points."""
        return tree_norm(self.order(params))

    def dimension(self, params: Params) -> int:
        """The number of columns of O for parameters of these shapes."""
        return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(jax.eval_shape(self.order, params)))

    def equivariance(self) -> Equivariance:
        """The reflection as an ``Equivariance`` that leaves the outputs alone, for ``eqtoolbox.identities``."""
        return Equivariance(lambda params, lam: self.reflect(params))

    def check(self, params: Params, *, tolerance: float | None = None, key: Array | None = None) -> None:
        """Checks on random vectors that OᵀO = I and that ``lift`` is the transpose of ``order``.

        Args:
          params: a pytree (or its shapes) of real arrays.
          tolerance: of the relative errors; 100 times the rounding of float32, or of float64 parameters.
          key: a typed key; key 0 by default.

        Raises:
          ValueError: the columns of O are not orthonormal, or ``lift`` is not the transpose.
        """
        like = jax.eval_shape(lambda p: p, params)
        # bfloat16 leaves are probed in float32: what is checked is the map, not the rounding of a leaf
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.promote_types(x.dtype, jnp.float32)), like
        )
        a, b = jax.random.split(jax.random.key(0) if key is None else key)
        theta, z = random_like(a, like), random_like(b, jax.eval_shape(self.order, like))
        lifted = self.lift(z, like)
        back = jax.tree.map(jnp.subtract, self.order(lifted), z)
        errors = {
            "OᵀO must be the identity": tree_norm(back) / tree_norm(z),
            "`lift` must be the transpose of `order`": jnp.abs(
                tree_vdot(lifted, theta) - tree_vdot(z, self.order(theta))
            )
            / (tree_norm(z) * tree_norm(theta)),
        }
        limit = tolerance
        if limit is None:
            limit = 100 * max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(like))
        for text, error in errors.items():
            if not float(error) <= limit:
                raise ValueError(
                    f"mirror {self.name}: {text} to {limit:.1e}, got an error of {float(error):.1e}"
                )

    def _project(self, params: Params) -> Params:
        return self.subspace.lift(self.directions, self.order(params), params)

    def __str__(self) -> str:
        return f"mirror {self.name}"


def from_directions(directions: Params, *, stacked: bool = False, name: str = "given directions") -> Mirror:
    """The mirror of given directions, which are made orthonormal.

    Args:
      directions: n, a pytree like the parameters; or several of them.
      stacked: whether every leaf of ``directions`` has a leading axis of k directions.
      name: what to call it.

    Returns:
      A ``Mirror`` whose order parameter has shape (k,), k = 1 where the directions are not stacked.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: the directions are not finite or linearly dependent (not checked where they are traced).
    """
    if not stacked:
        directions = jax.tree.map(lambda x: jnp.asarray(x)[None], directions)
    rows, upper = orthonormalize(directions)
    pivots = jnp.abs(jnp.diagonal(upper))
    lengths = jnp.linalg.norm(upper, axis=0)
    if not isinstance(pivots, Tracer):
        floor = 10 * upper.shape[0] * float(jnp.finfo(upper.dtype).eps)
        bad = [i for i in range(pivots.size) if not float(pivots[i]) > floor * float(lengths[i])]
        if bad:
            raise ValueError(
                f"`directions` must be finite and linearly independent: direction {bad[0]} has the length "
                f"{float(lengths[bad[0]]):.1e}, of which {float(pivots[bad[0]]):.1e} is independent of those before"
            )
    return Mirror(name, Directions(), rows)


def from_map(
    order: Callable[[Params], Coordinates],
    lift: Callable[[Coordinates], Params] | None = None,
    *,
    name: str = "given map",
    check: Params | None = None,
) -> Mirror:
    """The mirror of any matrix-free linear map Oᵀ with OᵀO = I.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import mirror
    >>> params = {"w": jnp.arange(6.0).reshape(2, 3)}
    >>> halves = mirror.from_map(lambda p: (p["w"][0] - p["w"][1]) / jnp.sqrt(2.0), check=params)
    >>> halves.complement(params)["w"].round(4).tolist()
    [[1.5, 2.5, 3.5], [1.5, 2.5, 3.5]]

    Args:
      order: θ -> Oᵀθ, linear.
      lift: z -> O z; the transpose of ``order`` by automatic differentiation where it is not given.
      name: what to call it.
      check: parameters (or their shapes) to check the orthonormality on, see ``Mirror.check``.

    Returns:
      A ``Mirror``, equal to another one of the same functions.

    Raises:
      TypeError: ``order`` or ``lift`` is no function.
      ValueError: see ``Mirror.check``.
    """
    if not callable(order) or not (lift is None or callable(lift)):
        raise TypeError(f"from_map needs one or two functions, got {order!r} and {lift!r}")
    result = Mirror(name, Functions(order, lift))
    if check is not None:
        result.check(check)
    return result


def direct_sum(*mirrors: Mirror, name: str | None = None) -> Mirror:
    """The mirror that reflects in several at once, of which each pair has orthogonal subspaces.

    Its reflection is the product of theirs, and its symmetric points are symmetric for all of them.

    Args:
      *mirrors: at least one; whether their subspaces are orthogonal is for ``Mirror.check``.
      name: what to call it; by default all names.

    Returns:
      A ``Mirror`` whose order parameter is the tuple of theirs.
    """
    if not mirrors or not all(isinstance(m, Mirror) for m in mirrors):
        raise TypeError(f"direct_sum: every argument must be a Mirror, got {mirrors!r}")
    names = " + ".join(m.name for m in mirrors)
    return Mirror(
        names if name is None else name,
        Sum(tuple(m.subspace for m in mirrors)),
        tuple(m.directions for m in mirrors),
    )


@dataclass(frozen=True)
class Directions:
    """Explicit orthonormal columns, a stack of pytrees."""

    def order(self, directions: Any, params: Params) -> Array:
        """Oᵀθ, shape (k,)."""
        check_like(params, jax.tree.map(lambda x: x[0], directions), "params", "the directions of the mirror")
        return stack_vdot(directions, params)

    def lift(self, directions: Any, z: Array, params: Params) -> Params:
        """O z."""
        return stack_combine(z, directions)


@dataclass(frozen=True)
class Functions:
    """A user's linear map, and its transpose where it was given."""

    to: Callable[[Params], Coordinates]
    back: Callable[[Coordinates], Params] | None

    def order(self, directions: None, params: Params) -> Coordinates:
        """Oᵀθ."""
        return self.to(_working(params))

    def lift(self, directions: None, z: Coordinates, params: Params) -> Params:
        """O z."""
        return transposed(self.to, z, params) if self.back is None else self.back(z)


@dataclass(frozen=True)
class Sum:
    """Subspaces that are orthogonal to each other."""

    parts: tuple[Subspace, ...]

    def order(self, directions: tuple, params: Params) -> tuple:
        """The order parameters of the parts."""
        return tuple(s.order(d, params) for s, d in zip(self.parts, directions, strict=True))

    def lift(self, directions: tuple, z: tuple, params: Params) -> Params:
        """The sum of the lifts of the parts."""
        lifts = [s.lift(d, x, params) for s, d, x in zip(self.parts, directions, z, strict=True)]
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *lifts)


def transposed(order: Callable[[Params], Coordinates], z: Coordinates, params: Params) -> Params:
    """The transpose of a linear map of trees like ``params`` in their working dtypes, at z."""
    like = jax.eval_shape(_working, params)
    z = jax.tree.map(lambda x, s: jnp.asarray(x).astype(s.dtype), z, jax.eval_shape(order, like))
    return linear_transpose(order, like, params)(z)[0]


def _working(params: Params) -> Params:
    return jax.tree.map(
        lambda x: jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32)), params
    )


def _cast(tree: Params, like: Params) -> Params:
    return jax.tree.map(lambda x, p: x.astype(jnp.result_type(p)), tree, like)


def _minus(params: Params, part: Params, factor: int) -> Params:
    """θ - factor · part, rounded once to the dtypes of θ."""
    return jax.tree.map(
        lambda p, x: (jnp.asarray(p).astype(x.dtype) - factor * x).astype(jnp.result_type(p)), params, part
    )
