"""Spherical angles, R(beta) and R_z: Definition A.3.1, Lemma A.3.2, Proposition A.3.3 and their errata."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eqtoolbox.symmetry._rotations import inverse_rotation_to, rotation, rotation_to, spherical_angles

TOLERANCE = 1e-13

entries = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-9, -1e-200, 1e150, -1e150]), st.floats(-10, 10, allow_subnormal=False)
)


@st.composite
def vectors(draw, least=1):
    h = draw(st.sampled_from([n for n in (1, 2, 5) if n >= least]))
    return np.array(draw(st.lists(entries, min_size=h, max_size=h)))


def norm(z):
    top = np.abs(z).max()
    return top * np.linalg.norm(z / top)


def printed_definition(beta):
    """Definition A.3.1 entry by entry, beta_0 = beta_h = 0, i and j from 1."""
    h = len(beta) + 1
    b = [0.0, *beta, 0.0]
    r = np.zeros((h, h))
    for i in range(1, h + 1):
        for j in range(1, h + 1):
            if j <= i:
                r[i - 1, j - 1] = np.cos(b[j - 1]) * np.prod(np.sin(b[j:i])) * np.cos(b[i])
            elif j == i + 1:
                r[i - 1, j - 1] = -np.sin(b[i])
    return r


def printed_piecewise(z):
    """The formula of section 2.4 and of Example 1.3.5."""
    h = len(z)
    r, a = np.linalg.norm(z), [0.0, *of(z)["angles"], 0.0]
    out = np.zeros((h, h))
    for i in range(1, h + 1):
        for j in range(1, h + 1):
            if j <= i and np.prod(np.sin(a[1:i])) != 0:
                out[i - 1, j - 1] = z[i - 1] * np.cos(a[j - 1]) / np.prod(np.sin(a[1:j]))
            elif j == i + 1:
                out[i - 1, j - 1] = -r * np.sin(a[i])
    return out


def maps(z):
    a = spherical_angles(z)
    return {"to": rotation_to(z), "back": inverse_rotation_to(z), "angles": a, "rotation": rotation(a)}


maps_jit, rotation_jit = jax.jit(maps), jax.jit(rotation)
slope_jit, jacobian_jit = jax.jit(lambda z, d: jax.jvp(maps, (z,), (d,))[1]), jax.jit(jax.jacrev(maps))


def of(z):
    """The maps at z, on the host."""
    return {name: np.asarray(value) for name, value in maps_jit(np.asarray(z)).items()}


@pytest.mark.claim("DA-T12")
@settings(max_examples=60)
@given(z=vectors())
def test_rotation_to_carries_the_first_basis_vector(z):
    assume(np.abs(z).max() > 1e-250)  # so that the entries of R_z are normal numbers
    with jax.enable_x64(True):
        found = of(z)
    r, back = found["to"], found["back"]
    n, one = norm(z), np.eye(len(z))
    np.testing.assert_allclose(r[:, 0] / n, z / n, atol=TOLERANCE)
    np.testing.assert_allclose((r / n) @ (r / n).T, one, atol=TOLERANCE)
    np.testing.assert_allclose((back * n) @ (r / n), one, atol=TOLERANCE)
    if len(z) > 1:
        assert np.linalg.det(r / n) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.claim("DA-T12")
@settings(max_examples=40)
@given(z=vectors(least=2))
def test_spherical_angles_give_the_vector_and_the_matrix_back(z):
    assume(np.abs(z).max() > 1e-250)  # so that the entries of R_z are normal numbers
    with jax.enable_x64(True):
        found = of(z)
    a, r, expected = found["angles"], found["rotation"], found["to"] / norm(z)
    coordinates = np.cumprod([1.0, *np.sin(a)]) * np.cos([*a, 0.0])
    np.testing.assert_allclose(coordinates, z / norm(z), atol=TOLERANCE)
    np.testing.assert_allclose(r, expected, atol=TOLERANCE)
    assert np.all((a[:-1] >= 0) & (a[:-1] <= np.pi))
    if abs(z[-1]) > 1e-300 * np.abs(z).max():
        assert np.sign(a[-1]) == np.sign(z[-1])


@pytest.mark.claim("DA-T12")
@settings(max_examples=30)
@given(beta=st.sampled_from([0, 1, 4]).flatmap(lambda n: st.lists(st.floats(-7, 7), min_size=n, max_size=n)))
def test_rotation_is_definition_a31_and_special_orthogonal(beta):
    beta = np.array(beta)
    with jax.enable_x64(True):
        r = np.asarray(rotation_jit(beta))
    np.testing.assert_allclose(r, printed_definition(beta), atol=TOLERANCE)
    np.testing.assert_allclose(r @ r.T, np.eye(len(beta) + 1), atol=TOLERANCE)
    assert np.linalg.det(r) == pytest.approx(1, abs=TOLERANCE)
    before = np.cumprod([1.0, *np.sin(beta) ** 2])
    assert np.sum(np.cos(beta) ** 2 * before[:-1]) + before[-1] == pytest.approx(1, abs=TOLERANCE)


def test_the_two_printed_examples():
    with jax.enable_x64(True):
        r2, r3 = rotation_jit(np.array([0.3])), rotation_jit(np.array([0.3, -1.1]))
    c, s = np.cos(0.3), np.sin(0.3)
    np.testing.assert_allclose(r2, [[c, -s], [s, c]], atol=1e-15)
    c2, s2 = np.cos(-1.1), np.sin(-1.1)
    np.testing.assert_allclose(r3, [[c, -s, 0], [s * c2, c * c2, -s2], [s * s2, c * s2, c2]], atol=1e-15)


@pytest.mark.claim("DA-E7")
def test_the_piecewise_formula_is_singular_at_degenerate_vectors(x64):
    generic = np.array([1.0, -2.0, 0.5, 0.3, -0.7])
    right = of(generic)["to"]
    np.testing.assert_allclose(printed_piecewise(generic), right, atol=1e-14)
    # "The first column of R_z is z/|z|" is false; it is z.
    np.testing.assert_allclose(right[:, 0], generic, atol=1e-15)
    assert np.abs(right[:, 0] - generic / np.linalg.norm(generic)).max() > 0.5
    for z in ([1.0, 2.0, 0.0, 3.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.0, 0.0]):
        printed, right = printed_piecewise(np.array(z)), of(z)["to"]
        assert abs(np.linalg.det(printed)) < 1e-15
        assert not printed[-1].any()
        assert np.linalg.det(right) == pytest.approx(np.linalg.norm(z) ** len(z), rel=1e-13)


@pytest.mark.claim("DA-E8")
def test_rotation_to_is_not_continuous_where_a_sine_vanishes(x64, record_claim):
    def near(direction, e):
        return of([1.0, *(e * np.asarray(direction))])["to"]

    for e in (1e-3, 1e-6, 1e-12):
        up, side, down = near([1.0, 0.0], e), near([0.0, 1.0], e), near([-1.0, 0.0], e)
        quarter, half = np.linalg.norm(up - side, 2), np.linalg.norm(up - down, 2)
        assert quarter == pytest.approx(np.sqrt(2), abs=2e-3)
        assert half == pytest.approx(2, abs=2e-3)
    record_claim("DA-E8", measured=quarter, expected="1.414, not 0")
    # Off that set it is smooth: a Lipschitz quotient stays bounded as the step shrinks.
    z, d = np.array([1.0, 0.4, -0.3]), np.array([0.2, -1.0, 0.5])
    quotients = [np.linalg.norm(of(z + e * d)["to"] - of(z)["to"], 2) / e for e in (1e-3, 1e-5, 1e-7)]
    assert max(quotients) / min(quotients) < 1.01


def test_derivative_against_finite_differences(x64):
    z, d = np.random.default_rng(0).normal(size=(2, 5))
    slope, up, down = slope_jit(z, d), of(z + 1e-5 * d), of(z - 1e-5 * d)
    for name, value in slope.items():
        np.testing.assert_allclose(value, (up[name] - down[name]) / 2e-5, atol=1e-8)


@pytest.mark.parametrize("z", [[1.0, 0.0, 0.0], [0.0, 0.0, -2.0], [-1.0, 2.0, 0.0]])
def test_derivative_is_finite_at_degenerate_vectors(z):
    for slope in jax.tree.leaves(jacobian_jit(np.array(z, np.float32))):
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("h", [1, 3])
def test_zero_and_infinity_give_nan(h):
    for name, value in of(np.zeros(h, np.float32)).items():
        assert np.isnan(value).all() or (h, name) == (1, "rotation")
    found = of(np.full(h, np.inf, np.float32))
    assert np.isnan(found["to"]).all()
    assert np.isnan(found["back"]).all()


def test_vmap_and_dtypes():
    z = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    many = jax.vmap(rotation_to)(z)
    assert many.dtype == jnp.float32
    np.testing.assert_allclose(many[:, :, 0], z, rtol=1e-6)
    half = jax.eval_shape(maps, jax.ShapeDtypeStruct((3,), jnp.bfloat16))
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("z", [[1.0, 1e-18, 1e-21, -1e-22, 1e-30], [3e38, -3e37, 0.0, 1e20, 0.0]])
def test_entries_whose_squares_are_out_of_range(z):
    # Features of a saturated sigmoid look like the first in float32.
    z = np.array(z, np.float32)
    found, n = of(z), norm(z.astype(np.float64))
    np.testing.assert_allclose((found["to"] / n).T @ (found["to"] / n), np.eye(5), atol=1e-6)
    np.testing.assert_allclose(found["to"][:, 0], z, rtol=1e-6)
    np.testing.assert_allclose(found["rotation"], found["to"] / n, atol=1e-6)


def test_bad_shapes_are_refused():
    for f in (rotation_to, inverse_rotation_to, spherical_angles):
        with pytest.raises(ValueError, match=r"one vector .* got shape \(2, 3\)"):
            f(jnp.ones((2, 3)))
        with pytest.raises(ValueError, match="got shape"):
            f(jnp.ones(0))
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        rotation(jnp.ones(()))
