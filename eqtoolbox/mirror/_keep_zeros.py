"""Training on with the weights that were removed held at zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.mirror._constraints import globs
from eqtoolbox.mirror._factors import chosen, flat, unflat
from eqtoolbox.symmetry import is_masked

Params = Any


class KeepZerosState(NamedTuple):
    """The state of ``keep_zeros``.

    Attributes:
      alive: which entries were not 0; ``optax.MaskedNode`` for leaves that are trained whole.
      alive_state: the state of the optimizer.
    """

    alive: Params
    alive_state: Any


def keep_zeros(inner: optax.GradientTransformation, *where: str) -> optax.GradientTransformationExtraArgs:
    """An optimizer under which entries that are 0 at ``init`` stay 0: what ``prune`` has left is trained on.

    An L1 penalty, such as that of ``dcs`` with ``sparse``, shrinks also the weights that it keeps. Fitting these anew
    without it undoes that (the relaxed lasso): train with ``dcs``, ``prune``, then train with this. Gradients and
    updates of the others are set to 0; it stands outermost, and weight decay or momentum in ``inner`` see no others.

    >>> import jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> small, _ = eqt.mirror.prune({"w": jnp.array([0.5, 0.01, -2.0, 0.02])}, eqt.mirror.sparse(), fraction=0.5)
    >>> tx = eqt.mirror.keep_zeros(optax.sgd(0.1))
    >>> updates, _ = tx.update({"w": jnp.ones(4)}, tx.init(small), small)
    >>> optax.apply_updates(small, updates)["w"].tolist()
    [0.4000000059604645, 0.0, -2.0999999046325684, 0.0]

    Args:
      inner: the optimizer.
      *where: globs of leaf paths; every leaf of real numbers when there is none. Zeros of other leaves, such as biases
        that have just begun, are trained.

    Returns:
      A transformation that takes what ``inner`` takes.

    Raises:
      TypeError: ``inner`` is no transformation, or a glob is not a string.
      ValueError: in ``init``, a glob matches no leaf.

    Reference:
      Meinshausen, "Relaxed Lasso" (2007).
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(f"keep_zeros: `inner` must be an optax transformation, got {inner!r}")
    wanted, inner = globs(where), optax.with_extra_args_support(inner)

    def init(params: Params) -> KeepZerosState:
        leaves = flat(params)
        if not jax.tree.leaves(params):  # optax.tree.map_params asks with a placeholder
            return KeepZerosState(params, inner.init(params))
        mine = chosen(params, wanted, "keep_zeros", lambda x: True)
        return KeepZerosState(unflat({p: leaves[p] != 0 for p in mine}, params), inner.init(params))

    def update(updates: Params, state: Any, params: Params | None = None, **extra_args: Any) -> Any:
        steps, inner_state = inner.update(
            _kept(updates, state.alive), state.alive_state, params, **extra_args
        )
        return _kept(steps, state.alive), KeepZerosState(state.alive, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _kept(updates: Params, alive: Params) -> Params:
    masks: dict[str, Array] = {p: x for p, x in flat(alive).items() if not is_masked(x)}
    return unflat(
        {p: jnp.where(masks[p], x, 0) if p in masks else x for p, x in flat(updates).items()}, updates
    )
