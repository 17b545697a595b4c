"""Cocycles c(g, Z): equations 2.4, 2.9, 2.54, A.11, A.17-A.20, Example A.3.7, and errata E6, E10, E22, E25.

Samples are rows here, columns in the text: ``sigma(z) @ c.T`` is c sigma(z).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eqtoolbox import zoo
from eqtoolbox.symmetry._cocycles import (
    Laws,
    batch_cocycle,
    linear_cocycle,
    pseudo_inverse_map,
    rotation_cocycle,
)
from eqtoolbox.symmetry._rotations import inverse_rotation_to, rotation_to

TOLERANCE = 1e-10
SLOPE = 0.3


def leaky(z):
    return jnp.maximum(z, 0) + SLOPE * jnp.minimum(z, 0)


ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "leaky_relu": leaky}
seeds = st.integers(0, 2**31 - 1)


def draw(seed, k, h, count=2):
    """Elements of GL(h) of condition number at most 4, and pre-activations of k samples; on the host."""
    rng = np.random.default_rng(seed)
    frames = [np.linalg.qr(rng.normal(size=(h, h)))[0] for _ in range(2 * count)]
    elements = [
        q * np.exp(rng.uniform(-0.69, 0.69, h)) @ r for q, r in zip(frames[::2], frames[1::2], strict=True)
    ]
    return *elements, rng.normal(size=(k, h))


@functools.partial(jax.jit, static_argnums=0)
def both(c, gs, zs):
    """c and its inverse, for stacks of four."""
    return jax.vmap(lambda g, z: (c(g, z), c.inverse(g, z)))(gs, zs)


def measured(make, name, k, h, seed):
    """Errors of the three identities and of the inverse, and the worst condition number of the features."""
    c = make(ACTIVATIONS[name])
    a, b, z = draw(seed, k, h)
    bz, one = z @ b.T, np.eye(h)
    with jax.enable_x64(True):
        stacks = np.stack([one, b, a, a @ b]), np.stack([z, z, bz, z])
        (unit, c_b, c_a, c_ab), (_, undo, _, _) = (np.asarray(m) for m in both(c, *stacks))
        features, moved, last = (np.asarray(c.activation(y)) for y in (z, bz, bz @ a.T))
    product = c_a @ c_b
    return {
        "unit": np.abs(unit - one).max(),
        "composition": np.abs(product - c_ab).max() / np.abs(product).max(),
        "equivariance": np.abs(features @ c_b.T - moved).max() / np.abs(moved).max(),
        "undone": np.abs(moved @ undo.T - features).max() / np.abs(features).max(),
        "inverse": np.abs(undo @ c_b - one).max(),
        "condition": max(np.linalg.cond(f) for f in (features, moved, last)),
    }


@pytest.mark.claim("DA-T13", "DA-T17")
@settings(max_examples=30)
@given(case=st.sampled_from([("leaky_relu", 1), ("sigmoid", 2), ("tanh", 5)]), seed=seeds)
def test_rotation_cocycle_satisfies_the_three_identities(case, seed):
    name, h = case
    errors = measured(rotation_cocycle, name, 1, h, seed)
    errors.pop("condition")
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.claim("DA-T13")
def test_equation_a17_from_the_matrices_alone(x64):
    g, z = draw(3, 1, 5, count=1)
    a, b = jnp.tanh(z[0]), jnp.tanh(g @ z[0])
    np.testing.assert_allclose(rotation_to(b) @ inverse_rotation_to(a) @ a, b, atol=1e-15)
    c = rotation_cocycle(jnp.tanh)
    np.testing.assert_allclose(c(g, z[0]), rotation_to(b) @ inverse_rotation_to(a), atol=1e-14)
    # The operator norm of c is |sigma(gz)| / |sigma(z)|.
    ratio = jnp.linalg.norm(b) / jnp.linalg.norm(a)
    assert jnp.linalg.norm(c(g, z[0]), 2) == pytest.approx(float(ratio), rel=1e-13)


@pytest.mark.claim("DA-T17")
@settings(max_examples=30)
@given(case=st.sampled_from([("sigmoid", 1, 5), ("tanh", 3, 5), ("leaky_relu", 5, 5)]), seed=seeds)
def test_batch_cocycle_satisfies_the_three_identities(case, seed):
    errors = measured(batch_cocycle, *case, seed)
    assume(errors.pop("condition") < 1e4)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.claim("DA-T18", "DA-E10")
def test_common_activations_do_not_keep_rank(x64):
    numbers = np.array([[0.2, 0.4], [0.4, 0.8]])
    cases = {
        "sigmoid": (np.log(numbers / (1 - numbers)), -2.0862),
        "tanh": (np.arctanh(numbers), 0.0432),
        "leaky_relu": (np.array([[SLOPE, -1.0], [-1.0, SLOPE]]), SLOPE**2 - 1),
    }
    for name, (z, determinant) in cases.items():
        assert np.linalg.det(z) == pytest.approx(determinant, abs=5e-5)
        assert np.linalg.det(ACTIVATIONS[name](z)) == pytest.approx(0, abs=1e-15)
        c = batch_cocycle(ACTIVATIONS[name])
        g = jnp.array([[2.0, 1.0], [0.0, 1.0]])
        assert not c.defined(g, z)
        assert np.isnan(c(g, z)).all()
    # The other two printed forms: -s min is |.| shaped, sz min(0, z) + z max(0, z) is quadratic.
    z = cases["leaky_relu"][0]
    assert np.linalg.det(SLOPE * z * np.minimum(0, z) + z * np.maximum(0, z)) == pytest.approx(
        -0.0819, abs=1e-10
    )
    a26 = np.maximum(z, 0) - SLOPE * np.minimum(z, 0)
    assert (a26 > 0).all()
    # A.2.6 also breaks what it is printed for only when s is read with a sign: Euler's identity holds for both.
    np.testing.assert_allclose(np.asarray(jax.vmap(jax.vmap(jax.grad(leaky)))(jnp.asarray(z))) * z, leaky(z))


@pytest.mark.claim("DA-E22")
def test_lemma_a36_needs_full_rank(x64):
    # A non-zero Z of rank 1 with sigma(Z) of rank 1 but sigma(gZ) of rank 2: no matrix c can do.
    z = jnp.array([[1.0, 1.0], [2.0, 2.0]])
    g = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    a, b = jnp.tanh(z), jnp.tanh(z @ g.T)
    assert jnp.linalg.matrix_rank(a) == 1
    assert jnp.linalg.matrix_rank(b) == 2
    best = jnp.linalg.lstsq(a, b)[0].T
    assert jnp.abs(a @ best.T - b).max() > 0.01
    c = batch_cocycle(jnp.tanh)
    assert not c.defined(g, z)
    assert np.isnan(c(g, z)).all()
    # The corrected domain: sigma(Z) and sigma(gZ) of full rank.
    z = z.at[0, 1].set(-1.0)
    assert c.defined(g, z)
    assert c.residual(g, z) < 1e-14


@pytest.mark.claim("DA-T19", "DA-E25", "DA-S17")
@pytest.mark.parametrize(("name", "k"), [("tanh", 2), ("sigmoid", 4), ("leaky_relu", 7), ("tanh", 4)])
def test_pseudo_inverse_map_table(name, k, record_claim):
    h, expected = 4, Laws(unit=k >= 4, composition=k <= 4, equivariance=k <= 4)
    errors = measured(pseudo_inverse_map, name, k, h, 5)
    found = Laws(*(errors[law] < TOLERANCE for law in Laws._fields))
    assert found == expected == pseudo_inverse_map(ACTIVATIONS[name]).laws(k, h)
    assert expected.group_action == (k == h)
    for law, holds in zip(Laws._fields, expected, strict=True):
        assert holds or errors[law] > 1e-3, (law, errors)
    if k == 2 and name == "tanh":
        record_claim("DA-E25", measured=errors["unit"], expected="unit error 0 for a group action")


@pytest.mark.claim("DA-T19", "DA-E25")
def test_pseudo_inverse_map_without_unit_is_a_projector(x64):
    g, z = draw(11, 3, 5, count=1)
    pi = pseudo_inverse_map(jnp.tanh)
    projector = pi(jnp.eye(5), z)
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)
    assert jnp.trace(projector) == pytest.approx(3, abs=1e-12)
    # (2.54) is sigma(H) sigma(gH)^+, and not the c^-1 of Theorem 2.4.1, even for one sample.
    a, b = jnp.tanh(z), jnp.tanh(z @ g.T)
    np.testing.assert_allclose(pi.inverse(g, z), a.T @ jnp.linalg.pinv(b.T), atol=1e-12)
    one = pi.inverse(g, z[:1]), rotation_cocycle(jnp.tanh).inverse(g, z[0])
    assert jnp.linalg.matrix_rank(one[0]) == 1
    assert jnp.linalg.matrix_rank(one[1]) == 5
    # For k > h the outputs are the nearest in least squares: the error is orthogonal to the features.
    _, z = draw(12, 9, 5, count=1)
    a, b = jnp.tanh(z), jnp.tanh(z @ g.T)
    error = b @ pi.inverse(g, z).T - a
    assert jnp.abs(error).max() > 0.1
    np.testing.assert_allclose(error.T @ b, jnp.zeros((5, 5)), atol=1e-12)


def diagonal(z):
    """An element of the positive scalings, and an infinitesimal one."""
    return jnp.diag(jnp.linspace(0.5, 2, z.shape[-1])), jnp.diag(jnp.linspace(-1, 1, z.shape[-1]))


def orthogonal(z):
    m = jnp.triu(jnp.ones((z.shape[-1],) * 2), 1)
    m = m - m.T
    return jax.scipy.linalg.expm(m), m


LINEAR = {
    "leaky, g": (leaky, None, diagonal, lambda m: m),
    "relu^2, g^2": (lambda z: jax.nn.relu(z) ** 2, lambda g: g**2, diagonal, lambda m: 2 * m),
    "z^3, g^3": (lambda z: z**3, lambda g: g**3, diagonal, lambda m: 3 * m),
    "radial, O(h)": (zoo.activations()["radial"], None, orthogonal, lambda m: m),
    "identity, GL": (lambda z: z, None, lambda z: draw(0, 1, z.shape[-1])[:2], lambda m: m),
}


@pytest.mark.claim("DA-T10", "DA-E6")
@pytest.mark.parametrize("name", LINEAR)
def test_infinitesimal_equivariance_of_linear_cocycles(name, x64):
    activation, pi, make, slope = LINEAR[name]
    c = linear_cocycle(activation, pi)
    z = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)))
    g, m = make(z)
    assert c.residual(g, z) < 1e-13
    np.testing.assert_allclose(c.inverse(g, z) @ c(g, z), jnp.eye(5), atol=1e-13)
    np.testing.assert_allclose(c.tangent(m, z), slope(m), atol=1e-13)
    _, moved = jax.jvp(activation, (z,), (z @ m.T,))
    np.testing.assert_allclose(moved, activation(z) @ slope(m).T, atol=1e-12)


@pytest.mark.claim("DA-T10")
@pytest.mark.parametrize(("make", "k"), [(rotation_cocycle, 1), (batch_cocycle, 3), (batch_cocycle, 5)])
def test_infinitesimal_equivariance_of_nonlinear_cocycles(make, k, x64):
    c = make(jnp.tanh)
    m, z = draw(7, k, 5, count=1)
    slope = c.tangent(m, z)
    _, moved = jax.jvp(jnp.tanh, (z,), (z @ m.T,))
    np.testing.assert_allclose(moved, jnp.tanh(z) @ slope.T, atol=1e-11)
    t = 1e-5
    up, down = (c(jax.scipy.linalg.expm(s * m), z) for s in (t, -t))
    np.testing.assert_allclose(slope, (up - down) / (2 * t), atol=1e-6)


@pytest.mark.claim("DA-E6")
def test_equivariance_is_sufficient_but_not_necessary(x64):
    key = jax.random.key(2)
    u, v, x = (
        jax.random.normal(k, s)
        for k, s in zip(jax.random.split(key, 3), [(2, 3), (3, 4), (4, 5)], strict=True)
    )
    g, pi = -jnp.eye(3), jnp.eye(3)  # pi is the trivial representation of {1, -1}

    def output(u, v):
        return u @ np.tanh(v @ x)

    # The loss |F|^2 is invariant under (U pi(g)^-1, g V), though tanh(gz) != pi(g) tanh(z): the cost is not injective.
    assert np.abs(np.sum(output(u, g @ v) ** 2) - np.sum(output(u, v) ** 2)) < 1e-13
    wrong, right = linear_cocycle(jnp.tanh, lambda _: pi), linear_cocycle(jnp.tanh)
    assert wrong.residual(g, (v @ x).T) > 1
    # With outputs kept for all U and X (U = 1, so that F is sigma itself) it is necessary.
    assert np.abs(output(np.eye(3), g @ v) - output(np.eye(3), v)).max() > 1
    assert right.residual(g, (v @ x).T) < 1e-15
    # Example 2.3.7: |gz|^2 = z^T g^T g z, without a square on the left it is false.
    g, z = draw(1, 1, 3, count=1)
    form = float(z[0] @ g.T @ g @ z[0])
    assert np.sum((g @ z[0]) ** 2) == pytest.approx(form, rel=1e-13)
    assert abs(float(np.linalg.norm(g @ z[0])) - form) > 0.1


@pytest.mark.parametrize("make", [rotation_cocycle, batch_cocycle])
@pytest.mark.parametrize("activation", [jax.nn.relu, lambda z: jnp.where(jnp.abs(z) > 0.5, z, 0)])
def test_activations_that_vanish_are_refused(make, activation):
    with pytest.raises(ValueError, match=r"vanishes at z = \["):
        make(activation)
    with pytest.raises(ValueError, match="vanishes"):
        jax.jit(lambda x: make(activation).inverse(jnp.eye(2), x))(jnp.ones(2))


@pytest.mark.parametrize(
    "name", ["tanh", "gelu", "silu", "sigmoid", "softsign", "square", "radial", "leaky_relu"]
)
def test_activations_that_do_not_vanish_are_taken(name):
    assert rotation_cocycle(zoo.activations()[name]).name == "rotation"


def test_vanishing_features_are_flagged():
    c, g = rotation_cocycle(jnp.tanh), 2 * jnp.eye(3)
    assert not jax.jit(c.defined)(g, jnp.zeros(3))
    assert np.isnan(c(g, jnp.zeros(3))).all()
    assert c.defined(g, jnp.ones(3))
    # sigma(0) != 0 for the sigmoid: defined everywhere (the second part of Theorem A.3.4).
    sigmoid = rotation_cocycle(jax.nn.sigmoid)
    assert sigmoid.defined(g, jnp.zeros(3))
    np.testing.assert_allclose(sigmoid(g, jnp.zeros(3)), jnp.eye(3), atol=1e-6)
    assert linear_cocycle(jnp.tanh).defined(g, jnp.zeros(3))


def test_sizes_that_have_no_cocycle_are_refused():
    with pytest.raises(ValueError, match="for one sample, got 2"):
        rotation_cocycle(jnp.tanh)(jnp.eye(3), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="got 4 samples and 3 units"):
        batch_cocycle(jnp.tanh)(jnp.eye(3), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"got \(3, 3\), \(2,\)"):
        linear_cocycle(jnp.tanh)(jnp.eye(3), jnp.ones(2))


def test_cocycles_are_static_and_comparable():
    assert rotation_cocycle(jnp.tanh) == rotation_cocycle(jnp.tanh)
    assert hash(batch_cocycle(jnp.tanh)) == hash(batch_cocycle(jnp.tanh))
    assert rotation_cocycle(jnp.tanh) != batch_cocycle(jnp.tanh)
    assert rotation_cocycle(jnp.tanh) != rotation_cocycle(leaky)


def test_float32_under_vmap_and_bfloat16():
    c = batch_cocycle(jnp.tanh)
    *gs, z = draw(9, 3, 5, count=4)
    gs, zs = np.stack(gs).astype(np.float32), np.stack([z] * 4).astype(np.float32)
    many, _ = both(c, gs, zs)
    assert many.dtype == jnp.float32
    moved = np.tanh(zs @ gs.transpose(0, 2, 1))
    np.testing.assert_allclose(np.tanh(zs) @ np.asarray(many).transpose(0, 2, 1), moved, atol=2e-5)
    coarse = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (gs[0], z)]
    assert jax.eval_shape(c, *coarse).dtype == jnp.float32
