"""``scale_by_symmetry`` against dense linear algebra, and through the checks that every optimizer has to pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commutant_brute import mlp
from jax.sharding import NamedSharding, PartitionSpec

import eqtoolbox as eqt
from eqtoolbox import Symmetry, groups
from eqtoolbox.curvature import Commutant, ScaleBySymmetryState, interval, memory
from eqtoolbox.testing import assert_optimizer_equivariant

PAPER = {"factor_decay": 0.8, "momentum": None, "every": 1, "largest_units": 0, "max_rms": None}


def network(group=groups.SignedPermutation, widths=(3, 4, 2), seed=0, dtype=jnp.float32):
    """A symmetry and parameters."""
    sym, structs = mlp(widths, group)
    rng = np.random.default_rng(seed)
    return sym, jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), dtype), structs)


def gradients(params, steps, seed=1):
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params) for _ in range(steps)
    ]


def run(tx, params, grads, update=None):
    """The last updates and state."""
    state, step = tx.init(params), update or jax.jit(tx.update)
    updates = None
    for g in grads:
        updates, state = step(g, state, params)
    return updates, state


def dense(sym, params):
    """The commutant, and flat vectors of trees."""
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    return Commutant(sym, params), flat


def power(matrix, p, damping):
    w, v = np.linalg.eigh(matrix)
    return (v * (np.maximum(w, 0) + damping * w.max()) ** p) @ v.T


# What it computes.


@pytest.mark.claim("GC-3.4")
@pytest.mark.parametrize("group", [groups.Permutation, groups.SignedPermutation, groups.Orthogonal])
def test_papers_form_is_the_dense_inverse_root_of_the_projected_covariance(x64, group):
    """(Σ β^(T-t) P(g gᵀ) / Σ β^(T-t))^(-1/2) g, with p × p matrices; with many steps, so that it has full rank."""
    sym, params = network(group, dtype=jnp.float64)
    grads = gradients(params, 40)
    # One decay for all components, and damping by component, as the definition has it.
    got, state = run(eqt.scale_by_symmetry(sym, **PAPER, damping=0.0), params, grads)
    com, flat = dense(sym, params)
    weights = 0.8 ** np.arange(len(grads))[::-1]
    blocks = [com.gram(g) for g in grads]
    mean = jax.tree.map(
        lambda *b: sum(w * x for w, x in zip(weights, b, strict=True)) / weights.sum(), *blocks
    )
    np.testing.assert_allclose(flat(got), power(com.to_dense(mean), -0.5, 0.0) @ flat(grads[-1]), rtol=1e-8)
    for name, block in state.symo_factors.copies.items():
        np.testing.assert_allclose(block / state.symo_weight.factors, mean[name], rtol=1e-12)


def test_factors_on_the_units_whiten_what_the_others_left(x64):
    """On one component with two spaces: M, then N₁, then N₂, each of what is whitened so far, by hand."""
    sym = Symmetry({"w": "a b", "v": "a b"}, {"a": groups.Orthogonal(3), "b": groups.Orthogonal(4)})
    params = {"w": jnp.zeros((3, 4)), "v": jnp.zeros((3, 4))}
    grads = gradients(params, 6)
    options = {**PAPER, "largest_units": None, "damping": 1e-9}
    got, _ = run(eqt.scale_by_symmetry(sym, sides=None, **options), params, grads)
    one, _ = run(eqt.scale_by_symmetry(sym, sides=1, **options), params, grads)
    sums, keep = {"m": 0, "a": 0, "b": 0}, 0.8
    for g in grads:
        x = np.stack([g["v"], g["w"]])
        sums["m"] = keep * sums["m"] + (1 - keep) * np.einsum("iab,jab->ij", x, x) / 12
        weight = 1 - keep ** (1 + [h is g for h in grads].index(True))
        x = np.einsum("ij,jab->iab", power(sums["m"] / weight, -0.5, 1e-9), x)
        sums["a"] = keep * sums["a"] + (1 - keep) * np.einsum("iab,icb->ac", x, x) / 8
        x = np.einsum("ac,icb->iab", power(sums["a"] / weight, -0.5, 1e-9), x)
        half = x
        sums["b"] = keep * sums["b"] + (1 - keep) * np.einsum("iab,iac->bc", x, x) / 6
        x = np.einsum("bc,iac->iab", power(sums["b"] / weight, -0.5, 1e-9), x)
    np.testing.assert_allclose(np.stack([got["v"], got["w"]]), x, rtol=1e-9)
    np.testing.assert_allclose(np.stack([one["v"], one["w"]]), half, rtol=1e-9)


def test_uncoupled_is_one_preconditioner_for_each_leaf(x64):
    sym, params = network(groups.Orthogonal, dtype=jnp.float64)
    grads = gradients(params, 30)
    got, _ = run(eqt.scale_by_symmetry(sym, **PAPER, damping=0.0, couple=False), params, grads)
    weights = 0.8 ** np.arange(len(grads))[::-1]
    m = sum(w * g["w1"] @ g["w1"].T for w, g in zip(weights, grads, strict=True)) / weights.sum() / 4
    np.testing.assert_allclose(got["w1"], power(m, -0.5, 0.0) @ grads[-1]["w1"], rtol=1e-9)


def test_momentum_is_a_mean_of_directions_and_the_newest(x64):
    sym, params = network(dtype=jnp.float64)
    grads = gradients(params, 5)
    plain = [run(eqt.scale_by_symmetry(sym, momentum=None), params, grads[: t + 1])[0] for t in range(5)]
    got, _ = run(eqt.scale_by_symmetry(sym, momentum=0.7, newest=0.2), params, grads)
    weights = 0.7 ** np.arange(5)[::-1]
    mean = sum(w * u["w1"] for w, u in zip(weights, plain, strict=True)) / weights.sum()
    np.testing.assert_allclose(got["w1"], 0.8 * mean + 0.2 * plain[-1]["w1"], rtol=1e-9)
    first, _ = run(eqt.scale_by_symmetry(sym, momentum=0.7, newest=0.0, momentum_first=True), params, grads)
    smooth = jax.tree.map(
        lambda *g: sum(w * x for w, x in zip(weights, g, strict=True)) / weights.sum(), *grads
    )
    _, state = run(eqt.scale_by_symmetry(sym, momentum=None), params, grads)
    com = Commutant(sym, params)
    root = state.symo_roots.copies["h1: signed"]
    rows = root @ com.coordinates(smooth)["h1: signed"] @ state.symo_roots.units["h1: signed/0"]
    limit = min(1, np.sqrt(rows.size / np.sum(rows**2)))
    np.testing.assert_allclose(com.coordinates(first)["h1: signed"], limit * rows, rtol=1e-9)


def test_schedules_of_memory_and_interval():
    keep, every = memory(5, 0.1, 100), interval(0.05, 100)
    counts = jnp.asarray([0, 50, 1000, 10**6])
    np.testing.assert_allclose(1 / (1 - keep(counts)), [5, 10, 100, 100], rtol=1e-4)
    assert every(counts).tolist() == [1, 2, 50, 100]


def test_roots_are_kept_between_refreshes_and_factors_take_five_gradients():
    """Every 10 steps a refresh, every second step a gradient is looked at; more often at the start of a run."""
    sym, params = network()
    tx = eqt.scale_by_symmetry(sym, every=10)
    state, step, looked, renewed = tx.init(params), jax.jit(tx.update), [], []
    for t, g in enumerate(gradients(params, 40), 1):
        old = state
        updates, state = step(g, state)
        assert np.any(updates["w1"])
        for name, steps in (("symo_factors", looked), ("symo_roots", renewed)):
            if not np.array_equal(*(getattr(s, name).copies["h1: signed"] for s in (old, state))):
                steps.append(t)
    assert renewed[:3] == [1, 2, 3]
    assert [t for t in renewed if t >= 20] == [20, 30, 40]
    assert [t for t in looked if t >= 20] == list(range(20, 41, 2))


@pytest.mark.claim("GC-T2.2")
@pytest.mark.parametrize("group", [groups.Permutation, groups.SignedPermutation, groups.Orthogonal])
def test_training_commutes_with_the_group(group, key):
    """Also where the units are whitened, and with momentum."""
    sym, params = network(group)
    assert_optimizer_equivariant(sym, eqt.symo(0.05, sym), params, key=key)


def test_training_does_not_commute_with_a_larger_group(key):
    """Permutations only in the optimizer: rotations are no equivariance of it."""
    own, params = network(groups.Permutation)
    larger, _ = network(groups.Orthogonal)
    with pytest.raises(AssertionError):
        assert_optimizer_equivariant(larger, eqt.symo(0.05, own), params, key=key)


def test_starts_from_the_factors_of_an_ensemble():
    """With a decay of 1 they stay, and the updates are the fixed preconditioner's."""
    sym, params = network()
    com = Commutant(sym, params)
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *gradients(params, 50))
    blocks = com.covariance(stacked).value
    tx = eqt.scale_by_symmetry(
        sym, factors=blocks, factor_decay=1.0, momentum=None, max_rms=None, damping=0.0
    )
    (g,) = gradients(params, 1, seed=7)
    got, state = run(tx, params, [g])
    want = com.matvec(com.apply(lambda w: w**-0.5, blocks, damping=0.0), g)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), got, want)
    jax.tree.map(np.testing.assert_array_equal, state.symo_factors.copies, blocks)


