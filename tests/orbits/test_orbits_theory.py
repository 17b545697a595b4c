"""What teleportation does to convergence: the statements of the dissertation's fourth chapter, and where they fail."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import orbits

pytestmark = pytest.mark.usefixtures("x64")


def spd(rng, n):
    """A positive definite matrix, its root and inverse root, eigenvalues and eigenvectors."""
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    d = np.exp(rng.uniform(-1, 1.5, size=n))
    order = np.argsort(d)
    q, d = q[:, order], d[order]
    return (q * d) @ q.T, (q * np.sqrt(d)) @ q.T, (q / np.sqrt(d)) @ q.T, d, q


def orthogonal(rng, n):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


@pytest.mark.claim("DB-C4.5.2", "DB-4.17", "DB-4.2", "DC-T5.11", "DC-E5.2")
def test_rates_of_preconditioned_flow(record_claim):
    """dL/dt = -gᵀηg, the square of the norm; elements that keep η⁻¹ leave it alone, orthogonal ones for η = 1."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        eta, root, back, _, _ = spd(rng, 4)
        g = root @ orthogonal(rng, 4) @ back
        np.testing.assert_allclose(g.T @ np.linalg.inv(eta) @ g, np.linalg.inv(eta), atol=1e-9)
        v = rng.normal(size=4)
        moved = np.linalg.solve(g.T, v)
        np.testing.assert_allclose(moved @ eta @ moved, v @ eta @ v, rtol=1e-9)
    a = spd(rng, 4)[0]
    loss = lambda w: w @ a @ w  # noqa: E731
    w = jnp.asarray(rng.normal(size=4))
    grad = 2 * a @ w
    second = rng.uniform(0.1, 2, size=4)
    for eta in (np.eye(4), spd(rng, 4)[0], np.diag(1 / np.sqrt(1e-8 + second + np.square(grad)))):
        slope = jax.grad(lambda t, eta=eta: loss(w - t * (eta @ grad)))(0.0)
        square = grad @ eta @ grad
        assert float(slope) == pytest.approx(-float(square), rel=1e-9)
        assert abs(float(slope) + float(np.sqrt(square))) > 0.1 * square, "the printed rate lacks the square"
        # (4.2): the step is the minimiser of a linear model with a proximal term in the norm of η⁻¹.

        def model(u, eta=eta):
            return 0.1 * grad @ u + (u - w) @ jnp.asarray(np.linalg.inv(eta)) @ (u - w) / 2

        assert np.abs(jax.grad(model)(w - 0.1 * (eta @ grad))).max() < 1e-9
    # The objective of the library is the root of that rate.
    moment = {"w": jnp.asarray(second)}
    found = orbits.preconditioned_gradient_norm(
        lambda p: loss(p["w"]), {"w": w}, moment, accumulate=True, eps=0.0, squared=True
    )
    expected = np.sum(np.square(grad) / np.sqrt(second + np.square(grad)))
    assert float(found) == pytest.approx(float(expected), rel=1e-9)
    record_claim("DC-T5.11", measured=float(abs(found - expected)), expected="<= 1e-9")


@pytest.mark.claim("DB-P4.5.4", "DB-EB9")
def test_a_gain_survives_steps(record_claim):
    rng = np.random.default_rng(1)
    violations = trials = 0
    for _ in range(200):
        a, _, _, d, _ = spd(rng, 4)
        lipschitz, rate, steps = 2 * d[-1], 0.02 / d[-1], 5
        low, high = (1 - rate * lipschitz) ** steps, (1 + rate * lipschitz) ** steps
        w, other = rng.normal(size=4), rng.normal(size=4)

        def size(w, a=a):
            return np.linalg.norm(2 * a @ w)

        other *= size(w) / size(other) * high / low * rng.uniform(1, 2)
        ends = []
        for v in (w, other):
            for _ in range(steps):
                new = v - rate * 2 * a @ v
                assert (1 - rate * lipschitz) * size(v) <= size(new) * (1 + 1e-12)
                assert size(new) <= (1 + rate * lipschitz) * size(v) * (1 + 1e-12)
                v = new
            ends.append(size(v))
        trials += 1
        violations += ends[1] < ends[0]
    assert violations == 0
    # With η = 1/β the squares of the gradients sum to at most 4βM; the gradients themselves, as printed, do not.
    beta, x = 1.0, 0.01
    most = beta * x**2 / 2
    norms = [beta * x] + [0.0] * 5  # one step of 1/β ends a parabola
    assert sum(n**2 for n in norms) / (2 * beta) <= 2 * most
    assert sum(norms) / (2 * beta) > 2 * most
    record_claim("DB-P4.5.4", measured=violations, expected=f"0 of {trials}")


