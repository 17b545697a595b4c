"""The data-dependent action on the features of an MLP (equation 4.13), in its corrected form and as printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.symmetry import Equivariance, leaf_paths, locate

Params = Any
Activation = Callable[[Array], Array]
Layers = Sequence[str | tuple[str, str | None]]

_HIGHEST = jax.lax.Precision.HIGHEST


def feature_action(
    params: Params,
    layers: Layers,
    x: Array,
    activation: Activation,
    inverse: Activation,
    *,
    element: Literal["inverse", "exp", "first_order"] = "inverse",
    residual: bool = True,
) -> Equivariance:
    """GL on the *features* of each hidden layer of an MLP, σ(Z) → σ(Z)gᵀ, by way of the data X.

    Samples are rows, y = x @ kernel + bias. With H the inputs of the layer, V its kernel, Z = H V + b and U the
    kernel of the next, one hidden layer after the other from below, each on what those before have left,

        V → V + H⁺ (σ⁻¹(σ(Z) gᵀ) - Z),    U → g⁻ᵀ U,

    which needs a bijective σ. For up to as many samples as the layer has inputs the outputs at X are preserved, those
    elsewhere not. For one hidden layer it is a group action.

    The paper prints V → H⁺σ⁻¹(σ(Z) gᵀ) (``residual=False``). Then even g = 1 replaces V by its projection on the
    span of the data, and ruins the outputs elsewhere. And it acts with 1 + T and 1 - T for its inverse
    (``element="first_order"``), which changes the outputs at X too.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import orbits
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> params = {"in": jax.random.normal(keys[0], (6, 5)), "out": jax.random.normal(keys[1], (5, 2))}
    >>> x = jax.random.normal(keys[2], (4, 6))
    >>> leaky = lambda slope: lambda z: jnp.where(z > 0, z, slope * z)
    >>> eq = orbits.feature_action(params, ["in", "out"], x, leaky(0.1), leaky(10.0))
    >>> f = lambda p: leaky(0.1)(x @ p["in"]) @ p["out"]
    >>> moved = eq.act(params, {"h1": 0.3 * jax.random.normal(keys[3], (5, 5))})
    >>> bool(jnp.allclose(f(moved), f(params), atol=1e-4))
    True

    Args:
      params: the parameters θ, or their shapes.
      layers: the paths of each layer in the order of the data, ``("Dense_0/kernel", "Dense_0/bias")``; a path alone
        is a kernel without a bias. Biases are left alone.
      x: the data X, shape (k, n_0).
      activation: σ, entry by entry.
      inverse: σ⁻¹.
      element: what an algebra vector T stands for: "inverse" for g = 1 + T and "exp" for its exponential, either with
        the exact inverse; "first_order" for 1 + T with 1 - T.
      residual: the corrected form.

    Returns:
      The ``Equivariance`` at fixed data; λ is a dict of matrices T with the keys h1, h2, …, 0 at the identity.

    Raises:
      ValueError: the parameters are not such a network, or there are more samples than a layer has inputs, where the
        corrected form has no solution.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), equation 4.13 and proposition 4.4.2.
    """
    if element not in ("inverse", "exp", "first_order"):
        raise ValueError(
            f"feature_action: `element` must be 'inverse', 'exp' or 'first_order', got {element!r}"
        )
    pairs = tuple((entry, None) if isinstance(entry, str) else (entry[0], entry[1]) for entry in layers)
    if len(pairs) < 2:
        raise ValueError(f"feature_action: a network has at least two layers, got {list(layers)}")
    widths = _checked_widths(params, pairs, x, residual)
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    action = _FeatureAction(pairs, activation, inverse, element, residual)
    return Equivariance(
        act=partial(action.act, x),
        act_inverse=partial(action.undo, x),
        identity={f"h{i}": jnp.zeros((n, n), dtype) for i, n in enumerate(widths, start=1)},
    )


@dataclass(frozen=True)
class _FeatureAction:
    """The network and the kind of action."""

    layers: tuple[tuple[str, str | None], ...]
    activation: Activation
    inverse: Activation
    element: str
    residual: bool

    def act(self, x: Array, params: Params, lam: Mapping[str, Array]) -> Params:
        leaves, put = self._open(params)
        features = x.astype(leaves[0][0].dtype)
        for i in range(len(self.layers) - 1):
            t = lam[f"h{i + 1}"].astype(features.dtype)
            self._move(leaves, i, features, *self._pair(t))
            features = self.activation(self._before(leaves, i, features))
        return put(leaves)

    def undo(self, x: Array, params: Params, lam: Mapping[str, Array]) -> Params:
        """The inverse: the last hidden layer first, for then those below still have the inputs they had."""
        leaves, put = self._open(params)
        inputs = [x.astype(leaves[0][0].dtype)]
        for i in range(len(self.layers) - 2):
            inputs.append(self.activation(self._before(leaves, i, inputs[-1])))
        for i in reversed(range(len(self.layers) - 1)):
            g, back = self._pair(lam[f"h{i + 1}"].astype(inputs[i].dtype))
            self._move(leaves, i, inputs[i], back, g)
        return put(leaves)

    def _pair(self, t: Array) -> tuple[Array, Array]:
        """g and its inverse."""
        one = jnp.eye(len(t), dtype=t.dtype)
        if self.element == "exp":
            return jax.scipy.linalg.expm(t), jax.scipy.linalg.expm(-t)
        return one + t, one - t if self.element == "first_order" else jnp.linalg.inv(one + t)

    def _before(self, leaves: list[tuple[Array, Array]], i: int, features: Array) -> Array:
        return _dot(features, leaves[i][0]) + leaves[i][1]

    def _move(self, leaves: list, i: int, features: Array, g: Array, back: Array) -> None:
        (kernel, bias), (following, other) = leaves[i], leaves[i + 1]
        z = self._before(leaves, i, features)
        wanted = self.inverse(_dot(self.activation(z), g.T))
        kernel = kernel + _least(features, wanted - z) if self.residual else _least(features, wanted - bias)
        leaves[i], leaves[i + 1] = (kernel, bias), (_dot(back.T, following), other)

    def _open(self, params: Params) -> tuple[list[tuple[Array, Array]], Callable[[list], Params]]:
        """The kernels and biases in one dtype of at least float32, and how to put the kernels back."""
        flat, treedef = jax.tree.flatten(params)
        found = locate(leaf_paths(params), (p for pair in self.layers for p in pair if p is not None))
        wide = jnp.result_type(jnp.float32, *flat)

        def put(leaves: list[tuple[Array, Array]]) -> Params:
            new = list(flat)
            for (kernel, _), (path, _) in zip(leaves, self.layers, strict=True):
                new[found[path]] = kernel.astype(flat[found[path]].dtype)
            return jax.tree.unflatten(treedef, new)

        opened = []
        for kernel, bias in self.layers:
            k = jnp.asarray(flat[found[kernel]], wide)
            b = jnp.zeros((), wide) if bias is None else jnp.asarray(flat[found[bias]], wide)[None]
            opened.append((k, b))
        return opened, put


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def _least(h: Array, b: Array) -> Array:
    """The least X with h X = b, for h (k, d) of rank k <= d; of least squares for k > d."""
    k, d = h.shape
    if k > d:
        return _dot(jnp.linalg.pinv(h), b)
    q, r = jnp.linalg.qr(h.T)
    return _dot(q, jax.scipy.linalg.solve_triangular(r.T, b, lower=True))


def _checked_widths(params: Params, pairs: tuple, x: Array, residual: bool) -> list[int]:
    leaves = jax.tree.leaves(params)
    found = locate(leaf_paths(params), (p for pair in pairs for p in pair if p is not None))
    shapes = [jnp.shape(leaves[found[kernel]]) for kernel, _ in pairs]
    if jnp.ndim(x) != 2:
        raise ValueError(f"feature_action: x must have shape (k, n_0), got {jnp.shape(x)}")
    into = jnp.shape(x)[1]
    for (kernel, _), shape in zip(pairs, shapes, strict=True):
        if len(shape) != 2 or shape[0] != into:
            raise ValueError(f"leaf {kernel!r}: need a kernel of shape ({into}, out), got {shape}")
        into = shape[1]
    samples = jnp.shape(x)[0]
    for (kernel, _), shape in zip(pairs[:-1], shapes, strict=False):
        if residual and samples > shape[0]:
            raise ValueError(
                f"feature_action: {samples} samples, but {kernel!r} has {shape[0]} inputs: its outputs on more "
                "samples than inputs cannot be chosen. Take fewer samples"
            )
    return [shape[1] for shape in shapes[:-1]]
