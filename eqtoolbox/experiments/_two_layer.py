"""Two-layer networks U σ(V) on whitened inputs, X = I, for experiments on charges of element-wise activations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.noether import activation_charge

Params = dict[str, Array]

#: σ of the figures of Zhao (2026), chapter 2.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "ReLU": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def draw_weights(key: Array, outputs: int, hidden: int, inputs: int) -> tuple[Params, Array]:
    """Standard normal U (outputs, hidden) and V (hidden, inputs), and a target Y (outputs, inputs)."""
    u, v, y = jax.random.split(key, 3)
    params = {"U": jax.random.normal(u, (outputs, hidden)), "V": jax.random.normal(v, (hidden, inputs))}
    return params, jax.random.normal(y, (outputs, inputs))


def squared_error(activation: Callable[[Array], Array], params: Params, target: Array) -> Array:
    """‖Y - U σ(V)‖², the sum over all entries."""
    return jnp.sum((target - params["U"] @ activation(params["V"])) ** 2)


def total_charge(activation: Callable[[Array], Array], params: Params) -> Array:
    """Q = ½ Tr UᵀU - Σ ∫₀^V σ/σ'."""
    return jnp.sum(activation_charge(activation, params["V"], params["U"]))
