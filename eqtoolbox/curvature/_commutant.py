"""`Commutant`: the operators on parameter space that commute with a symmetry, one small matrix per irreducible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from eqtoolbox.curvature import _estimators, _spectrum
from eqtoolbox.curvature._checks import check_finite, real_leaves
from eqtoolbox.curvature._components import Component, find_components
from eqtoolbox.curvature._rows import HIGHEST, gram, product
from eqtoolbox.curvature._shrinkage import ledoit_wolf, oas
from eqtoolbox.linalg import (
    Estimate,
    Moments,
    check_integer,
    check_number,
    ggn_fn,
    hvp_fn,
    moments_estimate,
    moments_init,
    moments_update,
    moments_update_batch,
    scan,
    to_dense,
    unravel_stack,
)
from eqtoolbox.symmetry import Symmetry, check_symmetry, cut, join_blocks

Params = Any
#: An operator of the commutant: component -> matrices (*family, m, m).
Blocks = dict[str, Array]

#: Largest number of entries of all blocks together.
BLOCK_LIMIT = 2**30
#: Largest number of parameters for which a dense p × p matrix is formed.
DENSE_LIMIT = 2**14


@jax.tree_util.register_static
@dataclass(frozen=True, init=False)
class Commutant:
    """The commutant of a compact symmetry on parameter space (GC, sec. 3; exact form in Schur's lemma).

    Parameter space splits into isotypic components: m copies of one irreducible of dimension d each. An operator
    A commutes with the symmetry, A = g A gᵀ, exactly if it is one m × m matrix per component, tensored with the
    identity of the irreducible. The gradient covariance, the Hessian, the Fisher and the Gauss-Newton matrix of
    an ensemble with an invariant distribution are of this form (GC-L2.4), and so is every analytic function of
    them. Nothing of size p × p is formed.

    GL(n) and scalings have no invariant distribution (GC-C): they act through their maximal compact subgroup,
    ``sym.compact()``, kept as ``symmetry``; ``print(com)`` says so.

    Numbers that are not finite raise a ValueError that names the leaf, or the component of the blocks, where they
    are known; inside jit, vmap or grad they pass on as NaN.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> axes = {"w1": "_ h", "b1": "h", "w2": "h* _", "b2": "_"}
    >>> params = {"w1": jnp.ones((3, 4)), "b1": jnp.ones(4), "w2": jnp.ones((4, 2)), "b2": jnp.ones(2)}
    >>> com = Commutant(Symmetry(axes, {"h": groups.Permutation(4)}), params)
    >>> com.num_factors
    57
    >>> print(com)
    commutant of S(4): 57 free numbers for 26 parameters
    component    copies  dimension  leaves
    trivial      8       1          b1 b2 w1 w2
    h: standard  6       3          b1 w1 w2

    A leaf axis that no group acts on is multiplicity: the blocks couple its entries. Axes named in ``diagonal``,
    or larger than ``diagonal_above``, are taken as diagonal instead, which bounds the cost: an operator then has
    one block for each entry of such an axis, and leaves share them where the axes share a name.

    Attributes:
      symmetry: the compact symmetry.
      leaves: pairs (path, shape) of the parameters, in the order of the tree.
      diagonal: names of fixed axes along which operators are diagonal.
      diagonal_above: fixed axes larger than this are diagonal too; None for none.
      reduced: pairs (group, compact group) of the groups that act through a smaller one; no part of equality.
    """

    symmetry: Symmetry
    leaves: tuple[tuple[str, tuple[int, ...]], ...]
    diagonal: tuple[str, ...]
    diagonal_above: int | None
    reduced: tuple[tuple[str, str], ...] = field(compare=False)

    def __init__(
        self,
        sym: Symmetry,
        params: Params,
        *,
        diagonal: Sequence[str] = (),
        diagonal_above: int | None = None,
    ):
        """Finds the isotypic components of a parameter pytree.

        Args:
          sym: a symmetry; its maximal compact subgroup is used.
          params: arrays or ``ShapeDtypeStruct``.
          diagonal: names of fixed axes along which operators are taken as diagonal.
          diagonal_above: fixed axes larger than this are taken as diagonal too.

        Raises:
          TypeError: ``sym`` is no symmetry, or a leaf does not hold real numbers.
          ValueError: a label does not fit its leaf, a name in ``diagonal`` is on no label or moves, a space is on
            more than two axes of a leaf, or the blocks would have more than ``BLOCK_LIMIT`` entries.
        """
        check_symmetry(sym, "a commutant")
        if isinstance(diagonal, str):
            raise TypeError(f"`diagonal` must be a sequence of names of axes, got the string {diagonal!r}")
        if diagonal_above is not None:
            check_integer(diagonal_above, "diagonal_above", 1)
        compact = sym.compact()
        shapes = []
        for path, leaf in real_leaves(params, "the parameters"):
            shapes.append((path, tuple(jnp.shape(leaf))))
        if not shapes:
            raise ValueError("the parameters have no leaves")
        object.__setattr__(self, "symmetry", compact)
        object.__setattr__(self, "leaves", tuple(shapes))
        object.__setattr__(self, "diagonal", tuple(sorted(set(diagonal))))
        object.__setattr__(self, "diagonal_above", diagonal_above)
        compact_groups = {f.key: f.group for f in compact.factors}
        pairs = [(f.group, compact_groups[f.key]) for f in sym.factors if f.key in compact_groups]
        reduced = tuple(dict.fromkeys((str(a), str(b)) for a, b in pairs if a != b))
        object.__setattr__(self, "reduced", reduced)
        entries = sum(c.entries for c in self.components)
        if entries > BLOCK_LIMIT:
            largest = max(self.components, key=lambda c: c.entries)
            raise ValueError(
                f"the blocks have {entries} entries, more than {BLOCK_LIMIT}: the component {largest.name!r} has "
                f"{largest.multiplicity} copies; take large fixed axes as diagonal (diagonal=, diagonal_above=)"
            )

    def __getstate__(self) -> dict[str, Any]:
        """What it was made from: the components hold functions, and are found again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    # What it is.

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The isotypic components, trivial first."""
        return find_components(self.symmetry, dict(self.leaves), self.diagonal, self.diagonal_above)

    @property
    def size(self) -> int:
        """The number of parameters p."""
        return sum(math.prod(shape) for _, shape in self.leaves)

    @property
    def num_factors(self) -> int:
        """The number of free numbers of a symmetric operator in the commutant."""
        return sum(math.prod(c.family) * c.multiplicity * (c.multiplicity + 1) // 2 for c in self.components)

    # Coordinates.

    def coordinates(self, tree: Params) -> dict[str, Array]:
        """The coordinates of a tree in every component, in at least float32.

        Args:
          tree: a pytree like the parameters; use ``jax.vmap`` for many.

        Returns:
          For each component an array (*family, m, D): one row for each copy; D is the dimension of the
          irreducible, or more where the coordinates are not minimal. An isometry.

        Raises:
          ValueError: the tree has other leaves or shapes than the parameters.
          TypeError: a leaf does not hold real numbers.
        """
        blocks = self._cut(tree)
        found = {}
        for c in self.components:
            rows = [m.encode(blocks[m.path][m.block]) for m in c.members]
            stacked = jnp.concatenate(rows, axis=len(c.family))
            found[c.name] = stacked.reshape(*c.family, c.multiplicity, -1)
        return found

    def from_coordinates(self, coordinates: dict[str, Array], like: Params) -> Params:
        """The tree with these coordinates, in the structure and dtypes of ``like``: undoes ``coordinates``."""
        self._check_components(coordinates, "the coordinates")
        parts: dict[tuple[str, int], Array] = {}
        for c in self.components:
            rows = coordinates[c.name].reshape(*c.family, c.multiplicity, *c.shape)
            for m in c.members:
                row = jax.lax.slice_in_dim(rows, m.start, m.start + m.count, axis=len(c.family))
                part = m.decode(row)
                key = (m.path, m.block)
                parts[key] = parts[key] + part if key in parts else part
        leaves = []
        for (_, leaf), (own, _) in zip(self._leaves_of(like), self.leaves, strict=True):
            plan = self._plans[own]
            whole = join_blocks([parts[own, i] for i in range(len(plan.blocks))], plan)
            leaves.append(whole.astype(jnp.result_type(leaf)))
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    # Estimates from gradients.

    def gram(self, grads: Params, axis: int | None = None) -> Blocks:
        """The blocks of g gᵀ projected on the commutant: (1/d) A Aᵀ with A the coordinates (GC-3.4).

        For a gradient at one model of an invariant ensemble it is an unbiased estimate of the uncentred gradient
        covariance: each block averages d samples of it.

        Args:
          grads: a pytree like the parameters, or a stack of them.
          axis: the axis of the stack to average over; None for a single tree.

        Returns:
          For each component matrices (*family, m, m).

        Raises:
          TypeError: as for ``coordinates``.
          ValueError: as for ``coordinates``.
        """
        if axis is None:
            blocks = {c.name: gram(a) / c.dimension for c, a in self._pairs(self.coordinates(grads))}
        else:
            stacked = self._stacked_coordinates(grads, axis)
            count, blocks = _count(stacked), {}
            for c, a in self._pairs(stacked):
                side_by_side = jnp.moveaxis(a, 0, -2)
                flat = side_by_side.reshape(*side_by_side.shape[:-2], -1)
                blocks[c.name] = gram(flat) / (c.dimension * count)
        check_finite(blocks, "the blocks", grads)
        return blocks

    def mean(self, stacked: Params, axis: int = 0) -> Estimate:
        """The mean of an invariant distribution, from a stack of samples: it has a trivial component only (GC-T3.1).

        Args:
          stacked: a stack of trees like the parameters, n samples along ``axis``.
          axis: the axis of the stack.

        Returns:
          An ``Estimate`` of trees like the parameters, with standard errors (NaN for a single sample).
        """
        samples = jax.vmap(self.invariant, axis)(stacked)
        start = moments_init(jax.tree.map(lambda x: x[0], samples))
        return moments_estimate(moments_update_batch(start, samples))

    def invariant(self, tree: Params) -> Params:
        """The orthogonal projection of a tree on the vectors that the symmetry leaves alone."""
        coordinates = self.coordinates(tree)
        kept = {c.name: a if c.is_invariant else jnp.zeros_like(a) for c, a in self._pairs(coordinates)}
        return self.from_coordinates(kept, tree)

    def covariance(self, stacked: Params, axis: int = 0) -> Estimate:
        """The covariance of an invariant distribution, from a stack of samples.

        A component that is not trivial has mean 0, so that all n samples count; the trivial one is centred, with
        n - 1 in the place of n.

        Args:
          stacked: a stack of trees like the parameters, n samples along ``axis``.
          axis: the axis of the stack.

        Returns:
          An ``Estimate`` of blocks, with the standard error of every entry.

        Raises:
          ValueError: there are fewer than 2 samples, or as for ``coordinates``.
        """
        coordinates = self._stacked_coordinates(stacked, axis)
        n = _count(coordinates)
        if n < 2:
            raise ValueError(f"a covariance needs at least 2 samples along axis {axis}, got {n}")
        values, errors = {}, {}
        for c, a in self._pairs(coordinates):
            if c.is_invariant:
                a = (a - jnp.mean(a, 0, keepdims=True)) * math.sqrt(n / (n - 1))
            values[c.name], errors[c.name] = _mean_gram(a, c.dimension)
        check_finite(values, "the covariance", stacked)
        return Estimate(values, errors, n)

    def shrink(self, blocks: Blocks, samples: int) -> tuple[Blocks, dict[str, Array]]:
        """Oracle approximating shrinkage of an estimated covariance towards a multiple of the identity.

        A component of dimension d has d samples in each gradient: n = samples · d, which is why a component that
        many units share is hardly shrunk.

        Args:
          blocks: of a covariance with known mean, as ``gram`` returns them.
          samples: the number of gradients behind them.

        Returns:
          The shrunk blocks, and for each component the weight of the identity, shape ``family``.

        Raises:
          ValueError: the blocks are not those of this commutant, or ``samples`` is less than 1.

        Reference:
          Chen, Wiesel, Eldar & Hero, Shrinkage algorithms for MMSE covariance estimation (2010).
        """
        self.check_blocks(blocks)
        if isinstance(samples, bool) or samples < 1:
            raise ValueError(f"`samples` must be a positive number of gradients, got {samples!r}")
        shrunk = {c.name: oas(b, samples * c.dimension) for c, b in self._pairs(blocks)}
        return {k: b for k, (b, _) in shrunk.items()}, {k: w for k, (_, w) in shrunk.items()}

    def shrunk_gram(self, stacked: Params, axis: int = 0) -> tuple[Blocks, dict[str, Array]]:
        """``gram`` of a stack of gradients with the shrinkage of Ledoit and Wolf, whose noise is measured on it.

        Args:
          stacked: a stack of trees like the parameters, n samples along ``axis``.
          axis: the axis of the stack.

        Returns:
          The shrunk blocks, and for each component the weight of the identity, shape ``family``.

        Reference:
          Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices (2004).
        """
        shrunk = {}
        for c, a in self._pairs(self._stacked_coordinates(stacked, axis)):
            mean, _ = _mean_gram(a, c.dimension)
            # ‖A Aᵀ‖² = ‖Aᵀ A‖²: whichever of the two is smaller.
            small = a if a.shape[-2] <= a.shape[-1] else a.mT
            fourth = jnp.mean(jnp.sum((gram(small) / c.dimension) ** 2, (-2, -1)), 0)
            shrunk[c.name] = ledoit_wolf(mean, fourth, len(a))
        check_finite({k: b for k, (b, _) in shrunk.items()}, "the blocks", stacked)
        return {k: b for k, (b, _) in shrunk.items()}, {k: w for k, (_, w) in shrunk.items()}

    def explained(self, stacked: Params, axis: int = 0) -> Array:
        """The share of ‖C‖² that the projection on the commutant keeps, C = mean of g gᵀ over a stack.

        1 where C commutes with the symmetry, as it does for an invariant ensemble of infinitely many; a finite one
        of n adds about (p / n) of noise to ‖C‖². No p × p array is formed: ‖C‖² = ‖G‖²/n² with G the Gram matrix of
        the samples.

        Args:
          stacked: a stack of trees like the parameters, n samples along ``axis``.
          axis: the axis of the stack.

        Returns:
          A number in [0, 1].
        """
        coordinates = self._stacked_coordinates(stacked, axis)
        n = _count(coordinates)
        rows = jnp.concatenate([a.reshape(n, -1) for a in coordinates.values()], 1)
        kept = self.norm(self.gram(stacked, axis)) ** 2
        return kept / jnp.sum((gram(rows) / n) ** 2)

    # Matrices in the commutant.

    def check_blocks(self, blocks: Blocks) -> None:
        """Raises ValueError when blocks are not those of this commutant, or known not to be finite."""
        self._check_components(blocks, "the blocks")

    def apply(
        self,
        function: Callable[[Array], Array],
        blocks: Blocks,
        *,
        damping: float | None = None,
        full: bool = False,
    ) -> Blocks | tuple[Blocks, _spectrum.ApplyInfo]:
        """A function of the spectrum: f(A) for the operator A with these blocks, as blocks.

        Safe in float32: eigenvalues within rounding of zero, |w| < m ε max|w|, are replaced by that bound, since
        neither their size nor their sign means anything, and ``damping`` times max|w| is added to every eigenvalue,
        in each component; a block of zeros counts as one of the smallest positive numbers. The first
        derivative exists where eigenvalues coincide, higher ones where they differ; what is replaced and added
        counts as constant.

        Args:
          function: maps an array of eigenvalues to one of the same shape.
          blocks: symmetric matrices (*family, m, m) for each component.
          damping: relative; ε, one unit of rounding, when None.
          full: also return how many eigenvalues were replaced.

        Returns:
          Blocks of f(A); with ``full`` also an ``ApplyInfo``.

        Raises:
          TypeError: ``damping`` is no number.
          ValueError: the blocks are not those of this commutant, or ``damping`` is negative.
        """
        self.check_blocks(blocks)
        if damping is not None:
            check_number(damping, "`damping`")
            if not isinstance(damping, Tracer) and not damping >= 0:
                raise ValueError(f"`damping` must not be negative, got {damping!r}")
        new, clipped = _spectrum.apply(function, blocks, damping)
        dimensions = {c.name: c.dimension for c in self.components}
        total = sum((dimensions[k] * count for k, count in clipped.items()), jnp.int32(0))
        info = _spectrum.ApplyInfo(clipped, total)
        return (new, info) if full else new

    def matvec(self, blocks: Blocks, tree: Params) -> Params:
        """The product A v of the operator with these blocks and a vector, in the dtypes of the vector."""
        self.check_blocks(blocks)
        moved = {name: product(blocks[name], a) for name, a in self.coordinates(tree).items()}
        return self.from_coordinates(moved, tree)

    def solve(self, blocks: Blocks, tree: Params) -> Params:
        """The solution of A x = v."""
        self.check_blocks(blocks)
        moved = {name: jnp.linalg.solve(blocks[name], a) for name, a in self.coordinates(tree).items()}
        return self.from_coordinates(moved, tree)

    def inverse(self, blocks: Blocks) -> Blocks:
        """The blocks of A⁻¹."""
        self.check_blocks(blocks)
        return {name: jnp.linalg.inv(block) for name, block in blocks.items()}

    def spectrum(self, blocks: Blocks) -> _spectrum.BlockSpectrum:
        """The eigenvalues of A with their multiplicities, p in all."""
        self.check_blocks(blocks)
        return _spectrum.spectrum(self, blocks)

    def trace(self, blocks: Blocks) -> Array:
        """The trace of A."""
        self.check_blocks(blocks)
        parts = (c.dimension * jnp.trace(b, axis1=-2, axis2=-1).sum() for c, b in self._pairs(blocks))
        return sum(parts, jnp.zeros(()))

    def logdet(self, blocks: Blocks) -> Array:
        """log |det A|; -inf for a singular A."""
        self.check_blocks(blocks)
        parts = (c.dimension * jnp.linalg.slogdet(b)[1].sum() for c, b in self._pairs(blocks))
        return sum(parts, jnp.zeros(()))

    def norm(self, blocks: Blocks) -> Array:
        """The Frobenius norm of A."""
        self.check_blocks(blocks)
        return jnp.sqrt(sum((c.dimension * jnp.sum(b**2) for c, b in self._pairs(blocks)), jnp.zeros(())))

    def identity(self, dtype: Any = None) -> Blocks:
        """The blocks of the identity."""
        return {
            c.name: jnp.broadcast_to(
                jnp.eye(c.multiplicity, dtype=dtype), (*c.family, c.multiplicity, c.multiplicity)
            )
            for c in self.components
        }

    def to_dense(self, blocks: Blocks) -> Array:
        """The p × p matrix, in the order of ``jax.flatten_util.ravel_pytree``; for small models.

        Raises:
          ValueError: there are more than ``DENSE_LIMIT`` parameters.
        """
        self._check_small("to_dense")
        self.check_blocks(blocks)
        dtype = jnp.result_type(*blocks.values())
        return to_dense(lambda tree: self.matvec(blocks, tree), self._like(dtype))

    def project(self, dense: Array) -> Blocks:
        """The blocks of the orthogonal projection of a p × p matrix on the commutant; for small models.

        Args:
          dense: shape (p, p), in the order of ``jax.flatten_util.ravel_pytree``.

        Raises:
          ValueError: there are more than ``DENSE_LIMIT`` parameters, or the matrix has another shape.
        """
        self._check_small("project")
        dense = jnp.asarray(dense)
        if dense.shape != (self.size, self.size):
            raise ValueError(f"`dense` must have the shape {(self.size, self.size)}, got {dense.shape}")
        dtype = jnp.promote_types(dense.dtype, jnp.float32)
        basis = unravel_stack(jnp.eye(self.size, dtype=dtype), self._like(dtype))
        rows = jax.vmap(self.coordinates, out_axes=-1)(basis)
        blocks = {}
        for c, q in self._pairs(rows):
            moved = jnp.matmul(q, dense.astype(dtype), precision=HIGHEST)
            flat = (*c.family, c.multiplicity, q.shape[-2] * q.shape[-1])
            product = jnp.matmul(moved.reshape(flat), q.reshape(flat).mT, precision=HIGHEST)
            blocks[c.name] = product / c.dimension
        return blocks

    # Estimates from operators.

    def operator(
        self,
        matvec: Callable[[Params], Params],
        params: Params,
        key: Array | None = None,
        *,
        samples: int = 2,
        exact: bool = False,
        batch_size: int | None = 1,
    ) -> Estimate:
        """The projection on the commutant of a symmetric operator given by its products.

        One probe per copy: with z random in the irreducible, ⟨row i of A(e_j ⊗ z), z⟩/d is an unbiased estimate of
        the entry (i, j), for all i at once. So Σ m products make an estimate, where the matrix has p columns.

        Args:
          matvec: maps a tree like the parameters to another.
          params: the parameters, for their structure and dtypes.
          key: a typed key; not needed with ``exact``.
          samples: the number of independent estimates averaged; the standard error needs at least 2.
          exact: the projection itself, by products with a basis, instead of an estimate.
          batch_size: products taken together; None for all.

        Returns:
          An ``Estimate`` of blocks, symmetric; the standard error of an exact projection is 0.

        Raises:
          ValueError: there is no key, or ``samples`` is less than 1.
        """
        estimate = _estimators.operator(self, matvec, params, key, samples, exact, batch_size)
        check_finite(estimate.value, "the estimate", params)
        return estimate

    def hessian(
        self, loss: Callable[[Params], Array], params: Params, key: Array | None = None, **options
    ) -> Estimate:
        """The Hessian of a loss, projected on the commutant; options as for ``operator``."""
        return self.operator(hvp_fn(loss, params), params, key, **options)

    def gauss_newton(
        self,
        model: Callable[[Params], Any],
        output_loss: Callable[[Any], Array],
        params: Params,
        key: Array | None = None,
        **options,
    ) -> Estimate:
        """The generalised Gauss-Newton matrix, projected on the commutant; options as for ``operator``.

        It is the Fisher matrix where the output loss is the negative log-likelihood of an exponential family.
        """
        return self.operator(ggn_fn(model, output_loss, params), params, key, **options)

    def fisher(
        self, example_loss: Callable[..., Array], params: Params, *batch: Any, batch_size: int | None = None
    ) -> Estimate:
        """The mean of ∇ℓ ∇ℓᵀ over examples, projected on the commutant.

        With targets drawn from the model this is the Fisher matrix, with those of the data the empirical one.

        Args:
          example_loss: maps (params, *example) to a scalar.
          params: the parameters.
          *batch: arrays or pytrees of arrays with examples along the leading axis.
          batch_size: examples taken together; None for all.

        Returns:
          An ``Estimate`` of blocks with standard errors over the examples.
        """
        estimate = _estimators.fisher(self, example_loss, params, batch, batch_size)
        check_finite(estimate.value, "the estimate", params)
        return estimate

    # Inside.

    @cached_property
    def _plans(self) -> dict[str, Any]:
        structs = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in self.leaves}
        return self.symmetry.plans(structs)

    def _like(self, dtype: Any) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(shape, dtype) for _, shape in self.leaves]

    def _pairs(self, values: dict[str, Array]) -> list[tuple[Component, Array]]:
        return [(c, values[c.name]) for c in self.components]

    def _leaves_of(self, tree: Params) -> list[tuple[str, Any]]:
        """The leaves of a tree like the parameters, checked."""
        leaves = real_leaves(tree, "the tree")
        if len(leaves) != len(self.leaves):
            raise ValueError(
                f"the tree must have the {len(self.leaves)} leaves of the parameters, got {len(leaves)}"
            )
        for (path, leaf), (own, shape) in zip(leaves, self.leaves, strict=True):
            if jnp.shape(leaf) != shape:
                raise ValueError(
                    f"leaf {path!r} must have the shape {shape} of {own!r}, got {jnp.shape(leaf)}"
                )
        return leaves

    def _cut(self, tree: Params) -> dict[str, list[Array]]:
        cut_leaves = {}
        for (_, leaf), (path, _) in zip(self._leaves_of(tree), self.leaves, strict=True):
            x = jnp.asarray(leaf)
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            cut_leaves[path] = cut(x, self._plans[path])
        return cut_leaves

    def _stacked_coordinates(self, stacked: Params, axis: int) -> dict[str, Array]:
        """Coordinates with the samples along the leading axis."""
        return jax.vmap(self.coordinates, axis)(stacked)

    def _check_components(self, values: dict[str, Array], what: str) -> None:
        names = [c.name for c in self.components]
        if not isinstance(values, dict) or set(values) != set(names):
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"{what} must have the components {names}, got {got}")
        for c in self.components:
            expected = (*c.family, c.multiplicity)
            shape = jnp.shape(values[c.name])
            if shape[:-1] != expected or (what == "the blocks" and shape[-1] != c.multiplicity):
                raise ValueError(f"{what}: {c.name!r} must have the shape {(*expected, '…')}, got {shape}")
        if what == "the blocks":
            check_finite(values, what)

    def _check_small(self, what: str) -> None:
        if self.size > DENSE_LIMIT:
            raise ValueError(f"{what}: {self.size} parameters are more than {DENSE_LIMIT}: use matvec")

    def __str__(self) -> str:
        return _spectrum.table(self)

    def __repr__(self) -> str:
        return f"Commutant({self.symmetry!r}; {self.num_factors} free numbers, {self.size} parameters)"


def _mean_gram(a: Array, dimension: int) -> tuple[Array, Array]:
    """The mean of the Gram matrices of rows along the leading axis, over ``dimension``, and its standard error."""

    def one(row: Array) -> Array:
        return gram(row) / dimension

    def add(state: Moments, row: Array) -> tuple[Moments, None]:
        return moments_update(state, one(row)), None

    moments, _ = scan(add, moments_init(jax.eval_shape(one, a[0])), a)
    estimate = moments_estimate(moments)
    return estimate.value, estimate.standard_error


def _count(stacked: dict[str, Array]) -> int:
    return next(iter(stacked.values())).shape[0]
