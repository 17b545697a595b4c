"""A residual stack with RMS normalisation."""

import flax.linen as nn
from jax import Array

from eqtoolbox.zoo._activations import activation, require_positive


class RMSNet(nn.Module):
    r"""Residual blocks :math:`h \leftarrow h + \sigma(\mathrm{RMSNorm}(h)\, U)\, D`, no biases.

    ======================== ==============================
    parameter                shape
    ======================== ==============================
    ``embed/kernel``         ``(d_in, d)``
    ``norm_i/scale``         ``(d,)``, only with ``gain``
    ``up_i/kernel``          ``(d, ff)``
    ``down_i/kernel``        ``(ff, d)``
    ``norm/scale``           ``(d,)``, only with ``gain``
    ``head/kernel``          ``(d, features)``
    ======================== ==============================

    Without gain the residual stream carries O(d). With gain it carries permutations, one positive scaling per
    norm, and one sign more than that (the stream's own).

    Attributes:
      d: Width of the residual stream.
      ff: Width of the blocks.
      layers: Number of blocks.
      features: Width of the output.
      gain: Whether norms have a scale.
      activation: Name of the blocks' activation.
    """

    d: int = 7
    ff: int = 10
    layers: int = 2
    features: int = 3
    gain: bool = True
    activation: str = "silu"

    def __post_init__(self):
        require_positive(d=self.d, ff=self.ff, layers=self.layers, features=self.features)
        activation(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps inputs ``(..., d_in)`` to outputs ``(..., features)``."""
        sigma = activation(self.activation)
        h = nn.Dense(self.d, use_bias=False, name="embed")(x)
        for i in range(self.layers):
            y = nn.RMSNorm(use_scale=self.gain, name=f"norm_{i}")(h)
            y = sigma(nn.Dense(self.ff, use_bias=False, name=f"up_{i}")(y))
            h = h + nn.Dense(self.d, use_bias=False, name=f"down_{i}")(y)
        h = nn.RMSNorm(use_scale=self.gain, name="norm")(h)
        return nn.Dense(self.features, use_bias=False, name="head")(h)
