"""``scale_by_symmetry`` and ``symo``: gradients whitened by the covariance that a symmetry leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer

from eqtoolbox.curvature import _whitening
from eqtoolbox.curvature._commutant import Blocks, Commutant
from eqtoolbox.curvature._components import Component
from eqtoolbox.curvature._whitening import Factors, Units
from eqtoolbox.linalg import any_of_batch, check_integer, check_number, cond
from eqtoolbox.symmetry import Symmetry, check_symmetry, is_masked, leaf_paths, present

Params = Any
Numeric = float | Array
OverTime = Numeric | Callable[[Array], Numeric]  # a number, or a function of the number of gradients so far


class SymoWeight(NamedTuple):
    """The weight of what was taken in: 0 at the start, 1 in the end.

    Attributes:
      factors: of the gradients in the factors.
      momentum: of the directions in their mean.
    """

    factors: Array
    momentum: Array


class ScaleBySymmetryState(NamedTuple):
    """The state of ``scale_by_symmetry``.

    Attributes:
      symo_count: the number of gradients taken in.
      symo_skipped: the number of gradients that were not finite.
      symo_weight: the weights of what the means hold.
      symo_factors: the Kronecker factors of the gradient covariance.
      symo_roots: their inverse roots.
      symo_momentum: a mean of past directions, like the parameters, in at least float32.
    """

    symo_count: Array
    symo_skipped: Array
    symo_weight: SymoWeight
    symo_factors: Factors
    symo_roots: Factors
    symo_momentum: Params


def memory(first: float = 5.0, growth: float = 0.1, last: float = 100.0) -> Callable[[Array], Array]:
    """The decay of a running mean whose memory grows with the run: 1 - 1 / min(first + growth · t, last) at step t.

    A run has no time scale of its own at the start. A mean over the last tenth of it forgets what was true of other
    parameters, and its noise still falls.

    Args:
      first: steps remembered at the start, at least 1.
      growth: the share of the run that is remembered besides.
      last: steps remembered in the end.

    Returns:
      A function of the number of steps.

    Raises:
      ValueError: ``first`` or ``last`` is less than 1, or ``growth`` negative.
    """
    for name, value, least in (("first", first, 1), ("growth", growth, 0), ("last", last, 1)):
        check_number(value, f"memory: `{name}`")
        if not value >= least:
            raise ValueError(f"memory: `{name}` must be at least {least}, got {value!r}")
    return lambda count: 1 - 1 / jnp.minimum(first + growth * count, last)


def interval(growth: float = 0.05, last: int = 100) -> Callable[[Array], Array]:
    """Steps from one refresh of the roots to the next: growth · t at step t, at least 1 and at most ``last``.

    Args:
      growth: the share of the run so far.
      last: the longest interval.

    Returns:
      A function of the number of steps.

    Raises:
      ValueError: ``growth`` is negative or ``last`` less than 1.
    """
    for name, value, least in (("growth", growth, 0), ("last", last, 1)):
        check_number(value, f"interval: `{name}`")
        if not value >= least:
            raise ValueError(f"interval: `{name}` must be at least {least}, got {value!r}")
    return lambda count: jnp.clip(growth * count, 1, last).astype(jnp.int32)


#: The defaults: a tenth of the run so far is remembered; roots are renewed 14 times while the run doubles in length.
MEMORY, INTERVAL = memory(), interval()
#: Gradients that go into the factors between two refreshes of the roots, where there are more.
SAMPLES = 5
_RANGES = (
    ("factor_decay", 0, 1),
    ("momentum", 0, 1),
    ("newest", 0, 1),
    ("every", 1, math.inf),
    ("power", -2, 2),
    ("damping", 0, math.inf),
    ("max_rms", 0, math.inf),
)


def scale_by_symmetry(
    sym: Symmetry,
    *,
    factor_decay: OverTime = MEMORY,
    momentum: OverTime | None = MEMORY,
    newest: Numeric = 0.03,
    momentum_first: bool = False,
    every: OverTime = INTERVAL,
    power: float = -0.5,
    damping: Numeric = 1e-7,
    largest_units: int | None = 256,
    sides: int | None = 1,
    couple: bool = True,
    max_rms: Numeric | None = 1.0,
    diagonal_above: int | None = 1024,
    factors: Blocks | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Whitens gradients by the covariance that a symmetry leaves, component by component (GC, sec. 3.4).

    An invariant ensemble of models has a gradient covariance of one m × m matrix M for each isotypic component
    (``Commutant``), and one gradient has d samples of it. So the inverse square root of the covariance of *all*
    parameters, couplings between layers included, costs a few small eigendecompositions:

    .. math::
       M \leftarrow \beta M + (1 - \beta) A A^T / d, \qquad U = \hat M^{-1/2} A

    with A the coordinates of the gradient in the component. On top of the paper:

    - A single model breaks the symmetry of the ensemble as it trains. On the units of the space(s) of a component the
      covariance is modelled by Kronecker factors too, :math:`M \otimes N_1 \otimes \dots`, each of what those before it
      have whitened; the symmetry says N = 1, and it stays so for more units than ``largest_units``.
    - The memory of the factors, the momentum and the interval between refreshes of the roots grow with the run.
    - Momentum is a mean of whitened directions, not of gradients: it does not delay the whitening.
    - The direction of a component never is larger than ``max_rms``, so that an old root cannot blow it up.

    The paper's optimizer is ``scale_by_symmetry(sym, factor_decay=0.95, momentum=None, every=1, largest_units=0,
    max_rms=None)`` with a learning rate that falls exponentially.

    Equivariant under the symmetry: training commutes with every change of the parameters by its compact part.

    >>> import jax, jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.SignedPermutation(2)})
    >>> tx = optax.chain(eqt.scale_by_symmetry(sym), optax.scale_by_learning_rate(0.01))
    >>> state = tx.init(params)
    >>> grads = jax.grad(lambda p: jnp.sum((p["v"] @ p["u"] - 1) ** 2))(params)
    >>> updates, state = tx.update(grads, state, params)

    Gradients that are not finite, or whose squares are not, are skipped: the updates are 0 and the state stays as it
    is, but for ``symo_skipped``. Gradients of 0 from the start give updates of 0.

    Args:
      sym: a symmetry; its maximal compact subgroup is used. Choose the group of each space by ``sym.subgroup``. A
        factor whose leaves are all masked out (``optax.MaskedNode``) is left out.
      factor_decay: β of the factors: a number, or a function of the number of gradients so far.
      momentum: the decay of the mean of directions, likewise; None for none.
      newest: the share of the newest direction in the update on top of its share in that mean (as Nesterov's).
      momentum_first: take the mean of gradients and whiten that, instead.
      every: steps from one refresh of the roots to the next, likewise, at most half of those so far. At most five
        gradients in between go into the factors.
      power: of the factors, -1/2 to whiten.
      damping: relative to the largest eigenvalue of each factor.
      largest_units: spaces with more units keep the identity on them, as the symmetry has it; None for no limit.
      sides: where a component has units on two axes or more, the number of those that are whitened, those first that
        leave least to the others; None for all. One is nearly enough, since what is white on one side of a matrix is
        nearly so on the other.
      couple: keep the blocks of M that couple different leaves.
      max_rms: the largest root mean square of the direction of a component; None for no limit.
      diagonal_above: as for ``Commutant``.
      factors: blocks of the covariance of an ensemble to start from, with a full memory behind them; with
        ``factor_decay=1.0`` they stay as they are. ``Commutant.covariance`` or ``gram`` makes them.

    Returns:
      A transformation; its updates have a root mean square of about 1 for each component, whatever the size of the
      gradients.

    Raises:
      TypeError: ``sym`` is not a ``Symmetry``, or an argument is no number.
      ValueError: a number is out of range; in ``init``, a label does not fit its leaf, some leaves of an orbit are
        masked out and others not, or ``factors`` are not those of the commutant.

    Reference:
      Bernacchia, Global curvature for second-order optimization of neural networks (2025), (37)–(41), (206).
    """
    whitener = _Whitener(
        sym,
        factor_decay,
        momentum,
        newest,
        momentum_first,
        every,
        power,
        damping,
        Units(largest_units, sides),
        couple,
        max_rms,
        diagonal_above,
        factors,
    )
    return optax.GradientTransformationExtraArgs(whitener.init, whitener.update)


