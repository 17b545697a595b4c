"""Alignment by the symmetry: planted elements, the published weight matching, what never gets worse, barriers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalog_tools import random_element
from hypothesis import given, settings
from hypothesis import strategies as st
from rebasin_models import perceptron_spec
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment, minimize

from eqtoolbox import Symmetry, groups, orbits, zoo
from eqtoolbox.symmetry import catalog

# Signs and permutations on two spaces, rotations, matrices; all other rows are slow.
PLANTED = ["S4/sin", "S5/radial", "S12/low_rank"]
OTHERS = [name for name in catalog.row_names() if name not in PLANTED]


def element(sym, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(jnp.asarray, {f.key: random_element(f.group, rng) for f in sym.factors})


def planted(sym, params, seed):
    return sym.act(element(sym, seed), params)


def check_planted(found, tolerance):
    """A planted element is undone up to the stabiliser: the weights are those of the other network."""
    sym, params, seed = found
    moved = planted(sym, params, seed)
    match = orbits.match_weights(sym, moved, to=params)
    assert float(match.before) > 0.01  # one scaling of six units may be near 1
    assert float(match.after) < tolerance * float(match.before)
    again = sym.act(match.element, moved)
    assert all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(match.aligned), strict=True)
    )
    assert bool(sym.contains(match.element))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_element_is_undone(name, x64):
    row = catalog.rows(name)[0]
    check_planted((row.symmetry, row.params, 1), 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_planted_element_is_undone_in_every_other_row(name, x64):
    row = catalog.rows(name)[0]
    check_planted((row.symmetry, row.params, 1), 1e-11)


# The published algorithm, from its description: coordinate descent over permutations, each by linear assignment
# of the similarities of units while the others stay, in random order, until a sweep gains nothing.


def published_weight_matching(spec, names, params_a, params_b, key):
    """Flat dicts of NumPy arrays; a spec maps each leaf to one permutation's name per axis. Returns index vectors."""
    where = {p: [(k, i) for k, axes in spec.items() for i, q in enumerate(axes) if q == p] for p in names}
    perm = {p: np.arange(params_a[where[p][0][0]].shape[where[p][0][1]]) for p in names}

    def permuted(k, skip):
        w = params_b[k]
        for i, q in enumerate(spec[k]):
            if q is not None and i != skip:
                w = np.take(w, perm[q], axis=i)
        return w

    for sweep in range(100):
        progress = False
        for i in np.asarray(jax.random.permutation(jax.random.fold_in(key, sweep), len(names))):
            p = names[i]
            n = len(perm[p])
            similarity = np.zeros((n, n))
            for k, axis in where[p]:
                a, b = np.moveaxis(params_a[k], axis, 0), np.moveaxis(permuted(k, axis), axis, 0)
                similarity += a.reshape(n, -1) @ b.reshape(n, -1).T
            new = linear_sum_assignment(similarity, maximize=True)[1]
            rows = np.arange(n)
            progress |= similarity[rows, new].sum() > similarity[rows, perm[p]].sum() + 1e-12
            perm[p] = new
        if not progress:
            break
    return perm


def network(rng, widths):
    shapes = {}
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        shapes[f"Dense_{i}"] = {
            "kernel": rng.standard_normal((n, m)) / n**0.5,
            "bias": 0.1 * rng.standard_normal(m),
        }
    return shapes


def trained(seeds, widths, steps=300):
    """Networks of one set of digits, from different first weights."""
    data = zoo.digits()
    x, y = jnp.asarray(data.train_x).reshape(len(data.train_x), -1)[:400], jnp.asarray(data.train_y)[:400]

    def loss(p):
        h = x
        for i in range(len(p)):
            h = jax.nn.gelu(h) if i else h
            h = h @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"][None]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(h, y))

    def train(p):
        step = lambda p, _: (jax.tree.map(lambda w, g: w - 0.2 * g, p, jax.grad(loss)(p)), None)  # noqa: E731
        return jax.lax.scan(step, p, None, length=steps)[0], loss(p)

    starts = [network(np.random.default_rng(seed), widths) for seed in seeds]
    ends, before = jax.jit(jax.vmap(train))(jax.tree.map(lambda *w: jnp.stack(w), *starts))
    assert float(jax.vmap(loss)(ends).max()) < 0.3 * float(before.min())
    return [jax.tree.map(lambda w, i=i: w[i], ends) for i in range(len(starts))]


