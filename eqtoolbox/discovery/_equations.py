"""The linear equations on coefficients that say a generator is a symmetry, for each definition of one.

A generator ξ = Σ_a c_a A_a is an infinitesimal symmetry of s(θ) if ⟨∇s(θ), ξ(θ)⟩ = 0 at all θ: one equation on c for
each s and θ. Each row here is (⟨∇s, A_a(θ, X)⟩)_a at a θ of its own, with

==========================  ==============================================================
definition                  s(θ), with random weights u
==========================  ==============================================================
``functional``              Σ u_i · f(θ, x_i) at inputs x_i drawn anew
``functional_loss``         Σ u_i ℓ(f(θ, x_i), y_i) at inputs and targets drawn anew
``data_dependent``          Σ u_i · f(θ, x_i) over the data set X
``data_dependent_loss``     Σ u_i ℓ(f(θ, x_i), y_i) over the data set
``distribution``            u · Σ f(θ, x_i) over the data set
``distribution_loss``       Σ ℓ(f(θ, x_i), y_i) over the data set: the loss of the batch
==========================  ==============================================================

A family that depends on data is given a data set drawn anew in each equation; any other keeps the one given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.discovery._families import Family, is_real, real_leaves, with_real
from eqtoolbox.linalg import leading_size, random_like, tree_norm, tree_vdot
from eqtoolbox.symmetry import DefinitionErrors

Params = Any

#: In what sense a generator can be a symmetry, by the names of ``DefinitionErrors``.
DEFINITIONS: tuple[str, ...] = DefinitionErrors._fields
#: Inputs that one equation of the functional definitions reads.
EXAMPLES = 4


@dataclass(frozen=True)
class Setting:
    """What is fixed when rows are compiled: the family and the function whose symmetries are sought.

    Attributes:
      family: the generators.
      function: (θ, inputs) -> outputs, samples along the first axis.
      output_loss: (outputs, targets) -> the mean loss; needed by the definitions of the loss.
      definition: a key of the table above.
    """

    family: Family
    function: Callable[[Params, Any], Any]
    output_loss: Callable[[Any, Any], Array] | None
    definition: str

    def __post_init__(self):
        if self.definition not in DEFINITIONS:
            raise ValueError(f"`definition` must be one of {', '.join(DEFINITIONS)}, got {self.definition!r}")
        if self.definition.endswith("loss") and self.output_loss is None:
            raise ValueError(f"the definition {self.definition!r} needs an `output_loss`")


def draw_params(key: Array, params: Params, spread: float | Array, anchor: float | Array) -> Params:
    """θ' = anchor · θ + spread · r · normal noise, r the root mean square of each leaf (of all where it is 0)."""
    leaves = real_leaves(params)
    squares, count = sum(jnp.sum(x * x) for x in leaves), sum(x.size for x in leaves)
    overall = jnp.sqrt(squares / count)
    overall = jnp.where(overall > 0, overall, 1)
    noise = iter(random_like(key, leaves))

    def leaf(x: Array) -> Array:
        if not is_real(x):
            return x
        own = jnp.sqrt(jnp.mean(x * x)) if x.size else jnp.zeros((), x.dtype)
        scale = spread * jnp.where(own > 0, own, overall)
        moved = next(noise) * scale.astype(x.dtype)
        return jnp.asarray(anchor).astype(x.dtype) * x + moved

    return jax.tree.map(leaf, params)


def draw_like(key: Array, data: Any, count: int) -> Any:
    """``count`` samples unlike those given: normal numbers of the same mean and scale, integers drawn one by one."""

    def leaf(key: Array, x: Array) -> Array:
        shape = (count, *x.shape[1:])
        if not is_real(x):
            return x.ravel()[jax.random.randint(key, shape, 0, x.size)]
        scale = jnp.std(x)
        scale = jnp.where(scale > 0, scale, jnp.where(jnp.any(x != 0), jnp.max(jnp.abs(x)), 1))
        return jnp.mean(x) + scale * jax.random.normal(key, shape, x.dtype)

    leaves, treedef = jax.tree.flatten(data)
    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(treedef, [leaf(k, x) for k, x in zip(keys, leaves, strict=False)])


