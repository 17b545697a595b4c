"""One symmetry for the parameters of any framework: paths decide, not tree structures."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

from eqtoolbox import Symmetry
from eqtoolbox.groups import Permutation

P = {"h": jnp.asarray([2, 0, 3, 1])}
GROUPS = {"h": Permutation(4)}


def same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(4, name="first")(x)))


def test_linen_parameters():
    model, x = Linen(), jnp.ones((3, 5))
    variables = model.init(jax.random.key(0), x)
    sym = Symmetry({"first": {"kernel": "_ h", "bias": "h"}, "Dense_0": {"kernel": "h _"}}, GROUPS)
    moved = {"params": sym.act(P, variables["params"])}
    np.testing.assert_allclose(model.apply(moved, x), model.apply(variables, x), rtol=1e-6)
    same(sym.at("params").act(P, variables), moved)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 4, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))


NNX_AXES = {"first": {"kernel": "_ h", "bias": "h"}, "last": {"kernel": "h _"}}


def test_nnx_states_raw_and_pure():
    """The paths of a raw state end in /value, those of its pure dict do not: labels of one fit the other."""
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    pure, x = nnx.to_pure_dict(state), jnp.ones((3, 5))
    sym = Symmetry(NNX_AXES, GROUPS)
    moved = sym.act(P, state)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    np.testing.assert_allclose(nnx.merge(graph, moved)(x), nnx.merge(graph, state)(x), rtol=1e-6)
    same(nnx.to_pure_dict(moved), sym.act(P, pure))

    suffixed = Symmetry({f"{path}/value": label for path, label in sym.axes.items()}, GROUPS)
    same(suffixed.act(P, pure), sym.act(P, pure))
    same(suffixed.act(P, state), moved)

    rules = [("first/kernel", "_ h"), ("first/bias", "h"), ("last/kernel", "h _")]
    assert Symmetry.from_rules(state, rules, GROUPS) == sym == Symmetry.from_rules(pure, rules, GROUPS)


def test_a_leaf_that_is_called_value_keeps_its_name():
    """Attention with bare arrays: 'value' is a leaf, not the ending of a raw state."""
    params = {"attention": {"query": jnp.ones((2, 4)), "value": jnp.arange(8.0).reshape(2, 4)}}
    sym = Symmetry.from_rules(params, [("attention/value", "_ h")], GROUPS)
    assert sym.axes == {"attention/value": "_ h"}
    moved = sym.act(P, params)
    np.testing.assert_array_equal(moved["attention"]["value"], params["attention"]["value"][:, P["h"]])
    np.testing.assert_array_equal(moved["attention"]["query"], 1)


class Tuple(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


@struct.dataclass
class Dataclass:
    kernel: jax.Array
    bias: jax.Array


KERNEL, BIAS = jnp.arange(8.0).reshape(2, 4), jnp.arange(4.0)


@pytest.mark.parametrize(
    ("params", "axes"),
    [
        ([KERNEL, BIAS], ["_ h", "h"]),
        ((KERNEL, (BIAS,)), {"0": "_ h", "1": ("h",)}),
        (Tuple(KERNEL, BIAS), {"kernel": "_ h", "bias": "h"}),
        (Dataclass(KERNEL, BIAS), {"kernel": "_ h", "bias": "h"}),
        ({"net": [Dataclass(KERNEL, BIAS)]}, {"net/0/kernel": "_ h", "net/0/bias": "h"}),
        (KERNEL, "_ h"),
        (np.asarray(KERNEL), "_ h"),
    ],
    ids=["list", "nested tuple", "namedtuple", "dataclass", "mixed", "bare array", "numpy"],
)
def test_any_pytree(params, axes):
    sym = Symmetry(axes, GROUPS)
    sym.check(params)
    same(sym.act(P, params), jax.tree.map(lambda leaf: leaf[..., P["h"]], params))


def test_empty_nodes_and_none_are_left_alone():
    params = {"w": KERNEL, "none": None, "empty": {}, "list": []}
    moved = Symmetry({"w": "_ h"}, GROUPS).act(P, params)
    assert (moved["none"], moved["empty"], moved["list"]) == (None, {}, [])
