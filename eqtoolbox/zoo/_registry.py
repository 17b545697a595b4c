"""The zoo's models as ready examples: a module, generic parameters, inputs, and the function they define."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.zoo._conv import CNN, ResNet
from eqtoolbox.zoo._mlp import MLP, LoRAMLP, SwiGLU
from eqtoolbox.zoo._rms import RMSNet
from eqtoolbox.zoo._rnn import RNN
from eqtoolbox.zoo._transformer import Attention, FusedQKVAttention, Transformer

PyTree = Any


class Example(NamedTuple):
    """A model at a generic point.

    Attributes:
      module: The Flax module.
      params: What symmetries act on: the collection ``params`` of the module, or
        ``{"params": ..., "batch_stats": ...}`` where it has running statistics.
      inputs: A batch of inputs.
      apply: The function ``apply(params, inputs) -> outputs``, in inference mode; hashable, and equal for
        equal modules, so that ``jax.jit`` compiles it once.
    """

    module: nn.Module
    params: PyTree
    inputs: Array
    apply: Callable[[PyTree, Array], Array]


class Builder(Protocol):
    """Builds an example, see ``build``."""

    def __call__(
        self, key: Array, *, batch: int = 8, dtype: Any = None, scale: float = 0.3, **settings: Any
    ) -> Example: ...


@dataclass(frozen=True)
class Apply:
    """The function ``(params, inputs) -> outputs`` of a module, computed in the dtype of the parameters.

    Floating-point inputs are cast to the dtype of the parameters; a cast to the same dtype leaves no trace.

    Attributes:
      module: The Flax module.
      collections: Whether ``params`` are whole variables, keyed by collection, or the collection ``params``.
    """

    module: nn.Module
    collections: bool = False

    def __call__(self, params: PyTree, inputs: Array) -> Array:
        """The module's outputs for a batch of inputs."""
        inputs = jnp.asarray(inputs)
        if jnp.issubdtype(inputs.dtype, jnp.floating):
            inputs = inputs.astype(jnp.result_type(*jax.tree.leaves(params)))
        variables = params if self.collections else {"params": params}
        return self.module.apply(variables, inputs)  # pyright: ignore[reportReturnType]


def _standard_normal(key: Array, like: PyTree) -> PyTree:
    """Standard normal numbers in the shapes and dtypes of a tree: one draw, cut up (quick to compile)."""
    leaves, treedef = jax.tree.flatten(like)
    draw = jnp.promote_types(jnp.float32, jnp.result_type(*(leaf.dtype for leaf in leaves)))
    flat = jax.random.normal(key, (sum(leaf.size for leaf in leaves),), draw)
    ends = list(accumulate(leaf.size for leaf in leaves))
    pieces = jnp.split(flat, ends[:-1])
    return treedef.unflatten(
        [x.reshape(leaf.shape).astype(leaf.dtype) for x, leaf in zip(pieces, leaves, strict=True)]
    )


