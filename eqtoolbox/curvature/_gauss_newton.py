"""``symmetry_gauss_newton``: steps of a damped Gauss-Newton model, preconditioned by the blocks of a symmetry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from eqtoolbox.curvature._kronecker import Eigen, Pieces, pieces
from eqtoolbox.curvature._quadratic import minimize, root_product
from eqtoolbox.curvature._symo import OverTime, memory
from eqtoolbox.curvature._whitening import Factors, Units
from eqtoolbox.linalg import (
    any_of_batch,
    check_integer,
    check_number,
    cond,
    linear_transpose,
    tree_vdot,
    vary_with,
)
from eqtoolbox.symmetry import Symmetry, check_symmetry, leaf_paths

Params = Any
Numeric = float | Array

#: Lanczos steps for the square root of the loss's curvature at the outputs; one is exact for a squared error.
ROOT_STEPS = 6
#: The damping stays between these, so that no run of bad or good steps takes it out of float32.
DAMPINGS = (1e-20, 1e8)
_RANGES = (
    ("damping", 0, math.inf),
    ("adapt", 1, math.inf),
    ("floor", 0, 1),
    ("factor_decay", 0, 1),
    ("weight_decay", 0, math.inf),
)


class SymmetryGaussNewtonState(NamedTuple):
    """The state of ``symmetry_gauss_newton``.

    Attributes:
      newton_count: the number of steps, those not taken included.
      newton_refused: how many were not taken: the loss would not have fallen, or something was not finite.
      newton_damping: λ.
      newton_ratio: the last reduction of the loss, over that of the model.
      newton_weight: of the samples in the factors: 0 at the start, 1 in the end.
      newton_factors: the Kronecker factors of the curvature.
      newton_eigen: their eigenpairs.
      newton_last: the last step, like the parameters, in at least float32.
    """

    newton_count: Array
    newton_refused: Array
    newton_damping: Array
    newton_ratio: Array
    newton_weight: Array
    newton_factors: Factors
    newton_eigen: Eigen
    newton_last: Params


def symmetry_gauss_newton(
    learning_rate: optax.ScalarOrSchedule,
    sym: Symmetry,
    *,
    products: int = 10,
    samples: int = 3,
    momentum: bool = True,
    damping: Numeric = 1e-3,
    adapt: Numeric = 3.0,
    floor: Numeric = 1e-3,
    weight_decay: Numeric = 0.0,
    factor_decay: OverTime = memory(5.0, 0.1, 100.0),  # noqa: B008
    every: int = 1,
    largest_units: int | None = 256,
    couple: bool = False,
    diagonal_above: int | None = 1024,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Levenberg-Marquardt steps by conjugate gradients, preconditioned by the Gauss-Newton blocks of a symmetry.

    With the outputs f(θ), their Jacobian J, the Hessian H of the output loss and the gradient g, a step minimises

    .. math::
       m(x) = g^T x + \tfrac12 x^T (G + \lambda) x, \qquad G = J^T H J

    over the last step and ``products`` conjugate directions, by exact products with G. These are preconditioned by what
    the symmetry says of G: its mean over an invariant ensemble is one matrix M for each isotypic component
    (``Commutant``), and one vector :math:`v = J^T H^{1/2} ε` with white noise ε, which has E vvᵀ = G and costs a
    backward pass, has d samples of M. On the units of a component a single model has factors N of its own, so that

    .. math::
       P = (M \otimes N_1 \otimes \dots + \lambda)^{-1}

    component by component and leaf by leaf, in the eigenbases of the factors, which are running means.

    The step is taken if the loss falls. λ follows the reduction ratio ρ, that of the loss over that of m without λ:
    it is divided by ``adapt`` where ρ > 3/4, multiplied where ρ < 1/4, and multiplied by its square where the step is
    refused. With ``products=1`` a step is K-FAC's: a direction and the last step, with lengths from the exact model.

    It sees curvature, so ``update`` needs the outputs as a function of the parameters, and the loss as a function of
    the outputs. Batches are closed over:

    >>> import jax, jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"v": jnp.array([[0.5, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.SignedPermutation(2)})
    >>> x, y = jnp.linspace(-1, 1, 20)[:, None], jnp.tanh(jnp.linspace(-3, 3, 20))[:, None]
    >>> output_fn = lambda p: jnp.tanh(x @ p["v"]) @ p["u"]
    >>> output_loss = lambda f: jnp.mean((f - y) ** 2)
    >>> tx = eqt.curvature.symmetry_gauss_newton(1.0, sym)
    >>> state = tx.init(params)
    >>> @jax.jit
    ... def step(params, state):
    ...     grads = jax.grad(lambda p: output_loss(output_fn(p)))(params)
    ...     updates, state = tx.update(grads, state, params, output_fn=output_fn, output_loss=output_loss)
    ...     return optax.apply_updates(params, updates), state
    >>> for _ in range(10):
    ...     params, state = step(params, state)
    >>> bool(output_loss(output_fn(params)) < 1e-4)
    True

    A step costs the forward pass that it linearises, two passes for each of ``products`` + 1 products, a backward pass
    for each sample and a forward pass to look at the new loss. For minibatches fewer products, a damping that stays
    (``adapt=1``) and a learning rate that falls keep it from fitting each batch. Equivariant under the compact part of
    the symmetry, given the noise.

    Args:
      learning_rate: a number or a schedule: the share of the model's step that is taken; 1 for whole batches.
      sym: a symmetry; its maximal compact subgroup is used. Choose the group of each space by ``sym.subgroup``.
      products: conjugate directions in a step, k.
      samples: vectors v in a step.
      momentum: whether the last step is one of the directions.
      damping: λ at the start.
      adapt: the factor by which λ changes; 1 for one that stays.
      floor: the share of its largest eigenvalue that is added to each block, in the preconditioner only.
      weight_decay: η of ½ η ‖θ‖², added to the loss and to the model.
      factor_decay: of the factors' means: a number, or a function of the number of times that they were renewed.
      every: steps from one renewal of the factors to the next.
      largest_units: spaces with more units have no factors N of their own; 0 for the symmetry alone.
      couple: blocks M and factors N of whole components, couplings between leaves included.
      diagonal_above: as for ``Commutant``.
      seed: of the noise.

    Returns:
      A transformation. Its ``update`` has the arguments ``output_fn``, parameters to outputs, and ``output_loss``,
      outputs to a scalar; ``params`` are needed, and ``updates`` are the gradient of output_loss ∘ output_fn.

    Raises:
      TypeError: ``sym`` is not a ``Symmetry``, or an argument is no number; in ``update``, a function is missing.
      ValueError: a number is out of range; in ``init``, a label does not fit its leaf; in ``update``, there are no
        parameters.

    Reference:
      Martens & Grosse, Optimizing neural networks with Kronecker-factored approximate curvature (2015), sections 6 and
      7; Martens, Deep learning via Hessian-free optimization (2010); for the blocks: Bernacchia, Global curvature for
      second-order optimization of neural networks (2025), with the Gauss-Newton matrix in the gradient covariance's
      place, and power -1.
    """
    newton = _Newton(
        learning_rate,
        sym,
        products,
        samples,
        momentum,
        damping,
        adapt,
        floor,
        weight_decay,
        factor_decay,
        every,
        Units(largest_units, None),
        couple,
        diagonal_above,
        seed,
    )
    return optax.GradientTransformationExtraArgs(newton.init, newton.update)


