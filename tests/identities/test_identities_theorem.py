"""Theorem 1 for an equivariance in which nothing is linear, by inverse maps and by linear solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Equivariance, Symmetry, groups, identities

TOLERANCE = 1e-9
IDENTITIES = {
    "EQ-T1-i": identities.first_order,
    "EQ-T1-ii": identities.second_order,
    "EQ-T1-iii": identities.quadratic,
}


def measure(n, eq, claims=tuple(IDENTITIES), directions=None):
    """The identities of the nonlinear model at its point, in all directions unless told."""
    return jax.device_get(
        jax.jit(lambda p, lam: identities_at(n, eq, p, lam, claims, directions))(n.params, n.lam)
    )


def identities_at(n, eq, params, lam, claims=tuple(IDENTITIES), directions=None):
    return {
        claim: IDENTITIES[claim](eq, n.model, n.output_loss, params, lam, directions=directions)
        for claim in claims
    }


def flat(stack):
    """A stack as a matrix."""
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(stack)], axis=1)


def check(found, record_claim):
    for claim, result in found.items():
        assert result.residual.shape == (3,)
        assert result.residual.max() < TOLERANCE, (claim, result.residual)
        # No term is small: the check means something for each of them.
        sizes = {name: np.abs(flat(term)).max(1) for name, term in result.terms.items()}
        assert np.min(list(sizes.values())) > 1e-3 * np.max(list(sizes.values())), sizes
        record_claim(claim, measured=float(result.residual.max()), expected="<= 1e-9")


@pytest.mark.claim("EQ-T1-i", "EQ-T1-ii", "EQ-T1-iii", "EQ-D2", "EQ-7")
def test_all_three_hold_by_inverse_maps_and_only_for_the_right_pair(nonlinear, x64, record_claim):
    """At three points for the pair (H, G), then with G at (1 + ε) λ."""
    n, rng = nonlinear, np.random.default_rng(7)
    noise = np.concatenate([np.zeros((1, 1)), np.full((2, 1), 0.4), np.zeros((3, 1))])
    points = jax.tree.map(
        lambda x: x[None] + (noise * rng.normal(size=(6, x.size))).reshape(6, *x.shape), (n.params, n.lam)
    )
    along = {"s": 1.0, "t": jnp.zeros(2)}

    def run(epsilon, point):
        arguments = (n.off(epsilon), n.model, n.output_loss, *point)
        return identities_at(n, n.off(epsilon), *point), identities.hvp_along(*arguments, direction=along)

    epsilons = jnp.asarray([0, 0, 0, 1e-4, 1e-3, 1e-2])
    found, product = jax.device_get(jax.jit(jax.vmap(run))(epsilons, points))
    check(jax.tree.map(lambda x: x[0], found), record_claim)
    for result in found.values():
        assert np.all(result.solve_residual == 0)
        assert result.residual[:3].max() < TOLERANCE
        # Every identity is off by the order of ε, six orders of magnitude above rounding and more.
        off = result.residual[3:].max(1)
        assert np.all(off > 1e-6)
        np.testing.assert_allclose(off[1:] / off[:-1], 10, rtol=0.2)
    true = flat(jax.tree.map(lambda x: x[:3, 0], found["EQ-T1-ii"].lhs))
    np.testing.assert_allclose(flat(jax.tree.map(lambda x: x[:3], product)), true, rtol=1e-9, atol=1e-12)


@pytest.mark.claim("EQ-T1-i", "EQ-T1-ii", "EQ-T1-iii", "EQ-D2")
def test_all_three_hold_by_linear_solves(nonlinear, x64, record_claim):
    found = measure(nonlinear, nonlinear.solved)
    check(found, record_claim)
    for result in found.values():
        assert np.any(result.solve_residual > 0)
        assert result.solve_residual.max() < TOLERANCE


@pytest.mark.claim("EQ-T1-ii", "EQ-D2")
def test_gmres_takes_over_where_the_matrix_is_too_large(nonlinear, x64, monkeypatch):
    monkeypatch.setattr("eqtoolbox.identities._solve.DENSE_LIMIT", 5)
    along = {"s": 1.0, "t": jnp.asarray([-1.0, 2.0])}
    (result,) = measure(nonlinear, nonlinear.solved, ("EQ-T1-ii",), along).values()
    assert 0 < result.solve_residual < 1e-12
    assert result.residual < TOLERANCE


@pytest.mark.claim("EQ-D1")
def test_equivariance_error_over_random_points(nonlinear, x64):
    n, rng = nonlinear, np.random.default_rng(5)
    points = jax.tree.map(lambda x: rng.normal(size=(8, *x.shape)) / 2, (n.params, n.lam))

    @jax.jit
    def errors(epsilon, points):
        return jax.vmap(lambda p: identities.equivariance_error(n.off(epsilon), n.model, *p))(points)

    assert errors(0.0, points).max() < 1e-12
    assert errors(1e-3, points).min() > 1e-5


def scaling(inverse):
    """H = λ θ, G = λ² y, singular at λ = 0."""
    return Equivariance(
        lambda p, lam: jax.tree.map(lambda x: lam * x, p),
        lambda y, lam: lam**2 * y,
        act_inverse=(lambda p, lam: jax.tree.map(lambda x: x / lam, p)) if inverse else None,
        output_inverse=(lambda y, lam: y / lam**2) if inverse else None,
        identity=1.0,
    )


PARAMS = {"u": jnp.asarray([1.0, 2.0, -1.0]), "w": jnp.asarray([0.5, -1.0, 2.0])}
PRODUCT = (lambda p: p["u"] * p["w"], lambda y: jnp.sum(jnp.sin(y)))


@pytest.mark.claim("EQ-D1b")
@pytest.mark.parametrize("inverse", [True, False])
def test_a_bad_position_is_refused(inverse):
    eq = scaling(inverse)
    with pytest.raises(ValueError, match="not a good position"):
        identities.first_order(eq, *PRODUCT, PARAMS, 0.0)
    run = jax.jit(lambda lam: identities.first_order(eq, *PRODUCT, PARAMS, lam))
    assert jnp.isnan(run(0.0).lhs)
    assert run(0.5).residual.max() < 1e-6


@pytest.mark.claim("EQ-D1b")
def test_singular_values_of_the_position(monkeypatch):
    outputs = PRODUCT[0](PARAMS)
    for limit in (1000, 0):
        monkeypatch.setattr("eqtoolbox.identities._characteristic.DENSE_LIMIT", limit)
        found = jax.jit(lambda p: identities.good_position(scaling(False), p, outputs, 0.5))(PARAMS)
        for values, expected in ((found.params, 0.5), (found.outputs, 0.25)):
            np.testing.assert_allclose([values.smallest, values.largest], expected, rtol=1e-5)
            assert values.error <= (0 if limit else 1e-2)
    sym = Symmetry({"u": "h", "w": "h*"}, {"h": groups.PositiveScaling(3)})
    lam = {"h": jnp.log(jnp.asarray([3.0, 1.0, 0.5]))}
    monkeypatch.undo()
    stretch = jax.jit(lambda lam: identities.good_position(sym, PARAMS, outputs, lam))(lam)
    np.testing.assert_allclose([stretch.params.smallest, stretch.params.largest], [1 / 3, 3], rtol=1e-5)
    np.testing.assert_allclose(stretch.outputs.smallest, 1, rtol=1e-6)


@pytest.mark.claim("EQ-D2")
def test_characteristic_directions_agree_however_they_are_found():
    for lam, eq in ((None, scaling(True)), (1.0, scaling(True)), (1.0, scaling(False))):
        direction = identities.characteristic_direction(eq, PARAMS, lam, directions=2.0)
        output = identities.characteristic_output(eq, PRODUCT[0](PARAMS), lam, directions=2.0)
        for name, leaf in direction.value.items():
            np.testing.assert_allclose(leaf, 2 * PARAMS[name], rtol=1e-6)
        np.testing.assert_allclose(output.value, 4 * PRODUCT[0](PARAMS), rtol=1e-6)
    sym = Symmetry({"u": "h", "w": "h*"}, {"h": groups.PositiveScaling(3)})
    xi = {"h": jnp.asarray([1.0, 0.0, 2.0])}
    found = identities.characteristic_direction(sym, PARAMS, directions=xi)
    expected = sym.generator(xi, PARAMS)
    for name, leaf in found.value.items():
        np.testing.assert_array_equal(leaf, expected[name])
    assert not jnp.any(identities.characteristic_output(sym, jnp.ones(3), directions=xi).value)


@pytest.mark.claim("EQ-T1-ii", "EQ-T1-iii")
def test_a_symmetry_away_from_the_identity(x64):
    """λ an algebra vector different from 0: two factors, directions that leave one of them out."""
    sym = Symmetry({"u": "_ h", "w": "h* k"}, {"h": groups.GeneralLinear(2), "k": groups.PositiveScaling(2)})
    sym = sym.restrict("h")
    rng = np.random.default_rng(0)
    params = {"u": jnp.asarray(rng.normal(size=(3, 2))), "w": jnp.asarray(rng.normal(size=(2, 2)))}
    lam = {"h": jnp.asarray(rng.normal(size=(2, 2))) / 2}
    stack = {"h": jnp.asarray(rng.normal(size=(2, 2, 2)))}

    @jax.jit
    def run(params, lam, stack):
        arguments = (sym, lambda p: p["u"] @ p["w"], lambda y: jnp.sum(jnp.cosh(y)), params, lam)
        return [
            identity(*arguments, directions=stack)
            for identity in (identities.second_order, identities.quadratic)
        ]

    for result in run(params, lam, stack):
        assert result.residual.max() < TOLERANCE
        assert min(jnp.abs(x).max() for x in jax.tree.leaves(result.terms["B"])) > 0.1
        assert all(not jnp.any(x) for name in "ACDE" for x in jax.tree.leaves(result.terms[name]))


def test_directions_left_out_are_zero_and_stacks_have_a_leading_axis():
    both = Symmetry(
        {"u": "h k", "w": "h* k*"}, {"h": groups.PositiveScaling(3), "k": groups.PositiveScaling(2)}
    )
    params = {"u": jnp.ones((3, 2)), "w": jnp.full((3, 2), 2.0)}
    arguments = (both, lambda p: jnp.sum(p["u"] * p["w"]), jnp.sin)

    def shapes(identity, *arguments, **keywords):
        return jax.eval_shape(lambda p: identity(*arguments, p, **keywords), params)

    every = shapes(identities.first_order, *arguments)
    assert every.lhs.shape == every.residual.shape == (5,)
    only = {"k": jnp.ones((4, 2))}
    assert shapes(identities.first_order, *arguments, directions=only).lhs.shape == (4,)
    assert shapes(identities.quadratic, *arguments, directions=only).lhs.shape == (4, 4)
    assert shapes(identities.quadratic, *arguments, directions={"k": jnp.ones(2)}).lhs.shape == ()
    single = shapes(identities.second_order, *arguments, directions={"h": jnp.ones(3)})
    assert single.residual.shape == ()
    assert single.lhs["u"].shape == (3, 2)
    along = {"h": jnp.asarray([1.0, 2.0, 3.0])}
    found = identities.characteristic_direction(both, params, directions=along).value
    np.testing.assert_array_equal(found["u"], along["h"][:, None] * params["u"])


def test_bad_input_is_named():
    model, loss = PRODUCT
    sym = Symmetry({"u": "h", "w": "h*"}, {"h": groups.PositiveScaling(3)})
    free = Equivariance(lambda p, lam: p)
    cases = [
        (ValueError, "names no identity", (free, model, loss, PARAMS), {}),
        (ValueError, "keys \\['h'\\]", (sym, model, loss, PARAMS), {"directions": {"q": jnp.ones(3)}}),
        (ValueError, "`h` of `directions`", (sym, model, loss, PARAMS), {"directions": {"h": jnp.ones(4)}}),
        (ValueError, "513 directions", (free, model, loss, PARAMS, jnp.ones(513)), {}),
        (
            ValueError,
            "must return a pytree",
            (Equivariance(lambda p, lam: 0.0), model, loss, PARAMS, 1.0),
            {},
        ),
        (TypeError, "`n` of `params`", (sym, model, loss, {**PARAMS, "n": 3}), {}),
        (TypeError, "Equivariance or a Symmetry", (None, model, loss, PARAMS), {}),
        (
            TypeError,
            "discrete",
            (Symmetry({"u": "h", "w": "h"}, {"h": groups.SignFlip(3)}), model, loss, PARAMS),
            {},
        ),
    ]
    for error, text, arguments, keywords in cases:
        with pytest.raises(error, match=text):
            identities.first_order(*arguments, **keywords)
    wrong = Equivariance(lambda p, lam: jax.tree.map(lambda x: lam + 2 * x, p), identity=0.0)
    with pytest.raises(ValueError, match="at the identity"):
        identities.first_order(wrong, model, loss, PARAMS)
    with pytest.raises(ValueError, match="without a leading axis"):
        identities.hvp_along(sym, model, loss, PARAMS, direction={"h": jnp.ones((2, 3))})


def test_dtypes_and_transforms():
    """bfloat16 stays; float32 holds to rounding; under grad and vmap, through a linear solve too."""
    eq = scaling(False)

    def left(lam, params):
        return identities.first_order(eq, *PRODUCT, params, lam, directions=1.0).lhs

    many = jnp.asarray([0.5, 2.0])
    slopes = jax.jit(jax.vmap(jax.grad(left), (0, None)))(many, PARAMS)
    euler = left(jnp.float32(1), PARAMS)
    np.testing.assert_allclose(slopes, -euler / many**2, rtol=1e-5)  # the left side is ⟨∇L, θ⟩ / λ

    small = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    sym = Symmetry({"u": "h", "w": "h*"}, {"h": groups.PositiveScaling(3)})
    along = {"h": jnp.asarray([1.0, -2.0, 0.5])}

    @jax.jit
    def run(params):
        second = identities.second_order(sym, *PRODUCT, params, directions=along)
        return second, identities.hvp_along(sym, *PRODUCT, params, direction=along)

    for dtype, params, tolerance in ((jnp.bfloat16, small, 3e-2), (jnp.float32, PARAMS, 1e-6)):
        second, product = run(params)
        assert {x.dtype for x in jax.tree.leaves((second.lhs, second.rhs, product))} == {jnp.dtype(dtype)}
        assert second.residual < tolerance