# What is not a number, and zero.


def test_gradients_that_are_not_finite_are_skipped_and_counted():
    sym, params = network()
    tx = eqt.scale_by_symmetry(sym)
    step = jax.jit(tx.update)
    good = gradients(params, 3)
    _, state = run(tx, params, good[:2], step)
    for bad in (jnp.nan, jnp.inf, 1e30):
        broken = jax.tree.map(lambda x: x, good[2])
        broken["b1"] = broken["b1"].at[0].set(bad)
        updates, after = step(broken, state, params)
        assert all(not np.any(u) for u in jax.tree.leaves(updates))
        assert int(after.symo_skipped) == 1
        jax.tree.map(np.testing.assert_array_equal, after._replace(symo_skipped=state.symo_skipped), state)
    np.testing.assert_array_equal(
        step(good[2], after, params)[0]["w1"], step(good[2], state, params)[0]["w1"]
    )


def test_zero_gradients_give_zero_updates_and_then_it_recovers():
    sym, params = network()
    zero, (one,) = jax.tree.map(jnp.zeros_like, params), gradients(params, 1)
    updates, state = run(eqt.scale_by_symmetry(sym), params, [zero] * 3)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))
    updates, _ = jax.jit(eqt.scale_by_symmetry(sym).update)(one, state, params)
    assert all(np.all(np.isfinite(u)) and np.any(u) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_of_the_gradients_does_not_matter(scale):
    sym, params = network()
    grads = gradients(params, 4)
    tx = eqt.scale_by_symmetry(sym)
    a, _ = run(tx, params, grads)
    b, _ = run(tx, params, [jax.tree.map(lambda x: x * scale, g) for g in grads])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4), a, b)


