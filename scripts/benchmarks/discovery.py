"""Null spaces of a digits model with 1e5 parameters: seconds and memory by the number of generators.

The model is a ReLU network 64 - 256 - 256 - 64 - 10 with biases on digits, 99530 parameters in float32; the equations
are made in float64. The reference of a row is the singular value decomposition of a dense square matrix of as many
columns, which there is no way around once the equations are there. Another row compares the processor time with two
minutes on two cores, and has a bar. Printed on the way: what is found, and the peak of memory.

Then 100 random models, with none, one or two planted symmetries: how many are found, and how many that are not there.
"""

from __future__ import annotations

import itertools
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.timing import Row

import eqtoolbox as eqt
from eqtoolbox import discovery

WIDTHS = (64, 256, 256, 64, 10)
#: Units of each space with full matrices; seconds of processor time that a family may take; models.
UNITS, LIMIT, MODELS = 13, 240.0, 100


def network(params, x):
    """ReLU between layers."""
    for i in range(len(WIDTHS) - 1):
        x = (jax.nn.relu(x) if i else x) @ params[f"w{i}"] + params[f"b{i}"][None]
    return x


def start(key):
    """Weights of variance 2 / fan-in, and small biases."""
    params = {}
    for i, (a, b) in enumerate(itertools.pairwise(WIDTHS)):
        k_w, k_b = jax.random.split(jax.random.fold_in(key, i))
        params[f"w{i}"] = jax.random.normal(k_w, (a, b)) * (2 / a) ** 0.5
        params[f"b{i}"] = jax.random.normal(k_b, (b,)) * 0.1
    return params


def families(params):
    """One generator per unit of each axis; full matrices on sampled units. Nearly 2000 each."""
    yield "one per unit", discovery.axis_family(params, kind="diagonal")
    yield "matrices on units", discovery.axis_family(params, units=UNITS, key=jax.random.key(1))


def bench() -> list[Row]:
    params, x = start(jax.random.key(0)), jnp.asarray(eqt.zoo.digits().train_x[:64])
    size = sum(p.size for p in jax.tree.leaves(params))
    rows = []
    for words, family in families(params):
        begin, cpu = time.perf_counter(), time.process_time()
        found = discovery.null_space(family, network, params, x, key=jax.random.key(2))
        seconds, used = time.perf_counter() - begin, time.process_time() - cpu
        begin = time.perf_counter()
        np.linalg.svd(np.random.default_rng(0).normal(size=(family.dimension,) * 2))
        dense = time.perf_counter() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{size} parameters, {family}: {found.dimension} symmetries, {found.trivial} trivial, gap {found.gap:.1e}, "
            f"{seconds:.0f} s, {used:.0f} s of processor time, peak {memory:.1f} GiB"
        )
        name = f"{family.dimension} generators ({words}) of {size} parameters"
        rows.append(Row(name, seconds, dense, "singular values of a dense square matrix"))
        rows.append(Row(f"{name}: processor time", used, LIMIT, "two minutes on two cores", 1.0))
    try:
        discovery.null_space(discovery.axis_family(params), network, params, x, key=jax.random.key(3))
    except ValueError as error:
        print(error)
    found, missed, wrong = planted(MODELS)
    print(
        f"{MODELS} random models: {found} planted symmetries found, {missed} missed, {wrong} found that are not there"
    )
    return rows


def planted(models: int) -> tuple[int, int, int]:
    """Symmetries found, missed, and found falsely, in models with 0 to 2 planted ones; their spans are compared."""
    rng, params = np.random.default_rng(5), {"theta": jnp.ones(6)}
    family = discovery.linear_family(params)
    scale, turn = np.zeros((6, 6)), np.zeros((6, 6))
    scale[0, 0], scale[1, 1], turn[2, 3], turn[3, 2] = 1, -1, -1, 1
    right = missed = wrong = 0
    for i in range(models):
        q = rng.normal(size=(6, 6)) + 2 * np.eye(6)
        on = rng.integers(0, 2, size=2)
        own = (
            q,
            *on.astype(float),
            rng.normal(size=(5, 6)),
            rng.normal(size=(5, 3)),
            rng.normal(size=(3, 5)),
        )
        inputs = (rng.normal(size=(4, 3)), *(np.broadcast_to(a, (4, *np.shape(a))) for a in own))
        found = discovery.null_space(
            family, hidden, params, inputs, key=jax.random.key(i), definition="data_dependent"
        )
        there = [np.linalg.solve(q, g @ q).ravel() for g, flag in zip((scale, turn), on, strict=True) if flag]
        span = np.linalg.qr(np.array(there).T)[0] if there else np.zeros((36, 0))
        caught = np.linalg.svd(found.vectors @ span, compute_uv=False) if there and found.dimension else []
        hits = int(np.sum(np.asarray(caught) > 1 - 1e-9))
        right, missed, wrong = right + hits, missed + len(there) - hits, wrong + found.dimension - hits
    return right, missed, wrong


def hidden(params, inputs):
    """A network of z = Qθ that reads z0 z1 and z2² + z3² alone where these are planted."""

    def one(x, q, scaling, rotation, b, c, d):
        z = q @ params["theta"]
        features = jnp.stack(
            [z[0] * z[1], (1 - scaling) * z[0], z[2] ** 2 + z[3] ** 2, (1 - rotation) * z[2], z[4], z[5]]
        )
        return d @ jnp.tanh(b @ features + c @ x)

    return jax.vmap(one)(*inputs)
