"""Constraints as reparametrisations: faithful, and with the penalty they are said to have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constraint_tools import apply, constraints, network, penalties, symmetry

from eqtoolbox import Symmetry, groups, mirror, testing, zoo
from eqtoolbox.mirror import _factors

NAMES = list(constraints())


def same(a, b, **kwargs):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **kwargs), a, b)


@pytest.mark.claim("MS-2.6", "MS-2.5")
@pytest.mark.parametrize("name", NAMES)
def test_every_point_is_reached_and_costs_its_norm(name, x64):
    """T(split θ) = θ, the least ‖w‖² + ‖u‖² of it is the textbook's norm, and no other factors of it are cheaper."""
    constraint, exact = constraints()[name], constraints(imbalance=0.0)[name]

    @jax.jit
    def look(params, factors):
        back = constraint.join(constraint.split(params))
        other = constraint.join(factors)
        costs = _factors.penalty(exact.split(params)), _factors.penalty(factors), constraint.norm(other)
        return back, exact.join(exact.split(params)), *costs

    for seed in range(5):
        params = network(seed)
        rng = np.random.default_rng(seed)
        factors = jax.tree.map(lambda x, r=rng: jnp.asarray(r.normal(size=x.shape)), constraint.split(params))
        back, balanced, least, cost, norm = look(params, factors)
        same(back, params, rtol=1e-10, atol=1e-12)
        same(balanced, params, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(least, penalties(params)[name], rtol=1e-10)
        assert cost >= norm * (1 - 1e-12)


@pytest.mark.claim("MS-2.6")
def test_the_printed_parametrisation_is_not_faithful(x64, record_claim):
    """n = (1, −1)/√2: (Pw) ⊙ (Pu) is a multiple of n ⊙ n = (½, ½), which P takes to 0; θ = n is never reached."""
    n = jnp.array([1.0, -1.0]) / jnp.sqrt(2.0)
    p = jnp.outer(n, n)
    w, u, v = np.random.default_rng(0).normal(size=(3, 1000, 2))
    printed = v - v @ p + (w @ p) * (u @ p)
    assert np.abs(printed @ n).max() < 1e-15
    corrected = mirror.linear(mirror.from_directions(n))
    theta = corrected.join(corrected.split(n))
    np.testing.assert_allclose(theta, n, atol=1e-15)
    record_claim("MS-2.6", measured=float(n @ theta), expected="1; 0 for every w, u, v as printed")


@pytest.mark.parametrize("name", NAMES)
def test_factors_move_where_parameters_are_zero(name, x64):
    """With an imbalance every factor has a gradient at θ = 0, without one the order parameter is absorbed there."""
    zero = jax.tree.map(jnp.zeros_like, network())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)))
    slope = network(3)

    def gradient(constraint):
        factors = constraint.split(zero)
        loss = lambda f: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slope, constraint.join(f))))  # noqa: E731
        g = jax.grad(loss)(factors)
        return jnp.concatenate([jnp.ravel(t) for t in jax.tree.leaves((g.w, g.u))])

    assert apply(zero, x).shape == (5, 2)
    assert jnp.abs(gradient(constraints()[name])).max() > 0.01
    assert jnp.abs(gradient(constraints(imbalance=0.0)[name])).max() == 0


