"""`null_space`: all infinitesimal symmetries of a family, with a rank decided by the gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

from eqtoolbox.discovery._equations import DEFINITIONS, Setting, probes, rows
from eqtoolbox.discovery._families import Family, check_family, check_fits, real_leaves
from eqtoolbox.discovery._readable import readable_basis
from eqtoolbox.discovery._triangular import triangular_factor
from eqtoolbox.linalg import Rank, coarsest_dtype, float64, leading_size, rank_from_singular_values, rounding
from eqtoolbox.symmetry import Symmetry

Params = Any

#: The most generators of one family.
MAX_GENERATORS = 4096
#: Numbers held at a time while equations are made.
_CHUNK = 2**24
#: Equations that found symmetries are tested on after the fact, and probes of the size of a generator.
_HELD_OUT, PROBES = 32, 64
#: Gradients smaller than this share of the usual one are not made larger.
_SMALL = 1e-2
#: Singular values that are all below this share of what random gradients would give belong to symmetries.
_ALL = 1e-7
#: Probes at a time.
_BLOCK = 16


@dataclass(frozen=True)
class NullSpace:
    """The infinitesimal symmetries found in a family.

    Attributes:
      family: the generators.
      definition: in what sense they are symmetries, see ``DEFINITIONS``.
      vectors: k orthonormal coefficient vectors, shape (k, m), that span the symmetries found.
      rank: the ``linalg.Rank`` of the equations: m minus it is k plus ``trivial``; its gap says how sure that is.
      spectrum: m singular values in descending order, of equations of unit gradient on generators of unit size: the
        small ones belong to symmetries that are nearly there.
      directions: their right singular vectors, shape (m, m), as coefficients.
      still: orthonormal coefficients of the combinations of generators that move nothing, shape (t, m).
      equations: how many were used.
      held_out: the largest residual of the symmetries found on equations not used, relative; rounding if they are.
    """

    family: Family
    definition: str
    vectors: np.ndarray = field(repr=False)
    rank: Rank = field(repr=False)
    spectrum: np.ndarray = field(repr=False)
    directions: np.ndarray = field(repr=False)
    still: np.ndarray = field(repr=False)
    equations: int
    held_out: float

    @property
    def dimension(self) -> int:
        """The number of independent symmetries found, k."""
        return len(self.vectors)

    @property
    def trivial(self) -> int:
        """The dimension of the combinations of generators that move nothing, t; not counted in ``dimension``."""
        return len(self.still)

    @property
    def gap(self) -> float:
        """σ_r / σ_{r+1} (or the floor of rounding), between what is no symmetry and what is."""
        return float(self.rank.gap)

    @property
    def ambiguous(self) -> bool:
        """Whether the gap does not decide the rank, or a symmetry found fails on other equations."""
        return bool(self.rank.ambiguous) or not self.held_out < 1e-3

    @cached_property
    def basis(self) -> np.ndarray:
        """The same symmetries in a readable basis: orthonormal and sparse coefficients, shape (k, m).

        They span ``vectors`` up to what moves nothing.
        """
        if not self.trivial or not self.dimension:
            return readable_basis(self.vectors)
        every = readable_basis(np.concatenate([self.vectors, self.still]))
        # the rows that move the most, each beyond those before it
        pivots = np.asarray(scipy.linalg.qr((every @ self.vectors.T).T, mode="r", pivoting=True)[-1])
        return every[np.sort(pivots[: self.dimension])]

    def field(self, coefficients: Array, params: Params, data: Any = None) -> Params:
        """The combination Σ_j c_j ξ_j of the generators of ``basis`` at θ, shape of c (k,)."""
        c = jnp.asarray(coefficients)
        mixed = jnp.matmul(c, jnp.asarray(self.basis, c.dtype), precision=jax.lax.Precision.HIGHEST)
        return self.family.field(mixed, params, data)

    def describe(self, j: int, terms: int = 8) -> str:
        """Generator j of ``basis`` in words, its largest coefficients first."""
        v = self.basis[j]
        order = np.argsort(-np.abs(v), kind="stable")
        order = order[np.abs(v[order]) > 1e-6]
        shown = [f"{v[a]:+.3g} · {self.family.label(int(a))}" for a in order[:terms]]
        return "; ".join(shown) + (f"; … ({len(order)} terms)" if len(order) > terms else "")

    def __str__(self) -> str:
        sure = "ambiguous" if self.ambiguous else f"gap {self.gap:.1e}"
        lines = [f"{self.dimension} {self.definition} symmetries in {self.family}: {sure}"]
        lines += [f"  {j}: {self.describe(j, 4)}" for j in range(min(self.dimension, 10))]
        return "\n".join(lines + (["  …"] if self.dimension > 10 else []))


def null_space(
    family: Family | Symmetry,
    function: Callable[[Params, Any], Any],
    params: Params,
    inputs: Any,
    targets: Any = None,
    *,
    key: Array,
    output_loss: Callable[[Any, Any], Array] | None = None,
    definition: str = "functional",
    spread: float | None = None,
    equations: int | None = None,
    noise: float | None = None,
    double: bool = True,
) -> NullSpace:
    """All infinitesimal symmetries Σ c_a A_a of a family: the null space of ⟨∇s(θ_i), A_a θ_i⟩ c_a = 0.

    Equations are made by one reverse pass each, at parameters and inputs drawn at random, and folded into a
    triangular factor of m² numbers; neither the equations nor the generators are stored. In float64 a symmetry
    has a singular value at rounding, and what is not one does not.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox.discovery import linear_family, null_space
    >>> params = {"U": jnp.ones((2, 3)), "V": jnp.ones((3, 2))}
    >>> net = lambda p, x: x @ p["V"].T @ p["U"].T
    >>> found = null_space(linear_family(params), net, params, jnp.ones((8, 2)), key=jax.random.key(0))
    >>> found.dimension, found.gap > 1e6
    (9, True)

    Args:
      family: the generators, m of them; a ``Symmetry`` stands for its own.
      function: (θ, inputs) -> outputs, samples along the first axis.
      params: the parameters θ: their shapes, and the scale of each leaf.
      inputs: a data set X. The functional definitions take its scale only (integers: its values) and draw others.
      targets: for the definitions of the loss.
      key: a typed key.
      output_loss: (outputs, targets) -> the mean loss, as in a ``Problem``.
      definition: in what sense of symmetry, one of ``DEFINITIONS``.
      spread: where the θ_i are: θ + spread · noise of the scale of each leaf; 0 for the symmetries at θ alone.
        None for noise around 0, which is anywhere.
      equations: how many; m/4 + 32 more than m when None.
      noise: relative floor of the singular values, see ``rank_from_singular_values``; by the dtype of the rows.
      double: computes in float64 whatever the dtype of θ; a function that casts to less has a higher floor.

    Returns:
      The symmetries.

    Raises:
      TypeError: ``family`` is neither a family nor a symmetry.
      ValueError: an unknown definition, a loss without ``output_loss`` or ``targets``, a negative ``spread``,
        too few equations, a family made for other parameters; or more than ``MAX_GENERATORS`` generators, with what
        they would need.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Theorem 6.3.1 and (6.2); Definitions 1.2.1 to 1.3.6.
    """
    family = check_family(family, "null_space")
    m = family.dimension
    check_size(m)
    leading_size(inputs, "inputs")
    check_fits(family, params, inputs)
    setting = Setting(family, function, output_loss, definition)
    if definition.endswith("loss") and targets is None:
        targets = np.zeros((leading_size(inputs, "inputs"),))
    if spread is not None and not spread >= 0:
        raise ValueError(f"`spread` must not be negative, got {spread}")
    count = m + m // 4 + 32 if equations is None else equations
    if count < 1:
        raise ValueError(f"`equations` must be positive, got {equations}")
    with _precision(double, params, inputs, targets) as (p, x, y):
        width, anchor = (1.0, 0.0) if spread is None else (float(spread), 1.0)
        made = _blocks(setting, p, (x, y), key, count + _HELD_OUT, width, anchor)
        floor = noise or _floor(coarsest_dtype(p, jax.eval_shape(function, p, x)), m)
        held, blocks = _split_off(_normalised(made), _HELD_OUT)
        factor, used = triangular_factor(blocks, m)

        def probe(count: int) -> np.ndarray:
            return probe_rows(family, p, x, jax.random.fold_in(key, m), count, width, anchor)

        sizes = np.sqrt(np.mean(probe(PROBES) ** 2, 0))
        scale = np.where(sizes > 0, sizes, 1)
        values, directions = _decompose(factor / scale, m)
        rank = _rank(values, used, floor)
        null = directions[int(rank.rank) :] / scale
        vectors, still = _without_trivial(null, scale, probe)
    test = held @ vectors.T
    reach = np.linalg.norm(vectors * sizes, axis=1)
    # per generator of unit size, in equations of unit gradient
    held_out = float(np.max(np.abs(test) / np.where(reach > 0, reach, 1), initial=0.0))
    return NullSpace(
        family, definition, vectors, rank, values, directions / scale, still, used, held_out / _unit(rank)
    )


def null_spaces(
    family: Family | Symmetry,
    function: Callable[[Params, Any], Any],
    params: Params,
    inputs: Any,
    targets: Any,
    *,
    key: Array,
    output_loss: Callable[[Any, Any], Array],
    **options: Any,
) -> dict[str, NullSpace]:
    """``null_space`` in the sense of every definition: symmetries of f, of the loss, of a batch, of a mean.

    Their dimensions grow along ``symmetry.IMPLICATIONS``; what a weaker definition has more is special to the loss
    or to the data.

    Args:
      family: as for ``null_space``.
      function: as for ``null_space``.
      params: as for ``null_space``.
      inputs: as for ``null_space``.
      targets: as for ``null_space``.
      key: a typed key.
      output_loss: as for ``null_space``.
      **options: as for ``null_space``.

    Returns:
      The symmetries by the name of the definition.
    """
    family = check_family(family, "null_spaces")
    return {
        name: null_space(
            family,
            function,
            params,
            inputs,
            targets,
            key=jax.random.fold_in(key, i),
            output_loss=output_loss,
            definition=name,
            **options,
        )
        for i, name in enumerate(DEFINITIONS)
    }


def needs(generators: int) -> str:
    """Memory and operations of a null space, in words; its equations come on top."""
    m = float(generators)
    return f"{3 * 8 * m * m / 2**30:.1f} GiB and about {25 * m**3 / 1e12:.1f}e12 operations"


def check_size(generators: int) -> None:
    """Refuses a family that is too large, and says what it would need."""
    if generators > MAX_GENERATORS:
        raise ValueError(
            f"a family of {generators} generators is more than MAX_GENERATORS = {MAX_GENERATORS}: it would need "
            f"{needs(generators)} for the factor of its equations. Take fewer leaves, or axis_family with units=, "
            "rank= or kind='diagonal'"
        )


def _precision(double: bool, *trees: Any) -> Any:
    if double:
        return float64(*trees)
    from contextlib import nullcontext

    return nullcontext(jax.tree.map(jnp.asarray, trees))


def _floor(dtype: str, m: int) -> float:
    """The relative size of what is rounding: sums in a network of some depth."""
    return min(8 * max(m, 32) * rounding(dtype), 1e-2)


def _rank(values: np.ndarray, equations: int, floor: float) -> Rank:
    """The rank by the gap; 0 where all that there is is rounding, as unit gradients on unit generators are not."""
    usual = np.sqrt(max(equations, 1))
    if not values.size or values[0] > max(_ALL, floor) * usual:
        return rank_from_singular_values(values, noise=floor)
    nothing = rank_from_singular_values(np.zeros_like(values))
    gap = float(usual / max(values[0], floor * usual))
    return nothing._replace(gap=gap, threshold=float(max(values[0], floor * usual)), singular_values=values)


def _unit(rank: Rank) -> float:
    """The size of an equation on a generator that is no symmetry."""
    values = np.asarray(rank.singular_values)
    return float(values[0]) / np.sqrt(len(values)) if int(rank.rank) else 1.0


def _blocks(
    setting: Setting, params: Params, data: Any, key: Array, count: int, spread: float, anchor: float
) -> Iterator[tuple[Array, Array]]:
    """At least ``count`` equations in blocks of one size, so that one program is compiled."""
    entries = sum(np.size(x) for x in real_leaves(params))
    most = _CHUNK // (4 * entries + setting.family.dimension)
    size = int(np.clip(most, 1, 256))
    for i in range(-(-count // size)):
        yield rows(setting, params, data, key, i, size, spread, anchor)


def _normalised(blocks: Iterator[tuple[Array, Array]]) -> Iterator[np.ndarray]:
    """Equations divided by the norm of their gradient, or by a share of the usual norm where that is more."""
    usual = None
    for block, norms in blocks:
        size = np.asarray(norms, np.float64)
        rows = np.asarray(block, np.float64)
        if not (np.all(np.isfinite(rows)) and np.all(np.isfinite(size))):
            raise ValueError("the gradients have NaN or infinite entries at parameters drawn at random")
        if usual is None:
            usual = float(np.median(size[size > 0])) if np.any(size > 0) else 1.0
        # of a saturated network a gradient is mostly rounding: divided by its norm it would be an equation
        yield rows / np.maximum(size, _SMALL * usual)[:, None]


def _split_off(blocks: Iterator[np.ndarray], count: int) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first ``count`` rows, and the blocks of all others."""
    first: list[np.ndarray] = []
    while sum(map(len, first)) < count:
        first.append(next(blocks))
    joined = np.concatenate(first)
    return joined[:count], chain([joined[count:]], blocks)


