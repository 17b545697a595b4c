"""Smaller parameters with the same outputs; and the fixes for a loss of plasticity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from constraint_tools import apply, constraints, network, symmetry

from eqtoolbox import Symmetry, catalog, groups, infer_symmetry, mirror, zoo
from eqtoolbox.mirror._prune import take_units

X = jnp.asarray(np.random.default_rng(5).normal(size=(9, 3)))

TIED = constraints()["tied"], constraints()["linear mirror"]


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a, b, atol=atol)


def off(sym, params, space, units, size=0.0):
    """The parameters with all weights of some units scaled to a given norm."""
    constraint = mirror.group_sparse(sym, space, imbalance=0.0)
    factors = constraint.split(params)
    gate = factors.w[space].at[jnp.array(units)].set(size)
    return constraint.join(factors._replace(w={**factors.w, space: gate}))


def test_weights():
    params = network()
    params["l0"]["kernel"] = params["l0"]["kernel"].at[1].multiply(1e-8)
    small, info = mirror.prune(params, mirror.sparse("*/kernel"))
    assert (info.removed, info.total, info.before, info.after) == (4, 32, 36, 32)
    assert info.fraction == 4 / 32
    assert not small["l0"]["kernel"][1].any()
    assert small["l0"]["bias"] is params["l0"]["bias"]
    close(apply(small, X), apply(params, X))


@pytest.mark.parametrize("seed", range(2))
def test_neurons_of_a_network_whose_symmetry_was_inferred(seed):
    module, params, inputs, f = zoo.build("mlp", jax.random.key(seed), activation="relu")
    sym = infer_symmetry(f, params, inputs)
    gone = np.random.default_rng(seed).choice(7, 4, replace=False)
    params = off(sym, off(sym, params, "h1", gone, 1e-8), "h2", [5])
    small, info = mirror.prune(params, mirror.group_sparse(sym), tol=1e-6)
    assert dict(info.sizes) == {"h1": 3, "h2": 5}
    assert (info.removed, info.total) == (5, 13)
    np.testing.assert_array_equal(info.kept["h1"], np.setdiff1d(range(7), gone))
    assert small["Dense_1"]["kernel"].shape == (3, 5)
    assert info.after == sum(x.size for x in jax.tree.leaves(small))
    smaller = zoo.MLP((info.sizes["h1"], info.sizes["h2"], 3), "relu")
    close(smaller.apply({"params": small}, inputs), f(params, inputs))
    del module


def test_heads_of_attention():
    module, params, inputs, f = zoo.build("transformer", jax.random.key(0), layers=1, ff=0)
    sym, heads = catalog.attention(params, prefix="block_0/attention"), "heads"
    params = off(sym, params, heads, [1])
    small, info = mirror.prune(params, mirror.group_sparse(sym, heads))
    assert dict(info.sizes) == {heads: 2}
    assert small["block_0"]["attention"]["query"]["kernel"].shape == (8, 2, 2)
    smaller = module.clone(heads=2)
    close(smaller.apply({"params": small}, inputs), f(params, inputs))
    # One head only is left where all are gone.
    _, info = mirror.prune(off(sym, params, heads, [0, 1, 2]), mirror.group_sparse(sym, heads))
    assert (dict(info.sizes), info.removed) == ({heads: 1}, 2)


def test_channels_of_a_normalised_convolution():
    """With running statistics, of which the variance is permuted only: those of the channels go with them."""
    labels = {
        "conv0": "_ _ _ h{norm:1}",
        "mean": "h{norm:1}",
        "var": "h^0",
        "scale": "h{relu:1,norm:-1}",
        "bias": "h{relu:1}",
        "conv1": "_ _ h{relu:-1} _",
    }
    sym = Symmetry(labels, {"h": groups.Monomial(4, scales=("relu", "norm"))})
    shapes = {
        "conv0": (3, 3, 2, 4),
        "mean": (4,),
        "var": (4,),
        "scale": (4,),
        "bias": (4,),
        "conv1": (3, 3, 4, 3),
    }
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.uniform(0.1, 1, size=n), jnp.float32) for k, n in shapes.items()}
    images = jnp.asarray(rng.normal(size=(2, 5, 5, 2)), jnp.float32)

    def f(p):
        conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        mean, var, scale, bias = (p[k][None, None, None] for k in ("mean", "var", "scale", "bias"))
        h = (conv(images, p["conv0"]) - mean) / jnp.sqrt(var + 1e-5)
        return conv(jax.nn.relu(h * scale + bias), p["conv1"])

    gone = off(sym, params, "h", [1, 2])
    small, info = mirror.prune(gone, mirror.group_sparse(sym, "h"))
    assert dict(info.sizes) == {"h": 2}
    for name, shape in shapes.items():
        assert small[name].shape == tuple(2 if n == 4 else n for n in shape)
    close(f(small), f(gone))
    with pytest.raises(ValueError, match="name one of h"):
        mirror.group_sparse(sym)


def test_units_on_composite_axes():
    """Direct sums and products of spaces: a flattened convolution, a concatenation, a fused kernel."""
    sym = Symmetry(
        {"conv": "_ c", "dense": "(4 c* + 2) _", "fused": "(c* + c*) _"}, {"c": groups.Monomial(3, scales=1)}
    )
    params = {"conv": jnp.ones((5, 3)), "dense": jnp.ones((14, 2)), "fused": jnp.arange(12.0).reshape(6, 2)}
    small = take_units(sym, params, {"c": np.array([0, 2])})
    assert {k: x.shape for k, x in small.items()} == {"conv": (5, 2), "dense": (10, 2), "fused": (4, 2)}
    np.testing.assert_array_equal(small["fused"], params["fused"][jnp.array([0, 2, 3, 5])])


def test_columns():
    params = network()
    params["l1"]["kernel"] = params["l1"]["kernel"].at[:, 1].multiply(1e-9)
    small, info = mirror.prune(params, mirror.group_sparse(-1, where="l1/*"))
    assert (info.removed, info.total, info.after) == (1, 2, 32)
    close(apply(small, X), apply(params, X))


def test_rank():
    params = network(dtype=jnp.float32)
    params["twin"]["kernel"] = jnp.outer(params["twin"]["kernel"][:, 0], jnp.ones(4))
    small, info = mirror.prune(params, mirror.low_rank("*/kernel"), tol=1e-5)
    assert dict(info.ranks) == {"l0/kernel": 3, "l1/kernel": 2, "twin/kernel": 1}
    factors = small["twin"]["kernel"]
    assert isinstance(factors, mirror.LowRankFactors)
    assert (factors.left.shape, factors.right.shape) == ((3, 1), (1, 4))
    assert info.after == info.before - 5
    small["twin"]["kernel"] = factors.product()
    close(apply(small, X), apply(params, X))


def test_neurons_that_are_equal():
    params = network()
    params["l0"] = jax.tree.map(lambda x: x.at[..., 2].set(x[..., 0]), params["l0"])
    params["l1"]["kernel"] = params["l1"]["kernel"].at[2].set(params["l1"]["kernel"][0])
    constraint = mirror.merged(symmetry(), "h", [(0, 2), (1, 3)])
    small, info = mirror.prune(params, constraint)
    assert (info.removed, info.total, dict(info.sizes)) == (1, 2, {"h": 3})
    assert small["l0"]["kernel"].shape == (3, 3)
    close(apply(small, X), apply(params, X))
    silent = symmetry(groups.Permutation(4))
    plain = Symmetry({path: label.replace("*", "") for path, label in silent.axes.items()}, silent.groups)
    with pytest.raises(ValueError, match=r"which of the leaves .* read the units of 'h'"):
        mirror.prune(params, mirror.merged(plain, "h", [(0, 2)]))
    stated = mirror.merged(plain, "h", [(0, 2)], outgoing="l1/*")
    close(apply(mirror.prune(params, stated)[0], X), apply(params, X))


@pytest.mark.parametrize("name", ["tied", "linear mirror"])
def test_order_parameters(name):
    params, constraint = network(), constraints()[name]
    close_to = jax.tree.map(
        lambda p, a: p - (1 - 1e-9) * a, params, constraint.lift(constraint.order(params), params)
    )
    small, info = mirror.prune(close_to, constraint)
    assert info.removed == info.total
    for z in jax.tree.leaves(constraint.order(small)):
        close(z, 0, atol=1e-7)


def test_a_share_of_the_order_parameters():
    """As many as asked for, the smallest ones, of every constraint."""
    params, sym = network(), symmetry()
    for constraint in (
        mirror.sparse(),
        mirror.low_rank(),
        mirror.group_sparse(sym),
        mirror.merged(sym, "h"),
        *TIED,
    ):
        for fraction in (0.0, 0.5, 0.75):
            info = mirror.prune(params, constraint, fraction=fraction)[1]
            assert info.removed == np.ceil(fraction * info.total)
    small, _ = mirror.prune(params, mirror.sparse("l0/kernel"), fraction=0.7)
    size, kept = np.abs(params["l0"]["kernel"]), np.asarray(small["l0"]["kernel"]) != 0
    assert kept.sum() == 3
    assert size[kept].min() > size[~kept].max()
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="`fraction` must be from 0 to 1"):
            mirror.prune(params, mirror.sparse(), fraction=bad)


def test_zeros_are_kept_and_the_rest_is_trained():
    """As the optimizer by itself would on the entries that are left, with its decay and momentum."""
    small, _ = mirror.prune(network(dtype=jnp.float32), mirror.sparse("*/kernel"), fraction=0.5)
    small["l0"]["bias"] = small["l0"]["bias"].at[0].set(0)
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1))
    tx = mirror.keep_zeros(inner, "*/kernel")
    grads = network(1, dtype=jnp.float32)
    alive = jax.tree.map(lambda x: (x != 0).astype(x.dtype), small)
    alive["l0"]["bias"] = jnp.ones_like(alive["l0"]["bias"])

    def run(tx, grads):
        def step(carry, _):
            updates, state = tx.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=5)[0][0])(small)

    end, want = run(tx, grads), run(inner, jax.tree.map(jnp.multiply, grads, alive))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), end, want)
    assert end["l0"]["bias"][0] != 0
    for name in ("l0", "l1", "twin"):
        np.testing.assert_array_equal(end[name]["kernel"] != 0, small[name]["kernel"] != 0)
    state = optax.tree.map_params(tx, lambda x: x, tx.init(small))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(small))
    with pytest.raises(TypeError, match="`inner` must be an optax transformation"):
        mirror.keep_zeros(mirror.sparse())
    with pytest.raises(ValueError, match="'nothing' matches none"):
        mirror.keep_zeros(inner, "nothing").init(small)


def test_prune_refuses():
    params = network()
    with pytest.raises(TypeError, match="needs a constraint"):
        mirror.prune(params, "sparse")
    with pytest.raises(ValueError, match="must not be negative"):
        mirror.prune(params, mirror.sparse(), -1.0)
    with pytest.raises(TypeError, match="call it outside of jit"):
        jax.jit(lambda p: mirror.prune(p, mirror.sparse())[0])(params)
    params["l1"]["kernel"] = params["l1"]["kernel"].at[0, 0].set(jnp.nan)
    for constraint in (mirror.sparse("l0/*"), mirror.low_rank(), mirror.group_sparse(symmetry())):
        with pytest.raises(ValueError, match="leaf 'l1/kernel' holds NaN"):
            mirror.prune(params, constraint)


@pytest.mark.claim("MS-3.4")
def test_a_random_bias_matters_to_decay_alone(x64, record_claim):
    """Under decay u⊙w no longer collapses; without any, training is the same as before to rounding."""
    params = {"u": jnp.full(4, 0.3), "w": jnp.full(4, 0.2)}
    free, biased = mirror.random_bias(params, 0.1, key=jax.random.key(0))
    loss = lambda p: 0.5 * jnp.sum((p["u"] * p["w"] - 0.1) ** 2)  # noqa: E731

    def end(start, at, decay, steps=3000):
        tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1))

        def step(carry, _):
            p, state = carry
            updates, state = tx.update(jax.grad(lambda q: loss(at(q)))(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return at(jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[0][0])(start))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9),
        end(free, biased, 0.0, 50),
        end(params, lambda p: p, 0.0, 50),
    )
    plain, fixed = end(params, lambda p: p, 0.3), end(free, biased, 0.3)
    assert jnp.abs(plain["u"]).max() < 1e-8
    assert jnp.abs(fixed["u"]).min() > 1e-4
    record_claim("MS-3.4", measured=float(jnp.abs(fixed["u"]).min()), expected="not 0, as without the bias")


def test_random_bias_of_some_leaves():
    params = {**network(), "count": jnp.arange(3)}
    free, biased = mirror.random_bias(params, 0.5, key=jax.random.key(0), where="l0/*")
    assert jnp.abs(free["l0"]["kernel"] - params["l0"]["kernel"]).max() > 0.1
    np.testing.assert_array_equal(free["l1"]["kernel"], params["l1"]["kernel"])
    np.testing.assert_array_equal(free["count"], params["count"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), biased(free), params)
    with pytest.raises(TypeError, match="`scale` must be a real number"):
        mirror.random_bias(params, "0.5", key=jax.random.key(0))
