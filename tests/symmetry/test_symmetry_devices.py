"""The action under every transformation and on eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from eqtoolbox import Symmetry
from eqtoolbox.groups import GeneralLinear, Monomial, Orthogonal

RELU = Symmetry({"w1": "_ h", "b1": "h", "w2": "h{a:-1} _"}, {"h": Monomial(4, ("a",))})
LINEAR = Symmetry({"w1": "_ h", "b1": "h", "w2": "h* _"}, {"h": GeneralLinear(4)})
ROTATION = LINEAR.subgroup({"h": Orthogonal(4)})
DEVICES = 8


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (8, 4), "b1": (4,), "w2": (4, 8)}
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def keys(count=DEVICES, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


def mesh():
    return jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))


def orbit(sym, key, p):
    """sample, exp, compose, act and generator in one."""
    a, b = jax.random.split(key)
    xi = sym.sample_algebra(b)
    return sym.generator(xi, sym.act(sym.compose(sym.sample(a), sym.exp(xi)), p))


def expected(sym):
    """One element after the other, for the keys of ``keys()``."""
    one = jax.jit(functools.partial(orbit, sym))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[one(k, params()) for k in keys()])


def test_vmap_pmap_and_shard_map_are_loops():
    sym = RELU
    p, one = params(), functools.partial(orbit, sym)
    loop = expected(sym)
    close(jax.jit(jax.vmap(one, (0, None)))(keys(), p), loop)
    close(jax.pmap(one, in_axes=(0, None))(keys(), p), loop)

    @functools.partial(jax.shard_map, mesh=mesh(), in_specs=(P("d"), P()), out_specs=P("d"))
    def ensemble(keys, p):
        return jax.vmap(one, (0, None))(keys, p)

    moved = jax.jit(ensemble)(keys(), p)
    close(moved, loop)
    assert len(moved["w1"].sharding.device_set) == DEVICES


@pytest.mark.parametrize(
    ("sym", "kind"),
    [(RELU, AxisType.Auto), (ROTATION, AxisType.Auto), (ROTATION, AxisType.Explicit)],
    ids=["monomial auto", "rotation auto", "rotation explicit"],
)
def test_parameters_sharded_on_a_fixed_axis_stay_sharded(sym, kind):
    m = jax.make_mesh((DEVICES,), ("d",), axis_types=(kind,))
    specs = {"w1": P("d", None), "b1": P(), "w2": P(None, "d")}
    p, g = params(), sym.sample(jax.random.key(0))
    with jax.set_mesh(m):
        sharded = {k: jax.device_put(v, NamedSharding(m, specs[k])) for k, v in p.items()}
        whole = jax.device_put(g, NamedSharding(m, P()))
        compiled = jax.jit(sym.act).lower(whole, sharded).compile()
        moved = compiled(whole, sharded)
    close(jax.device_get(moved), jax.device_get(sym.act(g, p)))
    for k, spec in specs.items():
        assert moved[k].sharding.is_equivalent_to(NamedSharding(m, spec), moved[k].ndim), k
    assert not any(op in compiled.as_text() for op in ("all-gather", "all-reduce", "all-to-all"))


def test_sharded_parameters_under_an_inverse_transpose():
    """The solve may gather the leaf it acts on; the numbers and the sharding asked for are right."""
    m, p, g = mesh(), params(), LINEAR.sample(jax.random.key(0))
    shardings = {
        k: NamedSharding(m, s) for k, s in {"w1": P("d", None), "b1": P(), "w2": P(None, "d")}.items()
    }
    sharded = jax.device_put(p, shardings)
    moved = jax.jit(LINEAR.act, out_shardings=shardings)(jax.device_put(g, NamedSharding(m, P())), sharded)
    close(jax.device_get(moved), jax.device_get(LINEAR.act(g, p)))
    assert moved["w2"].sharding.is_equivalent_to(shardings["w2"], 2)


def test_an_ensemble_sharded_over_devices_moves_where_it_lies():
    m = mesh()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params(i) for i in range(DEVICES)])
    ensemble = jax.device_put(stacked, NamedSharding(m, P("d")))
    elements = jax.device_put(jax.vmap(RELU.sample)(keys()), NamedSharding(m, P("d")))
    compiled = jax.jit(jax.vmap(RELU.act)).lower(elements, ensemble).compile()
    assert not any(op in compiled.as_text() for op in ("all-gather", "all-reduce", "all-to-all"))
    moved = compiled(elements, ensemble)
    assert moved["w1"].sharding.is_equivalent_to(NamedSharding(m, P("d")), 3)
    close(jax.device_get(moved), jax.device_get(jax.vmap(RELU.act)(elements, stacked)))


def test_gradients_and_remat_through_the_action():
    """The transpose of the action, and the derivative in the element, agree with finite differences."""
    p, g = params(), LINEAR.sample(jax.random.key(0))

    def f(g, p, act=LINEAR.act):
        moved = act(g, p)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(moved))

    plain = jax.jit(jax.grad(f, (0, 1)))(g, p)
    saved = jax.jit(jax.grad(functools.partial(f, act=jax.checkpoint(LINEAR.act)), (0, 1)))(g, p)
    close(saved, plain)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), (g, p))
        slopes = jax.grad(f, (0, 1))(*wide)
        step = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape)), wide)
        plus, minus = (f(*jax.tree.map(lambda a, s, t=t: a + t * s, wide, step)) for t in (1e-6, -1e-6))
        pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(step), strict=True)
        np.testing.assert_allclose(sum(jnp.vdot(a, b) for a, b in pairs), (plus - minus) / 2e-6, rtol=1e-6)


def test_donated_parameters_give_their_memory_to_the_result():
    p, g = params(), RELU.sample(jax.random.key(0))
    held = jax.tree.map(np.asarray, p)
    moved = jax.jit(RELU.act, donate_argnums=1)(g, jax.tree.map(jnp.copy, p))
    close(moved, RELU.act(g, held))
    compiled = jax.jit(RELU.act, donate_argnums=1).lower(g, p).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(p))


@pytest.mark.parametrize("sym", [RELU, LINEAR], ids=["monomial", "linear"])
def test_shapes_are_known_without_computing(sym):
    shapes = jax.eval_shape(params)
    g = jax.eval_shape(sym.sample, jax.random.key(0))
    assert jax.eval_shape(sym.act, g, shapes) == shapes
    xi = jax.eval_shape(sym.sample_algebra, jax.random.key(0))
    assert jax.eval_shape(sym.generator, xi, shapes) == shapes
    assert jax.eval_shape(sym.exp, xi) == jax.eval_shape(sym.identity)
    assert jax.eval_shape(sym.pullback, shapes, shapes) == xi