# The table of checks of an optimizer.


def target(p):
    """A quadratic and a quartic bowl around 1, 100 times steeper at one end of the first axis than at the other."""
    return sum(
        jnp.sum((y := (x.T - 1) @ jnp.diag(jnp.logspace(0, -1, len(x)))) ** 2 + y**4)
        for x in jax.tree.leaves(p)
    )


def test_converges():
    sym, params = network()
    tx = eqt.symo(optax.cosine_decay_schedule(0.05, 300), sym)

    @jax.jit
    def train(p):
        def step(carry, _):
            p, s = carry
            u, s = tx.update(jax.grad(target)(p), s, p, value=0.0, unknown="ignored")
            return (optax.apply_updates(p, u), s), None

        return jax.lax.scan(step, (p, tx.init(p)), None, 300)[0][0]

    end = train(params)
    jax.tree.map(lambda x: np.testing.assert_allclose(x, 1, atol=1e-2), end)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes_are_kept_and_the_state_is_stable(dtype):
    """Under a conditional, and without a second compilation; all arithmetic is in float32 at least."""
    sym, params = network(dtype=dtype)
    tx = eqt.scale_by_symmetry(sym)
    (g,) = gradients(params, 1)
    state = tx.init(params)
    traces = []

    @jax.jit
    def step(g, state, go):
        traces.append(1)
        return jax.lax.cond(go, lambda: tx.update(g, state, params), lambda: (g, state))

    updates, after = step(g, state, True)
    updates, after = step(g, after, False)
    assert len(traces) == 1
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(after))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, jax.eval_shape(tx.init, params))


