"""The zoo's models as ready examples: a module, generic parameters, inputs, and the function they define."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.zoo._activations import require_positive
from eqtoolbox.zoo._conv import CNN, ResNet
from eqtoolbox.zoo._dataset import float_dtype
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


@runtime_checkable
class Builder(Protocol):
    """Builds an example, see ``build``."""

    def __call__(
        self, key: Array, *, batch: int = 8, dtype: Any = jnp.float32, scale: float = 0.3, **settings: Any
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
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    if not leaves:
        return params
    sizes = [leaf.size for _, leaf in leaves]
    draw = jnp.promote_types(jnp.float32, jnp.result_type(*(leaf.dtype for _, leaf in leaves)))
    # One draw, cut up, compiles in a fraction of the time of one draw for every leaf.
    pieces = jnp.split(scale * jax.random.normal(key, (sum(sizes),), draw), list(accumulate(sizes))[:-1])

    def move(path: tuple, leaf: Array, piece: Array) -> Array:
        noise = piece.reshape(leaf.shape).astype(leaf.dtype)
        return leaf * jnp.exp(noise) if _last(path) == "var" else leaf + noise

    return treedef.unflatten(
        [move(path, leaf, piece) for (path, leaf), piece in zip(leaves, pieces, strict=True)]
    )


def _last(path: tuple) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _generic(rng: np.random.Generator, shapes: PyTree, scale: float, dtype: Any) -> PyTree:
    """Parameters near usual initial values, and at none; drawn on the host, so that nothing is compiled."""

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
        noise = rng.standard_normal(leaf.shape)
        match _last(path):
            case "var":
                value = np.exp(scale * noise)
            case "scale":
                value = 1 + scale * noise
            case "bias" | "mean":
                value = scale * noise
            case _:
                value = math.sqrt(1 / max(1, math.prod(leaf.shape[:-1])) + scale**2) * noise
        return jnp.asarray(np.asarray(value, dtype))

    return jax.tree_util.tree_map_with_path(draw, shapes)


Inputs = Callable[[np.random.Generator, int, nn.Module], np.ndarray]


def _normal(*shape: int) -> Inputs:
    return lambda rng, batch, module: rng.standard_normal((batch, *shape))


def _tokens(rng: np.random.Generator, batch: int, module: nn.Module) -> np.ndarray:
    return rng.integers(module.vocab, size=(batch, module.length))  # pyright: ignore[reportAttributeAccessIssue]


def _build(
    make: Callable[..., nn.Module],
    inputs: Inputs,
    key: Array,
    *,
    batch: int = 8,
    dtype: Any = jnp.float32,
    scale: float = 0.3,
    **settings: Any,
) -> Example:
    require_positive(batch=batch)
    dtype = float_dtype(dtype)
    module = make(**settings)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    x = inputs(rng, batch, module)
    x = jnp.asarray(x.astype(dtype if x.dtype == np.float64 else np.int32))
    # The shapes do not depend on the dtype, and initialisers make float32.
    traced = jax.ShapeDtypeStruct(x.shape, jnp.float32 if x.dtype == dtype else x.dtype)
    variables = jax.eval_shape(module.init, jax.eval_shape(jax.random.key, 0), traced)
    collections = set(variables) != {"params"}
    params = _generic(rng, variables if collections else variables["params"], scale, dtype)
    return Example(module, params, x, Apply(module, collections))


_VECTOR, _IMAGE, _SEQUENCE = _normal(4), _normal(8, 8, 1), _normal(5, 4)

_MODELS: Mapping[str, tuple[Callable[..., nn.Module], Inputs]] = {
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
    name: str, key: Array, *, batch: int = 8, dtype: Any = jnp.float32, scale: float = 0.3, **settings: Any
) -> Example:
    """Builds an example by name: module, generic parameters, inputs and function.

    Kernels are N(0, 1/n + scale²), n the product of all axes but the last; biases and running means are
    N(0, scale²), gains N(1, scale²), and running variances log-normal. They are drawn on the host, so that
    building compiles nothing; use ``module.init`` for a model's own initial distribution.

    Args:
      name: One of ``models()``.
      key: Typed random key, not traced.
      batch: Number of inputs.
      dtype: Floating-point dtype of parameters and inputs.
      scale: How far the parameters are from usual initial values.
      **settings: Attributes of the module that replace those of the example, such as ``activation="relu"``.

    Returns:
      The example.

    Raises:
      ValueError: If there is no model of that name, ``batch`` is not positive, or ``dtype`` needs 64-bit.

    Example:
      >>> import jax
      >>> from eqtoolbox import zoo
      >>> module, params, inputs, apply = zoo.build("mlp", jax.random.key(0))
      >>> apply(params, inputs).shape
      (8, 3)
    """
    if name not in _MODELS:
        raise ValueError(f"`name` must be one of {sorted(_MODELS)}, got {name!r}")
    return models()[name](key, batch=batch, dtype=dtype, scale=scale, **settings)
