"""Derivatives of functions of the spectrum, values that are not finite, devices, notes, and shrinkage by iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commutant_brute import mlp
from jax.sharding import NamedSharding, PartitionSpec

from eqtoolbox import Symmetry, groups
from eqtoolbox.curvature import Commutant


@pytest.fixture
def com():
    return Commutant(*mlp((2, 3, 1), groups.Permutation))


def gradient(com, seed=0):
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=shape), jnp.zeros(()).dtype) for path, shape in com.leaves}


def test_derivative_of_a_function_of_the_spectrum(com, x64):
    """In the blocks and in a number the function uses, against differences; a Hessian through it."""
    blocks = jax.tree.map(jnp.add, com.gram(gradient(com)), com.identity())
    blocks["h1: standard"] += jnp.diag(jnp.arange(4.0))  # for the second derivative eigenvalues must differ
    step = com.gram(gradient(com, 1))

    def root(t, power):
        moved = jax.tree.map(lambda b, s: b + t * s, blocks, step)
        return com.apply(lambda w: w**power, moved, damping=0.0)["h1: standard"]

    h = 1e-5
    by_blocks, by_power = jax.jit(jax.jacfwd(root, (0, 1)))(0.0, -0.5)
    run = jax.jit(root)
    np.testing.assert_allclose(by_blocks, (run(h, -0.5) - run(-h, -0.5)) / (2 * h), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        by_power, (run(0, -0.5 + h) - run(0, -0.5 - h)) / (2 * h), rtol=1e-6, atol=1e-9
    )
    at = jax.jit(jax.hessian(lambda t: jnp.sum(root(t, 2.0))))(0.0)
    np.testing.assert_allclose(at, 2 * np.sum(step["h1: standard"] @ step["h1: standard"]), rtol=1e-6)


def test_derivative_where_all_eigenvalues_coincide(com, x64):
    """tr √A at the identity has the gradient d/2, where the derivative of eigenvectors does not exist."""
    slope = jax.jit(jax.grad(lambda b: com.trace(com.apply(jnp.sqrt, b))))(com.identity())
    for c in com.components:
        np.testing.assert_allclose(slope[c.name], c.dimension / 2 * np.eye(c.multiplicity), atol=1e-12)


def test_derivative_of_a_preconditioned_gradient(com, x64):
    """Through gram, apply and matvec at once, against a difference."""

    def energy(t):
        g = jax.tree.map(lambda a, b: a + t * b, gradient(com), gradient(com, 1))
        out = com.matvec(com.apply(lambda w: (w + 0.1) ** -0.5, com.gram(g), damping=0.0), g)
        return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(g), strict=True))

    slope, run, h = jax.jit(jax.grad(energy))(0.0), jax.jit(energy), 1e-5
    np.testing.assert_allclose(slope, (run(h) - run(-h)) / (2 * h), rtol=1e-7)


def test_a_gradient_of_zeros_stays_zero(com):
    zero = jax.tree.map(jnp.zeros_like, gradient(com))
    run = jax.jit(lambda g: com.apply(lambda w: w**-0.5, com.gram(g), full=True))
    root, info = run(zero)
    assert int(info.total) == com.size
    for leaf in jax.tree.leaves(jax.jit(com.matvec)(root, zero)):
        np.testing.assert_array_equal(leaf, 0)


def test_numbers_that_are_not_finite(com):
    g = gradient(com)
    message = "leaf 'w1' must be finite, got {} numbers that are not"
    for bad in (np.inf, np.nan):
        g["w1"] = g["w1"].at[0, 1].set(bad)
        with pytest.raises(ValueError, match=message.format(1)):
            com.gram(g)
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), g)
    for call in (com.covariance, com.explained):
        with pytest.raises(ValueError, match=message.format(2)):
            call(stack)
    blocks = {c.name: jnp.full((c.multiplicity,) * 2, bad) for c in com.components}
    for call in (lambda b: com.apply(jnp.sqrt, b), com.trace):
        with pytest.raises(ValueError, match=r"the blocks must be finite, got '.*' = "):
            call(blocks)
    with pytest.raises(ValueError, match="the estimate must be finite"):
        com.hessian(lambda p: jnp.sum(p["w1"] ** 2) * bad, gradient(com), exact=True, batch_size=None)
    traced = jax.jit(com.gram)(g)  # passes on
    assert not np.isfinite(traced["h1: standard"]).all()


def test_input_spread_over_devices():
    com = Commutant(*mlp((2, 8, 3), groups.Permutation))
    g = gradient(com)
    mesh = jax.make_mesh((4,), ("units",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = {"w1": PartitionSpec(None, "units"), "b1": PartitionSpec("units"), "w2": PartitionSpec("units")}
    spread = {k: jax.device_put(x, NamedSharding(mesh, specs.get(k, PartitionSpec()))) for k, x in g.items()}

    @jax.jit
    def step(g):
        blocks = com.gram(g)
        return blocks, com.matvec(com.apply(lambda w: w**-0.5, blocks, damping=0.1), g)

    for a, b in zip(jax.tree.leaves(step(g)), jax.tree.leaves(step(spread)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_what_acts_through_a_smaller_group_is_said():
    whole = Commutant(*mlp((2, 3, 1), groups.GeneralLinear))
    assert "GL(3) has no invariant distribution: it acts through O(3)" in str(whole)
    small = Commutant(*mlp((2, 3, 1), groups.Orthogonal))
    assert "no invariant distribution" not in str(small)
    assert whole == small


def test_no_trivial_component(x64):
    com = Commutant(Symmetry({"w": "h"}, {"h": groups.Orthogonal(3)}), {"w": jnp.ones(3)})
    assert [c.name for c in com.components] == ["h: vector"]
    stack = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))}
    np.testing.assert_array_equal(com.mean(stack).value["w"], 0)
    np.testing.assert_allclose(com.covariance(stack).value["h: vector"], np.mean(stack["w"] ** 2), rtol=1e-12)


def test_parameters_without_leaves():
    with pytest.raises(ValueError, match="the parameters have no leaves"):
        Commutant(Symmetry({}, {}), {})


def test_diagonal_axes_of_several_sizes():
    """Without a name each block of a direct sum has its own; with one name they must agree."""
    sym = Symmetry({"w": "(h + 10 + 12)"}, {"h": groups.Permutation(3)})
    com = Commutant(sym, {"w": jnp.ones(25)}, diagonal_above=5)
    assert sum(c.size for c in com.components) == com.size
    assert com.num_factors == 1 + 1 + 10 + 12
    sym = Symmetry({"w": "h v", "u": "v h"}, {"h": groups.Permutation(3)})
    shapes = {"w": jnp.ones((3, 7)), "u": jnp.ones((6, 3))}
    with pytest.raises(ValueError, match="along 'v': it has size 6 on leaf 'u' and size 7 on leaf 'w'"):
        Commutant(sym, shapes, diagonal=["v"])


def test_products_that_are_not_known_are_refused():
    """Characters of signs inside units that are permuted, on two axes of one leaf."""
    group = groups.Wreath(groups.SignFlip(2), groups.Permutation(2))
    sym = Symmetry({"q": "(h d) (h d)"}, {("h", "d"): group})
    with pytest.raises(ValueError, match=r"leaf 'q': .* acts twice on one block, .* not known here"):
        Commutant(sym, {"q": jnp.ones((4, 4))})


def test_oracle_shrinkage_is_the_limit_of_its_iteration(x64):
    """Equation (23) of Chen et al. is the fixed point of the oracle formula fed with its own estimate, (19)-(20)."""
    com = Commutant(Symmetry({"w": "h _"}, {"h": groups.SignedPermutation(3)}), {"w": jnp.ones((3, 4))})
    raw = com.gram(gradient(com), None)
    shrunk, weights = com.shrink(raw, 2)
    (name,) = raw
    s, n, m = np.asarray(raw[name]), 2 * 3, 4
    target, found, weight = np.trace(s) / m * np.eye(m), s, 0.0
    for _ in range(200):
        cross, square = np.trace(found @ s), np.trace(found) ** 2
        weight = min(1, ((1 - 2 / m) * cross + square) / ((n + 1 - 2 / m) * cross + (1 - n / m) * square))
        found = (1 - weight) * s + weight * target
    assert 0.1 < weight < 1
    np.testing.assert_allclose(weights[name], weight, rtol=1e-10)
    np.testing.assert_allclose(shrunk[name], found, rtol=1e-10, atol=1e-12)


def test_ledoit_wolf_of_single_numbers_is_that_of_scikit_learn(x64):
    """Leaves that no symmetry touches: one sample for each gradient, as elsewhere."""
    covariance = pytest.importorskip("sklearn.covariance")
    com = Commutant(Symmetry({"w": "_"}, {}), {"w": jnp.ones(4)})
    rows = np.random.default_rng(0).normal(size=(9, 4)) * np.linspace(1, 2, 4)
    shrunk, weights = com.shrunk_gram({"w": jnp.asarray(rows)})
    expected, weight = covariance.ledoit_wolf(rows, assume_centered=True)
    np.testing.assert_allclose(weights["trivial"], weight, rtol=1e-10)
    np.testing.assert_allclose(shrunk["trivial"], expected, rtol=1e-10)