def test_wrappers_of_optax(x64):
    """Chains by name, accumulated steps, injected hyperparameters, states found and mapped by name."""
    sym, params = network(dtype=jnp.float64)
    (g,) = gradients(params, 1)
    integers = ("largest_units", "sides", "diagonal_above")
    injected = optax.inject_hyperparams(eqt.symo, static_args=integers)(0.1, sym)
    updates, state = run(injected, params, [g])
    plain, _ = run(eqt.symo(0.1, sym), params, [g])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, plain)
    assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.1)
    whole = optax.inject_hyperparams(eqt.scale_by_symmetry, static_args=integers)(sym, damping=1e-3)
    _, state = run(whole, params, [g])
    assert float(state.hyperparams["damping"]) == pytest.approx(1e-3)
    assert "every" in state.hyperparams
    several = optax.MultiSteps(eqt.symo(0.1, sym), 2)
    updates, _ = run(several, params, [g, g])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), updates, plain)
    white = eqt.scale_by_symmetry(sym)
    with pytest.raises(ValueError, match="first call `init`"):
        white.init(())
    named = optax.named_chain(("white", white), ("step", optax.scale(-1.0)))
    _, state = run(named, params, [g])
    assert int(optax.tree.get(state, "symo_count")) == 1
    mapped = optax.tree.map_params(white, lambda x: x * 0, state["white"])
    assert not np.any(mapped.symo_momentum["w1"])
    assert np.any(mapped.symo_factors.copies["h1: signed"])


def test_weight_decay_is_decoupled_and_masked():
    sym, params = network()
    (g,) = gradients(params, 1)
    mask = {path: path.startswith("w") for path in params}
    decayed, _ = run(eqt.symo(0.1, sym, weight_decay=0.5, mask=mask), params, [g])
    plain, _ = run(eqt.symo(0.1, sym), params, [g])
    np.testing.assert_allclose(decayed["w1"], plain["w1"] - 0.05 * params["w1"], rtol=1e-5)
    np.testing.assert_array_equal(decayed["b1"], plain["b1"])


def test_partition_takes_whole_orbits():
    """One hidden layer each to two optimizers: the same as alone; half an orbit is refused by name."""
    axes = {"a": "_ h", "b": "h* _", "c": "_ k", "d": "k* _", "e": "_"}
    sym = Symmetry(axes, {"h": groups.Permutation(3), "k": groups.Permutation(4)})
    shapes = {"a": (2, 3), "b": (3, 2), "c": (2, 4), "d": (4, 2), "e": (2,)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    grads = gradients(params, 3)
    whole = {"a": "ours", "b": "ours", "c": "sgd", "d": "sgd", "e": "sgd"}
    table = {"ours": eqt.symo(0.1, sym), "sgd": optax.sgd(0.1)}
    updates, _ = run(optax.partition(table, whole), params, grads)
    small = Symmetry({"a": "_ h", "b": "h* _"}, {"h": groups.Permutation(3)})
    part = lambda tree: {"a": tree["a"], "b": tree["b"]}  # noqa: E731
    alone, _ = run(eqt.symo(0.1, small), part(params), [part(g) for g in grads])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), part(updates), alone)
    with pytest.raises(ValueError, match=r"'b' is masked out.*'h' acts on it"):
        optax.partition(table, {**whole, "b": "sgd"}).init(params)


def test_ensemble_pays_one_branch_and_gives_each_model_its_own_updates():
    """Under vmap of everything, the conditionals are still conditionals; one that skips a step disturbs no other."""
    sym, params = network()
    tx = eqt.scale_by_symmetry(sym, every=2)
    grads = [jax.tree.map(lambda *x: jnp.stack(x), *gradients(params, 3, seed=s)) for s in range(4)]
    grads[1]["w1"] = grads[1]["w1"].at[1].set(jnp.nan)
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 3), params)
    states = jax.vmap(tx.init)(stacked)
    every = jax.jit(jax.vmap(tx.update))
    jaxpr = jax.make_jaxpr(jax.vmap(tx.update))(grads[0], states)
    conditionals = [e for e in jaxpr.eqns if e.primitive.name == "cond"]
    assert len(conditionals) == 1
    assert conditionals[0].invars[0].aval.shape == ()
    updates = None
    for g in grads:
        updates, states = every(g, states)
    assert states.symo_skipped.tolist() == [0, 1, 0]
    for i in range(3):
        mine = [jax.tree.map(lambda x, i=i: x[i], g) for g in grads]
        alone, _ = run(tx, params, mine)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-5), updates, alone
        )