def test_permutations_of_trained_networks_are_the_published_ones(x64):
    a, b = trained((0, 1), (64, 16, 12, 10))
    sym = catalog.mlp(a, [f"Dense_{i}" for i in range(3)], "gelu")
    key = jax.random.key(3)
    match = orbits.match_weights(sym, b, to=a, key=key)
    names = {f"p{i}": f"h{i + 1}" for i in range(2)}
    spec = {k: tuple(p and names[p] for p in axes) for k, axes in perceptron_spec(2).items()}
    want = published_weight_matching(spec, ["h1", "h2"], flat(a), flat(b), key)
    for space, p in want.items():
        assert np.array_equal(match.element[space], p), space
        assert not np.array_equal(p, np.arange(len(p)))
    assert match.after < match.before


def flat(tree):
    return {f"{a}/{b}": np.asarray(x) for a, layer in tree.items() for b, x in layer.items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_permutations_are_those_of_the_published_weight_matching(seed, x64):
    rng = np.random.default_rng(seed)
    a, b = (jax.tree.map(jnp.asarray, network(rng, (5, 12, 10, 8, 3))) for _ in range(2))
    layers = [f"Dense_{i}" for i in range(4)]
    sym = catalog.mlp(a, layers, "gelu")
    key = jax.random.key(seed)
    match = orbits.match_weights(sym, b, to=a, key=key)
    names = {f"p{i}": f"h{i + 1}" for i in range(3)}
    spec = {k: tuple(p and names[p] for p in axes) for k, axes in perceptron_spec(3).items()}
    want = published_weight_matching(spec, ["h1", "h2", "h3"], flat(a), flat(b), key)
    for space, p in want.items():
        assert np.array_equal(match.element[space], p), space
    assert match.after < match.before
    assert bool(match.converged)
    # As part of a larger group, too; and that comes nearer.
    if seed == 0:
        larger = catalog.mlp(a, layers, "relu")
        only = orbits.match_weights(larger, b, to=a, key=key, only="permutations")
        assert all(np.array_equal(only.element[space].perm, p) for space, p in want.items())
        full = orbits.match_weights(larger, b, to=a, key=key)
        assert full.after < 0.999 * only.after


@given(n=st.integers(1, 5), m=st.integers(1, 5), seed=st.integers(0, 10))
@settings(max_examples=5)
def test_rotations_are_procrustes(n, m, seed):
    rng = np.random.default_rng([n, m, seed])
    a, b = rng.standard_normal((2, n, m))
    sym = Symmetry({"w": "h _"}, {"h": groups.Orthogonal(n)})
    with jax.enable_x64(True):
        _, g = orbits.align(sym, {"w": jnp.asarray(b)}, to={"w": jnp.asarray(a)}, starts=("identity",))
    want, found = orthogonal_procrustes(b.T, a.T)[0].T, np.asarray(g["h"])
    assert np.isclose(np.linalg.norm(found @ b - a), np.linalg.norm(want @ b - a), atol=1e-8)


def test_scalings_and_signs_are_the_best_for_each_pair_of_units(x64):
    """Every assignment by enumeration, and for each pair of units the best number by search."""
    rng = np.random.default_rng(0)
    n = 4
    a = {"u": rng.standard_normal((3, n)), "v": rng.standard_normal((n, 2))}
    b = {"u": 3 * rng.standard_normal((3, n)), "v": rng.standard_normal((n, 2))}
    cost = np.empty((n, n))
    for i, j in itertools.product(range(n), repeat=2):

        def distance(u, i=i, j=j):
            c = u[0]
            first = np.sum((c * b["u"][:, j] - a["u"][:, i]) ** 2)
            return first + np.sum((b["v"][j] / c - a["v"][i]) ** 2)

        cost[i, j] = min(
            minimize(distance, [s], method="Nelder-Mead", tol=1e-12).fun for s in (-2, -0.4, 0.4, 2)
        )
    want = min(sum(cost[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n)))
    sym = Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.Monomial(n, scales=["a"], signs=["a"])})
    params, to = (jax.tree.map(jnp.asarray, x) for x in (b, a))
    match = orbits.match_weights(sym, params, to=to, starts=("identity",))
    assert np.isclose(match.after**2, want, rtol=1e-7)
    assert np.isclose(orbits.weight_distance(match.aligned, to), match.after)


