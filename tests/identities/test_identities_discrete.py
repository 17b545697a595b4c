"""Theorem 2: a nonlinear involution, projections on fixed points, blocks of the Hessian, mirrors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Equivariance, Symmetry, groups, identities

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def involution():
    """H = φ∘swap∘φ⁻¹ with φ = sinh after a rotation, a model invariant under it, its loss, a fixed point."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    swap = np.eye(6)[[1, 0, 2, 3, 5, 4]]
    target = rng.normal(size=4)
    mix = rng.normal(size=(4, 6)) / 2

    def into(params):
        return turn.T @ jnp.arcsinh(params)

    def out(z):
        return jnp.sinh(turn @ z)

    def model(params):
        z = into(params)
        return jnp.tanh(mix @ z) + jnp.tanh(mix @ (swap @ z))

    z = rng.normal(size=6)
    return (
        Equivariance(lambda p, lam: out(swap @ into(p))),
        model,
        lambda y: jnp.sum((y - target) ** 2 + jnp.sin(y)),
        np.sinh(turn @ z),
        np.sinh(turn @ (z + swap @ z) / 2),
    )


@pytest.mark.claim("EQ-T2-i", "EQ-T2-ii")
def test_a_nonlinear_involution(involution, x64, record_claim):
    eq, model, output_loss, point, fixed = involution

    @jax.jit
    def run(points):
        def both(p):
            loss = lambda p: output_loss(model(p))  # noqa: E731
            jacobian = jax.jacobian(lambda p: eq.act(p, None))(p)
            gradient, hessian = jax.grad(loss)(p), jax.hessian(loss)(p)
            printed = jacobian.T @ gradient - gradient, jacobian.T @ hessian @ jacobian - hessian
            return identities.discrete(eq, None, model, output_loss, p), printed, gradient, hessian

        return jax.vmap(both)(points)

    found, (first, second), gradient, hessian = jax.device_get(run(jnp.stack([fixed, point])))
    assert found.first.residual.max() < TOLERANCE
    assert found.second.residual.max() < TOLERANCE
    record_claim("EQ-T2-i", measured=found.first.residual.max(), expected="<= 1e-9")
    record_claim("EQ-T2-ii", measured=found.second.residual.max(), expected="<= 1e-9")
    assert found.distance[0] < 1e-14
    assert found.distance[1] > 0.1
    # The correction matters, and the printed theorem needs the fixed point.
    correction = np.linalg.norm(found.second.terms["correction"], axis=-1)
    assert np.all(correction > 1e-2 * found.second.scale)
    for part, size in ((first, gradient), (second, hessian)):
        assert np.abs(part[1]).max() > 1e-2 * np.abs(size[1]).max()
    assert np.abs(first[0]).max() < 1e-12
    assert np.abs(second[0]).max() > 1e-2 * np.abs(hessian[0]).max()  # without its correction


@pytest.mark.claim("EQ-T2-i", "EQ-T2-ii")
def test_one_transformation_of_an_equivariance_that_moves_the_outputs(x64):
    """θ ↦ -θ of a model of degree three, f(-θ) = -f(θ): the loss on the right is ℓ(-y)."""
    eq = Equivariance(lambda p, lam: lam * p, lambda y, lam: lam**3 * y)

    @jax.jit
    def run(params, u):
        return [
            identities.discrete(
                pair,
                -1.0,
                lambda p: p**3 + p[0] * p[1] * p[2],
                lambda y: jnp.sum(jnp.exp(y)),
                params,
                directions=u,
            )
            for pair in (eq, Equivariance(eq.act))
        ]

    found, wrong = run(jnp.asarray([0.5, -0.2, 0.7]), jnp.asarray([1.0, 2.0, 3.0]))
    assert max(found.first.residual, found.second.residual) < TOLERANCE
    assert min(wrong.first.residual, wrong.second.residual) > 1e-2


@pytest.mark.claim("EQ-D3")
def test_projection_on_the_fixed_points(involution):
    sym = Symmetry({"w": "h _"}, {"h": groups.Permutation(4)})
    params = {"w": jnp.arange(8.0).reshape(4, 2)}
    for cycle, order in (([1, 0, 3, 2], 2), ([1, 2, 0, 3], 3), ([1, 2, 3, 0], 4)):
        g = {"h": jnp.asarray(cycle)}
        fixed = identities.project_fixed(sym, g, params, order)
        np.testing.assert_allclose(sym.act(g, fixed)["w"], fixed["w"], rtol=1e-6)
        twice = identities.project_fixed(sym, g, fixed, order)
        np.testing.assert_allclose(twice["w"], fixed["w"], rtol=1e-6)
        apart = params["w"] - fixed["w"]  # the projection is orthogonal
        np.testing.assert_allclose(jnp.vdot(apart, fixed["w"]), 0, atol=1e-5)
    # Eigenvalues ±1 are not enough, and not what permutations have.
    cycle = np.eye(3)[[1, 2, 0]]
    assert np.abs(np.linalg.eigvals(cycle).imag).max() > 0.8
    half = (np.eye(3) + cycle) / 2
    assert np.abs(half @ half - half).max() > 0.2
    shear = np.asarray([[1.0, 1.0], [0.0, 1.0]])
    moved = (np.eye(2) + shear) / 2 @ np.ones(2)
    assert np.abs(shear @ moved - moved).max() == 1
    linear = Equivariance(lambda p, matrix: matrix @ p)
    with pytest.raises(ValueError, match="order=2 times must be the identity"):
        identities.project_fixed(linear, shear, jnp.ones(2))
    with pytest.raises(ValueError, match="order=2 times"):
        identities.project_fixed(sym, {"h": jnp.asarray([1, 2, 0, 3])}, params)
    eq, _, _, point, _ = involution
    with pytest.raises(ValueError, match="must be affine"):
        identities.project_fixed(eq, None, point)
    with pytest.raises(ValueError, match="at least 1"):
        identities.project_fixed(sym, {"h": jnp.arange(4)}, params, 0)
    assert jnp.isnan(jax.jit(lambda p: identities.project_fixed(linear, shear, p))(jnp.ones(2))).all()


