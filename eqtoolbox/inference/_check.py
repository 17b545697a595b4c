"""`check`: is an inferred symmetry one, and is it all there is?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from eqtoolbox.inference._affine import affine_redundancies
from eqtoolbox.inference._maximal import UNITS, axes_text, beyond, invisible, mixtures, places, refused
from eqtoolbox.inference._passes import settled
from eqtoolbox.inference._points import alike, change, near, other_shapes
from eqtoolbox.inference._solve import find_spaces
from eqtoolbox.inference._verify import TOLERANCES, random_change
from eqtoolbox.linalg import Rank, check_integer, coarsest_dtype, float64, numerical_rank
from eqtoolbox.symmetry import Symmetry, check_symmetry, generator_matrix, leaf_paths, orbit_dimension

#: Largest number of parameters of which dense Jacobians and generators are formed.
MAX_PARAMETERS = 2000
#: Points at which generators are compared.
POINTS = 3
#: Points at which a flip or an exchange must not change the outputs to be called missing: units may be dead at some.
TRIALS = 10
#: Tangent vectors pushed forward at a time.
BATCH = 32


@dataclass(frozen=True)
class Check:
    """What a check of a symmetry found.

    Attributes:
      errors: largest relative change of the outputs under random elements, for each shape of the inputs tried.
      tolerance: the change allowed.
      orbit_dimension: of the orbit at parameters near those given; None where the model is too large.
      affine: directions besides those of the orbit that ``affine_redundancies`` accounts for.
      nullity: of the Jacobian of the parameters -> the outputs on many inputs: no symmetry with generators has larger
        orbits, whatever its kind. None where the model is too large.
      gap: between the smallest singular value counted and the largest one not counted: a small one says
        that the nullity cannot be read off, as with dead units.
      missing: generators, flips and exchanges that the analysis refused although they do not change the outputs.
      tried: how many of those were tried.
      unseen: leaves that the outputs do not see at all, such as the biases of keys; they are left out of what is tried.
      parameters: how many there are.
    """

    errors: dict[str, float]
    tolerance: float
    orbit_dimension: int | None
    affine: int | None
    nullity: int | None
    gap: float | None
    missing: tuple[str, ...]
    tried: int
    unseen: tuple[str, ...]
    parameters: int

    @property
    def max_error(self) -> float:
        """The largest relative change of the outputs."""
        return max(self.errors.values(), default=0.0)

    @property
    def sound(self) -> bool:
        """Whether the outputs change by no more than rounding."""
        return self.max_error <= self.tolerance

    @property
    def unexplained(self) -> int | None:
        """Flat directions that nothing accounts for: redundancies of yet another kind, or dead units."""
        if self.nullity is None or self.orbit_dimension is None or self.affine is None:
            return None
        return self.nullity - self.orbit_dimension - self.affine

    @property
    def maximal(self) -> bool | None:
        """Whether everything that the analysis refused changes the outputs; None where that was not tried."""
        return None if self.nullity is None else not self.missing

    def __str__(self) -> str:
        lines = [
            f"outputs change by {self.max_error:.1e} under random elements (rounding: at most {self.tolerance:.0e})"
        ]
        lines += [f"  {error:.1e} for {shape}" for shape, error in self.errors.items()]
        if self.nullity is None:
            lines.append(
                f"{self.parameters} parameters are too many for a bound on what is missing "
                "(more than `max_parameters`): check a smaller model of this architecture"
            )
            return "\n".join(lines)
        lines.append(
            f"{self.nullity} flat directions at most: {self.orbit_dimension} along the orbit, {self.affine} affine "
            f"redundancies, {self.unexplained} unexplained (gap of singular values {self.gap:.1e})"
        )
        lines.append(f"{self.tried} larger symmetries tried: {len(self.missing) or 'none'} missing")
        if self.unseen:
            lines.append(f"not seen by the outputs: {', '.join(self.unseen)}")
        return "\n".join([*lines, *(f"  missing: {text}" for text in self.missing)])


def check(
    sym: Symmetry,
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    key: Array,
    samples: int = 3,
    max_parameters: int = MAX_PARAMETERS,
) -> Check:
    """Checks an inferred symmetry by random elements, and bounds what it leaves out.

    In float64: that random elements at random points near the parameters, on inputs like those given and in other
    shapes, do not change the outputs; how many flat directions there are at most, from the singular values of the
    Jacobian on many inputs; and that whatever the analysis refused does change the outputs: generators that mix or
    scale the units of a space on some of its axes, flips of signs, exchanges of two units.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import infer_symmetry
    >>> params = {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
    >>> x, apply = jnp.ones((5, 3)), lambda p, x: x @ p["u"] @ p["v"]
    >>> report = check(infer_symmetry(apply, params, x), apply, params, x, key=jax.random.key(0))
    >>> report.sound, report.orbit_dimension, report.nullity, report.maximal
    (True, 14, 14, True)

    Args:
      sym: what ``infer_symmetry`` returned, or labels written by hand.
      apply: the function it was inferred from.
      params: arrays.
      *inputs: arrays.
      key: a typed key.
      samples: random points, with an element each.
      max_parameters: the largest model of which dense Jacobians are formed; a larger one is only checked by
        random elements.

    Returns:
      A ``Check``; print it.

    Raises:
      TypeError: ``sym`` is no symmetry, a count no integer, or there are shapes in place of arrays.
      ValueError: a label does not fit the parameters, or ``samples`` is less than 1.
    """
    check_symmetry(sym, "the check of a symmetry")
    sym.check(params)
    check_integer(samples, "samples", 1)
    check_integer(max_parameters, "max_parameters", 0)
    for leaf in jax.tree.leaves((params, inputs)):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(f"a check needs arrays, got {leaf}")
    size = optax.tree.size(params)
    keys = jax.random.split(jax.random.clone(key), 6)
    with float64(params, inputs) as (fine, data):
        outputs = jax.eval_shape(apply, fine, *data)
        tolerance = TOLERANCES[coarsest_dtype(fine, outputs)]
        errors = _errors(sym, apply, fine, data, keys[0], samples)
        if size > max_parameters:
            return Check(errors, tolerance, None, None, None, None, (), 0, (), size)
        # Dead units make the nullity larger at some points: the smaller of two is the better bound.
        near_by = [near(keys[1], fine), near(keys[2], fine, 1.0)]
        ranks = _jacobian_ranks(apply, near_by, data, keys[3])
        rank, point = max(zip(ranks, near_by, strict=True), key=lambda pair: pair[0].rank)
        unseen = _unseen(apply, point, data, keys[4])
        missing, tried = _missing(sym, apply, fine, data, keys[5], tolerance, unseen)
        orbit = orbit_dimension(sym, point)
        both = affine_redundancies(apply, fine, *data, verify=False).dimension(point, sym)
    assert isinstance(orbit, int)
    assert isinstance(both, int)
    nullity = size - int(rank.rank)
    return Check(
        errors, tolerance, orbit, both - orbit, nullity, float(rank.gap), missing, tried, unseen, size
    )


def _errors(sym, apply, params, inputs, key: Array, samples: int) -> dict[str, float]:
    """The largest change for each shape of the inputs that the function takes."""
    changed = random_change(sym, apply)
    others, keys = (list(k) for k in jax.random.split(key, (2, samples)))
    again = jax.random.clone(keys[0])
    data = [inputs, *(alike(k, inputs) for k in others[1:])]
    worst = max(float(changed(k, params, x)) for k, x in zip(keys, data, strict=True))
    errors = {"the shapes given": worst}
    for text, cut in other_shapes(inputs):
        try:
            jax.eval_shape(apply, params, *cut)
        except Exception:  # what a function raises for a shape it does not take is its own business
            continue
        errors[text] = float(changed(jax.random.clone(again), params, cut))
    return errors


def _jacobian_ranks(apply, points: list[Any], inputs, key: Array) -> list[Rank]:
    """The ranks at some points of the Jacobian of the parameters -> the outputs, on as many inputs as that takes."""
    flat, unravel = ravel_pytree(points[0])

    @jax.jit
    def rows(key: Array, flat: Array) -> Array:
        data = alike(key, inputs)
        return jax.jacrev(lambda p: _flat(apply(unravel(p), *data)))(flat)

    outputs = max(jax.eval_shape(rows, key, flat).shape[0], 1)
    found = []
    for k, point in zip(jax.random.split(key, len(points)), points, strict=True):
        keys = jax.random.split(k, 1 - (-2 * flat.size // outputs))
        jacobian = np.concatenate([np.asarray(rows(one, ravel_pytree(point)[0])) for one in keys])
        sizes = np.linalg.norm(jacobian, axis=1, keepdims=True)
        found.append(numerical_rank(np.linalg.qr(jacobian / np.where(sizes > 0, sizes, 1), mode="r")))
    return found


def _unseen(apply, params, inputs, key: Array) -> tuple[str, ...]:
    """The leaves that may be anything."""
    leaves, structure = jax.tree.flatten(params)
    outputs = jax.jit(lambda params: apply(params, *inputs))
    given, found = outputs(params), []
    keys = jax.random.split(key, len(leaves))
    for i, (path, leaf) in enumerate(zip(leaf_paths(params), leaves, strict=True)):
        other = near(keys[i], leaf)
        moved = outputs(structure.unflatten([*leaves[:i], other, *leaves[i + 1 :]]))
        if float(change(given, moved)) <= TOLERANCES["float64"]:
            found.append(path)
    return tuple(found)


def _missing(
    sym, apply, params, inputs, key: Array, tolerance: float, unseen: tuple[str, ...]
) -> tuple[tuple[str, ...], int]:
    """What the analysis refused and the outputs do not see; and how much was tried."""
    analysis, values = settled(apply, params, inputs)
    spaces, where = find_spaces(analysis, values), places(values)
    key, *keys = jax.random.split(key, 1 + TRIALS)
    points, data = zip(*(_random_point(k, params, inputs) for k in keys), strict=True)
    leaves, treedef, unravel = (
        [_named(p) for p in points],
        jax.tree.structure(params),
        ravel_pytree(params)[1],
    )
    seen = np.asarray(ravel_pytree({p: np.full(x.shape, p not in unseen) for p, x in leaves[0].items()})[0])
    outputs = jax.jit(lambda params, inputs: apply(params, *inputs))

    @jax.jit
    def push(params: Any, inputs: Any, rows: Array) -> Array:
        def one(row: Array) -> Array:
            return _flat(jax.jvp(lambda p: apply(p, *inputs), (params,), (unravel(row),))[1])

        return jax.vmap(one)(rows)

    known = [_generators(sym, p) * seen[None] for p in points[:POINTS]]
    given = [outputs(p, x) for p, x in zip(points, data, strict=True)]
    missing, tried = [], 0
    for space in spaces.values():
        space.variables = [(path, v) for path, v in space.variables if path not in unseen]
        if not space.variables:
            continue
        fields, other = mixtures(space, where, leaves[:POINTS])
        # A vector, such as a bias, is seen by one number at each point where its unit is not dead: enough points for
        # all coefficients are needed.
        needed = max(3 * UNITS * len(space.variables), -(-len(fields.names) // max(_flat(given[0]).size, 1)))
        images = []
        for k in jax.random.split(jax.random.clone(key), needed):
            point, x = _random_point(k, params, inputs)
            values = mixtures(space, where, [_named(point)])[0].values[0]
            rows = [np.asarray(push(point, x, batch)) for batch in _batches(values)]
            images.append(np.concatenate(rows)[: len(values)])
        span = [np.concatenate(pair) for pair in zip(known, other.values, strict=True)]
        tried += len(fields.names)
        if more := beyond(fields, invisible(images), span):
            missing.append(f"{more} generators that mix the units on {axes_text(space, where)}")
        for text, moved in refused(space, where):
            tried += 1
            pairs = zip(given, leaves, data, strict=True)
            moves = ((y, outputs(treedef.unflatten(moved(named).values()), x)) for y, named, x in pairs)
            if all(float(change(y, z)) <= tolerance for y, z in moves):
                missing.append(text)
    return tuple(missing), tried


def _random_point(key: Array, params: Any, inputs: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Parameters that revive dead units, and inputs like those given."""
    one, other = jax.random.split(key)
    return near(one, params, 1.0), alike(other, inputs)


def _generators(sym: Symmetry, params: Any) -> np.ndarray:
    """All generators at a point, shape (dimension, p)."""
    if sym.is_discrete:
        return np.zeros((0, optax.tree.size(params)))
    return np.asarray(generator_matrix(sym, params))


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    """The rows in batches of one size, the last filled up with zeros."""
    padded = np.concatenate([rows, np.zeros((-len(rows) % BATCH, rows.shape[1]))])
    return np.split(padded, len(padded) // BATCH)


def _named(params: Any) -> dict[str, np.ndarray]:
    return dict(zip(leaf_paths(params), map(np.asarray, jax.tree.leaves(params)), strict=True))


def _flat(tree: Any) -> Array:
    """The floating-point leaves of a tree as one vector."""
    parts = [jnp.ravel(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)
