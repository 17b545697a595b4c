"""Collapse: Theorems 1 to 4, stationary conditions, critical weight decays, against dense algebra and training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalog_tools import flat, quick_jit

import eqtoolbox as eqt
from eqtoolbox import groups, mirror
from eqtoolbox.symmetry import catalog

WIDTH = 5


@pytest.fixture(scope="module")
def network():
    """A two-layer tanh network with data, its symmetry, and its loss of a batch."""
    rng = np.random.default_rng(0)
    params = {
        "a": {"kernel": rng.normal(size=(3, WIDTH)), "bias": rng.normal(size=WIDTH)},
        "b": {"kernel": rng.normal(size=(WIDTH, 2))},
    }
    batches = {"x": rng.normal(size=(7, 4, 3)), "y": rng.normal(size=(7, 4, 2))}

    def loss(p, batch):
        hidden = jnp.tanh(batch["x"] @ p["a"]["kernel"] + p["a"]["bias"][None])
        return jnp.mean((hidden @ p["b"]["kernel"] - batch["y"]) ** 2)

    sym = catalog.mlp(params, ["a", "b"], "tanh")
    return sym, loss, params, batches


@pytest.mark.claim("MS-T1.1", "MS-T1.2", "MS-2.4d")
def test_gradient_hessian_and_fisher_at_symmetric_points(network, x64, record_claim):
    """Every mirror of B(5), every mini-batch, two decays, against jax.hessian; off the mirror neither holds."""
    sym, loss, params, batches = network
    mirrors = mirror.of(sym)
    assert len(mirrors) == 5 + 2 * 10
    flat_params, unravel = jax.flatten_util.ravel_pytree(params)

    @quick_jit
    def derivatives(theta, gamma):
        at = lambda t, b: loss(unravel(t), b) + gamma * jnp.vdot(t, t)  # noqa: E731
        grads = jax.vmap(jax.grad(at), (None, 0))(theta, batches)
        return grads, jax.hessian(lambda t: at(t, jax.tree.map(lambda x: x[0], batches)))(theta)

    worst = {"gradient": 0.0, "hessian": 0.0}
    for i in (0, 10, 24):
        m = mirrors[i]
        row = lambda e, m=m: jax.flatten_util.ravel_pytree(m.order(unravel(e)))[0]  # noqa: E731
        o = np.asarray(quick_jit(jax.vmap(row))(jnp.eye(flat_params.size)))  # p x r
        np.testing.assert_allclose(o.T @ o, np.eye(o.shape[1]), atol=1e-12)
        symmetric = jnp.asarray(flat_params - o @ (o.T @ flat_params))
        for gamma in (0.0, 3.0):
            grads, hessian = derivatives(symmetric, gamma)
            worst["gradient"] = max(worst["gradient"], np.abs(grads @ o).max())
            off = o.T @ hessian @ (np.eye(len(o)) - o @ o.T)
            worst["hessian"] = max(worst["hessian"], np.abs(off).max())
        grads, hessian = derivatives(jnp.asarray(flat_params), 0.0)
        assert np.abs(grads @ o).max() > 1e-2
        assert np.abs(o.T @ hessian @ (np.eye(len(o)) - o @ o.T)).max() > 1e-2
        grads = derivatives(symmetric, 0.0)[0]
        fisher = np.asarray(grads.T @ grads)
        assert np.abs(fisher @ o).max() < 1e-12  # singular along O
        assert np.abs(fisher).max() > 1e-2
    assert max(worst.values()) < 1e-12
    record_claim("MS-T1.1", measured=worst["gradient"], expected="<= 1e-12")
    record_claim("MS-T1.2", measured=worst["hessian"], expected="<= 1e-12")
    batch = jax.tree.map(lambda x: x[0], batches)
    m = mirrors[0]
    blocks = mirror.hessian_blocks(lambda p: loss(p, batch), m.complement(params), m)
    assert blocks.gradient < 1e-12
    assert blocks.off_diagonal < 1e-12 * blocks.diagonal
    even, odd = mirror.split_gradient(jax.grad(loss)(params, batch), m)
    np.testing.assert_allclose(flat(even) + flat(odd), flat(jax.grad(loss)(params, batch)), atol=1e-14)
    assert mirror.hessian_blocks(lambda p: loss(p, batch), params, m).off_diagonal > 1e-3


@pytest.mark.claim("MS-T1.3", "MS-T4")
def test_local_critical_weight_decay(network, x64):
    """On both sides of γ_0 the sign of ℓ_γ(u) - ℓ_γ(w), for mirrors and for all pairs at once."""
    sym, loss, params, batches = network
    batch = jax.tree.map(lambda x: x[1], batches)
    at = jax.jit(lambda p: loss(p, batch))

    def decayed(p, gamma):
        return float(at(p)) + gamma * float(np.sum(flat(p) ** 2))

    merging = mirror.merging_weight_decay(sym, at, params, "h1")
    for i in (0, 4, 11):
        m = mirror.of(sym)[i]
        found = mirror.local_weight_decay(at, params, m)
        gammas = found.value + np.array([-1e-3, 1e-3])
        below, above = (decayed(m.complement(params), g) - decayed(params, g) for g in gammas)
        assert above < 0 < below
    a, b = 1, 3
    same = jax.tree.map(np.array, params)
    for leaf, axis in ((same["a"]["kernel"], 1), (same["a"]["bias"], 0), (same["b"]["kernel"], 0)):
        x = np.moveaxis(leaf, axis, 0)
        x[[a, b]] = (x[a] + x[b]) / 2
    gap = np.sum(flat(params) ** 2) - np.sum(flat(same) ** 2)
    np.testing.assert_allclose(merging[a, b], (float(at(same)) - float(at(params))) / gap, rtol=1e-9)
    grads = jax.grad(at)(same)
    np.testing.assert_allclose(grads["a"]["kernel"][:, a], grads["a"]["kernel"][:, b], atol=1e-14)
    np.testing.assert_allclose(grads["b"]["kernel"][a], grads["b"]["kernel"][b], atol=1e-14)
    assert np.isnan(np.diagonal(merging)).all()


@pytest.mark.claim("MS-T1.4")
def test_global_critical_weight_decay_is_sharp(x64, record_claim):
    """ℓ_0 = a(1 - w²)²: λ_min = -4a at 0. Above γ = 2a the only minimum is 0, just below w² = 1 - γ/2a is one.

    The printed γ > λ_min would allow every γ > -4a, at which the minima are not symmetric.
    """
    a = 1.5
    loss = lambda p: a * (1 - p["w"][0] ** 2) ** 2  # noqa: E731
    points = {"w": jnp.linspace(-2, 2, 41)[:, None]}
    flip = mirror.from_directions({"w": jnp.ones(1)})
    for m in (None, flip):
        found = mirror.global_weight_decay(loss, points, m)
        np.testing.assert_allclose(found.value, 2 * a, rtol=1e-12)
        np.testing.assert_allclose(found.smallest, -4 * a, rtol=1e-12)

    def minimum(gamma):
        w = 0.7
        for _ in range(20000):
            w -= 0.01 * (4 * a * w * (w**2 - 1) + 2 * gamma * w)
        return w

    assert abs(minimum(2 * a + 0.05)) < 1e-6
    np.testing.assert_allclose(minimum(2 * a - 0.05), (0.05 / (2 * a)) ** 0.5, rtol=1e-3)
    assert minimum(0.5) > 0.9  # printed: any γ > λ_min = -6
    record_claim("MS-T1.4", measured=float(found.value), expected="2a = 3")
    # along P only: a large negative curvature elsewhere does not matter
    both = lambda p: a * (1 - p["w"][0] ** 2) ** 2 - 50 * p["v"][0] ** 2  # noqa: E731
    wide = {"w": points["w"], "v": jnp.zeros((41, 1))}
    flip = mirror.from_directions({"w": jnp.ones(1), "v": jnp.zeros(1)})
    np.testing.assert_allclose(mirror.global_weight_decay(both, wide, flip).value, 2 * a, rtol=1e-12)
    np.testing.assert_allclose(mirror.global_weight_decay(both, wide).value, 50, rtol=1e-12)


@pytest.mark.claim("MS-C1")
@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.05), optax.sgd(0.005, momentum=0.9, nesterov=True), optax.adam(0.01), optax.adamw(0.01)],
)
def test_absorbed_for_ever(network, x64, optimizer, record_claim):
    """1000 steps of each optimizer from Oᵀθ = 0: dead units stay exactly dead, and equal ones equal but for rounding.

    Where the symmetric point repels, the rounding of the two units' sums (1e-16) grows like any displacement does, so
    what is left of it is bounded by the growth of a displacement of 1e-8.
    """
    sym, loss, params, batches = network
    mirrors = [mirror.of(sym)[i] for i in (0, 6, 12, 18, 24)]  # exchanges, a flip, signed exchanges
    stacked = jax.tree.map(jnp.asarray, batches)

    @jax.jit
    def train(params):
        def step(carry, i):
            p, state = carry
            batch = jax.tree.map(lambda x: x[i % 7], stacked)
            updates, state = optimizer.update(jax.grad(loss)(p, batch), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(1000))[0][0]

    symmetric = [m.complement(params) for m in mirrors]
    parts = [m.project(params) for m in mirrors]
    off = [jax.tree.map(lambda a, b: a + 1e-8 * b, s, p) for s, p in zip(symmetric, parts, strict=True)]
    ends = jax.vmap(train)(jax.tree.map(lambda *x: jnp.stack(x), *symmetric, *off))
    ends = [jax.tree.map(lambda x, i=i: x[i], ends) for i in range(10)]
    stay = np.array([m.distance(p) for m, p in zip(mirrors, ends[:5], strict=True)])
    leave = np.array([m.distance(p) for m, p in zip(mirrors, ends[5:], strict=True)])
    growth = leave / np.array([1e-8 * m.distance(params) for m in mirrors])
    assert stay[2] == 0  # the flip of one unit: its weights are 0
    assert np.all(stay <= 1e-13 * np.maximum(growth, 1))
    assert np.all(stay < 1e-4 * np.maximum(leave, 1e-8))
    assert np.abs(flat(ends[0]) - flat(symmetric[0])).max() > 0.1  # it trained
    record_claim("MS-C1", measured=float(stay.max()), expected="0 but for rounding, after 1000 steps")


@pytest.mark.claim("MS-2.3", "MS-2.4a")
def test_two_layer_tanh_with_scalars(x64, record_claim):
    """The Hessian at 0 is d blocks [[0, -xy], [-xy, 0]]; ξ* = -|xy|, γ_c = |xy|/2; GD on both sides, and its rate."""
    d, x, y = 3, 0.8, 1.5
    loss = lambda p: (jnp.vdot(p["u"], jnp.tanh(p["w"] * x)) - y) ** 2 / 2  # noqa: E731
    zero = {"u": jnp.zeros(d), "w": jnp.zeros(d)}
    block = np.array([[0, -x * y], [-x * y, 0]])
    dense = jax.flatten_util.ravel_pytree(zero)[1]
    hessian = jax.hessian(lambda t: loss(dense(t)))(jnp.zeros(2 * d))
    np.testing.assert_allclose(hessian, np.kron(block, np.eye(d)), atol=1e-15)
    sym = eqt.Symmetry({"u": "h", "w": "h"}, {"h": groups.SignFlip(d)})
    m = mirror.of(sym, zero)[1]
    found = mirror.gd_weight_decay(loss, zero, m)
    np.testing.assert_allclose(found.curvature, -x * y, rtol=1e-10)
    np.testing.assert_allclose(found.weight_decay, x * y / 2, rtol=1e-10)
    np.testing.assert_allclose(np.abs(flat(found.direction)), np.sqrt([0.5, 0.5]), rtol=1e-7)
    for n, value in (((1, -1), x * y),):
        unit = {"u": jnp.zeros(d).at[1].set(n[0]), "w": jnp.zeros(d).at[1].set(n[1])}
        rank_one = mirror.gd_weight_decay(loss, zero, mirror.from_directions(unit))
        np.testing.assert_allclose(rank_one.curvature, value, rtol=1e-10)

    @jax.jit
    def descend(gamma):
        def step(p, _):
            p = jax.tree.map(lambda a, g: a - 0.01 * (g + 2 * gamma * a), p, jax.grad(loss)(p))
            return p, m.distance(p)

        start = jax.tree.map(lambda z: z.at[1].set(1e-6), zero)
        return jax.lax.scan(step, start, None, length=400)[1]

    for gamma in found.weight_decay * np.array([0.0, 0.9, 1.1, 2.0]):
        distances = np.asarray(descend(gamma))
        measured = np.log(distances[300] / distances[100]) / (0.01 * 200)
        np.testing.assert_allclose(measured, found.rate(gamma), atol=0.01 * (x * y + 2 * gamma) ** 2)
        assert (measured > 0) == (gamma < found.weight_decay)
    # the printed ξ* + γ > 0 asks for twice the decay
    collapsing = descend(0.6 * x * y)
    assert collapsing[-1] < 0.5 * collapsing[0]
    record_claim("MS-2.4a", measured=float(found.weight_decay), expected="|xy|/2 = 0.6")


@pytest.mark.claim("MS-2.5")
def test_the_loss_is_a_function_of_the_square(network, x64):
    """Along a mirror direction ℓ is even in s, and dℓ/dz at z = s² -> 0⁺ exists: half the curvature."""
    sym, loss, params, batches = network
    batch = jax.tree.map(lambda x: x[0], batches)
    m = mirror.of(sym)[12]
    at = mirror._restricted.restrict(loss, params, m)
    n = jax.random.normal(jax.random.key(0), at.zero.shape, float)
    n = n / jnp.linalg.norm(n)
    line = jax.jit(lambda s: at.loss(s * n, batch))
    np.testing.assert_allclose(line(0.3), line(-0.3), rtol=1e-14)
    slope = 0.5 * float(jnp.vdot(n, at.hessian(batch)(n)))
    for s in (1e-2, 3e-3):
        assert abs((line(s) - line(0.0)) / s**2 - slope) < 10 * s**2
    # without a mirror the quotient diverges
    other = lambda s: float(loss(jax.tree.map(lambda p: p + s, params), batch))  # noqa: E731
    assert abs((other(1e-4) - other(0.0)) / 1e-8) > 1e3


@pytest.mark.claim("MS-T2")
def test_rescaling(x64):
    """Leaky ReLU, c > 0 only: (0, 0) stationary, γ_0 against the printed formula, and on both of its sides."""
    rng = np.random.default_rng(2)
    params = {"a": {"kernel": rng.normal(size=(3, 4))}, "b": {"kernel": rng.normal(size=(4, 2))}}
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))

    def loss(p):
        hidden = x @ p["a"]["kernel"]
        return jnp.mean((jnp.where(hidden > 0, hidden, 0.1 * hidden) @ p["b"]["kernel"] - y) ** 2)

    sym = catalog.mlp(params, ["a", "b"], "leaky_relu")
    found = mirror.rescaling_weight_decay(sym, loss, params, "h1")
    for unit in range(4):
        gone = {"a": {"kernel": params["a"]["kernel"].copy()}, "b": {"kernel": params["b"]["kernel"].copy()}}
        gone["a"]["kernel"][:, unit] = gone["b"]["kernel"][unit] = 0
        squares = np.sum(flat(params) ** 2) - np.sum(flat(gone) ** 2)
        gap = float(loss(gone)) - float(loss(params))
        np.testing.assert_allclose(found[unit], max(0, gap / squares), rtol=1e-10)
        assert gap - (found[unit] + 1e-3) * squares < 0
        grads = jax.grad(loss)(gone)
        assert np.abs(grads["a"]["kernel"][:, unit]).max() == np.abs(grads["b"]["kernel"][unit]).max() == 0
    assert np.any(found > 1e-3)
    with pytest.raises(TypeError, match="needs positive scalings"):
        mirror.rescaling_weight_decay(catalog.mlp(params, ["a", "b"], "gelu"), loss, params, "h1")
    with pytest.raises(ValueError, match="no space 'x'"):
        mirror.rescaling_weight_decay(sym, loss, params, "x")


@pytest.mark.claim("MS-T3")
def test_rotation(x64, record_claim):
    """One matrix, two matrices: nᵀ∇ = 0 where nᵀW = 0, γ_0 against an SVD, and lost rank under 500 steps."""
    rng = np.random.default_rng(3)
    w = rng.normal(size=(4, 6))
    target = rng.normal(size=(6, 6))
    single = lambda p: jnp.mean((p["w"].T @ p["w"] - target) ** 2)  # noqa: E731
    sym = eqt.Symmetry({"w": "h _"}, {"h": groups.Orthogonal(4)})
    decay, values = mirror.rank_weight_decay(sym, single, {"w": jnp.asarray(w)}, "h")
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    np.testing.assert_allclose(values, s, rtol=1e-10)
    for i in range(4):
        less = s.copy()
        less[i] = 0
        gap = float(single({"w": (u * less) @ vt})) - float(single({"w": w}))
        np.testing.assert_allclose(decay[i], max(gap / s[i] ** 2, 0), rtol=1e-8, atol=1e-12)
    lost = {"w": jnp.asarray(w - np.outer(u[:, 0], u[:, 0] @ w))}
    assert np.abs(u[:, 0] @ jax.grad(single)(lost)["w"]).max() < 1e-12

    x = rng.normal(size=(30, 5))
    y = x @ rng.normal(size=(5, 3))
    double = lambda p: jnp.mean((x @ p["u"] @ p["v"] - y) ** 2)  # noqa: E731
    params = {"u": jnp.asarray(rng.normal(size=(5, 4))), "v": jnp.asarray(rng.normal(size=(4, 3)))}
    sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.GeneralLinear(4)})
    decay, values = mirror.rank_weight_decay(sym, double, params, "h")
    stacked = np.concatenate([params["u"].T, params["v"]], axis=1)
    n = np.linalg.svd(stacked)[0]
    np.testing.assert_allclose(values, np.linalg.svd(stacked)[1], rtol=1e-10)
    for i in range(4):
        keep = np.eye(4) - np.outer(n[:, i], n[:, i])
        gap = float(double({"u": params["u"] @ keep, "v": keep @ params["v"]})) - float(double(params))
        np.testing.assert_allclose(decay[i], max(gap / values[i] ** 2, 0), rtol=1e-8)
    m = mirror.reflection(sym, "h", n[:, 1])
    start = m.complement(params)

    @jax.jit
    def train(p):
        step = lambda p, _: (jax.tree.map(lambda a, g: a - 0.01 * g, p, jax.grad(double)(p)), None)  # noqa: E731
        return jax.lax.scan(step, p, None, length=500)[0]

    end = train(start)
    smallest = np.linalg.svd(end["u"], compute_uv=False)[-1], np.linalg.svd(end["v"] @ end["v"].T)[1][-1]
    assert max(smallest) < 1e-12
    assert double(end) < 0.5 * double(start)
    assert np.linalg.svd(train(params)["u"], compute_uv=False)[-1] > 1e-2
    record_claim("MS-T3", measured=float(max(smallest)), expected="singular value 0 after 500 steps")
    with pytest.raises(TypeError, match="needs O"):
        mirror.rank_weight_decay(
            eqt.Symmetry({"w": "h _"}, {"h": groups.Permutation(4)}), single, {"w": w}, "h"
        )


@pytest.mark.claim("MS-C1")
def test_adam_leaves_the_mirrors_of_a_rotation(x64, record_claim):
    """W n = 0 for a general n: kept by SGD and momentum, not by Adam, which divides entry by entry; so rank comes back.

    Along an axis, n = e₀, Adam keeps it: there the reflection flips signs.
    """
    rng = np.random.default_rng(5)
    x = rng.normal(size=(30, 4))
    y = x @ rng.normal(size=(4, 4))
    loss = lambda p: jnp.mean((x @ p["u"] @ p["v"] - y) ** 2)  # noqa: E731
    params = {k: jnp.asarray(rng.normal(size=(4, 4))) for k in "uv"}
    sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.GeneralLinear(4)})
    turned = mirror.reflection(sym, "h", rng.normal(size=4))
    axis = mirror.of(sym)[0]
    starts = jax.tree.map(lambda *a: jnp.stack(a), *[m.complement(params) for m in (turned, axis)])

    def after(optimizer):
        def step(carry, _):
            p, state = carry
            updates, state = optimizer.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        run = lambda p: jax.lax.scan(step, (p, optimizer.init(p)), None, length=200)[0][0]  # noqa: E731
        ends = jax.jit(jax.vmap(run))(starts)
        first, second = (jax.tree.map(lambda a, i=i: a[i], ends) for i in range(2))
        return float(turned.distance(first)), float(axis.distance(second))

    for optimizer in (optax.sgd(0.01), optax.sgd(0.01, momentum=0.9)):
        assert max(after(optimizer)) < 1e-12
    away, still = after(optax.adam(0.01))
    assert still == 0
    assert away > 0.1
    record_claim("MS-C1", measured=away, expected="printed: 0 under Adam too")