def probe_rows(
    family: Family, params: Params, inputs: Any, key: Array, count: int, spread: float, anchor: float
) -> np.ndarray:
    """``count`` probes, in blocks of 16, as each needs a copy of the parameters."""
    blocks = range(-(-count // _BLOCK))
    found = [probes(family, params, inputs, key, i, _BLOCK, spread, anchor) for i in blocks]
    return np.concatenate([np.asarray(b, np.float64) for b in found])[:count]


def _decompose(factor: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values, m of them, and all right singular vectors as rows."""
    if len(factor) < m:
        factor = np.concatenate([factor, np.zeros((m - len(factor), m))])
    _, values, directions = np.linalg.svd(factor)
    return values, directions


def _without_trivial(
    null: np.ndarray, scale: np.ndarray, probe: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal coefficients of the null vectors that move something, and of those that do not."""
    k = len(null)
    if not k:
        return null, null
    basis = np.linalg.qr(null.T)[0].T
    seen = probe(k + 16) @ basis.T
    sizes = np.linalg.norm(basis * scale, axis=1).max()
    _, values, turned = np.linalg.svd(seen)
    values = np.concatenate([values, np.zeros(k - len(values))]) / max(sizes, np.finfo(float).tiny)
    # by rounding, not by a gap: a generator is either moving something or exactly nothing
    moving = int(np.sum(values > 1e-9))
    return turned[:moving] @ basis, turned[moving:] @ basis