def test_sharded_over_a_mesh(x64):
    """Parameters split over 8 devices: the same updates, and a momentum that stays split."""
    sym, params = network(groups.Permutation, (8, 16, 8), dtype=jnp.float64)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = {
        "w1": PartitionSpec("d"),
        "b1": PartitionSpec("d"),
        "w2": PartitionSpec(None, "d"),
        "b2": PartitionSpec(),
    }
    put = lambda tree: {k: jax.device_put(x, NamedSharding(mesh, split[k])) for k, x in tree.items()}  # noqa: E731
    tx, grads = eqt.scale_by_symmetry(sym), gradients(params, 3)
    want, _ = run(tx, params, grads)
    shards, whole = {k: NamedSharding(mesh, split[k]) for k in params}, NamedSharding(mesh, PartitionSpec())
    places = optax.tree.map_params(
        tx, lambda _, s: s, jax.eval_shape(tx.init, params), shards, transform_non_params=lambda _: whole
    )
    got, state = run(
        tx, put(params), [put(g) for g in grads], jax.jit(tx.update, out_shardings=(shards, places))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), got, want)
    assert state.symo_momentum["w1"].sharding.is_equivalent_to(shards["w1"], 2)


def test_sharded_over_an_explicit_mesh(x64):
    """Where shardings are types: the same updates; updates and momentum are placed like the gradients."""
    sym, params = network(groups.SignedPermutation, (8, 16, 8), dtype=jnp.float64)
    tx, (g,) = eqt.scale_by_symmetry(sym), gradients(params, 1)
    want, _ = run(tx, params, [g])
    split = {
        "w1": PartitionSpec(None, "d"),
        "b1": PartitionSpec("d"),
        "w2": PartitionSpec("d"),
        "b2": PartitionSpec(),
    }
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        put = {k: jax.device_put(x, NamedSharding(mesh, split[k])) for k, x in g.items()}
        state = tx.init(put)
        got, after = jax.jit(tx.update)(put, state)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    for name, u in got.items():
        assert u.sharding.is_equivalent_to(put[name].sharding, u.ndim)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), got, want)


def test_saved_and_restored_bit_for_bit(tmp_path):
    import orbax.checkpoint as ocp

    sym, params = network()
    tx, grads = eqt.symo(0.1, sym), gradients(params, 6)
    step = jax.jit(tx.update)
    _, state = run(tx, params, grads[:3], step)
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        again = saver.restore(tmp_path / "state", shapes)
    assert isinstance(again[0], ScaleBySymmetryState)
    for g in grads[3:]:
        (a, state), (b, again) = step(g, state, params), step(g, again, params)
        jax.tree.map(np.testing.assert_array_equal, (a, state), (b, again))


def test_donated_buffers():
    sym, params = network()
    tx, grads = eqt.scale_by_symmetry(sym), gradients(params, 3)
    step = jax.jit(tx.update, donate_argnums=1)
    want, _ = run(tx, params, grads)
    got, _ = run(tx, params, grads, lambda g, s, p: step(g, s))
    jax.tree.map(np.testing.assert_array_equal, got, want)


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"factor_decay": 1.5}, ValueError, r"`factor_decay` must lie in \[0, 1\], got 1.5"),
        ({"momentum": "0.9"}, TypeError, "`momentum` must be a real number"),
        ({"every": 0}, ValueError, "`every` must lie in"),
        ({"damping": -1.0}, ValueError, "`damping`"),
        ({"largest_units": -1}, ValueError, "largest_units"),
        ({"sides": 1.5}, TypeError, "sides"),
        ({"factors": {"h": jnp.eye(2)}}, ValueError, "the blocks must have the components"),
    ],
)
def test_bad_options(options, error, match):
    sym, params = network()
    with pytest.raises(error, match=match):
        eqt.scale_by_symmetry(sym, **options).init(params)


def test_bad_symmetry_and_labels():
    sym, params = network()
    with pytest.raises(TypeError, match="Symmetry"):
        eqt.scale_by_symmetry("h")
    with pytest.raises(ValueError, match="w1"):
        eqt.scale_by_symmetry(sym).init({**params, "w1": jnp.zeros((3, 5))})
    for name in ("first", "growth", "last"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            memory(**{name: -1})
    with pytest.raises(ValueError, match="`last`"):
        interval(last=0)