def _map_named(function: Callable[..., Array], *trees: PyTree) -> PyTree:
    """Maps over leaves with the last name of their path as the first argument."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(jax.tree_util.keystr(path[-1:], simple=True), *leaves), *trees
    )


def perturb(key: Array, params: PyTree, scale: float = 0.3) -> PyTree:
    r"""Moves parameters to a generic point, where no bias is zero and no gain is one.

    Every leaf becomes :math:`\theta + s\,\epsilon` with standard normal :math:`\epsilon`; a leaf named
    ``var`` stays positive as :math:`\theta e^{s\epsilon}`.

    Args:
      key: Typed random key.
      params: A pytree of floating-point arrays.
      scale: The standard deviation s.

    Returns:
      A pytree of the same structure, shapes and dtypes.
    """

    def move(name: str, leaf: Array, noise: Array) -> Array:
        noise = jnp.asarray(scale, leaf.dtype) * noise
        return leaf * jnp.exp(noise) if name == "var" else leaf + noise

    return _map_named(move, params, _standard_normal(key, params))


def _initial(key: Array, shapes: PyTree) -> PyTree:
    """Ones for leaves ``scale`` or ``var``, zeros for ``bias`` or ``mean``, N(0, 1/fan-in) for the rest."""

    def fill(name: str, leaf: Array) -> Array:
        if name in ("scale", "var"):
            return jnp.ones_like(leaf)
        if name in ("bias", "mean"):
            return jnp.zeros_like(leaf)
        return leaf / math.sqrt(max(1, math.prod(leaf.shape[:-1])))

    return _map_named(fill, _standard_normal(key, shapes))


def _normal(*shape: int) -> Callable[[Array, int, nn.Module], Array]:
    return lambda key, batch, module: jax.random.normal(key, (batch, *shape), jnp.float32)


def _tokens(key: Array, batch: int, module: nn.Module) -> Array:
    return jax.random.randint(key, (batch, module.length), 0, module.vocab)  # pyright: ignore


def _build(
    make: Callable[..., nn.Module],
    inputs: Callable[[Array, int, nn.Module], Array],
    key: Array,
    *,
    batch: int = 8,
    dtype: Any = None,
    scale: float = 0.3,
    **settings: Any,
) -> Example:
    module = make(**settings)
    init_key, noise_key, data_key = jax.random.split(key, 3)
    dtype = jnp.float32 if dtype is None else dtype
    x = inputs(data_key, batch, module)
    variables = jax.eval_shape(module.init, init_key, x)
    collections = set(variables) != {"params"}
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
        variables if collections else variables["params"],
    )
    point = jax.jit(lambda init_key, noise_key: perturb(noise_key, _initial(init_key, shapes), scale))
    x = x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return Example(module, point(init_key, noise_key), x, Apply(module, collections))


_VECTOR, _IMAGE, _SEQUENCE = _normal(4), _normal(8, 8, 1), _normal(5, 4)

_MODELS: Mapping[str, tuple[Callable[..., nn.Module], Callable[[Array, int, nn.Module], Array]]] = {
    "mlp": (MLP, _VECTOR),
    "mlp_relu": (partial(MLP, activation="relu"), _VECTOR),
    "mlp_gelu": (partial(MLP, activation="gelu"), _VECTOR),
    "mlp_square": (partial(MLP, activation="square", use_bias=False), _VECTOR),
    "mlp_radial": (partial(MLP, activation="radial"), _VECTOR),
    "deep_linear": (partial(MLP, activation="linear", use_bias=False), _VECTOR),
    "deep_linear_bias": (partial(MLP, activation="linear"), _VECTOR),
    "swiglu": (SwiGLU, _VECTOR),
    "lora": (LoRAMLP, _VECTOR),
    "cnn": (CNN, _IMAGE),
    "resnet_batch": (partial(ResNet, norm="batch"), _IMAGE),
    "resnet_group": (partial(ResNet, norm="group"), _IMAGE),
    "resnet": (partial(ResNet, norm=None), _IMAGE),
    "transformer": (Transformer, _tokens),
    "transformer_tied": (partial(Transformer, tied=True), _tokens),
    "transformer_scan": (partial(Transformer, tied=True, scan=True, layers=3, heads=2, head_dim=3), _tokens),
    "attention": (Attention, _tokens),
    "fused_qkv": (FusedQKVAttention, _SEQUENCE),
    "rnn_simple": (partial(RNN, cell="simple"), _SEQUENCE),
    "rnn_lstm": (partial(RNN, cell="lstm"), _SEQUENCE),
    "rnn_gru": (partial(RNN, cell="gru"), _SEQUENCE),
    "rms": (partial(RMSNet, gain=False), _VECTOR),
    "rms_gain": (partial(RMSNet, gain=True), _VECTOR),
}


def models() -> Mapping[str, Builder]:
    """The builders of all examples, by name.

    Returns:
      A read-only mapping from name to ``builder(key, *, batch, dtype, scale, **settings) -> Example``.
    """
    return MappingProxyType({name: partial(_build, *entry) for name, entry in _MODELS.items()})


def build(
    name: str, key: Array, *, batch: int = 8, dtype: Any = None, scale: float = 0.3, **settings: Any
) -> Example:
    """Builds an example by name: module, generic parameters, inputs and function.

    Args:
      name: One of ``models()``.
      key: Typed random key.
      batch: Number of inputs.
      dtype: Floating-point dtype of parameters and inputs; float32 by default.
      scale: Size of the perturbation of the initial parameters, see ``perturb``.
      **settings: Attributes of the module that replace those of the example, such as ``activation="relu"``.

    Returns:
      The example.

    Raises:
      ValueError: If there is no model of that name, or ``batch`` is not positive.

    Example:
      >>> import jax
      >>> from eqtoolbox import zoo
      >>> module, params, inputs, apply = zoo.build("mlp", jax.random.key(0))
      >>> apply(params, inputs).shape
      (8, 3)
    """
    if name not in _MODELS:
        raise ValueError(f"`name` must be one of {sorted(_MODELS)}, got {name!r}")
    if batch < 1:
        raise ValueError(f"`batch` must be positive, got {batch!r}")
    return models()[name](key, batch=batch, dtype=dtype, scale=scale, **settings)
