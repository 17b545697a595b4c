"""`DataDependentAction`: S15-S17, Theorems 2.4.1 and A.3.4, Propositions 2.4.2 and A.3.5, errata E9 and E22."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eqtoolbox import groups, zoo
from eqtoolbox.symmetry import Symmetry
from eqtoolbox.symmetry._cocycles import (
    batch_cocycle,
    linear_cocycle,
    pseudo_inverse_map,
    rotation_cocycle,
)
from eqtoolbox.symmetry._data_dependent import DataDependentAction
from eqtoolbox.symmetry._rotations import inverse_rotation_to, rotation_to
from eqtoolbox.testing import assert_equivariant

TOLERANCE = 1e-10
SLOPE = 0.3


def leaky(z):
    return jnp.maximum(z, 0) + SLOPE * jnp.minimum(z, 0)


LIPSCHITZ = {jax.nn.sigmoid: 0.25, jnp.tanh: 1.0, leaky: 1.0}


def layers(depth):
    return [(f"Dense_{i}/kernel", f"Dense_{i}/bias") for i in range(depth)]


def network(seed, widths):
    """Parameters of a multilayer perceptron, drawn on the host."""
    rng = np.random.default_rng(seed)
    return {
        f"Dense_{i}": {"kernel": rng.normal(size=(n, m)) / np.sqrt(n), "bias": rng.normal(size=m)}
        for i, (n, m) in enumerate(itertools.pairwise(widths))
    }


def element(seed, widths):
    """An element of GL(n_1) x ... x GL(n_{L-1}) of condition number at most 4."""
    rng = np.random.default_rng([seed, 1])

    def one(h):
        left, right = (np.linalg.qr(rng.normal(size=(h, h)))[0] for _ in range(2))
        return left * np.exp(rng.uniform(-0.69, 0.69, h)) @ right

    return {f"h{i}": one(h) for i, h in enumerate(widths[1:-1], start=1)}


def data(seed, *shape):
    return np.random.default_rng([seed, 2]).normal(size=shape)


def action_of(make, widths, *activations):
    params = network(0, widths)
    return DataDependentAction.mlp(params, layers(len(widths) - 1), [make(a) for a in activations])


@functools.partial(jax.jit, static_argnums=0)
def at_identity(action, xi, params, x):
    """The generator and the gradient of a loss of the outputs at x."""
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(action.apply(p, x))))(params)
    return action.generator(xi, params, x), gradient


act = jax.jit(DataDependentAction.act)
apply = jax.jit(DataDependentAction.apply)
preactivations = jax.jit(DataDependentAction.preactivations)


def moves(action, g, h, params, x):
    """Both sides of the axioms and of what the action is for."""
    moved = act(action, h, params, x)
    before, after = (preactivations(action, p, x) for p in (params, moved))
    return {
        "unit": (act(action, {s: np.eye(len(m)) for s, m in g.items()}, params, x), params),
        "composition": (act(action, g, moved, x), act(action, {s: g[s] @ h[s] for s in g}, params, x)),
        "inverse": (act(action, {s: np.linalg.inv(m) for s, m in h.items()}, moved, x), params),
        "outputs": (apply(action, moved, x), apply(action, params, x)),
        "preactivations": (after, {s: z @ h[s].T for s, z in before.items()}),
    }


def largest(pair):
    """The largest error relative to the largest entry of the reference, leaf by leaf."""
    leaves = zip(*(map(np.asarray, jax.tree.leaves(side)) for side in pair), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in leaves)


def cosine(u, v):
    u, v = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (u, v))
    return abs(u @ v) / (np.linalg.norm(u) * np.linalg.norm(v))


def features_condition(action, params, x):
    z = action.preactivations(params, x)
    return max(np.linalg.cond(np.atleast_2d(h.cocycle.activation(z[h.space]))) for h in action.hidden)


DEPTHS = [
    ((3, 4, 2), (jax.nn.sigmoid,)),
    ((2, 6, 1, 3), (jnp.tanh, leaky)),
    ((3, 5, 2, 6, 2), (leaky, jax.nn.sigmoid, jnp.tanh)),
]


@pytest.mark.claim("DA-S15", "DA-S16", "DA-T14", "DA-T15", "DC-T1.3")
@settings(max_examples=40)
@given(case=st.sampled_from(DEPTHS), seed=st.integers(0, 2**31 - 1))
def test_rotation_action_axioms_and_invariance(case, seed):
    widths, activations = case
    with jax.enable_x64(True):
        action = action_of(rotation_cocycle, widths, *activations)
        g, h = element(seed, widths), element(seed + 1, widths)
        found = moves(action, g, h, network(seed, widths), data(seed, widths[0]))
    errors = {name: largest(pair) for name, pair in found.items()}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.claim("DA-S16", "DA-T17")
@settings(max_examples=30)
@given(case=st.sampled_from([((3, 5, 4, 2), 4), ((2, 6, 3), 3)]), seed=st.integers(0, 2**31 - 1))
def test_batch_action_axioms_and_invariance(case, seed):
    widths, k = case
    with jax.enable_x64(True):
        action = action_of(batch_cocycle, widths, *[jnp.tanh] * (len(widths) - 2))
        params, x, g, h = (
            network(seed, widths),
            data(seed, k, widths[0]),
            element(seed, widths),
            element(seed + 1, widths),
        )
        moved = act(action, h, params, x)
        both = act(action, g, moved, x)
        assume(max(features_condition(action, p, x) for p in (params, moved, both)) < 1e3)
        found = moves(action, g, h, params, x)
    errors = {name: largest(pair) for name, pair in found.items()}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.claim("DA-S15", "DA-T14", "DC-T1.3")
def test_two_layers_are_equation_27(x64, record_claim):
    widths = (4, 3, 2)
    params, g, x = network(5, widths), element(5, widths)["h1"], data(5, 4)
    params = {"in": params["Dense_0"]["kernel"], "out": params["Dense_1"]["kernel"]}
    action = DataDependentAction.mlp(params, ["in", "out"], rotation_cocycle(jnp.tanh))
    moved = act(action, {"h1": g}, params, x)
    u, v = params["out"].T, params["in"].T
    expected = u @ rotation_to(jnp.tanh(v @ x)) @ inverse_rotation_to(jnp.tanh(g @ v @ x))
    np.testing.assert_allclose(moved["out"].T, expected, atol=1e-14)
    np.testing.assert_allclose(moved["in"].T, g @ v, atol=1e-14)
    # The output is kept at x, and only there.
    kept = largest((apply(action, moved, x), apply(action, params, x)))
    assert kept < 1e-14
    record_claim("DA-S15", measured=kept, expected="<= 1e-10")
    assert largest((apply(action, moved, x + 1), apply(action, params, x + 1))) > 1e-2


def printed_a35(action, g, params, x):
    """Proposition A.3.5 as printed: sigma_i instead of sigma_{i-1}, and i up to L - 1."""
    z, new = action.preactivations(params, x), {k: dict(v) for k, v in params.items()}
    spaces = list(z)
    for i, space in enumerate(spaces):
        kernel = params[f"Dense_{i}"]["kernel"]
        if i > 0:
            before, sigma = spaces[i - 1], action.hidden[i].cocycle.activation
            features = action.hidden[i - 1].cocycle.activation(z[before])
            undo = rotation_to(features) @ inverse_rotation_to(sigma(g[before] @ z[before]))
            kernel = undo.T @ kernel
        new[f"Dense_{i}"] = {"kernel": kernel @ g[space].T, "bias": g[space] @ params[f"Dense_{i}"]["bias"]}
    return new


@pytest.mark.claim("DA-E22", "DA-T15")
def test_proposition_a35_needs_its_indices_corrected(x64, record_claim):
    widths = (3, 4, 5, 2)
    action = action_of(rotation_cocycle, widths, jnp.tanh, leaky)
    params, g, x = network(1, widths), element(1, widths), data(1, 3)
    right, wrong = act(action, g, params, x), printed_a35(action, g, params, x)
    before = apply(action, params, x)
    assert largest((apply(action, right, x), before)) < 1e-13
    error = largest((apply(action, wrong, x), before))
    assert error > 0.1
    record_claim("DA-E22", measured=error, expected="0 for a symmetry")
    # Each of the two misprints alone breaks it: with the last layer corrected the subscript still does ...
    wrong["Dense_2"] = right["Dense_2"]
    assert largest((apply(action, wrong, x), before)) > 0.1
    # ... and with one activation throughout, where the subscript does not matter, the last layer does.
    same = action_of(rotation_cocycle, widths, jnp.tanh, jnp.tanh)
    wrong, right = printed_a35(same, g, params, x), act(same, g, params, x)
    assert largest((wrong["Dense_1"], right["Dense_1"])) < 1e-14
    assert largest((apply(same, wrong, x), apply(same, params, x))) > 0.1


@pytest.mark.claim("DA-T14")
def test_degenerate_locus_is_flagged(x64):
    widths = (3, 4, 2)
    action = action_of(rotation_cocycle, widths, jnp.tanh)
    params, g = network(2, widths), element(2, widths)
    params["Dense_0"]["bias"] = np.zeros(4)
    defined = jax.jit(DataDependentAction.defined)
    assert not defined(action, g, params, np.zeros(3))
    assert np.isnan(act(action, g, params, np.zeros(3))["Dense_1"]["kernel"]).all()
    assert defined(action, g, params, np.ones(3))
    # The sigmoid never vanishes: the action is defined on all of Param x R^n.
    sigmoid = action_of(rotation_cocycle, widths, jax.nn.sigmoid)
    assert defined(sigmoid, g, params, np.zeros(3))
    moved = act(sigmoid, g, params, np.zeros(3))
    assert largest((apply(sigmoid, moved, np.zeros(3)), apply(sigmoid, params, np.zeros(3)))) < 1e-14
    with pytest.raises(ValueError, match="vanishes"):
        action_of(rotation_cocycle, widths, jax.nn.relu)


@pytest.mark.claim("DA-S17", "DA-E25")
def test_pseudo_inverse_map_of_a_network(x64):
    widths = (3, 4, 2)
    action = action_of(pseudo_inverse_map, widths, jnp.tanh)
    params, g, h = network(3, widths), element(3, widths), element(4, widths)
    for k in (2, 4, 7):
        found = {n: largest(p) for n, p in moves(action, g, h, params, data(3, k, 3)).items()}
        laws = action.laws(k)
        assert (found["outputs"] < TOLERANCE) == (k <= 4) == laws.equivariance
        assert (found["unit"] < TOLERANCE) == (k >= 4) == laws.unit
        assert (found["composition"] < TOLERANCE) == (k <= 4) == laws.composition
        if not laws.group_action:
            with pytest.raises(ValueError, match=f"with {k} samples .* not a group action"):
                action.generator(action.zero_algebra(), params, data(3, k, 3))
    # At k < h the limit g -> 1 is not the network one started from; the batch cocycle has no such defect.
    x, near = data(3, 2, 3), {"h1": np.eye(4) + 1e-9 * g["h1"]}
    exact = action_of(batch_cocycle, widths, jnp.tanh)
    new = data(8, 5, 3)
    assert largest((apply(action, act(action, near, params, x), new), apply(action, params, new))) > 0.1
    assert largest((apply(action, act(exact, near, params, x), new), apply(action, params, new))) < 1e-6


LINEAR = {
    "leaky": (leaky, groups.PositiveScaling, None, "h*"),
    "relu^2": (lambda z: jax.nn.relu(z) ** 2, groups.PositiveScaling, lambda g: g**2, "h^-2"),
    "radial": (zoo.activations()["radial"], groups.Orthogonal, None, "h*"),
    "tanh": (jnp.tanh, groups.SignedPermutation, None, "h*"),
}


@pytest.mark.claim("DA-T9")
@pytest.mark.parametrize("name", LINEAR)
def test_linear_cocycles_give_the_linear_action_layer_by_layer(name, x64):
    activation, group, pi, out = LINEAR[name]
    widths, x = (3, 4, 4, 2), data(6, 5, 3)
    spaces = {"h1": group(4), "h2": group(4)}
    action = DataDependentAction(layers(3), spaces, linear_cocycle(activation, pi))
    params, g = network(6, widths), action.sample(jax.random.key(0))
    moved = act(action, g, params, x)
    for hidden in action.hidden:
        matrix = hidden.group.act(g[hidden.space], jnp.eye(4), axis=0)
        before, after = (activation(action.preactivations(p, x)[hidden.space]) for p in (params, moved))
        np.testing.assert_allclose(after, before @ (matrix if pi is None else pi(matrix)).T, atol=1e-13)
    # A.9 is what the labelled symmetry does, on the whole parameter space.
    first, second = out.replace("h", "h1"), out.replace("h", "h2")
    axes = {
        "Dense_0": {"kernel": "_ h1", "bias": "h1"},
        "Dense_1": {"kernel": f"{first} h2", "bias": "h2"},
        "Dense_2": {"kernel": f"{second} _"},
    }
    labelled = Symmetry(axes, spaces)
    assert largest((moved, labelled.act(g, params))) < 1e-14
    assert largest((apply(action, moved, x + 1), apply(action, params, x + 1))) < 1e-13
    if group is not groups.SignedPermutation:
        xi = action.sample_algebra(jax.random.key(1))
        slope = action.generator(xi, params, x)
        assert largest((slope["Dense_1"], labelled.generator(xi, params)["Dense_1"])) < 1e-13


@pytest.mark.claim("DA-T16")
@pytest.mark.parametrize(("activation", "depth"), [(jax.nn.sigmoid, 2), (jnp.tanh, 2), (leaky, 3)])
def test_lipschitz_bound(activation, depth, x64, record_claim):
    widths = (3, 5, 4, 2)[: depth + 1]
    action = action_of(rotation_cocycle, widths, *[activation] * (depth - 1))
    params, eta = network(7, widths), LIPSCHITZ[activation]
    pairs = np.random.default_rng(0).normal(size=(2, 200, 3)) * 3
    bound_of = jax.jit(lambda g, p, x: (action.lipschitz_bound(g, p, x, eta), action.act(g, p, x)))
    slopes = jax.jit(jax.vmap(jax.jacobian(action.apply, argnums=1), (None, 0)))
    for seed in range(3):
        g, x = element(seed, widths), data(seed, 3)
        bound, moved = bound_of(g, params, x)
        a, b = (np.asarray(apply(action, moved, p)) for p in pairs)
        ratios = np.linalg.norm(a - b, axis=1) / np.linalg.norm(pairs[0] - pairs[1], axis=1)
        steepest = np.linalg.norm(slopes(moved, pairs[0]), 2, axis=(1, 2)).max()
        assert ratios.max() <= bound
        assert steepest <= bound
    record_claim("DA-T16", measured=float(steepest / bound), expected="<= 1")
    if depth == 2:  # the printed form of the bound
        z = np.asarray(action.preactivations(params, x)["h1"])
        quotient = np.linalg.norm(activation(z)) / np.linalg.norm(activation(g["h1"] @ z))
        norms = [
            np.linalg.norm(m, 2) for m in (params["Dense_0"]["kernel"], params["Dense_1"]["kernel"], g["h1"])
        ]
        assert bound == pytest.approx(eta * np.prod(norms) * quotient, rel=1e-12)


@pytest.mark.claim("DA-E9")
def test_the_general_lipschitz_bound_keeps_the_norm_of_g(x64, record_claim):
    params = {"in": jnp.eye(2), "out": jnp.eye(2)}
    action = DataDependentAction.mlp(params, ["in", "out"], linear_cocycle(lambda z: z))
    g, x = {"h1": 10 * jnp.eye(2)}, jnp.ones(2)
    moved = action.act(g, params, x)
    true = float(jnp.linalg.norm(jax.jacobian(action.apply, argnums=1)(moved, x), 2))
    printed = float(jnp.linalg.norm(action.hidden[0].cocycle.inverse(g["h1"], x), 2))  # eta = |U| = |V| = 1
    assert true == pytest.approx(1)
    assert printed == pytest.approx(0.1)
    assert true <= float(action.lipschitz_bound(g, params, x)) * (1 + 1e-12)
    record_claim("DA-E9", measured=f"printed {printed:.3g}, true {true:.3g}", expected="true <= printed")
    # Its proof writes F(x1 - x2) for F(x1) - F(x2), which a nonlinear network does not satisfy.
    two = action_of(rotation_cocycle, (3, 4, 2), jax.nn.sigmoid)
    p, a, b = network(1, (3, 4, 2)), data(1, 3), data(2, 3)
    p["Dense_0"]["bias"], p["Dense_1"]["bias"] = np.zeros(4), np.zeros(2)
    assert largest((apply(two, p, a - b), apply(two, p, a) - apply(two, p, b))) > 0.1


@pytest.mark.claim("DA-S16")
@pytest.mark.parametrize(("make", "samples"), [(rotation_cocycle, ()), (batch_cocycle, (4,))])
def test_generator_is_the_derivative_and_orthogonal_to_gradients(make, samples, x64):
    widths, t = (3, 5, 4, 2), 1e-6
    action = action_of(make, widths, jnp.tanh, jnp.tanh)
    for seed in range(5):
        params, xi, x = network(seed, widths), element(seed, widths), data(seed, *samples, 3)
        slope, gradient = at_identity(action, xi, params, x)
        assert cosine(slope, gradient) < TOLERANCE
    assert not np.any(slope["Dense_2"]["bias"])
    up = act(action, {s: np.eye(len(m)) + t * m for s, m in xi.items()}, params, x)
    down = act(action, {s: np.eye(len(m)) - t * m for s, m in xi.items()}, params, x)
    quotient = jax.tree.map(lambda a, b: (a - b) / (2 * t), up, down)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slope, quotient)


def test_elements_compose_and_invert(x64, key):
    action = action_of(rotation_cocycle, (3, 4, 2), jnp.tanh)
    g, h = action.sample(key), action.sample(jax.random.key(1))
    np.testing.assert_allclose(action.compose(g, h)["h1"], g["h1"] @ h["h1"], atol=1e-14)
    np.testing.assert_allclose(action.compose(g, action.inverse(g))["h1"], np.eye(4), atol=1e-13)
    np.testing.assert_array_equal(action.identity()["h1"], np.eye(4))
    xi = action.sample_algebra(jax.random.key(2))
    np.testing.assert_allclose(action.exp(xi)["h1"], jax.scipy.linalg.expm(xi["h1"]), atol=1e-14)
    assert {s: z.shape for s, z in action.zero_algebra().items()} == {"h1": (4, 4)}


def test_the_action_at_fixed_data_is_an_equivariance(x64):
    widths = (3, 4, 2)
    action = action_of(rotation_cocycle, widths, jnp.tanh)
    params, x, lam = network(4, widths), data(4, 3), {"h1": 0.3 * data(4, 4, 4)}
    fixed = action.at(x)
    assert fixed.is_symmetry
    assert assert_equivariant(fixed, lambda p: action.apply(p, x), params, lam) < TOLERANCE
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(fixed, lambda p: action.apply(p, x + 1), params, lam)
    assert largest((fixed.act(params, fixed.identity), params)) < 1e-14
    with pytest.raises(ValueError, match="not a group action"):
        action_of(pseudo_inverse_map, widths, jnp.tanh).at(data(4, 2, 3))


def test_vmap_float32_and_bfloat16():
    action = action_of(rotation_cocycle, (3, 4, 2), jnp.tanh)
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), network(1, (3, 4, 2)))
    xs = jnp.asarray(data(1, 6, 3), jnp.float32)
    gs = {"h1": np.stack([element(i, (3, 4, 2))["h1"] for i in range(6)]).astype(np.float32)}

    @jax.jit
    def outputs(gs, params, xs):
        moved = jax.vmap(action.act, (0, None, 0))(gs, params, xs)
        return moved, jax.vmap(action.apply)(moved, xs), action.apply(params, xs)

    moved, after, before = outputs(gs, params, xs)
    np.testing.assert_allclose(after, before, atol=2e-5)
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    moved, after, before = outputs(gs, half, xs)
    assert {w.dtype for w in jax.tree.leaves(moved)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(after, before, atol=0.1)


def test_flax_linen_and_nnx_trees(key):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one, self.two = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.two(jnp.tanh(self.one(x)))

    x = jax.random.normal(key, (1, 3))
    graph, state = nnx.split(Net(nnx.Rngs(0)))
    names = [("one/kernel", "one/bias"), ("two/kernel", "two/bias")]
    action = DataDependentAction.mlp(state, names, rotation_cocycle(jnp.tanh))
    g = {"h1": jnp.asarray(element(0, (3, 4, 2))["h1"], jnp.float32)}
    moved = action.act(g, state, x)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    np.testing.assert_allclose(nnx.merge(graph, moved)(x), nnx.merge(graph, state)(x), atol=1e-5)

    model = nn.Sequential([nn.Dense(4), jnp.tanh, nn.Dense(2)])
    variables = model.init(key, x)
    names = [(f"params/layers_{i}/kernel", f"params/layers_{i}/bias") for i in (0, 2)]
    action = DataDependentAction.mlp(variables, names, rotation_cocycle(jnp.tanh))
    np.testing.assert_allclose(
        model.apply(action.act(g, variables, x), x), model.apply(variables, x), atol=1e-5
    )
    np.testing.assert_allclose(action.apply(variables, x), model.apply(variables, x), atol=1e-6)


def test_it_is_static_and_prints():
    action = action_of(rotation_cocycle, (3, 4, 5, 2), jnp.tanh, leaky)
    assert action == action_of(rotation_cocycle, (3, 4, 5, 2), jnp.tanh, leaky)
    assert hash(action) == hash(action_of(rotation_cocycle, (3, 4, 5, 2), jnp.tanh, leaky))
    assert action != action_of(batch_cocycle, (3, 4, 5, 2), jnp.tanh, leaky)
    assert not jax.tree.leaves(action)
    assert action.dimension == 16 + 25
    assert action.groups == {"h1": groups.GeneralLinear(4), "h2": groups.GeneralLinear(5)}
    assert str(action).splitlines()[2:] == [
        "h1     GL(4)  rotation  Dense_0/kernel",
        "h2     GL(5)  rotation  Dense_1/kernel",
    ]


def test_bad_descriptions_are_refused():
    tanh = rotation_cocycle(jnp.tanh)
    gl = groups.GeneralLinear
    with pytest.raises(ValueError, match="L - 1 hidden spaces, got 2 layers"):
        DataDependentAction(layers(2), {"a": gl(4), "b": gl(4)}, tanh)
    with pytest.raises(ValueError, match=r"the cocycles are of the spaces \['b'\]"):
        DataDependentAction(layers(2), {"a": gl(4)}, {"b": tanh})
    with pytest.raises(TypeError, match="the group of 'a' must be linear"):
        DataDependentAction(layers(2), {"a": groups.Translation(4)}, tanh)
    with pytest.raises(TypeError, match="the cocycle of 'a' must be a Cocycle"):
        DataDependentAction(layers(2), {"a": gl(4)}, {"a": jnp.tanh})
    with pytest.raises(ValueError, match="need one cocycle, or 1 of them, got 2"):
        DataDependentAction.mlp(network(0, (3, 4, 2)), layers(2), [tanh, tanh])


def test_bad_arguments_are_refused():
    widths = (3, 4, 2)
    action, params, g = action_of(rotation_cocycle, widths, jnp.tanh), network(0, widths), element(0, widths)
    with pytest.raises(ValueError, match=r"x must have shape \(3,\) or \(k, 3\), got \(4,\)"):
        action.act(g, params, np.ones(4))
    with pytest.raises(ValueError, match="for one sample, got 2"):
        action.act(g, params, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"has the keys \['h1'\], got \['h2'\]"):
        action.act({"h2": g["h1"]}, params, np.ones(3))
    with pytest.raises(
        ValueError, match=r"'Dense_1/kernel': need a kernel of shape \(4, out\), got \(5, 2\)"
    ):
        action.check({**params, "Dense_1": network(0, (5, 2))["Dense_0"]})
    with pytest.raises(ValueError, match=r"'Dense_0/kernel': need a kernel of shape \(in, 4\), got \(3, 5\)"):
        action.check(network(0, (3, 5, 2)))
    with pytest.raises(ValueError, match=r"'Dense_1/bias': need a bias of shape \(2,\), got \(3,\)"):
        action.check({**params, "Dense_1": {**params["Dense_1"], "bias": np.ones(3)}})
    with pytest.raises(ValueError, match="'Dense_1/kernel' matches no leaf"):
        action.act(g, {"Dense_0": params["Dense_0"]}, np.ones(3))
    with pytest.raises(ValueError, match="need one constant, or 1 of them, got 2"):
        action.lipschitz_bound(g, params, np.ones(3), [1.0, 1.0])
    with pytest.raises(ValueError, match="got 5 samples and 4 units"):
        action_of(batch_cocycle, widths, jnp.tanh).act(g, params, np.ones((5, 3)))
