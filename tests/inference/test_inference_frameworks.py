"""The same groups whichever library a model is written in: Flax NNX, haiku-style dicts, modules that are pytrees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from eqtoolbox import infer_symmetry

ACTIVATIONS = {
    "mlp_tanh": jnp.tanh,
    "mlp_sin": jnp.sin,
    "mlp_softsign": jax.nn.soft_sign,
    "mlp_hard_tanh": jax.nn.hard_tanh,
    "mlp_relu": jax.nn.relu,
    "mlp_leaky_relu": jax.nn.leaky_relu,
    "mlp_gelu": jax.nn.gelu,
    "mlp_silu": jax.nn.silu,
}
#: Groups of the two hidden layers of 7 and 6 units.
HIDDEN = {
    "mlp_tanh": "B({n})", "mlp_sin": "B({n})", "mlp_softsign": "B({n})", "mlp_hard_tanh": "B({n})",
    "mlp_relu": "S({n})⋉R₊^{n}", "mlp_leaky_relu": "S({n})⋉R₊^{n}", "mlp_gelu": "S({n})", "mlp_silu": "S({n})",
}  # fmt: skip


def functional(module: nnx.Module, *kinds: Any):
    """A module as (apply, parameters as a pure dict)."""
    graph, state, rest = nnx.split(module, kinds or nnx.Param, ...)

    def apply(params, *inputs):
        at = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(at, params)
        return nnx.merge(graph, at, rest)(*inputs)

    return apply, nnx.to_pure_dict(state)


def groups(apply, params, *shape):
    x = jax.random.normal(jax.random.key(0), shape)
    return sorted(str(g) for g in infer_symmetry(apply, params, x).groups.values())


class Perceptron(nnx.Module):
    def __init__(self, activation, rngs):
        self.layers = nnx.List([nnx.Linear(m, n, rngs=rngs) for m, n in ((4, 7), (7, 6), (6, 3))])
        self.activation = activation

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Convolutions(nnx.Module):
    """As the row "CNN": conv 5, relu, average, conv 6, relu, maximum, flatten, dense 9, relu, dense 3."""

    def __init__(self, rngs):
        self.conv0 = nnx.Conv(1, 5, (3, 3), rngs=rngs)
        self.conv1 = nnx.Conv(5, 6, (3, 3), rngs=rngs)
        self.dense0 = nnx.Linear(24, 9, rngs=rngs)
        self.dense1 = nnx.Linear(9, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.conv0(x)), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), strides=(2, 2))
        return self.dense1(nnx.relu(self.dense0(x.reshape(x.shape[0], -1))))


class Normalised(nnx.Module):
    """A convolution with batch normalisation in front of ReLU and a dense layer."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(jnp.mean(nnx.relu(self.norm(self.conv(x))), (1, 2)))


class Block(nnx.Module):
    """A residual stream of 8 with attention and a perceptron, as in the untied transformer of the catalogue."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.position = nnx.Param(jax.random.normal(rngs.params(), (5, 8)))
        self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs) for _ in range(3)])
        self.attention = nnx.MultiHeadAttention(
            num_heads=3, in_features=8, qkv_features=6, decode=False, rngs=rngs
        )
        self.up, self.down = nnx.Linear(8, 10, rngs=rngs), nnx.Linear(10, 8, rngs=rngs)
        self.head = nnx.Linear(8, 11, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.position[...][None]
        x = x + self.attention(self.norms[0](x))
        x = x + self.down(nnx.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x))


class Recurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn = nnx.RNN(cell(4, 6, rngs=rngs))
        self.head = nnx.Linear(6, 3, rngs=rngs)
        self.parts = 2 if "LSTM" in cell.__name__ else 1

    def __call__(self, x):
        zero = jnp.zeros((x.shape[0], 6))
        carry = (zero, zero) if self.parts == 2 else zero
        return self.head(self.rnn(x, initial_carry=carry)[:, -1])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_perceptrons(name):
    apply, params = functional(Perceptron(ACTIVATIONS[name], nnx.Rngs(0)))
    assert groups(apply, params, 5, 4) == sorted(HIDDEN[name].format(n=n) for n in (7, 6))


def test_convolutions():
    apply, params = functional(Convolutions(nnx.Rngs(0)))
    assert groups(apply, params, 2, 8, 8, 1) == ["S(5)⋉R₊^5", "S(6)⋉R₊^6", "S(9)⋉R₊^9"]


def test_batch_normalisation_with_its_statistics():
    """Two scalings and a sign per channel where the running statistics move along; where they stay, one scaling."""
    module = Normalised(nnx.Rngs(0))
    module.norm.mean[...] = jnp.arange(5.0)
    apply, params = functional(module, nnx.Param, nnx.BatchStat)
    assert groups(apply, params, 2, 6, 6, 1) == ["S(5)⋉(R₊^2×Z₂)^5"]
    assert groups(*functional(module), 2, 6, 6, 1) == ["R₊^5"]


def test_transformer_block():
    apply, params = functional(Block(nnx.Rngs(0)))
    tokens = jnp.asarray([[1, 2, 3, 4, 10], [0, 5, 6, 7, 9]])
    sym = infer_symmetry(apply, params, tokens)
    found = sorted(str(g) for g in sym.groups.values())
    assert found == sorted(["(GL(2)×GL(2))≀S(3)", "S(10)", "S(8)⋉(R₊^3×Z₂^3)^8"])
    assert sym.dimension == 3 * 2 * 4 + 3 * 8


@pytest.mark.parametrize("cell", [nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_recurrent_cells(cell):
    apply, params = functional(Recurrent(cell, nnx.Rngs(0)))
    assert groups(apply, params, 2, 5, 4) == ["B(6)"]


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["activation"])
@dataclass
class Linear:
    """A module that is a pytree, as in Equinox."""

    weight: jax.Array
    bias: jax.Array
    activation: Any = None

    def __call__(self, x):
        y = x @ self.weight.T + self.bias[None]
        return y if self.activation is None else self.activation(y)


def test_modules_that_are_pytrees():
    """Kernels stored as (out, in): the axes say nothing of which is which, the program does."""
    keys = jax.random.split(jax.random.key(0), 2)
    model = [
        Linear(jax.random.normal(keys[0], (7, 4)), jnp.ones(7), jax.nn.relu),
        Linear(jax.random.normal(keys[1], (3, 7)), jnp.ones(3)),
    ]
    sym = infer_symmetry(lambda model, x: model[1](model[0](x)), model, jnp.ones((5, 4)))
    assert [str(g) for g in sym.groups.values()] == ["S(7)⋉R₊^7"]
    assert sym.axes["0/weight"].startswith("h")
    assert sym.axes["1/weight"].endswith("h1*")


def test_haiku_style_dicts():
    params = {
        "mlp/~/linear_0": {"w": jnp.ones((4, 7)), "b": jnp.ones(7)},
        "mlp/~/linear_1": {"w": jnp.ones((7, 3)), "b": jnp.ones(3)},
    }

    def apply(params, x):
        first, second = params.values()
        return jnp.tanh(x @ first["w"] + first["b"][None]) @ second["w"] + second["b"][None]

    sym = infer_symmetry(apply, params, jnp.ones((5, 4)))
    assert [str(g) for g in sym.groups.values()] == ["B(7)"]
    assert "mlp/~/linear_1/w" in sym.axes
