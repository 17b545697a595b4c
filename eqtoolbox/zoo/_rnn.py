"""Recurrent networks with a readout."""

from types import MappingProxyType

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eqtoolbox.zoo._activations import require_positive

_CELLS = MappingProxyType(
    {
        "simple": nn.SimpleCell,
        "lstm": nn.LSTMCell,
        "optimized_lstm": nn.OptimizedLSTMCell,
        "gru": nn.GRUCell,
    }
)


class RNN(nn.Module):
    """Recurrent cell run over time by ``nn.RNN`` from a zero state, and a dense readout of the last state.

    Inputs must have the dtype of the parameters, for the state has the dtype of the inputs.

    ================================ ====================================================================
    parameter                        shape
    ================================ ====================================================================
    simple: ``cell/i``               kernel ``(d_in, hidden)``, bias ``(hidden,)``
    simple: ``cell/h``               kernel ``(hidden, hidden)``
    lstm: ``cell/i{i,f,g,o}``        kernel ``(d_in, hidden)``
    lstm: ``cell/h{i,f,g,o}``        kernel ``(hidden, hidden)``, bias ``(hidden,)``
    gru: ``cell/i{r,z,n}``           kernel ``(d_in, hidden)``, bias ``(hidden,)``
    gru: ``cell/h{r,z,n}``           kernel ``(hidden, hidden)``; ``hn`` alone has a bias ``(hidden,)``
    ``readout``                      kernel ``(hidden, features)``, bias ``(features,)``
    ================================ ====================================================================

    "optimized_lstm" has the parameters of "lstm".

    Attributes:
      cell: "simple", "lstm", "optimized_lstm" or "gru".
      hidden: Width of the state.
      features: Width of the output.
    """

    cell: str = "simple"
    hidden: int = 6
    features: int = 3

    def __post_init__(self):
        if self.cell not in _CELLS:
            raise ValueError(f"`cell` must be one of {sorted(_CELLS)}, got {self.cell!r}")
        require_positive(hidden=self.hidden, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps sequences ``(batch, length, d_in)`` to outputs ``(batch, features)``."""
        zeros = jnp.zeros((x.shape[0], self.hidden), x.dtype)
        carry = (zeros, zeros) if "lstm" in self.cell else zeros
        cell = _CELLS[self.cell](self.hidden, name="cell")
        states = jnp.asarray(nn.RNN(cell, name="rnn")(x, initial_carry=carry))
        return nn.Dense(self.features, name="readout")(states[:, -1])