def _cotangent(
    setting: Setting, key: Array, params: Params, own: tuple[Any, Any], fresh: tuple[Any, Any]
) -> Params:
    """∇s at ``params``; ``own`` is the data set of the family, ``fresh`` other samples."""
    functional = setting.definition.startswith("functional")
    inputs, targets = fresh if functional else own
    mean = setting.definition.startswith("distribution")
    if setting.definition.endswith("loss"):
        assert setting.output_loss is not None
        cost = setting.output_loss
        count = leading_size(inputs, "inputs")
        weights = jnp.ones(count) / count if mean else jax.random.normal(key, (count,))

        def scalar(p: Params) -> Array:
            def one(row: tuple[Any, Any]) -> Array:
                outputs, target = jax.tree.map(lambda a: a[None], row)
                return cost(outputs, target)

            losses = jax.vmap(one)((setting.function(p, inputs), targets))
            return jnp.sum(losses * weights.astype(losses.dtype))

        return jax.grad(scalar, allow_int=True)(params)
    outputs, pull = jax.vjp(lambda p: setting.function(p, inputs), params)
    if mean:
        u = random_like(key, jax.tree.map(lambda y: y[0], outputs))
        weights = jax.tree.map(lambda a, y: jnp.broadcast_to(a[None] / y.shape[0], y.shape), u, outputs)
    else:
        weights = random_like(key, outputs)
    return pull(weights)[0]


def _real_only(cotangent: Params, params: Params) -> Params:
    """Zeros in place of the float0 of leaves of integers."""
    return jax.tree.map(lambda v, p: v if is_real(p) else jnp.zeros_like(p), cotangent, params)


@partial(jax.jit, static_argnames=("setting", "count"))
def rows(
    setting: Setting,
    params: Params,
    data: tuple[Any, Any],
    key: Array,
    block: int,
    count: int,
    spread: float,
    anchor: float,
) -> tuple[Array, Array]:
    """The equations block * count and following, ``count`` of them: ⟨∇s, A_a⟩, shape (count, m), and ‖∇s‖."""
    size = leading_size(data[0], "inputs")

    def row(i: Array) -> tuple[Array, Array]:
        k_params, k_fresh, k_own, k_weights = jax.random.split(jax.random.fold_in(key, i), 4)
        point = draw_params(k_params, params, spread, anchor)
        fresh = draw_like(k_fresh, data, EXAMPLES)
        own = draw_like(k_own, data, size) if setting.family.depends_on_data else data
        v = _real_only(_cotangent(setting, k_weights, point, own, fresh), point)
        norm = tree_norm(real_leaves(v))
        return setting.family.pairing(point, v, own[0]), norm

    return jax.vmap(row)(block * count + jnp.arange(count))


@partial(jax.jit, static_argnames=("family", "count"))
def probes(
    family: Family,
    params: Params,
    inputs: Any,
    key: Array,
    block: int,
    count: int,
    spread: float,
    anchor: float,
) -> Array:
    """Pairings with random unit vectors in place of gradients, shape (count, m): they see all that moves.

    With the same key two families are probed at the same points, by the same vectors.
    """
    size = leading_size(inputs, "inputs")

    def row(i: Array) -> Array:
        k_params, k_own, k_v = jax.random.split(jax.random.fold_in(key, i), 3)
        point = draw_params(k_params, params, spread, anchor)
        own = draw_like(k_own, inputs, size) if family.depends_on_data else inputs
        drawn = random_like(k_v, real_leaves(point))
        norm = jnp.sqrt(tree_vdot(drawn, drawn))
        v = with_real(point, [z / norm.astype(z.dtype) for z in drawn])
        return family.pairing(point, v, own)

    return jax.vmap(row)(block * count + jnp.arange(count))
