"""Networks of dense layers: MLP (a deep linear network included), SwiGLU and LoRA."""

import flax.linen as nn
from jax import Array

from eqtoolbox.zoo._activations import activation, require_positive, require_widths


class MLP(nn.Module):
    r"""Multilayer perceptron :math:`h_l = \sigma(h_{l-1} W_l + b_l)`; the last layer has no activation.

    With ``activation="linear"`` it is a deep linear network.

    ======================== =========================================
    parameter                shape
    ======================== =========================================
    ``Dense_i/kernel``       ``(features[i-1], features[i])``
    ``Dense_i/bias``         ``(features[i],)``
    ======================== =========================================

    Layers are numbered in the order of the data, from 0; ``features[-1]`` above is the width of the input.

    Attributes:
      features: Width of each layer; the last is the output.
      activation: Name of the activation, see ``activations``.
      use_bias: Whether layers have biases.
    """

    features: tuple[int, ...] = (7, 6, 3)
    activation: str = "tanh"
    use_bias: bool = True

    def __post_init__(self):
        require_widths("features", self.features)
        activation(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps inputs ``(..., d_0)`` to outputs ``(..., features[-1])``."""
        sigma = activation(self.activation)
        for i, width in enumerate(self.features):
            if i:
                x = sigma(x)
            x = nn.Dense(width, use_bias=self.use_bias, name=f"Dense_{i}")(x)
        return x


class SwiGLU(nn.Module):
    r"""Gated layer :math:`(\mathrm{silu}(x W_g) \odot x W_l)\, W_o`.

    ======================== ==========================
    parameter                shape
    ======================== ==========================
    ``gate/kernel``          ``(d_in, hidden)``
    ``linear/kernel``        ``(d_in, hidden)``
    ``out/kernel``           ``(hidden, features)``
    ``*/bias``               only with ``use_bias``
    ======================== ==========================

    Attributes:
      hidden: Width of the gated layer.
      features: Width of the output.
      use_bias: Whether the three layers have biases.
    """

    hidden: int = 7
    features: int = 3
    use_bias: bool = False

    def __post_init__(self):
        require_positive(hidden=self.hidden, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps inputs ``(..., d_in)`` to outputs ``(..., features)``."""
        gate = nn.silu(nn.Dense(self.hidden, use_bias=self.use_bias, name="gate")(x))
        linear = nn.Dense(self.hidden, use_bias=self.use_bias, name="linear")(x)
        return nn.Dense(self.features, use_bias=self.use_bias, name="out")(gate * linear)


class LoRADense(nn.Module):
    r"""Dense layer with a low-rank adapter, :math:`y = x W + b + x A B`.

    ============ =======================
    parameter    shape
    ============ =======================
    ``kernel``   ``(d_in, features)``
    ``bias``     ``(features,)``
    ``lora_a``   ``(d_in, rank)``
    ``lora_b``   ``(rank, features)``
    ============ =======================

    Attributes:
      features: Width of the output.
      rank: Rank of the adapter.

    Reference:
      Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), equation 3.
    """

    features: int
    rank: int = 2

    def __post_init__(self):
        require_positive(features=self.features, rank=self.rank)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps inputs ``(..., d_in)`` to outputs ``(..., features)``."""
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        lora_a = self.param("lora_a", init, (x.shape[-1], self.rank))
        lora_b = self.param("lora_b", nn.initializers.zeros_init(), (self.rank, self.features))
        base = x @ kernel
        return base + bias.reshape((1,) * (base.ndim - 1) + (-1,)) + (x @ lora_a) @ lora_b


class LoRAMLP(nn.Module):
    """Multilayer perceptron of ``LoRADense`` layers.

    ============================================== ==================================
    parameter                                      shape
    ============================================== ==================================
    ``Dense_i/{kernel,bias,lora_a,lora_b}``        as in ``LoRADense``
    ============================================== ==================================

    Attributes:
      features: Width of each layer; the last is the output.
      rank: Rank of every adapter.
      activation: Name of the activation, see ``activations``.
    """

    features: tuple[int, ...] = (7, 3)
    rank: int = 2
    activation: str = "gelu"

    def __post_init__(self):
        require_widths("features", self.features)
        require_positive(rank=self.rank)
        activation(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps inputs ``(..., d_0)`` to outputs ``(..., features[-1])``."""
        sigma = activation(self.activation)
        for i, width in enumerate(self.features):
            if i:
                x = sigma(x)
            x = LoRADense(width, self.rank, name=f"Dense_{i}")(x)
        return x