@pytest.mark.claim("DB-L4.5.5", "DB-L4.5.6", "DB-P4.5.7", "DB-P4.5.8", "DB-EB7")
def test_quadratics(record_claim):
    rng = np.random.default_rng(2)
    a, root, back, d, q = spd(rng, 5)
    w1 = rng.normal(size=5)
    c = w1 @ a @ w1
    w2 = rng.normal(size=5)
    w2 *= np.sqrt(c / (w2 @ a @ w2))
    # The element that takes w1 to w2: orthogonal matrices with first columns A^½w/√c.
    frames = []
    for w in (w1, w2):
        v = root @ w / np.sqrt(c)
        frame, _ = np.linalg.qr(np.column_stack([v, rng.normal(size=(5, 4))]))
        frame[:, 0] = v
        frames.append(frame)
    g = frames[1] @ frames[0].T
    np.testing.assert_allclose(g @ g.T, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(back @ g @ root @ w1, w2, atol=1e-10)
    # The largest gradient of the level set, at the top eigenvector, which is its point of least norm.
    top = np.sqrt(c / d[-1]) * q[:, -1]

    def size(w):
        return np.sum(np.square(2 * a @ w))

    samples = np.array([back @ orthogonal(rng, 5) @ root @ w1 for _ in range(500)])
    assert max(map(size, samples)) <= 4 * c * d[-1] * (1 + 1e-9)
    assert size(top) == pytest.approx(4 * c * d[-1])
    assert min(np.sum(np.square(samples), 1)) >= c / d[-1] * (1 - 1e-9)
    assert top @ top == pytest.approx(c / d[-1])
    # Lagrange: the multiplier of (4.42) is 1/λ, not λ as printed in (4.44).
    np.testing.assert_allclose(a @ top, top / (1 / d[-1]), atol=1e-9)
    assert np.abs(a @ top - (1 / d[-1]) * top).max() > 0.1
    # From there flow and descent stay optimal.
    for t in np.linspace(0, 1, 7):
        w = q @ (np.exp(-2 * d * t) * (q.T @ top))
        assert size(w) / (4 * (w @ a @ w) * d[-1]) == pytest.approx(1, abs=1e-10)
    w = top
    for _ in range(5):
        w = w - 0.01 * 2 * a @ w
        assert size(w) / (4 * (w @ a @ w) * d[-1]) == pytest.approx(1, abs=1e-10)
    record_claim("DB-L4.5.6", measured=size(top) / (4 * c * d[-1]), expected="1")


@pytest.mark.claim("DB-LC.2.1", "DB-T4.5.9", "DB-EB14")
def test_sgd_with_teleportation(record_claim):
    """Least squares, one sample a step: the bound holds for T = 10, 100, 1000; σ² and β are those of the samples."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 6))
    y = x @ rng.normal(size=6) + 0.5 * rng.normal(size=40)
    hessian = x.T @ x / 40
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    beta = np.max(np.sum(x**2, 1))
    lowest = np.mean((x @ best - y) ** 2) / 2
    noise = lowest  # every single sample can be fitted
    values, vectors = np.linalg.eigh(hessian)

    def excess(w):
        return np.einsum("...i,ij,...j->...", w - best, hessian, w - best) / 2

    ws = rng.normal(size=(200, 6)) * 3
    each = np.mean(np.sum(x**2, 1) * (ws @ x.T - y) ** 2, 1)
    assert (each <= 2 * beta * excess(ws) + 2 * beta * noise + 1e-9).all()
    start = best + rng.normal(size=6)
    for steps in (10, 100, 1000):
        rate = 1 / (beta * np.sqrt(steps - 1))
        w = np.repeat(start[None], 300, 0)
        largest = []
        for _ in range(steps):
            e = excess(w)
            largest.append(np.mean(2 * values[-1] * e))  # max over the orbit, in closed form
            w = best + np.sqrt(2 * e / values[-1])[:, None] * vectors[:, -1]
            i = rng.integers(40, size=300)
            w = w - rate * ((np.sum(x[i] * w, 1) - y[i])[:, None] * x[i])
        bound = (2 * beta * excess(start) + beta * noise) / np.sqrt(steps - 1)
        assert min(largest) <= bound
        record_claim("DB-T4.5.9", measured=min(largest) / bound, expected="<= 1")
    # Without T ≥ 2 the learning rate is infinite, and a symmetry of one sample's loss is none of the sum of all.
    with np.errstate(divide="ignore"):
        assert np.isinf(1 / (beta * np.sqrt(np.float64(1 - 1))))
    i, w = 0, rng.normal(size=6)
    shift = rng.normal(size=6)
    shift -= (shift @ x[i]) / (x[i] @ x[i]) * x[i]
    assert x[i] @ (w + shift) == pytest.approx(x[i] @ w)
    assert abs(excess(w + shift) - excess(w)) > 1e-3


@pytest.mark.claim("DB-PC.2.2", "DB-EB10")
def test_the_largest_gradient_grows_with_the_loss():
    rng = np.random.default_rng(4)
    a, _, _, d, _ = spd(rng, 4)
    # L = q + q² with q = wᵀAw: strictly convex, and its level sets are those of q, single orbits.
    grid = np.linspace(0.01, 5, 400)
    largest = (1 + 2 * grid) ** 2 * 4 * grid * d[-1]
    assert (np.diff(largest) > 0).all()
    for _ in range(50):
        w1, w2 = rng.normal(size=(2, 4))
        q1, q2 = w1 @ a @ w1, w2 @ a @ w2
        most = (1 + 2 * q1) ** 2 * 4 * q1 * d[-1]
        scale = np.sum(np.square((1 + 2 * q2) * 2 * a @ w2))
        if most <= scale:
            assert q1 + q1**2 <= q2 + q2**2
    # (C.35): ∇L·∂‖∇L‖² = 2 ∇LᵀH∇L. Strictly convex functions may have zeros of it: x⁴ + x at 0, and |L'| still grows.
    loss = lambda w: (w @ a @ w) + (w @ a @ w) ** 2  # noqa: E731
    w = jnp.asarray(rng.normal(size=4))
    g, h = jax.grad(loss)(w), jax.hessian(loss)(w)
    slope = jax.grad(lambda w: jnp.sum(jax.grad(loss)(w) ** 2))(w) @ g
    assert float(slope) == pytest.approx(float(2 * g @ h @ g), rel=1e-9)
    assert float(slope) > 1.5 * float(g @ h @ g), "the printed one lacks the factor"
    one = lambda x: x**4 + x  # noqa: E731
    assert jax.grad(one)(0.0) ** 2 * jax.grad(jax.grad(one))(0.0) == 0
    xs = np.linspace(-0.3, 0.3, 50)
    assert (np.diff(np.abs(4 * xs**3 + 1)) > 0).all()


def critical_angles(land, x):
    """The angles with the largest and the smallest gradient of the orbit: roots of the derivative, by bisection."""

    def size(t):
        return jnp.log(jnp.sum(jax.grad(land.loss)(land.symmetry.act(x, t)) ** 2))

    values, slope = jax.jit(jax.vmap(size)), jax.jit(jax.grad(size))
    grid = np.linspace(0, 2 * np.pi, 4001)
    for pick, sign in ((np.argmax, 1), (np.argmin, -1)):
        k = pick(np.asarray(values(grid)))
        low, high = grid[k] - 2e-3, grid[k] + 2e-3
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if sign * slope(middle) > 0 else (low, middle)
        yield low


@pytest.mark.claim("DB-L4.5.10", "DB-P4.5.11", "DB-EB5", "DB-EB6")
def test_gradients_at_critical_points_are_eigenvectors(record_claim):
    land = orbits.rosenbrock()

    @jax.jit
    def look(w):
        g, h = jax.grad(land.loss)(w), jax.hessian(land.loss)(w)
        value = g @ h @ g / (g @ g)
        newton = jnp.linalg.solve(h, g)
        cosine = g @ newton / jnp.linalg.norm(g) / jnp.linalg.norm(newton)
        size = jnp.linalg.norm(h) * jnp.linalg.norm(g)
        return jnp.linalg.norm(h @ g - value * g) / size, value, cosine

    worst, signs = 0.0, set()
    for x in ([-1.0, -1.0], [0.3, 0.9], [-0.8, 0.8]):
        for angle in critical_angles(land, jnp.array(x)):  # at the smallest as at the largest gradient
            residual, value, cosine = look(land.symmetry.act(jnp.array(x), angle))
            worst = max(worst, float(residual))
            signs.add(float(jnp.sign(value)))
            assert residual < 1e-9
            assert cosine == pytest.approx(float(jnp.sign(value)), abs=1e-6)
        assert look(jnp.array(x))[0] > 1e-4  # elsewhere it is not
    assert signs == {1.0, -1.0}, "of the Newton direction, the opposite one too"
    record_claim("DB-L4.5.10", measured=worst, expected="<= 1e-9")


@pytest.mark.claim("DB-P4.5.12", "DB-LC.3.1", "DB-EB1", "DB-EB2")
def test_a_step_after_the_best_teleport_is_a_damped_newton_step(record_claim):
    # The bound of the lemma with the linear term doubled: f = Σ d x²/2 + c log cosh x, least at 0.
    rng = np.random.default_rng(5)
    worst = 0.0
    for _ in range(2000):
        d, c, lam = rng.uniform(0.5, 3, size=2), rng.uniform(0, 2), rng.uniform(0.05, 1.5)
        x = rng.normal(size=2) * 2
        grad, hess = d * x + c * np.tanh(x), d + c / np.cosh(x) ** 2
        step = x - lam * grad / hess
        mu, most, third = d.min(), d.max() + c, c * 4 / (3 * np.sqrt(3))
        bound = third / (2 * mu) * (x @ x) + abs(1 - lam) * most / mu * np.linalg.norm(x)
        worst = max(worst, np.linalg.norm(step) / bound)
    assert worst <= 1
    # As printed, with ∫ds = ½, a parabola violates it: x⁺ = 1.5 > 0.75.
    x, lam = 3.0, 0.5
    assert x - lam * x > 0.5 * abs(1 - lam) * x
    assert x - lam * x <= abs(1 - lam) * x
    # At an eigenvector of the Hessian a gradient step is λ0γ of a Newton step.
    a, _, _, d, q = spd(rng, 3)
    w = 2 * q[:, -1]
    grad, hess = 2 * a @ w, 2 * a
    np.testing.assert_allclose(0.1 * grad, 0.1 * 2 * d[-1] * np.linalg.solve(hess, grad), atol=1e-9)
    # λ0 is bounded by the Hessian at the target, not at the start: x⁴ + x² + y² from (0, 2).
    xs = np.linspace(0, 1.2496210676876531, 20001)
    ys = np.sqrt(np.maximum(4 - xs**4 - xs**2, 0))
    size = (4 * xs**3 + 2 * xs) ** 2 + 4 * ys**2
    target = xs[np.argmax(size)]
    value = 12 * target**2 + 2
    assert target == pytest.approx(1.2496, abs=1e-4)
    assert value == pytest.approx(20.74, abs=0.01)
    assert value > 2 == 12 * 0.0 + 2
    record_claim("DB-EB2", measured=value, expected="2 as printed")
    record_claim("DB-LC.3.1", measured=worst, expected="<= 1")


def quartic(w):
    """A function without symmetry of its third derivatives."""
    return w[0] ** 4 / 4 + w[0] ** 2 * w[1] + w[1] ** 2 * 1.5 + w[2] ** 2 + w[0] * w[2] + w[1] ** 3 / 3


def bracket(a, r):
    """[A, R] as a vector field: D R A - D A R."""
    return lambda w: jax.jvp(r, (w,), (a(w),))[1] - jax.jvp(a, (w,), (r(w),))[1]


def along(field, f):
    """The derivative of a function along a field."""
    return lambda w: jax.jvp(f, (w,), (field(w),))[1]


@pytest.mark.claim("DB-P4.5.14", "DB-4.5.6", "DB-EB4", "DB-P4.5.16", "DB-LC.4.1", "DB-PC.4.3")
def test_brackets_of_the_flow_and_the_symmetry(record_claim):
    rng = np.random.default_rng(6)
    skew = rng.normal(size=(3, 3))
    skew = jnp.asarray(skew - skew.T)

    def fields(loss):
        flow = lambda w: -jax.grad(loss)(w)  # noqa: E731
        tangent = lambda w: skew @ jax.grad(loss)(w)  # noqa: E731
        return flow, tangent

    @jax.jit
    def sides(w):
        flow, tangent = fields(quartic)
        size = lambda w: jnp.sum(jax.grad(quartic)(w) ** 2)  # noqa: E731
        both = bracket(tangent, flow)
        g, h = jax.grad(quartic)(w), jax.hessian(quartic)(w)
        by_hand = -2 * (skew @ g) @ h @ g
        step = 1e-4
        flowed = (along(both, quartic)(w + step * flow(w)) - along(both, quartic)(w - step * flow(w))) / (
            2 * step
        )
        return (
            along(both, quartic)(w),
            -along(tangent, size)(w),
            by_hand,
            along(flow, along(both, quartic))(w),
            flowed,
        )

    for _ in range(5):
        one, two, three, rate, numeric = sides(jnp.asarray(rng.normal(size=3)))
        assert one == pytest.approx(float(two), rel=1e-8)
        assert one == pytest.approx(float(three), rel=1e-8)
        assert abs(one) > 1e-6  # so teleporting along it changes the rate
        assert numeric == pytest.approx(float(rate), rel=1e-4), "d/dt F along the flow is +RF"
    # Rotations of |w|²: the bracket is 0, and no teleport changes the rate.
    flow, _ = fields(lambda w: w @ w)
    still = along(bracket(lambda w: skew @ w, flow), lambda w: w @ w)(jnp.asarray(rng.normal(size=3)))
    assert abs(still) < 1e-12

    # R[A, R]L at points where the gradient is an eigenvector: 2 (Mg)ᵀ T[g, g].
    def cubic(w, third):
        """Gradient g = (1, 0, 0) and H g = 2g at 0, with any third derivatives."""
        return w[0] + w[0] ** 2 + 1.5 * w[1] ** 2 + w[2] ** 2 + jnp.einsum("ijk,i,j,k", third, w, w, w) / 6

    third = rng.normal(size=(3, 3, 3))
    third = jnp.asarray(
        sum(
            np.transpose(third, p) for p in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        )
    )

    @jax.jit
    def obstruction(third):
        flow, tangent = fields(lambda w: cubic(w, third))
        value = along(flow, along(bracket(tangent, flow), lambda w: cubic(w, third)))(jnp.zeros(3))
        g = jnp.array([1.0, 0, 0])
        return value, 2 * (skew @ g) @ jnp.einsum("kij,k,i->j", third, g, g)

    value, expected = obstruction(third)
    assert value == pytest.approx(float(expected), rel=1e-8)
    assert abs(value) > 1e-3
    aligned = jnp.zeros((3, 3, 3)).at[0, 0, 0].set(2.0)  # T[g, g] parallel to g
    assert abs(obstruction(aligned)[0]) < 1e-10
    assert abs(obstruction(0 * third)[0]) < 1e-10  # quadratics
    # Skew matrices with M w = v for v ⟂ w.
    w, v = rng.normal(size=(2, 5))
    v -= (v @ w) / (w @ w) * w
    m = (np.outer(v, w) - np.outer(w, v)) / (w @ w)
    np.testing.assert_allclose(m, -m.T)
    np.testing.assert_allclose(m @ w, v, atol=1e-12)
    assert abs((m @ v) @ v) < 1e-12
    record_claim("DB-P4.5.14", measured=float(abs(one - two)), expected="<= 1e-8 relative")


@pytest.mark.claim("DB-P4.5.15", "DB-EB3")
def test_flow_need_not_stay_optimal(record_claim):
    """A tangent field with a double zero: R[A,R]L = 0 wherever [A,R]L = 0, and yet the flow leaves the optimal set."""
    loss = lambda w: (w[0] ** 2 + 2 * w[1] ** 2) / 2  # noqa: E731
    field = lambda w: (w[0] - 1) ** 2 * jnp.stack([-2 * w[1], w[0]])  # noqa: E731
    flow = lambda w: -jax.grad(loss)(w)  # noqa: E731
    f = along(bracket(field, flow), loss)
    rate = along(flow, f)
    for point in ([1.0, 0.3], [1.0, -2.0], [0.0, 0.7], [0.4, 0.0]):
        w = jnp.array(point)
        assert f(w) == pytest.approx(float(-4 * w[0] * w[1] * (w[0] - 1) ** 2), abs=1e-12)
        assert f(w) == pytest.approx(0, abs=1e-12)
        assert rate(w) == pytest.approx(0, abs=1e-12)
    along_flow = [float(f(jnp.array([np.exp(-t), np.exp(-2 * t)]))) for t in (0.2, 0.5, 1.0)]
    assert along_flow == pytest.approx([-0.072, -0.138, -0.080], abs=1e-3)
    # With 0 a regular value the conclusion holds: for A without the square the optimal set is x = 0 or y = 0, kept.
    good = along(bracket(lambda w: jnp.stack([-2 * w[1], w[0]]), flow), loss)
    assert max(abs(float(good(jnp.array([np.exp(-t), 0.0])))) for t in (0.0, 0.5, 2.0)) < 1e-12
    record_claim("DB-EB3", measured=along_flow[1], expected="0 as printed")


@pytest.mark.claim("DB-EB15")
def test_the_imbalance_that_flow_keeps():
    rng = np.random.default_rng(7)
    u, v, y = (jnp.asarray(rng.normal(size=s)) for s in ((4, 3), (3, 5), (4, 5)))
    du, dv = jax.grad(lambda u, v: jnp.sum((y - u @ v) ** 2), (0, 1))(u, v)
    np.testing.assert_allclose(du.T @ u + u.T @ du - dv @ v.T - v @ dv.T, 0, atol=1e-9)
    # As printed, UᵀU - VᵀV: the shapes differ unless all widths agree, and then it is not kept.
    u, v, y = (jnp.asarray(rng.normal(size=(3, 3))) for _ in range(3))
    du, dv = jax.grad(lambda u, v: jnp.sum((y - u @ v) ** 2), (0, 1))(u, v)
    assert np.abs(du.T @ u + u.T @ du - dv.T @ v - v.T @ dv).max() > 0.1