class _Model(NamedTuple):
    """The model at the parameters: outputs, and how they and the loss change."""

    loss: Array
    jacobian: Callable[[Params], Any]
    transpose: Callable[[Any], Params]
    output_hessian: Callable[[Any], Any]
    outputs: Any


@dataclass(frozen=True, eq=False)
class _Newton:
    """The options of ``symmetry_gauss_newton`` and what it does."""

    learning_rate: optax.ScalarOrSchedule
    sym: Symmetry
    products: int
    samples: int
    momentum: bool
    damping: Numeric
    adapt: Numeric
    floor: Numeric
    weight_decay: Numeric
    factor_decay: OverTime
    every: int
    units: Units
    couple: bool
    diagonal_above: int | None
    seed: int
    _known: dict[Any, Pieces] = field(default_factory=dict)

    def __post_init__(self):
        check_symmetry(self.sym, "symmetry_gauss_newton")
        for name, low, high in _RANGES:
            value: Any = getattr(self, name)
            if callable(value):
                continue
            check_number(value, f"symmetry_gauss_newton: `{name}`")
            if not isinstance(value, Tracer) and not low <= value <= high:
                raise ValueError(
                    f"symmetry_gauss_newton: `{name}` must lie in [{low}, {high}], got {value!r}"
                )
        for name in ("products", "samples", "every"):
            check_integer(getattr(self, name), name, 1)
        for name, count, least in (
            ("largest_units", self.units.largest, 0),
            ("diagonal_above", self.diagonal_above, 1),
        ):
            if count is not None:
                check_integer(count, name, least)

    def init(self, params: Params) -> SymmetryGaussNewtonState:
        factors, eigen = self._pieces(params).start()
        return SymmetryGaussNewtonState(
            newton_count=jnp.zeros((), jnp.int32),
            newton_refused=jnp.zeros((), jnp.int32),
            newton_damping=jnp.asarray(self.damping, jnp.float32),
            newton_ratio=jnp.ones(()),
            newton_weight=jnp.zeros(()),
            newton_factors=factors,
            newton_eigen=eigen,
            newton_last=jax.tree.map(lambda p: jnp.zeros_like(p, dtype=_wide(p)), params),
        )

    def update(
        self,
        updates: Params,
        state: Any,
        params: Params | None = None,
        *,
        output_fn: Callable[[Params], Any] | None = None,
        output_loss: Callable[[Any], Array] | None = None,
        **_: Any,
    ) -> tuple[Params, SymmetryGaussNewtonState]:
        if params is None:
            raise ValueError("symmetry_gauss_newton: `update` needs the parameters")
        for name, function in (("output_fn", output_fn), ("output_loss", output_loss)):
            if not callable(function):
                raise TypeError(
                    f"symmetry_gauss_newton: `update` needs `{name}`, a function, got {function!r}"
                )
        parts = self._pieces(params)
        at = _model(output_fn, output_loss, params)  # pyright: ignore[reportArgumentType]
        decay = self.weight_decay
        theta = _widened(params)
        gradient = jax.tree.map(lambda g, p: g.astype(p.dtype) + decay * p, updates, theta)
        finite = jnp.isfinite(tree_vdot(gradient, gradient)) & jnp.isfinite(at.loss)
        gradient = jax.tree.map(lambda g: jnp.where(finite, g, 0), gradient)

        weight, factors, eigen = self._learn(state, parts, at, finite)
        damping = state.newton_damping

        def product(v: Params) -> Params:
            image = at.transpose(at.output_hessian(at.jacobian(v)))
            return jax.tree.map(lambda y, x: y + decay * x + damping * x, image, v)

        def precondition(v: Params) -> Params:
            rows = parts.solve(eigen, parts.com.coordinates(v), decay + damping, self.floor)
            return parts.com.from_coordinates(rows, v)

        known = state.newton_last if self.momentum else None
        found = minimize(product, gradient, precondition, known, self.products)
        rate = self._rate(state.newton_count)
        step = jax.tree.map(lambda x, p: (rate * x).astype(p.dtype), found.step, params)
        wide = _widened(step)
        # Of the loss and of m without λ along the step; of the difference of squares no digits are lost.
        moved = output_loss(output_fn(optax.apply_updates(params, step)))  # pyright: ignore[reportOptionalCall]
        norms = decay * sum(
            jnp.sum(x * (p + x / 2)) for x, p in zip(*map(jax.tree.leaves, (wide, theta)), strict=True)
        )
        actual = (moved - at.loss + norms).astype(jnp.float32)
        undamped = found.curvature - damping * tree_vdot(found.step, found.step)
        predicted = rate * found.slope + rate**2 * undamped / 2
        ratio = jnp.where(predicted < 0, actual / jnp.where(predicted < 0, predicted, -1), 0)
        taken = finite & (actual < 0)
        taken = taken & jnp.isfinite(tree_vdot(wide, wide))
        factor = jnp.where(ratio > 0.75, 1 / self.adapt, jnp.where(ratio < 0.25, self.adapt, 1.0))
        factor = jnp.where(taken, factor, self.adapt * self.adapt)
        moving = jnp.clip(damping * factor, *DAMPINGS)
        fixed = isinstance(self.adapt, (int, float)) and self.adapt == 1
        return jax.tree.map(lambda x: jnp.where(taken, x, 0).astype(x.dtype), step), SymmetryGaussNewtonState(
            newton_count=jnp.asarray(optax.safe_increment(state.newton_count)),
            newton_refused=state.newton_refused + jnp.where(taken, 0, 1),
            newton_damping=damping if fixed else jnp.where(finite, moving, damping).astype(damping.dtype),
            newton_ratio=jnp.where(finite, ratio, state.newton_ratio).astype(jnp.float32),
            newton_weight=weight,
            newton_factors=factors,
            newton_eigen=eigen,
            newton_last=jax.tree.map(lambda x, y: jnp.where(taken, x, y), wide, state.newton_last),
        )

    def _rate(self, count: Array) -> Any:
        return self.learning_rate(count) if callable(self.learning_rate) else self.learning_rate

    def _pieces(self, params: Params) -> Pieces:
        shapes = zip(leaf_paths(params), map(jnp.shape, jax.tree.leaves(params)), strict=True)
        key = tuple(shapes)
        if key not in self._known:
            structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
            self._known[key] = pieces(self.sym, structs, self.units, self.couple, self.diagonal_above)
        return self._known[key]

    def _learn(self, state: Any, parts: Pieces, at: _Model, finite: Array) -> tuple[Array, Factors, Eigen]:
        """The weight, the factors and their eigenpairs, with new samples at the steps that have them."""
        count = state.newton_count
        due = finite & (count % self.every == 0)
        decay: Any = self.factor_decay
        keep: Any = decay(count // self.every) if callable(decay) else decay
        keep = jnp.where(state.newton_weight > 0, keep, 0.0)  # the first samples have the whole weight
        old = (state.newton_weight, state.newton_factors, state.newton_eigen)

        def renew() -> tuple[Array, Factors, Eigen]:
            # Keys are folded in where they are used: under vmap with a batched count none is used twice.
            def draw(i: Array) -> dict[str, Array]:
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), count), i)
                return parts.com.coordinates(_sample(at, key))

            drawn = jax.lax.map(draw, jnp.arange(self.samples))
            weight = keep * state.newton_weight + (1 - keep)
            mix = lambda a, b: (keep * a + (1 - keep) * b).astype(a.dtype)  # noqa: E731
            new = (weight, *parts.learn(state.newton_factors, drawn, mix, weight, self.floor))
            return jax.tree.map(lambda a, b: jnp.where(due, a, b).astype(b.dtype), new, old)

        return cond(any_of_batch(due), renew, lambda: old)


