"""The zoo's models: documented parameter paths, dtypes, transformations, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eqtoolbox import zoo

NAMES = tuple(zoo.models())

OUTPUTS = {
    "transformer": (8, 5, 11),
    "transformer_tied": (8, 5, 11),
    "transformer_scan": (8, 5, 11),
    "attention": (8, 5, 11),
    "fused_qkv": (8, 5, 4),
}

BLOCK = {
    "attention/key/bias": (3, 2),
    "attention/key/kernel": (8, 3, 2),
    "attention/out/bias": (8,),
    "attention/out/kernel": (3, 2, 8),
    "attention/query/bias": (3, 2),
    "attention/query/kernel": (8, 3, 2),
    "attention/value/bias": (3, 2),
    "attention/value/kernel": (8, 3, 2),
    "dense_0/bias": (10,),
    "dense_0/kernel": (8, 10),
    "dense_1/bias": (8,),
    "dense_1/kernel": (10, 8),
    "norm_0/bias": (8,),
    "norm_0/scale": (8,),
    "norm_1/bias": (8,),
    "norm_1/scale": (8,),
}
STREAM = {"embed/embedding": (11, 8), "position": (5, 8), "norm/scale": (8,), "norm/bias": (8,)}
HEAD = {"head/kernel": (8, 11), "head/bias": (11,)}
MLP = {
    "Dense_0/bias": (7,),
    "Dense_0/kernel": (4, 7),
    "Dense_1/bias": (6,),
    "Dense_1/kernel": (7, 6),
    "Dense_2/bias": (3,),
    "Dense_2/kernel": (6, 3),
}
RES_CONVS = {
    "stem/kernel": (3, 3, 1, 4),
    "block_0/conv_0/kernel": (3, 3, 4, 4),
    "block_0/conv_1/kernel": (3, 3, 4, 4),
    "block_1/conv_0/kernel": (3, 3, 4, 6),
    "block_1/conv_1/kernel": (3, 3, 6, 6),
    "block_1/shortcut/kernel": (1, 1, 4, 6),
    "head/kernel": (6, 3),
    "head/bias": (3,),
}
RES_NORMS = {
    f"block_{i}/norm_{j}/{leaf}": (width,)
    for i, width in enumerate((4, 6))
    for j in (0, 1)
    for leaf in ("scale", "bias")
}
RES_STATS = {
    f"batch_stats/block_{i}/norm_{j}/{leaf}": (width,)
    for i, width in enumerate((4, 6))
    for j in (0, 1)
    for leaf in ("mean", "var")
}
RMS = {
    "embed/kernel": (4, 7),
    "up_0/kernel": (7, 10),
    "down_0/kernel": (10, 7),
    "up_1/kernel": (7, 10),
    "down_1/kernel": (10, 7),
    "head/kernel": (7, 3),
}


def _prefix(prefix, shapes):
    return {f"{prefix}/{path}": shape for path, shape in shapes.items()}


PATHS = {
    "mlp": MLP,
    "mlp_square": {path: shape for path, shape in MLP.items() if path.endswith("kernel")},
    "swiglu": {"gate/kernel": (4, 7), "linear/kernel": (4, 7), "out/kernel": (7, 3)},
    "lora": {
        "Dense_0/kernel": (4, 7),
        "Dense_0/bias": (7,),
        "Dense_0/lora_a": (4, 2),
        "Dense_0/lora_b": (2, 7),
        "Dense_1/kernel": (7, 3),
        "Dense_1/bias": (3,),
        "Dense_1/lora_a": (7, 2),
        "Dense_1/lora_b": (2, 3),
    },
    "cnn": {
        "Conv_0/kernel": (3, 3, 1, 5),
        "Conv_0/bias": (5,),
        "Conv_1/kernel": (3, 3, 5, 6),
        "Conv_1/bias": (6,),
        "Dense_0/kernel": (24, 9),
        "Dense_0/bias": (9,),
        "Dense_1/kernel": (9, 3),
        "Dense_1/bias": (3,),
    },
    "resnet_batch": _prefix("params", {**RES_CONVS, **RES_NORMS}) | RES_STATS,
    "resnet_group": {**RES_CONVS, **RES_NORMS},
    "resnet": {
        **RES_CONVS,
        "stem/bias": (4,),
        **{f"block_{i}/conv_{j}/bias": (width,) for i, width in enumerate((4, 6)) for j in (0, 1)},
    },
    "transformer": _prefix("block_0", BLOCK) | _prefix("block_1", BLOCK) | STREAM | HEAD,
    "transformer_tied": _prefix("block_0", BLOCK) | _prefix("block_1", BLOCK) | STREAM,
    "transformer_scan": {
        **{
            f"blocks/{path}": (
                3,
                *{(8, 3, 2): (8, 2, 3), (3, 2): (2, 3), (3, 2, 8): (2, 3, 8)}.get(shape, shape),
            )
            for path, shape in BLOCK.items()
        },
        **STREAM,
    },
    "attention": {
        "embed/embedding": (11, 8),
        "position": (5, 8),
        **{f"block_0/norm_0/{leaf}": (8,) for leaf in ("scale", "bias")},
        **{f"block_0/attention/{part}/kernel": (8, 2, 3) for part in ("query", "key", "value")},
        **{f"block_0/attention/{part}/bias": (2, 3) for part in ("query", "key", "value")},
        "block_0/attention/out/kernel": (2, 3, 8),
        "block_0/attention/out/bias": (8,),
        **HEAD,
    },
    "fused_qkv": {"qkv/kernel": (4, 18), "out/kernel": (6, 4)},
    "rnn_simple": {
        "cell/i/kernel": (4, 6),
        "cell/i/bias": (6,),
        "cell/h/kernel": (6, 6),
        "readout/kernel": (6, 3),
        "readout/bias": (3,),
    },
    "rnn_lstm": {
        **{f"cell/i{gate}/kernel": (4, 6) for gate in "ifgo"},
        **{f"cell/h{gate}/kernel": (6, 6) for gate in "ifgo"},
        **{f"cell/h{gate}/bias": (6,) for gate in "ifgo"},
        "readout/kernel": (6, 3),
        "readout/bias": (3,),
    },
    "rnn_gru": {
        **{f"cell/i{gate}/kernel": (4, 6) for gate in "rzn"},
        **{f"cell/i{gate}/bias": (6,) for gate in "rzn"},
        **{f"cell/h{gate}/kernel": (6, 6) for gate in "rzn"},
        "cell/hn/bias": (6,),
        "readout/kernel": (6, 3),
        "readout/bias": (3,),
    },
    "rms": RMS,
    "rms_gain": {**RMS, "norm_0/scale": (7,), "norm_1/scale": (7,), "norm/scale": (7,)},
}
for _name in ("mlp_relu", "mlp_gelu", "mlp_radial", "deep_linear_bias"):
    PATHS[_name] = MLP
PATHS["deep_linear"] = PATHS["mlp_square"]


@functools.cache
def example(name):
    return zoo.build(name, jax.random.key(7))


def shapes(params):
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_the_documented_paths_and_shapes(name):
    assert shapes(example(name).params) == PATHS[name]


def pullback(apply, params, inputs, cotangent):
    out, vjp = jax.vjp(lambda params: apply(params, inputs), params)
    return out, vjp(cotangent)[0]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_depend_on_every_leaf_and_on_the_inputs(name):
    _, params, inputs, apply = example(name)
    shape = OUTPUTS.get(name, (8, 3))
    cotangent = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    out, grads = jax.device_get(jax.jit(pullback, static_argnums=0)(apply, params, inputs, cotangent))
    assert out.shape == shape
    assert out.dtype == np.float32
    assert not np.allclose(out[0], out[1], atol=1e-3)
    for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.all(np.isfinite(leaf)), name
        # A key's bias adds a constant to every row of attention logits: softmax does not see it.
        assert np.any(leaf != 0) or name.endswith("key/bias"), name


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_at_its_initial_value(name):
    flat, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(example(name).params))
    for path, leaf in flat:
        last = jax.tree_util.keystr(path[-1:], simple=True)
        assert not np.any(np.isin(leaf, [0.0, 1.0])), path
        assert last != "var" or np.all(leaf > 0.2), path
        assert leaf.size < 3 or np.std(leaf) > 0.02, path


@pytest.mark.parametrize("name", NAMES)
def test_outputs_have_the_dtype_of_the_parameters(name):
    _, params, inputs, apply = example(name)
    with jax.enable_x64(True):
        for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
            cast = jax.tree.map(lambda leaf, dtype=dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
            jaxpr = jax.make_jaxpr(apply)(cast, inputs)
            assert [aval.dtype for aval in jaxpr.out_avals] == [dtype]
    lines = str(jaxpr).splitlines()
    assert not [line for line in lines if "new_dtype=float32" in line], "something is forced down to float32"
    assert sum("f32[" in line for line in lines) <= 3, "only the inputs, before they are cast"


@pytest.mark.parametrize("name", ["mlp", "resnet_batch", "transformer_scan"])
def test_vmap_over_parameters_equals_a_loop(name):
    _, _, inputs, apply = example(name)
    trees = [zoo.build(name, jax.random.key(i)).params for i in (3, 4)]
    many = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    together = jax.jit(jax.vmap(apply, (0, None)))(many, inputs)
    single = jax.jit(apply)
    for result, params in zip(together, trees, strict=True):
        np.testing.assert_allclose(result, single(params, inputs), atol=2e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "rnn_gru"])
def test_gradient_steps_decrease_the_loss(name):
    _, params, inputs, apply = example(name)
    target = np.random.default_rng(2).normal(size=OUTPUTS.get(name, (8, 3))).astype(np.float32)
    tx = optax.adam(1e-2)

    def loss(params):
        return jnp.mean((apply(params, inputs) - target) ** 2)

    def step(state, _):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    losses = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=20)[1])(params)
    assert losses[-1] < 0.8 * losses[0]


def test_batch_norm_trains_and_moves_its_statistics():
    module, variables, inputs, _ = example("resnet_batch")

    @jax.jit
    def step(variables):
        def loss(params):
            out, state = module.apply(
                {**variables, "params": params}, inputs, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(out**2), state

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.02 * g, variables["params"], grads)
        return {"params": params, **state}, value

    first, before = step(variables)
    _, after = step(first)
    assert after < before
    assert jax.tree.structure(first) == jax.tree.structure(variables)
    _, seen = module.apply(
        variables, inputs, capture_intermediates=lambda m, _: m.name == "conv_0", mutable=["intermediates"]
    )
    conv = seen["intermediates"]["block_0"]["conv_0"]["__call__"][0]
    old, new = (tree["batch_stats"]["block_0"]["norm_0"] for tree in (variables, first))
    np.testing.assert_allclose(
        new["mean"], 0.9 * old["mean"] + 0.1 * conv.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * conv.var((0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_scanned_blocks_equal_unrolled_blocks():
    module, params, inputs, apply = zoo.build("transformer", jax.random.key(0), tied=True, causal=True)
    blocks = [params[f"block_{i}"] for i in range(2)]
    stacked = {
        **{name: leaf for name, leaf in params.items() if not name.startswith("block_")},
        "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks),
    }
    scanned = module.clone(scan=True)
    np.testing.assert_allclose(
        jax.jit(scanned.apply)({"params": stacked}, inputs), jax.jit(apply)(params, inputs), atol=2e-5
    )


@pytest.mark.parametrize("name", ["attention", "fused_qkv"])
@pytest.mark.parametrize("causal", [True, False])
def test_causal_attention_does_not_look_ahead(name, causal):
    _, params, inputs, apply = zoo.build(name, jax.random.key(0), causal=causal)
    changed = inputs.at[:, -1].set((inputs[:, -1] + 1) % 11 if name == "attention" else 0.5)
    apply = jax.jit(apply)
    same = np.allclose(apply(params, inputs)[:, :-1], apply(params, changed)[:, :-1], atol=1e-6)
    assert same == causal


def test_fused_attention_is_softmax_attention():
    _, params, x, apply = example("fused_qkv")
    qkv, out = np.asarray(params["qkv"]["kernel"]), np.asarray(params["out"]["kernel"])
    want = np.zeros((8, 5, 4), np.float32)
    for head in range(2):
        q, k, v = (np.asarray(x) @ qkv[:, 6 * i + 3 * head : 6 * i + 3 * head + 3] for i in range(3))
        weights = np.exp(q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(3)))
        weights /= weights.sum(-1, keepdims=True)
        want += weights @ v @ out[3 * head : 3 * head + 3]
    np.testing.assert_allclose(apply(params, x), want, rtol=1e-4, atol=1e-5)


def test_adapters_merge_into_the_kernel():
    _, params, x, apply = example("lora")
    merged = {
        name: {"kernel": layer["kernel"] + layer["lora_a"] @ layer["lora_b"], "bias": layer["bias"]}
        for name, layer in params.items()
    }
    plain = zoo.MLP(features=(7, 3), activation="gelu")
    np.testing.assert_allclose(plain.apply({"params": merged}, x), apply(params, x), rtol=1e-4, atol=1e-5)


def test_settings_and_norms():
    module, params, x, apply = zoo.build("mlp", jax.random.key(0), features=(5, 2), activation="sin", batch=3)
    assert module == zoo.MLP(features=(5, 2), activation="sin")
    assert apply(params, x).shape == (3, 2)
    paths = shapes(zoo.build("transformer", jax.random.key(0), norm="rms", gain=True, layers=1).params)
    assert "block_0/norm_0/scale" in paths
    assert "block_0/norm_0/bias" not in paths
    paths = shapes(zoo.build("transformer", jax.random.key(0), norm="layer", gain=False, layers=1).params)
    assert not any("norm" in path for path in paths)


def test_equal_examples_compile_once():
    first, second = (zoo.build("mlp", jax.random.key(i)) for i in range(2))
    assert first.apply == second.apply
    assert hash(first.apply) == hash(second.apply)
    assert first.apply != zoo.build("mlp_relu", jax.random.key(0)).apply
    assert not np.allclose(first.params["Dense_0"]["kernel"], second.params["Dense_0"]["kernel"])
    again = zoo.build("mlp", jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_perturb_keeps_shapes_and_dtypes_and_positive_variances(x64):
    params = {
        "a": jnp.zeros((200, 100), jnp.bfloat16),
        "b": {"var": jnp.full((5000,), 2.0), "mean": jnp.ones((), jnp.float64)},
    }
    moved = zoo.perturb(jax.random.key(0), params, 0.5)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), moved) == jax.tree.map(
        lambda a: (a.shape, a.dtype), params
    )
    assert np.all(moved["b"]["var"] > 0)
    np.testing.assert_allclose(np.std(np.log(moved["b"]["var"] / 2)), 0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(moved["a"].astype(jnp.float32)), 0.5, rtol=0.02)
    assert moved["b"]["mean"] != 1


def test_bad_settings_are_refused_with_the_value():
    key = jax.random.key(0)
    for message, call in {
        r"`name` must be one of .*'nope'": lambda: zoo.build("nope", key),
        "`batch` must be a positive integer, got 0": lambda: zoo.build("mlp", key, batch=0),
        "`activation` must be one of .*'tahn'": lambda: zoo.MLP(activation="tahn"),
        "`features` must have at least 1 entries, got": lambda: zoo.MLP(features=()),
        r"`features\[1\]` must be a positive integer, got 0": lambda: zoo.MLP(features=(3, 0)),
        "`norm` must be one of .*'layer'": lambda: zoo.ResNet(norm="layer"),
        "`groups` must divide every block width, got 4": lambda: zoo.ResNet(norm="group", groups=4),
        "`channels` must have two entries": lambda: zoo.CNN(channels=(1, 2, 3)),
        "`norm` must be one of .*'batch'": lambda: zoo.Transformer(norm="batch"),
        "`heads` must be a positive integer, got 0": lambda: zoo.Transformer(heads=0),
        "`ff` must be a positive integer, got -1": lambda: zoo.Transformer(ff=-1),
        "`cell` must be one of .*'elman'": lambda: zoo.RNN(cell="elman"),
        "`rank` must be a positive integer, got 0": lambda: zoo.LoRAMLP(rank=0),
        "`hidden` must be a positive integer, got True": lambda: zoo.SwiGLU(hidden=True),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    _, params, tokens, apply = example("attention")
    with pytest.raises(ValueError, match="at most `length` = 5 positions, got 6"):
        apply(params, jnp.zeros((2, 6), int))
    assert apply(params, tokens[:, :3]).shape == (8, 3, 11)
    with pytest.raises(TypeError):
        zoo.models()["other"] = zoo.models()["mlp"]
