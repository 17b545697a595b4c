"""Estimates on the commutant: unbiased, with the right standard errors, shrunk; and what is refused."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from eqtoolbox import Symmetry
from eqtoolbox.curvature import Commutant
from eqtoolbox.groups import GeneralLinear, Monomial, Orthogonal, Permutation

AXES = {"w1": "_ h", "b1": "h", "w2": "h* _", "b2": "_"}
SHAPES = {"w1": (3, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)}


def tree(key, dtype=float, shapes=SHAPES):
    keys = jax.random.split(key, len(shapes))
    return {name: jax.random.normal(k, s, dtype) for k, (name, s) in zip(keys, shapes.items(), strict=True)}


def commutant(group=None, **options):
    sym = Symmetry(AXES, {"h": Permutation(4) if group is None else group})
    return Commutant(sym, jax.eval_shape(tree, jax.random.key(0)), **options)


def model(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"][None]) @ params["w2"] + params["b2"][None]


def half_squares(outputs):
    return jnp.sum((outputs - 1) ** 2) / 2


def z_scores(estimate, exact):
    """Differences in units of the standard error, of all entries on and above the diagonal of every block."""
    found = []
    for name, value in estimate.value.items():
        upper = np.triu_indices(value.shape[-1])
        gap = np.asarray(value - exact[name])[..., upper[0], upper[1]].ravel()
        error = np.asarray(estimate.standard_error[name])[..., upper[0], upper[1]].ravel()
        found.append(np.where(np.abs(gap) < 1e-12, 0, gap / np.maximum(error, 1e-12)))
    return np.concatenate(found)


@pytest.mark.parametrize("group", [Permutation(4), Orthogonal(4)], ids=str)
def test_estimates_of_operators_are_unbiased_with_calibrated_errors(group, x64):
    """Hessian and Gauss-Newton against their exact projections; both against the dense matrix."""
    com, params = commutant(group), tree(jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (8, 3))
    flat, unravel = ravel_pytree(params)

    def loss(p):
        return half_squares(model(p, x))

    exact = jax.jit(lambda p: com.hessian(loss, p, exact=True, batch_size=None))(params)
    dense = com.project(jax.hessian(lambda v: loss(unravel(v)))(flat))
    for name, block in exact.value.items():
        np.testing.assert_allclose(block, dense[name], atol=1e-12)
        np.testing.assert_array_equal(exact.standard_error[name], 0)
    for run in (
        lambda p, k: com.hessian(loss, p, k, samples=400, batch_size=None),
        lambda p, k: com.gauss_newton(
            lambda q: model(q, x), half_squares, p, k, samples=400, batch_size=None
        ),
    ):
        estimate = jax.jit(run)(params, jax.random.key(3))
        truth = exact.value
        if run.__code__.co_names[0] == "gauss_newton":
            jacobian = jax.jacobian(lambda v: model(unravel(v), x).ravel())(flat)
            truth = com.project(jacobian.T @ jacobian)
        z = z_scores(estimate, truth)
        assert np.abs(z).max() < 5
        assert 0.3 < np.mean(z[z != 0] ** 2) < 2.5


def test_fisher_is_the_mean_of_gradients_of_examples(x64):
    com, params = commutant(), tree(jax.random.key(1))
    x, y = jax.random.normal(jax.random.key(2), (9, 3)), jax.random.normal(jax.random.key(3), (9, 2))

    def example_loss(p, x, y):
        return jnp.sum((model(p, x[None])[0] - y) ** 2) / 2

    estimate = jax.jit(lambda p: com.fisher(example_loss, p, x, y, batch_size=4))(params)
    grads = jax.vmap(jax.grad(example_loss), (None, 0, 0))(params, x, y)
    rows = jax.vmap(lambda g: ravel_pytree(g)[0])(grads)
    dense = jax.jit(com.project)(rows.T @ rows / 9)
    for name, block in jax.jit(lambda g: com.gram(g, axis=0))(grads).items():
        np.testing.assert_allclose(block, dense[name], atol=1e-12)
        np.testing.assert_allclose(estimate.value[name], dense[name], atol=1e-12)
    assert estimate.samples == 9
    with pytest.raises(
        ValueError, match=r"as many examples in every array, got the shapes \[\(9, 3\), \(8, 2\)\]"
    ):
        com.fisher(example_loss, params, x, y[:8])


def test_mean_and_covariance_of_an_invariant_distribution(x64):
    """Gaussian samples of a covariance in the commutant, about an invariant mean."""
    com = commutant()
    rng = np.random.default_rng(0)
    root = com.to_dense(com.project(np.diag(rng.uniform(1, 2, com.size)) + 0.1))
    centre = ravel_pytree(com.invariant(tree(jax.random.key(1))))[0]
    samples = jax.random.normal(jax.random.key(2), (600, com.size)) @ root.T + centre[None]
    unravel = ravel_pytree(tree(jax.random.key(0)))[1]
    stacked = jax.vmap(unravel)(samples)
    mean, covariance = jax.jit(lambda s: (com.mean(s), com.covariance(s)))(stacked)
    gap = (ravel_pytree(mean.value)[0] - centre) / ravel_pytree(mean.standard_error)[0]
    assert np.abs(gap).max() < 5
    z = z_scores(covariance, com.project(root @ root.T))
    assert np.abs(z).max() < 5
    assert 0.5 < np.mean(z**2) < 1.6
    last = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), stacked)
    turned = jax.jit(lambda s: com.covariance(s, axis=-1))(last)
    np.testing.assert_allclose(turned.value["trivial"], covariance.value["trivial"], rtol=1e-12)


def test_the_share_explained_is_that_of_the_dense_matrices(x64):
    com = commutant()
    stacked = jax.vmap(tree)(jax.random.split(jax.random.key(0), 7))
    rows = np.asarray(jax.vmap(lambda t: ravel_pytree(t)[0])(stacked))
    raw = rows.T @ rows / 7
    kept = jax.jit(lambda m: com.to_dense(com.project(m)))(raw)
    explained = jax.jit(com.explained)
    np.testing.assert_allclose(explained(stacked), np.sum(kept**2) / np.sum(raw**2), rtol=1e-12)
    closed = jax.vmap(lambda k: com.symmetry.act(com.symmetry.sample(k), tree(jax.random.key(5))))
    many = jax.jit(closed)(jax.random.split(jax.random.key(6), 400))
    assert 0.9 < explained(many) <= 1


def test_shrinkage_has_the_weights_of_dense_formulas_and_helps(x64):
    com = commutant()
    truth = jax.jit(com.project)(np.diag(np.linspace(1, 2, com.size)))
    root = np.linalg.cholesky(jax.jit(com.to_dense)(truth))
    unravel = ravel_pytree(tree(jax.random.key(0)))[1]
    stacked = jax.vmap(unravel)(jax.random.normal(jax.random.key(1), (3, com.size)) @ root.T)
    raw = jax.jit(lambda s: com.gram(s, axis=0))(stacked)
    for shrunk, weights in (jax.jit(lambda b: com.shrink(b, 3))(raw), jax.jit(com.shrunk_gram)(stacked)):
        for c in com.components:
            assert 0 < weights[c.name] <= 1
            np.testing.assert_allclose(jnp.trace(shrunk[c.name]), jnp.trace(raw[c.name]), rtol=1e-12)
            before = jnp.linalg.norm(raw[c.name] - truth[c.name])
            assert jnp.linalg.norm(shrunk[c.name] - truth[c.name]) < before
    m, n = 6, 3 * 3
    s = np.asarray(raw["h: standard"])
    weight = ((1 - 2 / m) * np.sum(s**2) + np.trace(s) ** 2) / (
        (n + 1 - 2 / m) * (np.sum(s**2) - np.trace(s) ** 2 / m)
    )
    np.testing.assert_allclose(com.shrink(raw, 3)[1]["h: standard"], min(1, weight), rtol=1e-12)
    with pytest.raises(ValueError, match="`samples` must be a positive number of gradients, got 0"):
        com.shrink(raw, 0)


def test_functions_of_singular_blocks_are_finite_in_float32():
    com = commutant()
    blocks = com.gram(tree(jax.random.key(0), jnp.float32))  # rank 1 in the trivial component
    root, info = com.apply(lambda w: w**-0.5, blocks, full=True)
    assert all(bool(jnp.isfinite(b).all()) for b in root.values())
    assert int(info.clipped["trivial"]) >= 6
    assert int(info.total) >= int(info.clipped["trivial"])
    damped = com.apply(lambda w: w**-0.5, blocks, damping=0.1)
    assert max(float(jnp.abs(b).max()) for b in damped.values()) < 10


def test_fixed_axes_taken_as_diagonal_bound_the_blocks(x64):
    sym = Symmetry({"e": "vocab emb", "u": "emb vocab", "b": "emb"}, {"emb": Orthogonal(3)})
    shapes = {"e": (7, 3), "u": (3, 7), "b": (3,)}
    params = tree(jax.random.key(0), shapes=shapes)
    full, thin = Commutant(sym, params), Commutant(sym, params, diagonal=["vocab"])
    assert full.num_factors == 15 * 16 // 2
    assert thin.num_factors == 7 * 3 + 1
    g = thin.gram(params)["emb: vector · each vocab"]
    assert g.shape == (7, 2, 2)
    np.testing.assert_allclose(g[2, 0, 1], jnp.dot(params["e"][2], params["u"][:, 2]) / 3, rtol=1e-12)
    assert Commutant(sym, params, diagonal_above=6).num_factors == thin.num_factors
    unnamed = Symmetry({"e": "_ emb", "u": "emb _", "b": "emb"}, {"emb": Orthogonal(3)})
    assert Commutant(unnamed, params, diagonal_above=6).num_factors == 2 * 7 + 1  # not shared without a name
    inverse = thin.inverse(jax.tree.map(jnp.add, thin.gram(params), thin.identity()))
    assert jax.tree.all(jax.tree.map(lambda a: bool(jnp.isfinite(a).all()), thin.matvec(inverse, params)))


def test_it_is_static_hashable_and_goes_through_transformations(x64):
    com, params = commutant(), tree(jax.random.key(0))
    assert com == commutant()
    assert hash(com) == hash(commutant())
    assert pickle.loads(pickle.dumps(com)) == com
    assert com != commutant(SIGNED := Monomial(4, signs=1))
    assert "S(4)" in str(com)
    assert str(SIGNED) in str(commutant(SIGNED))
    stacked = jax.vmap(tree)(jax.random.split(jax.random.key(1), 3))
    many = jax.jit(jax.vmap(com.gram))(stacked)
    np.testing.assert_allclose(
        jnp.mean(many["trivial"], 0), jax.jit(lambda s: com.gram(s, axis=0))(stacked)["trivial"], rtol=1e-12
    )
    slope = jax.jit(jax.grad(lambda p: com.trace(com.gram(p))))(params)
    np.testing.assert_allclose(slope["w1"], 2 * params["w1"], rtol=1e-12)  # the trace is |g|²
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    out = jax.jit(com.matvec)(com.identity(jnp.float32), half)
    assert out["w1"].dtype == jnp.bfloat16
    np.testing.assert_allclose(out["w1"].astype(float), half["w1"].astype(float), atol=0.05)


def test_groups_without_an_invariant_distribution_act_through_their_compact_part():
    com = commutant(GeneralLinear(4))
    assert com == commutant(Orthogonal(4))
    scaled = commutant(Monomial(4, scales=1))
    assert scaled == commutant(Monomial(4))


BAD = {
    "no symmetry": (lambda com, t: Commutant(3, t), TypeError, "a commutant needs an eqtoolbox.Symmetry"),
    "integers": (
        lambda com, t: Commutant(com.symmetry, {**t, "b2": jnp.arange(2)}),
        TypeError,
        "leaf 'b2' of the parameters must hold real numbers",
    ),
    "masked": (
        lambda com, t: com.gram({**t, "b2": optax.MaskedNode()}),
        TypeError,
        "leaf 'b2' of the tree must hold real numbers",
    ),
    "a missing leaf": (lambda com, t: com.gram({"w1": t["w1"]}), ValueError, "must have the 4 leaves"),
    "a shape": (
        lambda com, t: com.gram({**t, "b1": jnp.ones(5)}),
        ValueError,
        r"leaf 'b1' must have the shape \(4,\)",
    ),
    "other blocks": (
        lambda com, t: com.matvec({}, t),
        ValueError,
        r"the blocks must have the components \['trivial'",
    ),
    "a block's shape": (
        lambda com, t: com.trace({**com.gram(t), "trivial": jnp.ones((2, 2))}),
        ValueError,
        "'trivial' must have the shape",
    ),
    "a dense shape": (lambda com, t: com.project(jnp.eye(3)), ValueError, r"must have the shape \(26, 26\)"),
    "a moving diagonal": (
        lambda com, t: commutant(diagonal=["h"]),
        ValueError,
        "diagonal along 'h': a group acts",
    ),
    "an unknown diagonal": (
        lambda com, t: commutant(diagonal=["x"]),
        ValueError,
        "no label has a fixed axis",
    ),
    "a string": (lambda com, t: commutant(diagonal="h"), TypeError, "must be a sequence of names"),
    "a bad limit": (
        lambda com, t: commutant(diagonal_above=0),
        ValueError,
        "`diagonal_above` must be at least 1, got 0",
    ),
    "no key": (lambda com, t: com.operator(lambda v: v, t), ValueError, "needs a key and samples >= 1"),
    "one sample": (
        lambda com, t: com.covariance(jax.tree.map(lambda a: a[None], t)),
        ValueError,
        "at least 2 samples along axis 0, got 1",
    ),
    "three axes": (
        lambda com, t: Commutant(Symmetry({"a": "h h h"}, {"h": Permutation(3)}), {"a": jnp.ones((3, 3, 3))}),
        ValueError,
        r"leaf 'a': S\(3\) acts on the 3 axes",
    ),
    "too large": (
        lambda com, t: Commutant(
            Symmetry({"a": "h _"}, {"h": Permutation(2)}),
            {"a": jax.ShapeDtypeStruct((2, 10**5), jnp.float32)},
        ),
        ValueError,
        "take large fixed axes as diagonal",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_by_name(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call(commutant(), tree(jax.random.key(0), jnp.float32))