def test_leaves_between_two_spaces(x64):
    """A kernel between two spaces has two gates; the balanced factors are the cheapest near them."""
    _, params, inputs, f = zoo.build("mlp", jax.random.key(0), activation="relu")
    sym = Symmetry(
        {
            "Dense_0/kernel": "_ a",
            "Dense_0/bias": "a",
            "Dense_1/kernel": "a* b",
            "Dense_1/bias": "b",
            "Dense_2/kernel": "b* _",
        },
        {"a": groups.Monomial(7, scales=1), "b": groups.Monomial(6, scales=1)},
    )
    params = jax.tree.map(lambda x: jnp.asarray(x, float) + 0.01, params)
    constraint = mirror.group_sparse(sym, imbalance=0.0)
    factors = constraint.split(params)
    same(constraint.join(factors), params, rtol=1e-12)
    assert set(factors.w) == {"a", "b"}
    norms = constraint.norms(constraint.join(factors))
    want = np.sqrt(sum(np.sum(np.square(params["Dense_1"]["kernel"]), 0) for _ in range(1)))
    assert np.all(norms["b"] > want)
    # The optimum of the penalty over the gates: gate² = the squares of what the gate multiplies.
    inside = constraint.cells(params)
    for name, gate in factors.w.items():
        total = {k: jnp.zeros(len(g)) for k, g in factors.w.items()}
        for path, cell in inside.items():
            cell.squares(_factors.flat(factors.u)[path], total)
        np.testing.assert_allclose(gate**2, total[name], rtol=1e-6)
    del inputs, f


def test_a_space_on_both_axes_of_a_leaf(x64):
    """A recurrent kernel has the same gates on either side: the cheapest have gate² = the squares they multiply."""
    sym = Symmetry({"i": "_ h", "r": "h* h", "o": "h* _"}, {"h": groups.Monomial(4, scales=1)})
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in {"i": (2, 4), "r": (4, 4), "o": (4, 3)}.items()}
    constraint = mirror.group_sparse(sym, imbalance=0.0)
    factors = constraint.split(params)
    same(constraint.join(factors), params, rtol=1e-12)
    u = factors.u
    squares = sum(np.sum(np.square(u[k]), 1 - axis) for k, axis in (("i", 1), ("r", 0), ("r", 1), ("o", 0)))
    np.testing.assert_allclose(factors.w["h"] ** 2, squares, rtol=1e-9)


def test_which_spaces_and_axes_have_gates():
    """Not the stack of a scan, nor an axis that is only permuted, beside one that is not."""
    group = groups.Wreath(groups.Monomial(4, scales=1), groups.Trivial(3))
    stacked = Symmetry({"a": "layers _ h", "b": "layers h* _"}, {("layers", "h"): group})
    params = {"a": jnp.ones((3, 2, 4)), "b": jnp.ones((3, 4, 2)), "c": jnp.ones((3, 2))}
    assert {k: x.shape for k, x in mirror.group_sparse(stacked).norms(params).items()} == {"h": (4,)}
    small, _ = mirror.prune(
        {**params, "b": params["b"].at[:, 1].set(0)}, mirror.group_sparse(stacked, "h"), 2.5
    )
    assert {k: x.shape for k, x in small.items()} == {"a": (3, 2, 3), "b": (3, 3, 2), "c": (3, 2)}
    still = Symmetry({"a": "layers _"}, {"layers": groups.Trivial(3)})
    with pytest.raises(ValueError, match="or fixed: name one of layers"):
        mirror.group_sparse(still)

    mixed = Symmetry({"i": "_ h", "m": "h^0 h"}, {"h": groups.Monomial(4, scales=1)})
    cells = mirror.group_sparse(mixed, "h").cells({"i": jnp.ones((2, 4)), "m": jnp.ones((4, 4))})
    assert {path: cell.gates for path, cell in cells.items()} == {"i": ((None, "h"),), "m": ((None, "h"),)}
    permuted = Symmetry({"i": "_ h^0"}, {"h": groups.Monomial(4, scales=1)})
    with pytest.raises(ValueError, match="no leaf of real numbers has units of h"):
        mirror.group_sparse(permuted, "h").split({"i": jnp.ones((2, 4))})


def test_nothing_outside_the_mirror_is_touched(x64):
    """What a constraint does not name is T's v, and its gradient that of θ."""
    constraint = mirror.sparse("l0/*")
    factors = constraint.split(network())
    slope = network(3)
    loss = lambda f: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slope, constraint.join(f))))  # noqa: E731
    g = jax.grad(loss)(factors)
    same(g.v["twin"], slope["twin"], rtol=1e-12)
    assert jax.tree.leaves(g.v["l0"]) == []