@dataclass(frozen=True, eq=False)
class _Whitener:
    """The options of ``scale_by_symmetry`` and what it does."""

    sym: Symmetry
    factor_decay: OverTime
    momentum: OverTime | None
    newest: Numeric
    momentum_first: bool
    every: OverTime
    power: float
    damping: Numeric
    units: Units
    couple: bool
    max_rms: Numeric | None
    diagonal_above: int | None
    factors: Blocks | None
    _known: dict[Any, Commutant] = field(default_factory=dict)

    def __post_init__(self):
        check_symmetry(self.sym, "scale_by_symmetry")
        for name, low, high in _RANGES:
            _check_range(getattr(self, name), name, low, high)
        for name, count, least in (
            ("largest_units", self.units.largest, 0),
            ("sides", self.units.sides, 0),
            ("diagonal_above", self.diagonal_above, 1),
        ):
            if count is not None:
                check_integer(count, name, least)

    def init(self, params: Params) -> ScaleBySymmetryState:
        # `optax.tree.map_params` asks for the structure of a state with a placeholder that has no leaves.
        if jax.tree.leaves(params, is_leaf=is_masked):
            com = self._commutant(params)[0]
        elif self._known:
            com = list(self._known.values())[-1]
        else:
            raise ValueError(
                "scale_by_symmetry: parameters without leaves; for `optax.tree.map_params` first call `init` of this "
                "transformation, or `jax.eval_shape` of it, with the parameters"
            )
        found, weight = _whitening.zeros(com.components, self.units), 0.0
        roots = jax.tree.map(jnp.copy, found)
        if self.factors is not None:
            com.check_blocks(self.factors)
            copies = {name: jnp.asarray(block, jnp.float32) for name, block in self.factors.items()}
            found = Factors(copies, {name: jnp.eye(n.shape[-1]) for name, n in found.units.items()})
            roots, weight = jax.tree.map(lambda m: self._root(m, jnp.float32(1)), found), 1.0
        return ScaleBySymmetryState(
            symo_count=jnp.zeros((), jnp.int32),
            symo_skipped=jnp.zeros((), jnp.int32),
            symo_weight=SymoWeight(jnp.full((), weight), jnp.zeros(())),
            symo_factors=found,
            symo_roots=roots,
            symo_momentum=() if self.momentum is None else jax.tree.map(_wide_zeros, params),
        )

    def update(
        self, updates: Params, state: Any, params: Params | None = None, **_: Any
    ) -> tuple[Params, ScaleBySymmetryState]:
        del params
        if not jax.sharding.get_abstract_mesh().explicit_axes:
            return self._update(updates, state)
        # Where shardings are types: the compiler places what is inside, what comes out is placed like what came in.
        places = jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, state))
        inside: Any = jax.sharding.auto_axes(self._update, out_sharding=places)
        return inside(updates, state)

    def _update(self, updates: Params, state: Any) -> tuple[Params, ScaleBySymmetryState]:
        com, there = self._commutant(updates)
        gradient = com.coordinates(there)
        finite = jnp.isfinite(sum(jnp.sum(jnp.square(x)) for x in gradient.values()))
        gradient = {name: jnp.where(finite, x, 0) for name, x in gradient.items()}
        count = jnp.asarray(optax.safe_increment(state.symo_count))
        learnt, found, roots = self._learn(state, com, gradient, finite, count)
        mean, mean_weight = state.symo_momentum, state.symo_weight.momentum
        direction = gradient
        if self.momentum is not None and self.momentum_first:
            step = com.from_coordinates(direction, _wide(there))
            mean, mean_weight, step = self._average(mean, mean_weight, step, finite, count)
            direction = com.coordinates(step)
        direction = _whitening.whiten(com.components, self.units, roots, direction)
        if self.max_rms is not None:
            direction = _limited(com, direction, self.max_rms)
        step = com.from_coordinates(direction, _wide(there))
        if self.momentum is not None and not self.momentum_first:
            mean, mean_weight, step = self._average(mean, mean_weight, step, finite, count)
        new = ScaleBySymmetryState(
            symo_count=jnp.where(finite, count, state.symo_count),
            symo_skipped=jnp.where(finite, state.symo_skipped, optax.safe_increment(state.symo_skipped)),
            symo_weight=SymoWeight(learnt, mean_weight),
            symo_factors=found,
            symo_roots=roots,
            symo_momentum=mean,
        )
        return _by_path(lambda path, old: jnp.where(finite, step[path], 0).astype(old.dtype), updates), new

    def _commutant(self, tree: Params) -> tuple[Commutant, dict[str, Any]]:
        """The commutant of the leaves that are there, and these by their paths."""
        there = _flat(tree)
        own = present(self.sym, tree)
        key = own, tuple((path, tuple(jnp.shape(leaf))) for path, leaf in there.items())
        if key not in self._known:
            structs = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in key[1]}
            self._known[key] = Commutant(own, structs, diagonal_above=self.diagonal_above)
        return self._known[key], there

    def _root(self, matrix: Array, weight: Array) -> Array:
        return _whitening.inverse_root(matrix / jnp.where(weight > 0, weight, 1), self.power, self.damping)

    def _learn(
        self, state: Any, com: Commutant, gradient: dict[str, Array], finite: Array, count: Array
    ) -> tuple[Array, Factors, Factors]:
        """The weight, the factors and their roots with this gradient, at the steps at which it is looked at."""
        # Never longer than half of the run so far: the first gradient makes roots, and the next few better ones.
        gap = jnp.clip(jnp.asarray(_at(self.every, count)).astype(jnp.int32), 1, jnp.maximum(count // 2, 1))
        samples = jnp.minimum(SAMPLES, gap)
        stride = gap // samples
        look = finite & (count % stride == 0)
        refresh = look & (count // stride % samples == 0)
        keep = jnp.clip(1 - stride * (1 - _at(self.factor_decay, count)), 0, 1)
        weight, found, roots = old = (state.symo_weight.factors, state.symo_factors, state.symo_roots)

        kept = {} if self.couple else {c.name: _within_leaves(c) for c in com.components}

        # Within a batch of models a branch is taken for all if for one: each looks at its own condition besides.
        def add() -> tuple[Array, Factors, Factors]:
            total = jnp.where(look, _mixed(weight, 1.0, keep), weight)

            def mix(name: str, a: Array, b: Array) -> Array:
                return jnp.where(look, _mixed(a, b * kept.get(name, 1.0), keep), a)

            def renew(matrix: Array, root: Array) -> Array:
                new = lambda: jnp.where(refresh, self._root(matrix, total), root)  # noqa: E731
                return cond(any_of_batch(refresh), new, lambda: root)

            learnt = _whitening.learn(com.components, self.units, found, roots, gradient, mix, renew)
            return total, *learnt

        return cond(any_of_batch(look), add, lambda: old)

    def _average(
        self, mean: Params, weight: Array, step: dict[str, Array], finite: Array, count: Array
    ) -> tuple[Params, Array, dict[str, Array]]:
        """The mean of steps with a new one, its weight, and the step that both make."""
        keep = _at(self.momentum, count)
        weight = jnp.where(finite, _mixed(weight, 1.0, keep), weight)
        mean = _by_path(
            lambda path, m: jnp.where(finite, _mixed(m, step[path], keep), m).astype(m.dtype), mean
        )
        known = jnp.where(weight > 0, weight, 1)
        made = {path: _mixed(m / known, step[path], 1 - self.newest) for path, m in _flat(mean).items()}
        return mean, weight, made


def symo(
    learning_rate: optax.ScalarOrSchedule,
    sym: Symmetry,
    *,
    weight_decay: float = 0.0,
    mask: Any = None,
    factor_decay: OverTime = MEMORY,
    momentum: OverTime | None = MEMORY,
    newest: Numeric = 0.03,
    momentum_first: bool = False,
    every: OverTime = INTERVAL,
    power: float = -0.5,
    damping: Numeric = 1e-7,
    largest_units: int | None = 256,
    sides: int | None = 1,
    couple: bool = True,
    max_rms: Numeric | None = 1.0,
    diagonal_above: int | None = 1024,
    factors: Blocks | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The symmetry preconditioner as an optimizer: ``scale_by_symmetry``, decoupled weight decay, a learning rate.

    >>> import jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.SignedPermutation(2)})
    >>> tx = eqt.symo(optax.cosine_decay_schedule(0.02, 1000), sym)

    Args:
      learning_rate: a number or a schedule: the root mean square of a step, as with Adam. 0.01 to 0.04 did well on
        everything tried.
      sym: as for ``scale_by_symmetry``.
      weight_decay: the rate of a decay that is decoupled from the gradient, times the learning rate.
      mask: which leaves decay, as for ``optax.add_decayed_weights``.
      factor_decay: as for ``scale_by_symmetry``.
      momentum: as for ``scale_by_symmetry``.
      newest: as for ``scale_by_symmetry``.
      momentum_first: as for ``scale_by_symmetry``.
      every: as for ``scale_by_symmetry``.
      power: as for ``scale_by_symmetry``.
      damping: as for ``scale_by_symmetry``.
      largest_units: as for ``scale_by_symmetry``.
      sides: as for ``scale_by_symmetry``.
      couple: as for ``scale_by_symmetry``.
      max_rms: as for ``scale_by_symmetry``.
      diagonal_above: as for ``scale_by_symmetry``.
      factors: as for ``scale_by_symmetry``.

    Returns:
      A transformation.

    Raises:
      TypeError: as for ``scale_by_symmetry``.
      ValueError: likewise.
    """
    white = scale_by_symmetry(
        sym,
        factor_decay=factor_decay,
        momentum=momentum,
        newest=newest,
        momentum_first=momentum_first,
        every=every,
        power=power,
        damping=damping,
        largest_units=largest_units,
        sides=sides,
        couple=couple,
        max_rms=max_rms,
        diagonal_above=diagonal_above,
        factors=factors,
    )
    decay = optax.add_decayed_weights(weight_decay, mask) if _is_there(weight_decay) else optax.identity()
    return optax.chain(white, decay, optax.scale_by_learning_rate(learning_rate))


def _check_range(value: Any, name: str, low: float, high: float) -> None:
    if callable(value) or (value is None and name in ("momentum", "max_rms")):
        return
    check_number(value, f"scale_by_symmetry: `{name}`")
    number: Any = value
    if not isinstance(number, Tracer) and not low <= number <= high:
        raise ValueError(f"scale_by_symmetry: `{name}` must lie in [{low}, {high}], got {value!r}")


def _at(value: Any, count: Array) -> Any:
    return value(count) if callable(value) else value


def _mixed(old: Any, new: Any, keep: Any) -> Any:
    return keep * old + (1 - keep) * new


def _flat(tree: Params) -> dict[str, Any]:
    """The leaves that are not masked out, by their paths."""
    leaves = jax.tree.leaves(tree, is_leaf=is_masked)
    return {path: x for path, x in zip(leaf_paths(tree), leaves, strict=True) if not is_masked(x)}


def _by_path(function: Callable[[str, Any], Any], tree: Params) -> Params:
    """``function(path, leaf)`` on every leaf that is not masked out."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_masked)
    pairs = zip(leaf_paths(tree), leaves, strict=True)
    return jax.tree.unflatten(treedef, [x if is_masked(x) else function(path, x) for path, x in pairs])


def _wide_zeros(leaf: Any) -> Array:
    return jnp.zeros_like(leaf, dtype=jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def _wide(tree: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Arrays like these in at least float32."""
    return {
        path: jax.ShapeDtypeStruct(jnp.shape(x), jnp.promote_types(jnp.result_type(x), jnp.float32))
        for path, x in tree.items()
    }


def _limited(com: Commutant, direction: dict[str, Array], most: Numeric) -> dict[str, Array]:
    """The direction of each component with a root mean square of at most ``most``."""
    found = {}
    for c in com.components:
        x = direction[c.name]
        rms = jnp.sqrt(jnp.sum(jnp.square(x)) / c.size)
        found[c.name] = x * jnp.where(rms > most, most / jnp.where(rms > most, rms, 1), 1)
    return found


def _within_leaves(c: Component) -> Array:
    """1 for two copies in the same leaf, 0 for those in different ones; shape (m, m)."""
    owner = np.repeat([m.path for m in c.members], [m.count for m in c.members])
    return jnp.asarray(owner[:, None] == owner, jnp.float32)


def _is_there(weight_decay: Any) -> bool:
    return not isinstance(weight_decay, (int, float)) or weight_decay != 0
