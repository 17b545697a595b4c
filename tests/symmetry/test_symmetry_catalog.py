"""Every row and model of the catalogue: invariance, group axioms, generators, orbit dimension, wrong symmetries.

The action is the same under vmap, pmap and shard_map (of every eighth entry: `tests/meta` has every public function).

Elements are drawn with NumPy, independently of the library. What is compiled runs once, so it is compiled quickly.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from catalog_tools import COUNT, distance, elements, flat, output_change, quick_jit, repeated
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from eqtoolbox.linalg import numerical_rank
from eqtoolbox.symmetry import catalog, generator_matrix

STEP = 1e-3


def axiom_errors(symmetry, act, params):
    """Largest errors of the unit, the product and the inverse; and the moved parameters."""

    @quick_jit
    def operations(g, k):
        def one(a, b):
            product, inverse = symmetry.compose(b, a), symmetry.inverse(a)
            return product, inverse, symmetry.contains(product) & symmetry.contains(inverse)

        return *jax.vmap(one)(g, k), symmetry.identity()

    g, k, many = elements(symmetry, 1), elements(symmetry, 2), repeated(params)
    moved = act(g, many)
    product, inverse, member, unit = operations(g, k)
    assert np.all(member), "products and inverses are elements"
    errors = {
        "unit": distance(act(repeated(unit), many), many),
        "product": distance(act(product, many), act(k, moved)),
        "inverse": distance(act(inverse, moved), many),
    }
    return errors, jax.device_get(moved)


def devices_error(symmetry, params, moved):
    """The largest difference between ``moved`` and the same members spread over devices, one on each."""
    g, many = elements(symmetry, 1), repeated(params)
    mesh = jax.make_mesh((COUNT,), ("member",), axis_types=(AxisType.Auto,), devices=jax.devices()[:COUNT])

    @partial(jax.shard_map, mesh=mesh, in_specs=P("member"), out_specs=P("member"))
    def spread(g, many):
        return jax.vmap(symmetry.act)(g, many)

    sharded = quick_jit(spread)(g, many)
    assert all(len(leaf.sharding.device_set) == COUNT for leaf in jax.tree.leaves(sharded))
    return max(distance(sharded, moved), distance(jax.pmap(symmetry.act)(g, many), moved))


def generator_error(symmetry, act, params):
    """The error of a random generator against finite differences of order four; the matrix of generators."""
    rng = np.random.default_rng(3)
    zero = jax.eval_shape(symmetry.zero_algebra)
    xi = jax.tree.map(lambda z: 0.5 * rng.standard_normal(z.shape), zero)
    curve = act(
        quick_jit(jax.vmap(lambda t: symmetry.exp(jax.tree.map(lambda x: t * x, xi))))(
            STEP * np.arange(-2, 3.0)
        ),
        repeated(params),
    )
    stencil = np.array([1, -8, 0, 8, -1]) / (12 * STEP)
    difference = jax.tree.map(lambda x: np.tensordot(stencil, x, 1), jax.device_get(curve))
    matrix = np.asarray(quick_jit(partial(generator_matrix, symmetry))(params))
    return distance(flat(xi) @ matrix, flat(difference)), matrix


def check(record, devices):
    """All assertions on a row or a model, ``devices`` with those that need several; returns the largest error of
    invariance and the moved parameters."""
    symmetry, params = record.symmetry, record.params
    act = quick_jit(jax.vmap(symmetry.act))
    errors, moved = axiom_errors(symmetry, act, params)
    assert distance(moved, repeated(params)) > 1e-2, "the elements do not move the parameters"
    assert errors["unit"] <= 1e-15
    assert max(errors.values()) <= 1e-11, errors
    if devices:
        assert devices_error(symmetry, params, moved) <= 1e-14, "pmap and shard_map"

    apply = quick_jit(jax.vmap(record.apply, (0, None)))
    worst = 0.0
    for inputs in (record.inputs, record.draw(jax.random.key(11), 3)):
        error, size = output_change(apply, params, moved, inputs)
        assert size > 1e-3, "the outputs vanish"
        worst = max(worst, error)
    assert worst <= 1e-10, f"not invariant: relative error {worst:.1e}"

    for description, other in record.wrong:
        images = quick_jit(jax.vmap(other.act, (0, None)))(elements(other, 5), params)
        error, _ = output_change(apply, params, images, record.inputs)
        print(f"{record.name}: {description}: relative error {error:.1e}")
        assert error > 1e-2, f"not rejected: {description}"

    if symmetry.is_discrete:
        assert record.orbit_dimension == 0
    else:
        error, matrix = generator_error(symmetry, act, params)
        assert error <= 1e-9, f"generator against finite differences: {error:.1e}"
        assert numerical_rank(matrix).rank == record.orbit_dimension
    return worst, moved


ON_DEVICES = {*catalog.row_names()[::8], *catalog.model_names()[::8]}
ROWS = [
    pytest.param(
        name,
        marks=pytest.mark.claim(
            f"DA-{name.split('/')[0]}",
            *("DA-T1", "DA-T2", "DA-T5", "DC-T1.1"),
            *(["DC-T1.2"] if name.startswith("S2/") else []),
        ),
    )
    for name in catalog.row_names()
]


@pytest.mark.parametrize("name", ROWS)
def test_row_has_its_symmetry_and_no_wrong_one(name, x64, record_claim):
    (row,) = catalog.rows(name)
    assert row.wrong
    worst, moved = check(row, name in ON_DEVICES)
    network = quick_jit(jax.vmap(row.network, (0, None)))
    if row.kind == "network":
        assert row.network is row.apply
    else:
        change, _ = output_change(network, row.params, moved, row.inputs)
        assert change > 1e-2, "the network itself should change"
    for claim in (f"DA-{row.id}", "DA-T2"):
        record_claim(claim, measured=worst, expected="<= 1e-10")


@pytest.mark.claim("DA-T1", "DA-T2")
@pytest.mark.parametrize("name", catalog.model_names())
def test_model_has_its_symmetry_and_orbit(name, x64):
    (model,) = catalog.models(name)
    assert model.wrong or name not in catalog.model_names()[:6]
    check(model, name in ON_DEVICES)
