"""A small network with a linear and a ReLU layer, its symmetry and data, for the tests of charges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqtoolbox import Symmetry, groups

IN, H, K, OUT, EXAMPLES = 5, 4, 6, 3, 40
AXES = {"w1": "_ h", "b1": "h", "w2": "h* k", "b2": "k", "w3": "k* _"}
SYM = Symmetry(AXES, {"h": groups.GeneralLinear(H), "k": groups.Monomial(K, 1)})
SHAPES = {"w1": (IN, H), "b1": (H,), "w2": (H, K), "b2": (K,), "w3": (K, OUT)}


def problem(dtype=None, seed=0):
    """(params, batch)."""
    rng = np.random.default_rng(seed)
    params = {n: rng.normal(size=s) / (s[0] if len(s) > 1 else 9) ** 0.5 for n, s in SHAPES.items()}
    batch = (rng.normal(size=(EXAMPLES, IN)), rng.normal(size=(EXAMPLES, OUT)))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype or jnp.result_type(float)), (params, batch))


def batch_loss(p, batch):
    x, y = batch
    z = x @ p["w1"] + jnp.broadcast_to(p["b1"], (len(x), H))
    z = jax.nn.relu(z @ p["w2"] + jnp.broadcast_to(p["b2"], (len(x), K)))
    return jnp.mean(jnp.sum((z @ p["w3"] - y) ** 2, -1))


def train(tx, params, batch, steps, size=8, seed=0, state=None):
    """SGD on random mini-batches: (params, state)."""

    def step(carry, key):
        p, state = carry
        i = jax.random.choice(key, EXAMPLES, (size,), replace=False)
        grads = jax.grad(batch_loss)(p, jax.tree.map(lambda a: a[i], batch))
        updates, state = tx.update(grads, state, p)
        return (optax.apply_updates(p, updates), state), None

    start = (params, tx.init(params) if state is None else state)
    return jax.lax.scan(step, start, jax.random.split(jax.random.key(seed), steps))[0]


def apart(a, b):
    """The largest difference of two trees relative to the largest entry of the second."""
    pairs = list(zip(*(jax.tree.leaves(jax.device_get(tree)) for tree in (a, b)), strict=True))
    size = max(float(np.max(np.abs(y))) for _, y in pairs)
    return max(float(np.max(np.abs(x - y))) for x, y in pairs) / size