def _model(output_fn: Callable[[Params], Any], output_loss: Callable[[Any], Array], params: Params) -> _Model:
    """The model with tangents in at least float32, whatever the dtypes of the parameters."""
    outputs, linear = jax.linearize(output_fn, params)
    slope, hessian = jax.linearize(jax.grad(output_loss), outputs)
    del slope
    like = jax.eval_shape(lambda p: p, params)
    back = linear_transpose(linear, like, outputs)

    def jacobian(v: Params) -> Any:
        return linear(jax.tree.map(lambda x, p: x.astype(p.dtype), v, like))

    def transpose(u: Any) -> Params:
        return _widened(back(u)[0])

    return _Model(output_loss(outputs), jacobian, transpose, hessian, outputs)


def _sample(at: _Model, key: Array) -> Params:
    """v = Jᵀ H^{1/2} ε: E vvᵀ = G for a convex output loss, up to the Krylov space of ε in place of H's."""
    flat, unravel = ravel_pytree(at.outputs)
    dtype = _wide(flat)
    noise = vary_with(jax.random.normal(key, flat.shape, dtype), flat)

    def product(x: Array) -> Array:
        return ravel_pytree(at.output_hessian(unravel(x.astype(flat.dtype))))[0].astype(dtype)

    return at.transpose(unravel(root_product(product, noise, ROOT_STEPS).astype(flat.dtype)))


def _wide(x: Any) -> Any:
    return jnp.promote_types(jnp.result_type(x), jnp.float32)


def _widened(tree: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(_wide(x)), tree)