def test_symmetry_of_the_factors(x64):
    """DCS introduces a mirror: (w, u) -> (−w, −u), and rotations for low rank, leave θ alone."""
    constraint = mirror.low_rank("l0/kernel")
    factors = constraint.split(network())
    q = jnp.linalg.qr(jnp.asarray(np.random.default_rng(0).normal(size=(3, 3))))[0]
    turned = factors._replace(
        w={**factors.w, "l0": {**factors.w["l0"], "kernel": factors.w["l0"]["kernel"] @ q}},
        u={**factors.u, "l0": {**factors.u["l0"], "kernel": q.T @ factors.u["l0"]["kernel"]}},
    )
    same(constraint.join(turned), constraint.join(factors), rtol=1e-10, atol=1e-12)
    for name in ("sparse", "tied", "linear mirror"):
        one = constraints()[name]
        f = one.split(network())
        flipped = f._replace(w=jax.tree.map(jnp.negative, f.w), u=jax.tree.map(jnp.negative, f.u))
        same(one.join(flipped), one.join(f), rtol=1e-12, atol=1e-15)
        bare = testing.discrepancy(one.join(f._replace(w=flipped.w)), one.join(f))
        assert bare.error > 0.1


def test_input_that_is_refused():
    params, sym = network(), symmetry()
    cases = [
        (ValueError, "imbalance", lambda: mirror.sparse(imbalance=-1)),
        (TypeError, "glob", lambda: mirror.sparse(3)),
        (ValueError, "'nothing' matches none of the leaves", lambda: mirror.sparse("nothing").split(params)),
        (ValueError, "no leaf to act on", lambda: mirror.low_rank("l0/bias").split(params)),
        (TypeError, "must be real", lambda: mirror.sparse().split({"a": jnp.ones(2, complex)})),
        (TypeError, "axis or an eqtoolbox.Symmetry", lambda: mirror.group_sparse("h")),
        (TypeError, "a space is that of a symmetry", lambda: mirror.group_sparse(0, "h")),
        (ValueError, "there is no space 'z'; there are h", lambda: mirror.group_sparse(sym, "z")),
        (ValueError, "disjoint pairs of units below 4", lambda: mirror.merged(sym, "h", [(0, 1), (1, 2)])),
        (ValueError, "disjoint pairs of units below 4", lambda: mirror.merged(sym, "h", [(0, 4)])),
        (ValueError, "in one pair only", lambda: mirror.tied([("a", "b"), ("b", "c")])),
        (TypeError, "pairs of leaf paths", lambda: mirror.tied(["ab"])),
        (TypeError, "pairs of leaf paths", lambda: mirror.tied(3)),
        (TypeError, "pairs of units", lambda: mirror.merged(sym, "h", 3)),
        (ValueError, "disjoint pairs of units", lambda: mirror.merged(sym, "h", [("a", "b")])),
        (ValueError, "no leaf of real numbers", lambda: mirror.tied([("l0/kernel", "x")]).split(params)),
        (ValueError, "one shape", lambda: mirror.tied([("l0/kernel", "l0/bias")]).split(params)),
        (TypeError, "linear needs a Mirror", lambda: mirror.linear(3)),
        (ValueError, "identity", lambda: mirror.linear(lambda p: 2 * p["l0"]["bias"]).split(params)),
        (TypeError, "needs a function", lambda: mirror.reparametrize(None, mirror.sparse())),
        (TypeError, "needs a constraint", lambda: mirror.reparametrize(apply, "sparse")),
        (
            TypeError,
            "must hold real numbers",
            lambda: mirror.reparametrize(apply, mirror.sparse()).init({"a": jnp.arange(2)}),
        ),
        (TypeError, "needs an eqtoolbox.Symmetry", lambda: mirror.merged(3, "h")),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
    bare = dataclasses.replace(
        mirror.merged(sym, "h"), sym=Symmetry({"w": "h h*"}, {"h": groups.Orthogonal(4)})
    )
    with pytest.raises(ValueError, match="two axes of leaf 'w'"):
        bare.split({"w": jnp.ones((4, 4))})
