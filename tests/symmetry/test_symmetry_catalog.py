"""Every row and model of the catalogue: invariance, group axioms, generators, orbit dimension, wrong symmetries."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox.linalg import numerical_rank
from eqtoolbox.symmetry import catalog, generator_matrix

COUNT = 5
STEP = 1e-5
ELEMENTWISE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# Programs that run once: compiling them well would take longer than the rest of the test.
quick_jit = partial(jax.jit, compiler_options=ELEMENTWISE)


@partial(quick_jit, static_argnums=0)
def _draw(group, keys):
    return jax.vmap(group.sample)(keys)


@partial(quick_jit, static_argnums=0)
def _draw_vector(group, key):
    return group.algebra_sample(key)


def elements(symmetry, seed):
    """``COUNT`` elements, stacked; drawn group by group, so that a group compiles once for all models."""
    keys = jax.random.split(jax.random.key(seed), (max(1, len(symmetry.factors)), COUNT))
    return {f.key: _draw(f.group, k) for f, k in zip(symmetry.factors, keys, strict=False)}


def vector(symmetry, seed):
    keys = jax.random.split(jax.random.key(seed), max(1, len(symmetry.factors)))
    pairs = zip(symmetry.factors, keys, strict=False)
    return {f.key: _draw_vector(f.group, k) for f, k in pairs if f.group.dimension}


def distance(a, b):
    """The largest difference of two trees relative to the largest entry of the second; traced or not."""
    size = jnp.stack([jnp.max(jnp.abs(y)) for y in jax.tree.leaves(b)]).max()
    error = jnp.stack(
        [jnp.max(jnp.abs(x - y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    ).max()
    return error / size


def stacked_distance(stacked, single):
    """The largest ``distance`` of any entry of a stacked tree to a single one."""
    return jnp.max(jax.vmap(distance, (0, None))(stacked, single))


def measure(record, network=None):
    """All numbers about a record from one compiled program."""
    symmetry, apply = record.symmetry, record.apply
    continuous = not symmetry.is_discrete
    batches = record.inputs, record.draw(jax.random.key(11), 3)
    wrong = {description: elements(other, 5) for description, other in record.wrong}
    xi = vector(symmetry, 7) if continuous else {}

    def program(params, g, k, xi, wrong, batches):
        moved = jax.vmap(symmetry.act, (0, None))(g, params)
        inverse = jax.vmap(symmetry.inverse)(g)
        product = jax.vmap(symmetry.compose)(k, g)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (COUNT, *x.shape)), params)
        outputs = [apply(params, x) for x in batches]
        numbers = {
            "output": jnp.stack([jnp.max(jnp.abs(y)) for y in jax.tree.leaves(outputs)]).max(),
            "invariance": jnp.stack(
                [
                    stacked_distance(jax.vmap(apply, (0, None))(moved, x), y)
                    for x, y in zip(batches, outputs, strict=True)
                ]
            ),
            "move": stacked_distance(moved, params),
            "unit": distance(symmetry.act(symmetry.identity(), params), params),
            "product": distance(
                jax.vmap(symmetry.act)(k, moved), jax.vmap(symmetry.act, (0, None))(product, params)
            ),
            "inverse": distance(jax.vmap(symmetry.act)(inverse, moved), many),
            "member": jnp.all(jax.vmap(symmetry.contains)(product))
            & jnp.all(jax.vmap(symmetry.contains)(inverse)),
            "wrong": {},
        }
        if network is not None:
            x = batches[0]
            numbers["network"] = stacked_distance(jax.vmap(network, (0, None))(moved, x), network(params, x))
        for description, other in record.wrong:
            images = jax.vmap(other.act, (0, None))(wrong[description], params)
            changed = jax.vmap(apply, (0, None))(images, batches[0])
            numbers["wrong"][description] = stacked_distance(changed, outputs[0])
        if continuous:
            ahead, behind = (
                symmetry.act(symmetry.exp(jax.tree.map(lambda a, t=t: t * a, xi)), params)
                for t in (STEP, -STEP)
            )
            difference = jax.tree.map(lambda a, b: (a - b) / (2 * STEP), ahead, behind)
            numbers["generator"] = distance(symmetry.generator(xi, params), difference)
            numbers["matrix"] = generator_matrix(symmetry, params)
        return numbers

    found = quick_jit(program)(
        record.params, elements(symmetry, 1), elements(symmetry, 2), xi, wrong, batches
    )
    return jax.tree.map(np.asarray, found)


def check(record, found):
    """The assertions common to rows and models; returns the sizes of the errors of wrong symmetries."""
    assert found["output"] > 1e-3
    assert np.all(found["invariance"] <= 1e-10), f"not invariant: {found['invariance']}"
    assert found["move"] > 1e-2, "the elements do not move the parameters"
    assert found["unit"] <= 1e-15
    assert found["product"] <= 1e-11
    assert found["inverse"] <= 1e-11
    assert found["member"]
    if record.symmetry.is_discrete:
        assert record.orbit_dimension == 0
    else:
        assert found["generator"] <= 1e-8
        assert numerical_rank(found["matrix"]).rank == record.orbit_dimension
    for description, error in found["wrong"].items():
        print(f"{record.name}: {description}: relative error {error:.1e}")
        assert error > 1e-2, f"not rejected: {description}"


ROWS = [
    pytest.param(name, marks=pytest.mark.claim(f"DA-{name.split('/')[0]}", "DA-T1", "DA-T2", "DA-T5"))
    for name in catalog.row_names()
]


@pytest.mark.parametrize("name", ROWS)
def test_row_has_its_symmetry_and_no_wrong_one(name, x64, record_claim):
    (row,) = catalog.rows(name)
    found = measure(row, row.network)
    check(row, found)
    assert len(row.wrong) >= 1
    if row.kind == "network":
        assert found["network"] <= 1e-10
    else:
        assert found["network"] > 1e-2, "the function itself should change"
    record_claim("DA-T2", measured=found["invariance"].max(), expected="<= 1e-10")
    record_claim(f"DA-{row.id}", measured=found["invariance"].max(), expected="<= 1e-10")


@pytest.mark.claim("DA-T2")
@pytest.mark.parametrize("name", catalog.model_names())
def test_model_has_its_symmetry_and_orbit(name, x64):
    (model,) = catalog.models(name)
    check(model, measure(model))


def test_the_six_models_have_wrong_symmetries_to_reject():
    for model in catalog.models(*catalog.model_names()[:6]):
        assert len(model.wrong) >= 2
