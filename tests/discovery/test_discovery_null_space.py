"""Null spaces of the generator equations: known dimensions, planted symmetries, dense truth, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import eqtoolbox as eqt
from eqtoolbox import discovery
from eqtoolbox.discovery import linear_family, null_space
from eqtoolbox.symmetry import IMPLICATIONS

SIGMA = {
    "linear": lambda z: z,
    "leaky": lambda z: jnp.where(z > 0, z, 0.1 * z),
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "radial": lambda z: z / (1 + jnp.sqrt(jnp.sum(z * z, -1, keepdims=True))),
}


def network(sigma, *widths):
    """f(θ, x) = W_L σ(… σ(W_1 x)) with samples as rows, and parameters of its shapes."""
    params = {f"W{i}": jnp.ones((b, a)) for i, (a, b) in enumerate(itertools.pairwise(widths))}

    def apply(p, x):
        for i in range(len(widths) - 1):
            x = (SIGMA[sigma](x) if i else x) @ p[f"W{i}"].T
        return x

    return apply, params


def unit_span(rows):
    return np.linalg.qr(np.asarray(rows, np.float64).T)[0]


def angle(a, b):
    """The sine of the largest angle between two row spans."""
    p, q = unit_span(a), unit_span(b)
    return np.linalg.norm(q - p @ (p.T @ q), 2) if p.shape == q.shape else 1.0


GOLDEN = [
    ("linear", (2, 2, 2), 4),
    ("linear", (2, 3, 2), 9),
    ("leaky", (2, 2, 2), 2),
    ("radial", (3, 3, 2), 3),
    ("sigmoid", (3, 3, 1), 0),
    ("tanh", (2, 2, 2, 1), 0),
    ("linear", (3, 2, 1), 7),
]


@pytest.mark.claim("DC-T6.11")
@pytest.mark.parametrize(("sigma", "widths", "expected"), GOLDEN, ids=str)
def test_the_dimensions_of_small_networks(sigma, widths, expected, record_claim):
    apply, params = network(sigma, *widths)
    family = linear_family(params)
    found = null_space(family, apply, params, jnp.ones((4, widths[0])), key=jax.random.key(1))
    assert found.dimension == expected
    assert found.gap > 1e9
    assert not found.ambiguous
    assert found.trivial == 0
    assert found.held_out < 1e-12
    if sigma == "linear" and expected == 9:
        # gl(3): the known generators, exactly, and a basis of three and two entries each per matrix unit
        sym = eqt.Symmetry({"W0": "h _", "W1": "_ h*"}, {"h": eqt.groups.GeneralLinear(3)})
        new = discovery.novelty(found, sym, params, key=jax.random.key(2))
        assert (new.new, new.known, new.unseen, new.off_orbit) == (0, 9, 0, 0)
        assert (np.count_nonzero(found.basis, axis=1) == 4).all()
        np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(9), atol=1e-12)
        algebra = discovery.lie_algebra(found, params, key=jax.random.key(3))
        assert algebra.residual < 1e-12
        assert algebra.jacobi < 1e-12
        # gl(3) = sl(3) + centre; the Killing form of sl(3, R) has signature (5, 3)
        assert (algebra.derived, algebra.centre, algebra.killing) == (8, 1, (5, 3, 1))
    if sigma == "radial":
        algebra = discovery.lie_algebra(found, params, key=jax.random.key(3))
        assert (algebra.derived, algebra.centre, algebra.killing) == (3, 0, (0, 3, 0))
    if sigma == "leaky":
        algebra = discovery.lie_algebra(found, params, key=jax.random.key(3))
        assert algebra.is_abelian
    if expected == 7:
        # W_1 -> W_1 + S W_2ᵀ uᵀ with S skew leaves W_2 W_1 alone as W_2 S W_2ᵀ = 0: three that no label says
        sym = eqt.Symmetry({"W0": "h _", "W1": "_ h*"}, {"h": eqt.groups.GeneralLinear(2)})
        new = discovery.novelty(found, sym, params, key=jax.random.key(2))
        assert (new.new, new.known, new.unseen) == (3, 4, 0)
        # the level set of W_2 W_1 has dimension 8 - 3 = 5, the orbit of GL(2) 4: one direction leaves it
        assert new.off_orbit == 1
        skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
        rng = np.random.default_rng(0)
        w2, u = rng.normal(size=(1, 2)), rng.normal(size=3)
        moved = skew @ w2.T * u
        assert np.abs(w2 @ moved).max() < 1e-15
        matrices = found.basis.reshape(-1, 8, 8)
        theta = np.concatenate([rng.normal(size=6), w2.ravel()])
        fields = matrices @ theta
        target = np.concatenate([moved.ravel(), np.zeros(2)])
        assert np.linalg.norm(target - fields.T @ np.linalg.lstsq(fields.T, target, rcond=None)[0]) < 1e-12
        record_claim("DC-T6.11", measured=found.dimension, expected="7")


def test_the_null_space_is_that_of_the_dense_equations():
    """Kronecker products of a Jacobian and θ, as one dense matrix, in NumPy alone."""
    apply, params = network("linear", 2, 2, 1)
    found = null_space(linear_family(params), apply, params, jnp.ones((4, 2)), key=jax.random.key(0))
    rng = np.random.default_rng(0)
    equations = []
    for _ in range(150):
        w0, w1, x = rng.normal(size=(2, 2)), rng.normal(size=(1, 2)), rng.normal(size=2)
        gradient = np.concatenate([np.outer(w1[0], x).ravel(), w0 @ x])
        equations.append(np.outer(gradient, np.concatenate([w0.ravel(), w1.ravel()])).ravel())
    dense = scipy.linalg.null_space(np.array(equations), rcond=1e-10).T
    assert dense.shape == found.vectors.shape
    assert angle(dense, found.vectors) < 1e-9


def planted(params, inputs):
    """f of z = Qθ through z0 z1 and z2² + z3² where these are planted, and through z0 and z2, too, where not."""

    def one(x, q, scaling, rotation, b, c, d):
        z = q @ params["theta"]
        features = jnp.stack(
            [z[0] * z[1], (1 - scaling) * z[0], z[2] ** 2 + z[3] ** 2, (1 - rotation) * z[2], z[4], z[5]]
        )
        return d @ jnp.tanh(b @ features + c @ x)

    return jax.vmap(one)(*inputs)


def test_planted_symmetries_are_found_and_nothing_else():
    rng = np.random.default_rng(5)
    params = {"theta": jnp.ones(6)}
    family = linear_family(params)
    scale, turn = np.zeros((6, 6)), np.zeros((6, 6))
    scale[0, 0], scale[1, 1] = 1, -1
    turn[2, 3], turn[3, 2] = -1, 1
    wrong = []
    for model in range(100):
        q = rng.normal(size=(6, 6)) + 2 * np.eye(6)
        scaling, rotation = rng.integers(0, 2, size=2)
        own = (
            q,
            float(scaling),
            float(rotation),
            rng.normal(size=(5, 6)),
            rng.normal(size=(5, 3)),
            rng.normal(size=(3, 5)),
        )
        inputs = (rng.normal(size=(4, 3)), *(np.broadcast_to(a, (4, *np.shape(a))) for a in own))
        found = null_space(
            family, planted, params, inputs, key=jax.random.key(model), definition="data_dependent"
        )
        expected = [np.linalg.solve(q, g @ q) for g, on in ((scale, scaling), (turn, rotation)) if on]
        good = found.dimension == len(expected) and not found.ambiguous and found.gap > 1e5
        if good and expected:
            good = angle(np.reshape(expected, (-1, 36)), found.vectors) < 1e-6
        if not good:
            wrong.append((model, found.dimension, len(expected), found.gap))
    assert wrong == []


@pytest.mark.claim("DC-T1.5")
def test_the_definitions_are_told_apart():
    """A softmax classifier x W: translations of W, whose null spaces are known by counting."""
    params = {"W": jnp.ones((3, 3))}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)))
    y = jnp.array([0, 2])

    def loss(outputs, targets):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1))

    found = discovery.null_spaces(
        discovery.translation_family(params),
        lambda p, x: x @ p["W"],
        params,
        x,
        y,
        output_loss=loss,
        key=jax.random.key(0),
    )
    dimensions = {name: result.dimension for name, result in found.items()}
    assert dimensions == {
        "functional": 0,
        "functional_loss": 3,  # one g for all columns: logits shift alike
        "data_dependent": 3,  # x_1 c = x_2 c = 0
        "data_dependent_loss": 5,
        "distribution": 6,  # (x_1 + x_2) c = 0
        "distribution_loss": 5,
    }
    for a, b in IMPLICATIONS:
        stronger, weaker = found[a].vectors, found[b].vectors
        assert len(stronger) <= len(weaker)
        p = unit_span(weaker)
        assert np.linalg.norm(stronger.T - p @ (p.T @ stronger.T), 2) < 1e-10 if len(stronger) else True


def test_layer_coupled_families_find_what_the_labels_say():
    """Axis families of a two-layer ReLU net with biases: its scalings, at each size of family."""
    rng = np.random.default_rng(0)
    shapes = {"u": (3, 5), "b": (5,), "v": (5, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def apply(p, x):
        return jax.nn.relu(x @ p["u"] + p["b"][None]) @ p["v"]

    sym = eqt.Symmetry({"u": "_ h", "b": "h", "v": "h* _"}, {"h": eqt.groups.Monomial(5, scales=1)})
    x = jnp.ones((4, 3))
    full = discovery.axis_family(params, sym)
    assert full.dimension == 75
    found = null_space(full, apply, params, x, key=jax.random.key(0))
    new = discovery.novelty(found, sym, params, key=jax.random.key(1))
    assert (found.dimension, found.trivial, new.new, new.unseen, new.off_orbit) == (5, 0, 0, 0, 0)
    some = discovery.axis_family(params, sym, units=3, key=jax.random.key(2))
    assert some.dimension == 27
    assert null_space(some, apply, params, x, key=jax.random.key(3)).dimension == 3
    # every axis: a scalar on one axis of a leaf is a scalar on the other, which is no symmetry but nothing at all
    every = discovery.axis_family(params, kind="diagonal")
    found = null_space(every, apply, params, x, key=jax.random.key(0))
    assert (every.dimension, found.dimension, found.trivial) == (20, 5, 2)


def test_approximate_symmetries_along_a_path():
    """tanh(s z) is nearly linear at small s: gl(2) is there up to a tolerance that grows with s."""
    apply, params = network("tanh", 2, 2, 2)
    path = {"W0": jnp.stack([s * jnp.eye(2) for s in (0.01, 0.1, 1.0)]), "W1": jnp.stack([jnp.eye(2)] * 3)}
    course = discovery.symmetry_course(
        linear_family(params), apply, path, jnp.ones((4, 2)), key=jax.random.key(0), spread=0.5
    )
    assert course.dimension.tolist() == [0, 0, 0]
    near = np.sort(course.spectrum, axis=1)[:, 3]
    assert near[0] < near[1] / 20 < near[2] / 100
    assert course.count(3 * near[0]).tolist() == [4, 0, 0]


def test_the_factor_keeps_what_a_gram_matrix_loses():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(60, 6)))[0] for _ in range(2))
    values = np.array([1, 1e-2, 1e-4, 1e-8, 1e-11, 1e-13])
    rows = (left * values) @ np.linalg.qr(right[:6])[0]
    factor, count = discovery.triangular_factor(np.split(rows, 12), 6)
    assert count == 60
    found = np.linalg.svd(factor, compute_uv=False)
    np.testing.assert_allclose(found, values, rtol=1e-2)
    gram = np.sqrt(np.abs(np.linalg.eigvalsh(rows.T @ rows)))[::-1]
    assert abs(gram[-1] / values[-1] - 1) > 10


def test_a_readable_basis_of_a_mixed_one():
    rng = np.random.default_rng(0)
    sparse = np.zeros((3, 12))
    sparse[0, [1, 4]], sparse[1, [2, 5]], sparse[2, [3, 9]] = (1, -1), (1, 1), (2, -1)
    sparse /= np.linalg.norm(sparse, axis=1, keepdims=True)
    mixed = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ sparse
    np.testing.assert_allclose(np.abs(discovery.readable_basis(mixed)), np.abs(sparse), atol=1e-12)


def test_bad_input_is_refused():
    apply, params = network("linear", 2, 2, 2)
    family, x, key = linear_family(params), jnp.ones((4, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match="must be one of functional"):
        null_space(family, apply, params, x, key=key, definition="global")
    with pytest.raises(ValueError, match="needs an `output_loss`"):
        null_space(family, apply, params, x, key=key, definition="functional_loss")
    with pytest.raises(TypeError, match=r"needs a discovery\.Family"):
        null_space("gl", apply, params, x, key=key)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"10000 generators is more.*GiB.*axis_family"):
        null_space(linear_family({"w": jnp.ones(100)}), apply, params, x, key=key)
    with pytest.raises(ValueError, match="'V' matches none of W0, W1"):
        linear_family(params, ["V"])
    with pytest.raises(ValueError, match="needs a key"):
        discovery.axis_family(params, units=2)
    with pytest.raises(ValueError, match="kind 'full' or 'skew'"):
        discovery.axis_family(params, kind="diagonal", rank=2, key=key)
