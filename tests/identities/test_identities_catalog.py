"""The identities for every row of the catalogue, for attention and for a residual network; wrong symmetries fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit, random_element

from eqtoolbox import identities
from eqtoolbox.symmetry import catalog

TOLERANCE = 1e-9
DISCRETE = ("S4/tanh", "S4/sin", "S8/pointwise", "S9/radial_basis")
ROWS = [name for name in catalog.row_names() if name not in DISCRETE]
THREE = (identities.first_order, identities.second_order, identities.quadratic)


def record(name):
    found = catalog.rows(name) if name in catalog.row_names() else catalog.models(name)
    return found[0]


def output_loss(outputs):
    """Smooth, without a symmetry of its own."""
    leaves = [jnp.ravel(y) for y in jax.tree.leaves(outputs)]
    return sum(jnp.sum(jnp.sin(y) + y**2 * jnp.linspace(0.5, 1.5, y.size)) for y in leaves)


def measure(entry, symmetry, wanted):
    zero = jax.eval_shape(symmetry.zero_algebra)
    rng = np.random.default_rng(3)
    directions = jax.tree.map(lambda z: rng.standard_normal((2, *z.shape)), zero)

    @quick_jit
    def run(params, inputs, directions):
        def model(params):
            return entry.apply(params, inputs)

        return [identity(symmetry, model, output_loss, params, directions=directions) for identity in wanted]

    return jax.device_get(run(entry.params, entry.inputs, directions))


@pytest.mark.claim("EQ-T1-i", "EQ-T1-ii", "EQ-T1-iii")
@pytest.mark.parametrize("name", [*ROWS, "attention", "resnet"])
def test_identities_of_the_catalogue(name, x64):
    entry = record(name)
    first, second, form = measure(entry, entry.symmetry, THREE)
    assert np.all(first.rhs == 0)
    for result in (first, second, form):
        assert result.residual.shape == (2,)
        assert result.residual.max() < TOLERANCE
        assert np.all(result.solve_residual == 0)
    for term in "ACDE":
        assert all(not np.any(x) for x in jax.tree.leaves((second.terms[term], form.terms[term])))


@pytest.mark.claim("EQ-T1-i", "EQ-T1-ii")
@pytest.mark.parametrize("name", ["S1/linear", "S3/relu2", "S10/attention"])
def test_a_wrong_symmetry_fails(name, x64):
    entry = record(name)
    _, wrong = entry.wrong[0]
    first, second = measure(entry, wrong, THREE[:2])
    assert first.residual.min() > 1e-3
    assert second.residual.min() > 1e-3


@pytest.mark.claim("EQ-T2-i", "EQ-T2-ii")
@pytest.mark.parametrize("name", DISCRETE)
def test_rows_without_generators(name, x64):
    """A random element at a point it moves, and one of order two at a fixed point of it."""
    entry = record(name)
    rng = np.random.default_rng(6)
    random = {f.key: random_element(f.group, rng) for f in entry.symmetry.factors}
    # A product of two transpositions or sign flips: an involution of every group of signs and permutations.
    identity = jax.device_get(entry.symmetry.identity())
    involution = jax.tree.map(lambda x: x.copy(), identity)
    leaf = jax.tree.leaves(involution)[0]
    leaf[..., :4] = -leaf[..., :4] if leaf.dtype == np.int8 else leaf[..., [1, 0, 3, 2]]

    @quick_jit
    def run(g, h, params, inputs):
        arguments = (lambda p: entry.apply(p, inputs), output_loss)
        fixed = identities.project_fixed(entry.symmetry, h, params)
        elements = jax.tree.map(lambda a, b: jnp.stack([jnp.asarray(a), jnp.asarray(b)]), g, h)
        points = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, fixed)
        return jax.vmap(lambda e, p: identities.discrete(entry.symmetry, e, *arguments, p))(elements, points)

    found = run(random, involution, entry.params, entry.inputs)
    assert found.distance[0] > 0.1
    assert found.distance[1] == 0
    assert found.first.residual.max() < TOLERANCE
    assert found.second.residual.max() < TOLERANCE
    assert all(not jnp.any(x) for x in jax.tree.leaves(found.second.terms["correction"]))