@pytest.mark.claim("EQ-6")
def test_blocks_of_a_permutation_of_order_three(x64, record_claim):
    rng = np.random.default_rng(1)
    sym = Symmetry({"in": "_ h", "out": "h _"}, {"h": groups.Permutation(3)})
    params = {"in": jnp.asarray(rng.normal(size=(2, 3))), "out": jnp.asarray(rng.normal(size=(3, 2)))}
    x = jnp.asarray(rng.normal(size=(4, 2)))
    cycle = {"h": jnp.asarray([1, 2, 0])}

    @jax.jit
    def run(params):
        fixed = identities.project_fixed(sym, cycle, params, 3)
        return [
            identities.mirror_blocks(
                sym,
                cycle,
                lambda p: jnp.tanh(x @ p["in"]) @ p["out"],
                lambda y: jnp.sum(jnp.sin(y)),
                p,
                order=3,
            )
            for p in (fixed, params)
        ]

    on, off = run(params)
    for name in ("gradient", "off_diagonal"):
        assert getattr(on, name) < 1e-12 < 1e-2 < getattr(off, name)
    assert on.diagonal > 0.1
    record_claim("EQ-6", measured=on.off_diagonal / on.diagonal, expected="<= 1e-12 on Fix(P)")


@pytest.mark.claim("EQ-6")
def test_eigenspaces_of_a_matrix_that_is_not_orthogonal_are_coupled():
    """f(2u, w/2) = f(u, w) at its fixed point 0: PᵀMP = M holds, but M couples the eigenvalues 2 and ½."""
    matrix = jnp.diag(jnp.asarray([2.0, 0.5]))
    eq = Equivariance(lambda p, lam: lam @ p)
    arguments = (lambda p: p[0] * p[1], lambda y: (y - 1) ** 2 / 2, jnp.zeros(2))
    found = jax.jit(lambda u: identities.discrete(eq, matrix, *arguments, directions=u))(jnp.eye(2))
    assert found.second.residual.max() == 0
    hessian = found.second.terms["hessian"]
    assert abs(hessian[0, 1]) == 1  # between eigenvectors of different eigenvalues, of product 1
    assert abs(hessian[0, 0]) == 0  # while an eigenspace is not coupled to itself
    assert jnp.abs(matrix @ hessian - hessian @ matrix).max() > 1  # nor does the Hessian commute with P
    with pytest.raises(ValueError, match="P applied order=2"):
        identities.mirror_blocks(eq, matrix, *arguments)
    with pytest.raises(TypeError, match="leave the outputs alone"):
        identities.mirror_blocks(identities.homogeneous(2), 0.0, *arguments)


@pytest.mark.claim("EQ-6.1")
def test_mirror(x64, record_claim):
    rng = np.random.default_rng(2)
    o, rest = np.split(np.linalg.qr(rng.normal(size=(6, 6)))[0], [2], axis=1)
    mix = jnp.asarray(rng.normal(size=(3, 4)))
    eq = Equivariance(lambda p, o: p - 2 * o @ (o.T @ p))

    def model(p):
        a, b = o.T @ p, rest.T @ p
        return jnp.tanh(mix @ b) * jnp.cosh(a[0] * a[1]) + a[0] ** 2 + jnp.sin(a[0] * a[1])

    def output_loss(y):
        return jnp.sum(jnp.exp(y))

    point = jnp.asarray(rng.normal(size=6))

    @jax.jit
    def run(point):
        def loss(p):
            return output_loss(model(p))

        fixed = identities.project_fixed(eq, o, point)
        found = [identities.mirror_blocks(eq, o, model, output_loss, p) for p in (fixed, point)]
        return fixed, found, jax.grad(loss)(fixed), jax.hessian(loss)(fixed)

    fixed, (on, off), gradient, hessian = run(point)
    np.testing.assert_allclose(o.T @ fixed, 0, atol=1e-14)
    np.testing.assert_allclose(o.T @ gradient, 0, atol=1e-12)
    np.testing.assert_allclose(o.T @ hessian @ rest, 0, atol=1e-11)
    assert np.abs(o.T @ hessian @ o).max() > 0.1
    assert max(on.gradient, on.off_diagonal) < 1e-11
    assert min(off.gradient, off.off_diagonal) > 1e-2
    record_claim("EQ-6.1", measured=np.abs(o.T @ gradient).max(), expected="<= 1e-11")