@pytest.mark.slow
def test_more_symmetry_never_brings_networks_further_apart(x64):
    """S(n) ⊂ B(n) ⊂ S(n)⋉R*ⁿ on independent networks; S(n) ⊂ O(n) ⊂ GL(n) for linear ones."""
    rng = np.random.default_rng(0)
    a, b = (jax.tree.map(jnp.asarray, network(rng, (4, 6, 3))) for _ in range(2))
    axes = {"Dense_0": {"kernel": "_ h", "bias": "h"}, "Dense_1": {"kernel": "h* _"}}
    chains = [
        [groups.Permutation(6), groups.SignedPermutation(6), groups.Monomial(6, ["a"], ["a"])],
        [groups.Permutation(6), groups.Orthogonal(6), groups.GeneralLinear(6)],
    ]
    for chain in chains:
        ends = [orbits.match_weights(Symmetry(axes, {"h": g}), b, to=a) for g in chain]
        after = [float(e.after) for e in ends]
        assert after[0] < float(ends[0].before)
        assert after[1] < after[0]
        assert after[2] < after[1]


@pytest.mark.slow
def test_heads_are_matched_with_their_matrices(x64):
    """Independent attention layers: heads and GL together come nearer than heads alone, and than GL alone."""
    rng = np.random.default_rng(0)

    def draw():
        shapes = {"q": (5, 3, 2), "k": (5, 3, 2), "v": (5, 3, 2), "o": (3, 2, 5)}
        return {name: jnp.asarray(rng.standard_normal(s)) for name, s in shapes.items()}

    a, b = draw(), draw()
    axes = {"q": "_ heads d", "k": "_ heads d*", "v": "_ heads e", "o": "heads e* _"}
    inner = groups.Product(groups.GeneralLinear(2), groups.GeneralLinear(2))
    keys = ("heads", "d", "e")
    sym = Symmetry(axes, {keys: groups.Wreath(inner, groups.Permutation(3))})
    fixed = Symmetry(axes, {keys: groups.Wreath(inner, groups.Trivial(3))})
    both = orbits.match_weights(sym, b, to=a)
    heads = orbits.match_weights(sym, b, to=a, only="permutations")
    matrices = orbits.match_weights(fixed, b, to=a)
    assert both.after < heads.after < both.before
    assert both.after <= matrices.after + 1e-9
    logits = lambda p: jnp.einsum("ahd,bhd->abh", p["q"], p["k"])  # noqa: E731
    order = both.element["heads d e"].outer
    assert np.allclose(logits(both.aligned), logits(b)[..., order], atol=1e-9)


def test_many_pairs_by_one_program():
    """jit and vmap; bfloat16 keeps its dtype, whole numbers and leaves without a label stay."""
    rng = np.random.default_rng(0)
    pairs = [[jax.tree.map(jnp.asarray, network(rng, (3, 6, 2))) for _ in range(2)] for _ in range(3)]
    sym = catalog.mlp(pairs[0][0], ["Dense_0", "Dense_1"], "tanh")
    one = [orbits.align(sym, jax.tree.map(jnp.float32, b), to=jax.tree.map(jnp.float32, a)) for a, b in pairs]
    stack = lambda i: jax.tree.map(lambda *x: jnp.stack(x).astype(jnp.float32), *(p[i] for p in pairs))  # noqa: E731
    many, g = jax.jit(jax.vmap(lambda a, b: orbits.align(sym, b, to=a)))(stack(0), stack(1))
    for i, (aligned, h) in enumerate(one):
        assert np.array_equal(g["h1"].perm[i], h["h1"].perm)
        assert np.array_equal(g["h1"].sign[i], h["h1"].sign)
        assert np.allclose(many["Dense_0"]["kernel"][i], aligned["Dense_0"]["kernel"])
    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), pairs[0][1]) | {"steps": jnp.arange(2)}
    to = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), pairs[0][0]) | {"steps": jnp.zeros(2, int)}
    aligned, _ = orbits.align(sym, low, to=to)
    assert aligned["Dense_0"]["kernel"].dtype == jnp.bfloat16
    assert np.array_equal(aligned["steps"], [0, 1])
    assert orbits.weight_distance(aligned, to) < orbits.weight_distance(low, to)


def test_dead_units_and_equal_networks():
    sym = Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.Monomial(4, 1)})
    rng = np.random.default_rng(0)
    a = {"u": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32), "v": jnp.ones((4, 2))}
    same = orbits.match_weights(sym, a, to=a)
    assert float(same.after) == 0
    dead = {"u": a["u"].at[:, 1].set(0.0), "v": a["v"]}
    found = orbits.match_weights(sym, dead, to=a)
    assert bool(sym.contains(found.element))
    assert np.all(np.abs(np.log(found.element["h"].scale)) <= 9.001)
    assert found.after <= orbits.match_weights(sym, dead, to=a, only="permutations").after


