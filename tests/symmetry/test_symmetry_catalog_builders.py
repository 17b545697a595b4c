"""The builders of the catalogue: what they read off shapes, what they refuse, and facts about single rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import COUNT, distance, elements, orbit_change, quick_jit
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eqtoolbox import zoo
from eqtoolbox.groups import (
    GeneralLinear,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    SignedPermutation,
    SignFlip,
)
from eqtoolbox.linalg import numerical_rank
from eqtoolbox.symmetry import Symmetry, catalog, generator_matrix, orbit_dimension


def shapes(**leaves):
    """A flat tree of shapes; ``__`` in a name stands for ``/``."""
    tree = {}
    for name, shape in leaves.items():
        *parents, last = name.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


def normals(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape) / max(1, x.shape[0]) ** 0.5, tree)


MLP = shapes(a__kernel=(4, 7), a__bias=(7,), b__kernel=(7, 6), c__kernel=(6, 3))
LAYERS = ("a", "b", "c")


# Activations.

FUNCTIONS = dict(zoo.activations()) | {
    "abs": jnp.abs,
    "arctan": jnp.arctan,
    "cube": lambda z: z**3,
    "erf": jax.scipy.special.erf,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "log_sigmoid": jax.nn.log_sigmoid,
    "soft_sign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
    "swish": jax.nn.silu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "mish": jax.nn.mish,
    "relu6": jax.nn.relu6,
    "pointwise": jax.nn.gelu,
    "odd": jnp.sinh,
    "homogeneous": jax.nn.relu,
}


def rule_error(rule, sigma):
    """How much Σ_i r_i σ(z_i) changes when z moves as a writer and r as a reader."""
    rng = np.random.default_rng(1)
    params = {"z": rng.standard_normal((8, 5)), "r": rng.standard_normal((5, 2))}
    sym = Symmetry({"z": f"_ h{rule.writer}", "r": f"h{rule.reader} _"}, {"h": rule.group(5)})
    return orbit_change(sym, lambda p, _: sigma(p["z"]) @ p["r"], params, np.zeros(()))


@pytest.mark.parametrize("name", catalog.activation_rules())
def test_rule_of_an_activation_is_its_equivariance(name, x64):
    assert rule_error(catalog.activation_rule(name), FUNCTIONS[name]) <= 1e-12


@pytest.mark.parametrize(
    ("degree", "parity", "sigma", "group"),
    [
        (1, "even", jnp.abs, Monomial(5, ("a",), ("s",))),
        (2, "odd", lambda z: z * jnp.abs(z), Monomial(5, ("a",), ("s",))),
        ("1/3", "odd", jnp.cbrt, Monomial(5, ("a",), ("s",))),
        ("3/2", None, lambda z: jax.nn.relu(z) ** 1.5, Monomial(5, 1)),
        (3, "odd", lambda z: z**3, Monomial(5, 1, 1)),
        (4, "even", lambda z: z**4, Monomial(5, 1, 1)),
    ],
)
def test_homogeneous_activations_of_any_degree_and_parity(degree, parity, sigma, group, x64):
    rule = catalog.homogeneous(degree, parity)
    assert rule.group(5) == group
    assert rule_error(rule, sigma) <= 1e-12


def test_activation_rules_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match=r"no rule for the activation 'snake'.*pointwise"):
        catalog.activation_rule("snake")
    with pytest.raises(TypeError, match="name or an ActivationRule"):
        catalog.activation_rule(jnp.tanh)
    with pytest.raises(ValueError, match="parity"):
        catalog.homogeneous(2, "both")
    with pytest.raises(TypeError):
        catalog.activation_rules()["tanh"] = None


# Chains of layers.


def test_mlp_labels_by_activation_and_order():
    sym = catalog.mlp(MLP, LAYERS, ("relu2", "tanh"))
    assert sym.axes == {
        "a/kernel": "_ h1",
        "a/bias": "h1",
        "b/kernel": "h1^-2 h2",
        "c/kernel": "h2 _",
    }
    assert sym.groups == {"h1": Monomial(7, 1), "h2": SignedPermutation(6)}


def test_mlp_under_a_prefix_with_names_and_a_subgroup():
    sym = catalog.mlp({"net": MLP}, LAYERS, "linear", Orthogonal, prefix="net", space="u")
    assert sym.groups == {"u1": Orthogonal(7), "u2": Orthogonal(6)}
    assert sym.at("x").axes.keys() == {
        f"x/net/{path}" for path in ("a/kernel", "a/bias", "b/kernel", "c/kernel")
    }


def test_mlp_on_an_nnx_state(x64):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(4, 7, rngs=rngs), nnx.Linear(7, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(jax.nn.relu(self.first(x)))

    graph, abstract = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    state = normals(abstract)
    sym = catalog.mlp(state, ("first", "last"))
    assert sym == catalog.mlp(nnx.to_pure_dict(state), ("first", "last"))
    x = np.random.default_rng(2).standard_normal((6, 4))
    assert orbit_change(sym, lambda s, x: nnx.merge(graph, s)(x), state, x) <= 1e-12


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: catalog.mlp(MLP, "ab"), TypeError, "sequence of paths"),
        (lambda: catalog.mlp(MLP, ("a",)), ValueError, "at least 2"),
        (lambda: catalog.mlp(MLP, ("a", "a")), ValueError, "different"),
        (lambda: catalog.mlp(MLP, ("a", "bb", "c")), ValueError, "'bb/kernel'.*nearest"),
        (lambda: catalog.mlp(MLP, ("a", "c")), ValueError, "c/kernel.*size 7"),
        (lambda: catalog.mlp(MLP, LAYERS, ("relu",)), ValueError, "2 hidden layers, got 1"),
        (lambda: catalog.mlp(shapes(a__kernel=(3, 4, 5), b__kernel=(5, 2)), "ab"), TypeError, "sequence"),
        (
            lambda: catalog.mlp(shapes(a__kernel=(3, 4, 5), b__kernel=(5, 2)), ("a", "b")),
            ValueError,
            "2 axes",
        ),
        (lambda: catalog.cnn(shapes(a__kernel=(5,), b__kernel=(5, 2)), ("a", "b")), ValueError, "in, out"),
        (
            lambda: catalog.cnn(shapes(a__kernel=(3, 3, 1, 6), b__kernel=(3, 3, 1, 6)), ("a", "b")),
            ValueError,
            "b/kernel.*size 6",
        ),
    ],
)
def test_chains_refuse_what_does_not_fit(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_cnn_reads_pooled_or_flattened_channels():
    def read(size):
        tree = shapes(a__kernel=(3, 3, 1, 5), a__bias=(5,), b__kernel=(size, 4), c__kernel=(4, 2))
        return catalog.cnn(tree, LAYERS, "gelu").axes["b/kernel"]

    assert read(5) == "h1 h2"
    assert read(20) == "(_ h1) h2"
    with pytest.raises(ValueError, match="multiple of 5"):
        read(21)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_lora_keeps_a_moving_base_and_pins_a_frozen_one(activation):
    tree = shapes(a__lora_a=(4, 2), a__lora_b=(2, 7), b__lora_a=(7, 2), b__lora_b=(2, 3))
    frozen = catalog.lora(tree, ("a", "b"), activation, base_moves=False)
    assert frozen.groups == {"r1": GeneralLinear(2), "r2": GeneralLinear(2)}
    tree["a"]["kernel"], tree["b"]["kernel"] = (
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((4, 7), (7, 3))
    )
    moving = catalog.lora(tree, ("a", "b"), activation)
    read = "h1*" if activation == "relu" else "h1"
    assert moving.axes["b/kernel"] == f"{read} _"
    assert moving.axes["b/lora_a"] == f"{read} r2"


def test_swiglu_with_biases():
    tree = shapes(
        gate__kernel=(4, 7), gate__bias=(7,), linear__kernel=(4, 7), linear__bias=(7,), out__kernel=(7, 3)
    )
    sym = catalog.swiglu(tree)
    assert sym.axes["gate/bias"] == "h^0"
    assert sym.axes["linear/bias"] == "h"


# Residual nets, recurrent nets.


def test_resnet_on_batch_statistics_keeps_signs_and_loses_scalings(x64):
    module = zoo.ResNet(widths=(4, 4))
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    params = normals(variables["params"])
    statistics = jax.tree.map(lambda s: jnp.ones(s.shape), variables["batch_stats"])

    def apply(params, x):
        return module.apply(
            {"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"]
        )[0]

    sym = catalog.resnet(params, ["block_0"], statistics=None)
    assert sym.groups["inner0"] == Monomial(4, ("relu",), ("norm_0_0",))
    assert orbit_change(sym, apply, params, x) <= 1e-10


def test_resnet_refuses():
    tree = shapes(stem__kernel=(3, 3, 1, 5), b__conv_0__kernel=(3, 3, 5, 5), b__conv_1__kernel=(3, 3, 5, 5))
    with pytest.raises(ValueError, match="`norm` must be"):
        catalog.resnet(tree, ["b"], "layer")
    with pytest.raises(ValueError, match="b/norm_0/"):
        catalog.resnet(shapes(**{"head__kernel": (5, 2)}) | tree, ["b"], "batch", prefix="")
    grouped = {f"b__norm_{i}__{leaf}": (5,) for i in range(2) for leaf in ("scale", "bias")}
    grouped = shapes(head__kernel=(5, 2), **grouped)
    grouped["b"] |= tree["b"]
    with pytest.raises(ValueError, match="2 groups do not divide the 5 channels"):
        catalog.resnet(grouped | {"stem": tree["stem"]}, ["b"], "group")


def test_rnn_refuses():
    tree = shapes(cell__i__kernel=(4, 6), cell__h__kernel=(6, 6), readout__kernel=(6, 2))
    assert catalog.rnn(tree, "simple").axes["cell/h/kernel"] == "h h"
    with pytest.raises(ValueError, match="`cell` must be one of"):
        catalog.rnn(tree, "mgu")
    with pytest.raises(ValueError, match="'cell/ig/kernel'"):
        catalog.rnn(tree, "lstm")


# Attention.


def test_attention_reads_heads_from_shapes_or_from_the_caller():
    split = shapes(
        query__kernel=(8, 6, 5), key__kernel=(8, 2, 5), value__kernel=(8, 2, 4), out__kernel=(6, 4, 8)
    )
    sym = catalog.attention(split)
    assert sym.axes["query/kernel"] == "_ (heads queries) qk"
    assert sym.axes["out/kernel"] == "(heads queries) vo* _"
    flat = shapes(query__kernel=(8, 30), key__kernel=(8, 10), value__kernel=(8, 8), out__kernel=(24, 8))
    assert catalog.attention(flat, 6, 2).groups == sym.groups
    assert catalog.attention(flat, 6, 2).axes["query/kernel"] == "_ (heads queries qk)"
    with pytest.raises(ValueError, match="`heads` must be given"):
        catalog.attention(flat)
    with pytest.raises(ValueError, match="`heads` = 7 does not divide"):
        catalog.attention(flat, 7)
    with pytest.raises(ValueError, match="6 heads of 5 against 4"):
        catalog.attention(shapes(query__kernel=(8, 6, 5), key__kernel=(8, 4, 5), value__kernel=(8, 4, 5)))


def test_two_attentions_multiply_with_different_suffixes():
    one = shapes(
        query__kernel=(8, 2, 3), key__kernel=(8, 2, 3), value__kernel=(8, 2, 3), out__kernel=(2, 3, 8)
    )
    tree = {"x": one, "y": one}
    sym = catalog.attention(tree, prefix="x", suffix="_x").product(
        catalog.attention(tree, prefix="y", suffix="_y")
    )
    assert sym.dimension == 72
    sym.check(tree)


def test_fused_attention_split_by_head(x64):
    tree = normals(shapes(qkv__kernel=(4, 2, 9), qkv__bias=(2, 9), out__kernel=(2, 3, 4)))
    sym = catalog.fused_attention(tree, 2)
    assert sym.axes["qkv/bias"] == "heads (qk + qk* + vo)"

    def apply(params, x):
        qkv = jnp.einsum("btd,dhk->bthk", x, params["qkv"]["kernel"]) + params["qkv"]["bias"][None, None]
        q, k, v = jnp.split(qkv, 3, axis=-1)
        weights = jax.nn.softmax(jnp.einsum("bihk,bjhk->bhij", q, k), axis=-1)
        return jnp.einsum("bhij,bjhv,hvd->bid", weights, v, params["out"]["kernel"])

    x = np.random.default_rng(0).standard_normal((2, 5, 4))
    assert orbit_change(sym, apply, tree, x) <= 1e-12
    with pytest.raises(ValueError, match="`heads` = 3 does not fit"):
        catalog.fused_attention(tree, 3)


def test_stacked_transformer_with_rms_norms_and_relu(x64):
    module = zoo.Transformer(norm="rms", scan=True, layers=2, heads=2, activation="relu", ff=6)
    tokens = np.random.default_rng(0).integers(11, size=(2, 4))
    params = normals(jax.eval_shape(module.init, jax.random.key(0), tokens)["params"])
    sym = catalog.transformer(params, ["blocks"], norm="rms", activation="relu", stacked=True)
    assert sym.groups["residual"] == Monomial(
        8, ("norm_0[2]", "norm_1[2]", "norm"), ("stream", "norm_0[2]", "norm_1[2]", "norm")
    )
    apply = lambda params, tokens: module.apply({"params": params}, tokens)  # noqa: E731
    assert orbit_change(sym, apply, params, tokens) <= 1e-10
    with pytest.raises(ValueError, match="`norm` must be"):
        catalog.transformer(params, ["blocks"], norm="batch", stacked=True)
    with pytest.raises(ValueError, match="must have 2 or 3 axes"):
        catalog.transformer(params, ["blocks", "other"], stacked=False, norm="rms", activation="relu")


@pytest.mark.parametrize(
    "name", ["transformer_tied", "attention", "fused_qkv", "rnn_simple", "grouped_queries"]
)
def test_models_of_sequences_at_another_length(name, x64):
    (model,) = catalog.models(name)
    assert orbit_change(model.symmetry, model.apply, model.params, model.inputs[:2, :3]) <= 1e-10


# Records.


def test_rows_and_models_by_name():
    assert [row.name for row in catalog.rows("S3")] == [n for n in catalog.row_names() if n.startswith("S3/")]
    assert {row.id for row in catalog.rows()} == {*(f"S{i}" for i in range(1, 15)), "S6b"}
    assert {row.kind for row in catalog.rows("S1", "S13", "S14")} == {"network", "loss", "distribution"}
    with pytest.raises(ValueError, match="no row 'S18'"):
        catalog.rows("S18")
    with pytest.raises(ValueError, match="no model 'S1'"):
        catalog.models("S1")


def test_records_follow_their_key_and_the_default_float():
    (a,), (b,), (c,) = (catalog.rows("S1", key=jax.random.key(i)) for i in (0, 0, 1))
    assert distance(a.params, b.params) == 0
    assert distance(a.params, c.params) > 0.1
    assert {x.dtype for x in jax.tree.leaves((a.params, a.inputs))} == {jnp.dtype(jnp.float32)}
    with jax.enable_x64(True):
        (d,) = catalog.rows("S1")
    assert {x.dtype for x in jax.tree.leaves((d.params, d.inputs))} == {jnp.dtype(jnp.float64)}
    assert a.draw(jax.random.key(5), 3).shape == (3, 4)


@pytest.mark.parametrize("name", ["S3/relu2", "S10/attention"])
def test_act_is_the_same_one_by_one_under_vmap_and_sharded_over_devices(name, x64):
    (row,) = catalog.rows(name)
    sym, g = row.symmetry, elements(row.symmetry, 0)
    together = quick_jit(jax.vmap(sym.act, (0, None)))(g, row.params)
    single = [sym.act(jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), g), row.params) for i in range(2)]
    for i, one in enumerate(single):
        assert distance(jax.tree.map(lambda x, i=i: x[i], together), one) <= 1e-14
    mesh = Mesh(np.array(jax.devices()[:COUNT]), ("member",))
    spread = jax.device_put(jax.tree.map(jnp.asarray, g), NamedSharding(mesh, PartitionSpec("member")))
    mapped = jax.jit(
        jax.shard_map(
            jax.vmap(sym.act, (0, None)),
            mesh=mesh,
            in_specs=(PartitionSpec("member"), PartitionSpec()),
            out_specs=PartitionSpec("member"),
        )
    )
    assert distance(mapped(spread, row.params), together) <= 1e-14
    assert distance(jax.pmap(sym.act, in_axes=(0, None))(g, row.params), together) <= 1e-14


# Facts on single rows.


@pytest.mark.claim("DA-S6")
def test_the_eps_of_a_batch_norm_breaks_its_scale_invariance(x64, record_claim):
    (row,) = catalog.rows("S6/batch_norm")

    def apply(params, x):
        z = x @ params["kernel"] + params["bias"][None]
        z = z - z.mean(0, keepdims=True)
        return z / jnp.sqrt(jnp.square(z).mean(0, keepdims=True) + 1e-5)

    error = orbit_change(row.symmetry, apply, row.params, row.inputs)
    assert 1e-8 < error < 1e-3
    record_claim("DA-S6", measured=error, expected="of the order of eps = 1e-5")


@pytest.mark.claim("DA-E2", "DC-E1.1")
def test_the_groups_of_examples_125_and_127_are_those_of_the_hidden_units(x64, record_claim):
    (odd,) = catalog.rows("S4/tanh")
    printed = Symmetry({"Dense_0/kernel": "n _"}, {"n": SignFlip(4)})
    error = orbit_change(printed, odd.apply, odd.params, odd.inputs)
    assert error > 0.1
    record_claim("DA-E2", measured=error, expected="0 for a symmetry: Z_2^n on the n inputs")
    (norm,) = catalog.rows("S6/batch_norm")
    inputs = Symmetry({"kernel": "n _"}, {"n": PositiveScaling(4)})
    assert orbit_change(inputs, norm.apply, norm.params, norm.inputs) > 0.1


@pytest.mark.claim("DA-E3", "DC-E1.1")
def test_the_softmax_of_example_128_normalises_over_classes(x64, record_claim):
    (row,) = catalog.rows("S7/softmax")

    def over_samples(params, x):
        return jax.nn.softmax(x @ params["kernel"] + params["bias"][None], axis=0)

    error = orbit_change(row.symmetry, over_samples, row.params, row.inputs)
    assert error > 0.1
    record_claim("DA-E3", measured=error, expected="0 for a symmetry")


@pytest.mark.claim("DA-S11")
def test_rotary_positions_break_the_linear_group_of_queries_and_keys(x64):
    rng = np.random.default_rng(0)
    params = {"query": rng.standard_normal((4, 2)), "key": rng.standard_normal((4, 2))}
    sym = Symmetry({"query": "_ k", "key": "_ k*"}, {"k": GeneralLinear(2)})
    angle = np.arange(5.0)
    turn = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)

    def logits(params, x, rotary):
        q, k = x @ params["query"], x @ params["key"]
        if rotary:
            q, k = (jnp.einsum("tij,btj->bti", turn, y) for y in (q, k))
        return jnp.einsum("bik,bjk->bij", q, k)

    x = rng.standard_normal((3, 5, 4))
    assert orbit_change(sym, lambda p, x: logits(p, x, False), params, x) <= 1e-12
    assert orbit_change(sym, lambda p, x: logits(p, x, True), params, x) > 0.1


@pytest.mark.claim("DA-T3", "DA-T4", "DC-T1.4")
@pytest.mark.parametrize(("name", "claim"), [("S13", "DA-T3"), ("S14", "DA-T4")])
def test_a_loss_or_a_mean_stays_while_the_network_changes(name, claim, x64, record_claim):
    (row,) = catalog.rows(name)
    kept = orbit_change(row.symmetry, row.apply, row.params, row.inputs)
    changed = orbit_change(row.symmetry, row.network, row.params, row.inputs)
    assert kept <= 1e-10
    assert changed > 0.1
    record_claim(claim, measured=kept, expected=f"<= 1e-10, while the network changes by {changed:.2g}")


def test_inner_products_of_features_stay(x64):
    (row,) = catalog.rows("S13")

    def grams(params, views):
        a, b = row.network(params, views)
        return a @ b.T

    assert orbit_change(row.symmetry, grams, row.params, row.inputs) <= 1e-12


@pytest.mark.claim("DA-T11", "DA-E16")
@pytest.mark.parametrize(("h", "n", "m"), [(2, 1, 1), (4, 1, 1), (3, 4, 2), (5, 3, 1)])
def test_orbit_dimensions_of_two_layers(h, n, m, x64, record_claim):
    params = normals(shapes(a__kernel=(n, h), b__kernel=(h, m)))

    def rank(activation):
        sym = catalog.mlp(params, ("a", "b"), activation)
        return numerical_rank(np.asarray(quick_jit(lambda p: generator_matrix(sym, p))(params))).rank

    def pairs(k):
        return max(0, k) * (max(0, k) - 1) // 2

    assert rank("linear") == h * h - max(0, h - n) * max(0, h - m)
    scaling, rotation = rank("relu"), rank("radial")
    assert scaling == h
    assert rotation == pairs(h) - pairs(h - n - m)
    wide = h > max(n, m)
    printed_scaling, printed_rotation = min(h, max(n, m)), pairs(h) - pairs(h - max(n, m))
    assert (printed_scaling == scaling) is not wide
    assert printed_rotation <= rotation
    assert wide or printed_rotation == rotation
    text = f"h={h}, n={n}, m={m}: printed {printed_scaling} and {printed_rotation}"
    record_claim("DA-E16", measured=f"{scaling} and {rotation}", expected=text)


def test_a_permutation_of_hidden_units_has_no_orbit_dimension():
    sym = catalog.mlp(MLP, LAYERS, "gelu")
    assert sym.is_discrete
    assert sym.groups == {"h1": Permutation(7), "h2": Permutation(6)}
    assert orbit_dimension(sym, normals(MLP)) == 0
