"""Convolutional networks on channel-last images: a plain CNN and a residual net."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eqtoolbox.zoo._activations import require_positive, require_widths


class CNN(nn.Module):
    """Conv, ReLU, average pool, conv, ReLU, max pool, flatten, dense, ReLU, dense.

    Convolutions are 3 x 3 with the padding "SAME"; both pools halve the image.

    ==================== ==================================================================
    parameter            shape
    ==================== ==================================================================
    ``Conv_0/kernel``    ``(3, 3, c_in, channels[0])``
    ``Conv_0/bias``      ``(channels[0],)``
    ``Conv_1/kernel``    ``(3, 3, channels[0], channels[1])``
    ``Conv_1/bias``      ``(channels[1],)``
    ``Dense_0/kernel``   ``(height // 4 * width // 4 * channels[1], hidden)``, axis 0
                         being (height, width, channel) in row-major order
    ``Dense_0/bias``     ``(hidden,)``
    ``Dense_1/kernel``   ``(hidden, features)``
    ``Dense_1/bias``     ``(features,)``
    ==================== ==================================================================

    Attributes:
      channels: Widths of the two convolutions, two integers.
      hidden: Width of the hidden dense layer.
      features: Width of the output.
    """

    channels: tuple[int, ...] = (5, 6)
    hidden: int = 9
    features: int = 3

    def __post_init__(self):
        require_widths("channels", self.channels, least=2)
        if len(self.channels) > 2:
            raise ValueError(f"`channels` must have two entries, got {self.channels!r}")
        require_positive(hidden=self.hidden, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images ``(batch, height, width, c_in)`` to outputs ``(batch, features)``."""
        x = nn.relu(nn.Conv(self.channels[0], (3, 3), name="Conv_0")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(self.channels[1], (3, 3), name="Conv_1")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.hidden, name="Dense_0")(x))
        return nn.Dense(self.features, name="Dense_1")(x)


_NORMS = ("batch", "group", None)


class ResidualBlock(nn.Module):
    r"""Residual block :math:`\mathrm{relu}(s(h) + n_1(c_1(\mathrm{relu}(n_0(c_0(h))))))`.

    The shortcut s is the identity or, where the width changes and the image is halved, a 1 x 1 convolution.

    ======================= ================================================================
    parameter               shape
    ======================= ================================================================
    ``conv_0/kernel``       ``(3, 3, c_in, features)``
    ``norm_0/{scale,bias}`` ``(features,)``; none without ``norm``
    ``conv_1/kernel``       ``(3, 3, features, features)``
    ``norm_1/{scale,bias}`` ``(features,)``; none without ``norm``
    ``shortcut/kernel``     ``(1, 1, c_in, features)``, where the width changes
    ``conv_i/bias``         ``(features,)``, only without ``norm``
    ======================= ================================================================

    Attributes:
      features: Number of channels.
      norm: "batch", "group" or None.
      groups: Number of groups of a group normalisation.
    """

    features: int
    norm: str | None = "batch"
    groups: int = 2

    @nn.compact
    def __call__(self, h: Array, train: bool = False) -> Array:
        """Maps ``(batch, height, width, c_in)`` to ``(batch, height', width', features)``."""
        widens = h.shape[-1] != self.features
        strides = (2, 2) if widens else (1, 1)
        bias = self.norm is None
        y = nn.Conv(self.features, (3, 3), strides, use_bias=bias, name="conv_0")(h)
        y = nn.relu(self._normalise(y, "norm_0", train))
        y = nn.Conv(self.features, (3, 3), use_bias=bias, name="conv_1")(y)
        y = self._normalise(y, "norm_1", train)
        if widens:
            h = nn.Conv(self.features, (1, 1), strides, use_bias=False, name="shortcut")(h)
        return nn.relu(h + y)

    def _normalise(self, y: Array, name: str, train: bool) -> Array:
        if self.norm == "batch":
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)(y)
        if self.norm == "group":
            return nn.GroupNorm(num_groups=self.groups, name=name)(y)
        return y


class ResNet(nn.Module):
    """Residual net: stem convolution, ReLU, residual blocks, global average pool, dense head.

    ========================== ==========================================================
    parameter                  shape
    ========================== ==========================================================
    ``stem/kernel``            ``(3, 3, c_in, widths[0])``
    ``stem/bias``              ``(widths[0],)``, only without ``norm``
    ``block_i/...``            as in ``ResidualBlock`` with ``features=widths[i + 1]``
    ``head/kernel``            ``(widths[-1], features)``
    ``head/bias``              ``(features,)``
    ========================== ==========================================================

    With ``norm="batch"`` the collection ``batch_stats`` holds ``block_i/norm_j/{mean,var}`` of shape
    ``(widths[i + 1],)``: evaluate with ``apply({"params": ..., "batch_stats": ...}, x)`` and train with
    ``apply(variables, x, train=True, mutable=["batch_stats"])``. Stem and shortcut are not normalised, so
    that each space of channels carries one normalised convolution.

    Attributes:
      widths: Channels of the stem and of each block.
      features: Width of the output.
      norm: "batch", "group" or None.
      groups: Number of groups of a group normalisation; divides every block's width.
    """

    widths: tuple[int, ...] = (4, 4, 6)
    features: int = 3
    norm: str | None = "batch"
    groups: int = 2

    def __post_init__(self):
        require_widths("widths", self.widths)
        require_positive(features=self.features, groups=self.groups)
        if self.norm not in _NORMS:
            raise ValueError(f"`norm` must be one of {_NORMS}, got {self.norm!r}")
        if self.norm == "group" and any(width % self.groups for width in self.widths[1:]):
            raise ValueError(
                f"`groups` must divide every block width, got {self.groups} for {self.widths[1:]}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images ``(batch, height, width, c_in)`` to outputs ``(batch, features)``."""
        h = nn.relu(nn.Conv(self.widths[0], (3, 3), use_bias=self.norm is None, name="stem")(x))
        for i, width in enumerate(self.widths[1:]):
            h = ResidualBlock(width, self.norm, self.groups, name=f"block_{i}")(h, train)
        return nn.Dense(self.features, name="head")(jnp.mean(h, axis=(1, 2)))
