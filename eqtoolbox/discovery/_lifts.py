"""Symmetries of large networks from those of small ones: sub-network, width, depth and batch size.

An *action* here is a function (g, θ, X) -> θ', such as ``DataDependentAction.act`` or
``lambda g, p, x: sym.act(g, p)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import leading_size, random_like, tree_norm
from eqtoolbox.symmetry import leaf_paths, locate

Params = Any
Action = Callable[[Any, Params, Any], Params]


@dataclass(frozen=True)
class SubNetwork:
    """A network j(θ_1, f(θ_2, h(θ_1, X)), X) around a block f: L reads θ_2 through f alone.

    Attributes:
      paths: the leaves of θ_2.
      features: h: (θ_1, X) -> s; θ_1 has None in place of the leaves of θ_2.
      block: f: (θ_2, s) -> t; θ_2 is a dict of its leaves by path.
      rest: j: (θ_1, t, X) -> outputs.
    """

    paths: tuple[str, ...]
    features: Callable[[Params, Any], Any]
    block: Callable[[dict[str, Array], Any], Any]
    rest: Callable[[Params, Any, Any], Any]

    def split(self, params: Params) -> tuple[Params, dict[str, Array]]:
        """(θ_1, θ_2)."""
        leaves, treedef = jax.tree.flatten(params)
        places = locate(leaf_paths(params), self.paths)
        inner = {path: leaves[i] for path, i in places.items()}
        outer = [None if i in places.values() else leaf for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, outer), inner

    def join(self, params: Params, inner: dict[str, Array]) -> Params:
        """``params`` with the leaves of θ_2 replaced."""
        leaves, treedef = jax.tree.flatten(params)
        for path, i in locate(leaf_paths(params), self.paths).items():
            leaves[i] = inner[path]
        return jax.tree.unflatten(treedef, leaves)

    def check(
        self,
        function: Callable[[Params, Any], Any],
        params: Params,
        data: Any,
        key: Array,
        tolerance: float = 1e-4,
    ) -> None:
        """Checks that ``function`` is this composition, at θ and at parameters drawn around it.

        Raises:
          ValueError: it is not: some of θ_2 is read outside of the block (tied weights, a skip path), and a symmetry
            of the block need not be one of the network.
        """
        for k in jax.random.split(key, 3):
            noise = random_like(k, params)
            drawn = jax.tree.map(lambda p, z: p + 0.5 * (1 + jnp.abs(p)) * z, params, noise)
            outer, inner = self.split(drawn)
            exact = function(drawn, data)
            try:
                own = self.rest(outer, self.block(inner, self.features(outer, data)), data)
            except (TypeError, AttributeError) as error:
                raise ValueError(
                    f"the rest of the network reads leaves of the block {list(self.paths)}, which it must not: {error}"
                ) from error
            off = float(tree_norm(jax.tree.map(jnp.subtract, own, exact)) / (tree_norm(exact) + 1e-30))
            if not off <= tolerance:
                raise ValueError(
                    f"the network is not j(θ_1, f(θ_2, h(θ_1, X)), X) with θ_2 = {list(self.paths)}: relative "
                    f"difference {off:.1e}. Are leaves of the block used outside of it, or tied?"
                )


def lift_subnetwork(act: Action, parts: SubNetwork) -> Action:
    """Proposition 6.4.1: a'(g, (θ_1, θ_2), X) = (θ_1, a(g, θ_2, h(θ_1, X))).

    Args:
      act: an action on the block's parameters (a dict by path) with the block's inputs as its data.
      parts: how the network is composed; ``parts.check`` refuses tied weights, for which this is no symmetry.

    Returns:
      An action on the network's parameters.
    """

    def lifted(g: Any, params: Params, data: Any) -> Params:
        outer, inner = parts.split(params)
        return parts.join(params, act(g, inner, parts.features(outer, data)))

    return lifted


def lift_wider(act: Action, axes: dict[str, int], units: Sequence[int]) -> Action:
    """Corollary 6.4.2: a symmetry at width h acts on h chosen units of a wider layer, the others stay.

    For Uσ(VX) with σ unit by unit the outputs are a sum over units (D.2), with the sum over inputs inside of σ:
    (D.1) prints it outside. The proof assigns the symmetric block to the columns beyond h: the roles are swapped.

    Args:
      act: an action at width h = len(units), on a flat dict of leaves by path.
      axes: the axis of the units of each leaf that has them.
      units: h different units.

    Returns:
      An action on parameters of any larger width.

    Raises:
      ValueError: units are not different, or there are none; the action raises it where a leaf has fewer.
    """
    chosen = tuple(int(u) for u in units)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"`units` must differ, got {chosen}")
    if not chosen:
        raise ValueError("`units` must not be empty")
    index = jnp.asarray(chosen)

    def lifted(g: Any, params: Params, data: Any) -> Params:
        leaves, treedef = jax.tree.flatten(params)
        places = locate(leaf_paths(params), axes)
        for path, i in places.items():
            width = jnp.shape(leaves[i])[axes[path]]
            if min(chosen) < 0 or max(chosen) >= width:
                # a gather out of bounds would be NaN, a scatter nothing
                raise ValueError(f"`units` must be among the {width} of leaf `{path}`, got {chosen}")
        small = {path: jnp.take(leaves[i], index, axes[path]) for path, i in places.items()}
        moved = act(g, small, data)
        for path, i in places.items():
            front = (
                jnp.moveaxis(leaves[i], axes[path], 0).at[index].set(jnp.moveaxis(moved[path], axes[path], 0))
            )
            leaves[i] = jnp.moveaxis(front, 0, axes[path])
        return jax.tree.unflatten(treedef, leaves)

    return lifted


def lift_deeper(act: Action, layers: Sequence[Callable[[Params, Any], Any]], layer: int) -> Action:
    """Corollary 6.4.3: a symmetry of layer i of φ_i = L_i(θ_i, φ_{i−1}) is one of the network.

    The data of the action are the features φ_{i−1}(θ_1 … θ_{i−1}, X); the proof prints L_{i−1}(θ_{i−1}, X).

    Args:
      act: an action on θ_i with φ_{i−1} as its data.
      layers: the L_i; the parameters are a list or tuple of the θ_i.
      layer: i, from 0.

    Returns:
      An action on the list of parameters.

    Raises:
      ValueError: there is no such layer.
    """
    if not 0 <= layer < len(layers):
        raise ValueError(f"`layer` must be one of the {len(layers)} layers, got {layer}")

    def lifted(g: Any, params: Params, data: Any) -> Params:
        if len(params) != len(layers):
            raise ValueError(
                f"the parameters must be a list of {len(layers)}, one per layer, got {len(params)}"
            )
        features = data
        for apply, theta in zip(layers[:layer], params[:layer], strict=True):
            features = apply(theta, features)
        moved = list(params)
        moved[layer] = act(g, params[layer], features)
        return type(params)(moved)

    return lifted


def lift_smaller_batch(act: Action, pad: Callable[[Any], Any], example: Any) -> Action:
    """Proposition 6.4.4: a symmetry for batches of d acts for d' < d by padding with points of a fixed map.

    The text pads with random points. Drawn anew in each call they are another action each time: then
    g·(g'·θ) ≠ (gg')·θ.

    Args:
      act: an action for batches of d.
      pad: X of d' samples -> X of d samples, the first of which are X; the same at each call.
      example: a batch of d' samples, on which ``pad`` is tried.

    Returns:
      An action for batches of d'.

    Raises:
      ValueError: ``pad`` gives another batch at the second call, changes the samples, or adds none.
    """
    first, second = pad(example), pad(example)
    if not all(bool(jnp.all(a == b)) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True)):
        raise ValueError("`pad` must be a fixed map: it gave two different batches for the same samples")
    size = leading_size(example, "example")
    if leading_size(first, "the padded batch") <= size:
        raise ValueError(f"`pad` must add samples to the {size} given")
    kept = jax.tree.map(lambda a, b: bool(jnp.all(a[:size] == b)), first, example)
    if not all(jax.tree.leaves(kept)):
        raise ValueError("`pad` must keep the samples it is given as the first ones")
    return lambda g, params, data: act(g, params, pad(data))
