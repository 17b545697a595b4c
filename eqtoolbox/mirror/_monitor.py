"""Which stationary conditions a training is approaching: order parameters that fall exponentially, with their rates."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.linalg import check_integer, cond
from eqtoolbox.mirror._of import Mirrors

Params = Any


class MirrorState(NamedTuple):
    """The order parameters of a run.

    Attributes:
      mirror_count: steps taken.
      mirror_distance: by family, ‖Oᵀθ‖ of each mirror when last looked at.
      mirror_rate: the running mean of d log‖Oᵀθ‖ per step.
      mirror_square: the running mean of its square.
      mirror_weight: the running sums of the weights and of their squares.
    """

    mirror_count: Array
    mirror_distance: dict[str, Array]
    mirror_rate: dict[str, Array]
    mirror_square: dict[str, Array]
    mirror_weight: Array


class TrackMirrorsState(NamedTuple):
    """The state of ``track_mirrors``.

    Attributes:
      inner_state: that of the optimizer.
      mirror_state: the order parameters.
    """

    inner_state: Any
    mirror_state: MirrorState


def track_mirrors(
    inner: optax.GradientTransformation, mirrors: Mirrors, *, every: int = 10, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer and watches the order parameters of mirrors; training is the same bit for bit.

    >>> import jax, jax.numpy as jnp, optax, eqtoolbox as eqt
    >>> params = {"u": jnp.array([1.0, 1.0]), "w": jnp.array([0.1, 1.0])}
    >>> mirrors = eqt.mirror.of(eqt.Symmetry({"u": "h", "w": "h"}, {"h": eqt.groups.SignFlip(2)}))
    >>> tx = eqt.mirror.track_mirrors(optax.sgd(0.1), mirrors, every=1)
    >>> state = tx.init(params)
    >>> for _ in range(30):
    ...     grads = jax.tree.map(lambda x: x * jnp.array([1.0, 0.0]), params)  # only unit 0 decays, by 0.9 a step
    ...     updates, state = tx.update(grads, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> found = eqt.mirror.approached(state)["sign flip/h"]
    >>> found.approaching.tolist(), round(float(found.rate[0]), 3)
    ([True, False], -0.105)

    Args:
      inner: the optimizer, or a chain of any transformations.
      mirrors: from ``of``; a selection where there are many.
      every: the order parameters are looked at every so many steps.
      decay: of the running means, per look.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Raises:
      TypeError: ``mirrors`` is not from ``of``, ``inner`` no transformation.
      ValueError: ``every`` is not positive, ``decay`` not between 0 and 1; in ``update``, there are no ``params``.

    Reference:
      Ziyin, sections 2.2, 2.4 and 3.4: O^Tθ is the order parameter of collapse.
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(f"track_mirrors: `inner` must be an optax transformation, got {inner!r}")
    if not isinstance(mirrors, Mirrors):
        raise TypeError(f"track_mirrors: `mirrors` must come from mirror.of, got {mirrors!r}")
    every = check_integer(every, "every", 1)
    if not 0 < decay < 1:
        raise ValueError(f"`decay` must be between 0 and 1, got {decay}")
    inner = optax.with_extra_args_support(inner)

    def measure(params: Params) -> dict[str, Array]:
        return {f"{f.kind}/{f.space}": f.distances(params) for f in mirrors.families}

    def init(params: Params) -> TrackMirrorsState:
        distance = measure(params)
        zeros = jax.tree.map(jnp.zeros_like, distance)
        state = MirrorState(jnp.zeros((), jnp.int32), distance, zeros, zeros, jnp.zeros(2))
        return TrackMirrorsState(inner.init(params), state)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra_args: Any
    ) -> tuple[Params, TrackMirrorsState]:
        if params is None:
            raise ValueError("track_mirrors: `update` needs `params`")
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        old = state.mirror_state
        count = jnp.asarray(optax.safe_increment(old.mirror_count))

        def look(old: MirrorState) -> MirrorState:
            now = measure(optax.apply_updates(params, updates))
            change = jax.tree.map(lambda a, b: _log_ratio(a, b) / every, now, old.mirror_distance)
            mean = lambda a, x: decay * a + (1 - decay) * x  # noqa: E731
            return MirrorState(
                count,
                now,
                jax.tree.map(mean, old.mirror_rate, change),
                jax.tree.map(lambda a, x: mean(a, x**2), old.mirror_square, change),
                jnp.array([decay, decay**2]) * old.mirror_weight + jnp.array([1 - decay, (1 - decay) ** 2]),
            )

        new = cond(count % every == 0, look, lambda old: old._replace(mirror_count=count), old)
        return updates, TrackMirrorsState(inner_state, new)

    return optax.GradientTransformationExtraArgs(init, update)


class Approached(NamedTuple):
    """What ``track_mirrors`` says about one family; arrays with one number for each of its mirrors.

    Attributes:
      distance: ‖Oᵀθ‖ when last looked at.
      rate: the mean of d log‖Oᵀθ‖ per step, lately.
      standard_error: of the rate.
      approaching: whether ‖Oᵀθ‖ > 0 falls, by more than two standard errors.
      reached: whether ‖Oᵀθ‖ = 0: it will be for ever.
    """

    distance: Array
    rate: Array
    standard_error: Array
    approaching: Array
    reached: Array


def approached(state: Any, *, slowest: float = 1e-6) -> dict[str, Approached]:
    """The stationary conditions that are being approached, by family "{kind}/{space}".

    Args:
      state: of ``track_mirrors``, or of a chain that holds it.
      slowest: rates above minus this count as no fall.

    Returns:
      A dict of ``Approached``.

    Raises:
      ValueError: the state holds no such state.
    """
    is_state = lambda x: isinstance(x, MirrorState)  # noqa: E731
    found = [x for x in jax.tree.leaves(state, is_leaf=is_state) if is_state(x)]
    if len(found) != 1:
        raise ValueError(f"`state` must hold one state of track_mirrors, got {len(found)}")
    (s,) = found
    weight, squares = s.mirror_weight
    norm = jnp.where(weight > 0, weight, 1)
    # the number of independent looks behind a mean with exponential weights
    looks = jnp.maximum(weight**2 / jnp.where(squares > 0, squares, 1), 1)

    def family(key: str) -> Approached:
        distance, rate = s.mirror_distance[key], s.mirror_rate[key] / norm
        variance = jnp.maximum(s.mirror_square[key] / norm - rate**2, 0)
        error = jnp.sqrt(variance / jnp.maximum(looks - 1, 1))
        falling = (distance > 0) & (rate + 2 * error < -slowest) & (looks > 3)
        return Approached(distance, rate, error, falling, distance == 0)

    return {key: family(key) for key in s.mirror_distance}


def mirror_metrics(state: Any, *, slowest: float = 1e-6) -> dict[str, Array]:
    """The same as a flat dict of scalars for a logger.

    Args:
      state: of ``track_mirrors``, or of a chain that holds it.
      slowest: see ``approached``.

    Returns:
      For each family "mirror/{kind}/{space}/approaching" and "…/reached" (counts), "…/nearest" (the smallest positive
      ‖Oᵀθ‖, infinite where there is none) and "…/rate" (the fastest fall).
    """
    metrics = {}
    for key, found in approached(state, slowest=slowest).items():
        metrics[f"mirror/{key}/approaching"] = jnp.sum(found.approaching)
        metrics[f"mirror/{key}/reached"] = jnp.sum(found.reached)
        metrics[f"mirror/{key}/nearest"] = jnp.min(jnp.where(found.distance > 0, found.distance, jnp.inf))
        metrics[f"mirror/{key}/rate"] = jnp.min(found.rate)
    return metrics


def _log_ratio(new: Array, old: Array) -> Array:
    """log(new/old), 0 where one of them vanishes."""
    good = (new > 0) & (old > 0)
    return jnp.where(good, jnp.log(jnp.where(good, new, 1) / jnp.where(good, old, 1)), 0)
