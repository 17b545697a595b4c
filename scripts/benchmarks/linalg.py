"""Curvature products against plain JAX, measured in one process with interleaved repeats."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from benchmarks.timing import Row, interleaved

from eqtoolbox.linalg import hvp, hvp_fn, random_like, random_stack

WIDTHS = (784, 512, 512, 10)
BATCH = 512
VECTORS = 8


def _mlp(key: jax.Array):
    """Parameters of a tanh MLP and its mean cross-entropy on a random batch."""
    *layer_keys, x_key, y_key = jax.random.split(key, len(WIDTHS) + 1)
    params = [
        {"kernel": jax.random.normal(k, (m, n)) / m**0.5, "bias": jnp.zeros(n)}
        for k, m, n in zip(layer_keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]
    x = jax.random.normal(x_key, (BATCH, WIDTHS[0]))
    y = jax.random.randint(y_key, (BATCH,), 0, WIDTHS[-1])

    def loss(params, x, y):
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        logits = x @ params[-1]["kernel"] + params[-1]["bias"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

    return loss, params, x, y


def bench(repeats: int = 15) -> list[Row]:
    """Hessian products of an MLP 784-512-512-10 against ``jax.jvp(jax.grad(loss))``."""
    loss, params, x, y = _mlp(jax.random.key(0))
    vector = random_like(jax.random.key(1), params)
    stack = random_stack(jax.random.key(2), params, VECTORS)

    def plain(v, params, x, y):
        return jax.jvp(jax.grad(lambda p: loss(p, x, y)), (params,), (v,))[1]

    def one(v, params, x, y):
        return hvp(lambda p: loss(p, x, y), params, v)

    def linearised(v, params, x, y):
        return hvp_fn(lambda p: loss(p, x, y), params)(v)

    def product(matvec, v):
        return matvec(v)

    def turns(matvec, stack):
        return jax.lax.map(matvec, stack)

    def plain_turns(stack, params, x, y):
        return jax.lax.map(lambda v: plain(v, params, x, y), stack)

    reused = jax.jit(lambda params, x, y: hvp_fn(lambda p: loss(p, x, y), params))(params, x, y)
    once = [(vector, params, x, y)] * 2
    cases = [
        ("hvp, one vector", one, plain, *once),
        ("hvp_fn made anew, one vector", linearised, plain, *once),
        ("hvp_fn reused, one vector", product, plain, (reused, vector), once[0]),
        (
            f"hvp_fn reused, {VECTORS} vectors in turn",
            turns,
            plain_turns,
            (reused, stack),
            (stack, params, x, y),
        ),
    ]
    rows = []
    for name, ours, reference, our_args, reference_args in cases:
        t = interleaved(
            {
                "ours": functools.partial(jax.jit(ours), *our_args),
                "reference": functools.partial(jax.jit(reference), *reference_args),
            },
            repeats,
        )
        rows.append(Row(name, t["ours"], t["reference"], "jax.jvp(jax.grad)", 1.1))
    return rows