def test_what_cannot_be_aligned_is_refused():
    sym = Symmetry({"u": "_ h", "v": "h _"}, {"h": groups.Permutation(3)})
    a = {"u": jnp.ones((2, 3)), "v": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match="'u' of `to` holds numbers that are not finite"):
        orbits.align(sym, a, to=a | {"u": a["u"].at[0, 0].set(jnp.nan)})
    with pytest.raises(ValueError, match="leaf `v` of `to`"):
        orbits.align(sym, a, to=a | {"v": jnp.ones((3, 1))})
    with pytest.raises(ValueError, match="does not fit its label"):
        orbits.align(sym, a | {"v": jnp.ones((4, 2))}, to=a | {"v": jnp.ones((4, 2))})
    with pytest.raises(ValueError, match="`only` must be"):
        orbits.align(sym, a, to=a, only="signs")
    with pytest.raises(ValueError, match="`starts` must be"):
        orbits.align(sym, a, to=a, starts="identity")
    with pytest.raises(TypeError, match=r"eqtoolbox\.Symmetry"):
        orbits.align(None, a, to=a)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`sweeps`"):
        orbits.align(sym, a, to=a, sweeps=0)


# Barriers.


def test_barriers_are_those_of_the_loss():
    a, b = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([-1.0, 0.5])}

    def loss(p):
        return 1 - p["w"][0] ** 2 + p["w"][1]

    found = orbits.barrier(loss, a, b, points=21, batch=8)
    t = np.linspace(0, 1, 21)
    assert np.allclose(found.curve, 1 - (1 - 2 * t) ** 2, atol=1e-6)
    assert np.isclose(found.value, 1)
    assert np.allclose(found.losses, 1 - (1 - 2 * t) ** 2 + t / 2, atol=1e-6)
    # Convex on the way: nothing rises above the line.
    assert float(orbits.barrier(lambda p: p["w"][0] ** 2, a, b).value) == 0
    halves = orbits.interpolate({"w": jnp.ones(2, jnp.bfloat16), "n": 3}, {"w": jnp.zeros(2), "n": 4}, 0.5)
    assert halves["w"].dtype == jnp.bfloat16
    assert int(halves["n"]) == 3
    with pytest.raises(ValueError, match="`points`"):
        orbits.barrier(loss, a, b, points=1)
    with pytest.raises(ValueError, match="must return a number"):
        orbits.barrier(lambda p: p["w"], a, b)
    with pytest.raises(ValueError, match="params_b"):
        orbits.barrier(loss, a, {"w": jnp.ones(3)})


def test_a_permuted_network_has_a_barrier_that_alignment_removes():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), network(rng, (3, 8, 2)))
    x = jnp.asarray(rng.standard_normal((20, 3)), jnp.float32)

    def apply(p):
        h = jax.nn.relu(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None])
        return h @ p["Dense_1"]["kernel"]

    sym = catalog.mlp(params, ["Dense_0", "Dense_1"], "relu")
    moved, target = planted(sym, params, 0), apply(params)
    loss = lambda p: jnp.mean((apply(p) - target) ** 2)  # noqa: E731
    aligned, _ = orbits.align(sym, moved, to=params)
    assert float(orbits.barrier(loss, params, moved).value) > 0.05
    assert float(orbits.barrier(loss, params, aligned).value) < 1e-6


# Merging.


def test_merging_several_networks(x64):
    """Noisy copies of one network, moved along the orbit, average to it; the spread never grows."""
    rng = np.random.default_rng(0)
    truth = jax.tree.map(jnp.asarray, network(rng, (5, 8, 3)))
    sym = catalog.mlp(truth, ["Dense_0", "Dense_1"], "tanh")

    def copy(seed):
        noise = np.random.default_rng(seed)
        return jax.tree.map(lambda x: x + 0.05 * noise.standard_normal(x.shape), truth)

    models = [copy(1), *(planted(sym, copy(seed), seed) for seed in (2, 3, 4))]
    found = orbits.merge(sym, models)
    assert found.spread[0] > 5 * found.spread[1]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(found.spread))
    single = [float(orbits.weight_distance(m, truth)) for m in found.aligned]
    assert float(orbits.weight_distance(found.params, truth)) < 0.7 * min(single)
    for model, aligned, g in zip(models, found.aligned, found.elements, strict=True):
        assert jax.tree.all(
            jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), sym.act(g, model), aligned)
        )
    heavy = orbits.merge(sym, models[:2], weights=(3, 1))
    mean = jax.tree.map(lambda x, y: (3 * x + y) / 4, *heavy.aligned)
    assert np.allclose(heavy.params["Dense_0"]["kernel"], mean["Dense_0"]["kernel"])
    with pytest.raises(ValueError, match="at least two"):
        orbits.merge(sym, models[:1])
    with pytest.raises(ValueError, match="2 positive numbers"):
        orbits.merge(sym, models[:2], weights=(1, -1))
