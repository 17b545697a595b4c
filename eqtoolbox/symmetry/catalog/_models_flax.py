"""Whole models in Flax, of the zoo and one in NNX, with their symmetries from the builders."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.groups import (
    Monomial,
    Orthogonal,
    Permutation,
    Stabiliser,
)
from eqtoolbox.symmetry._paths import path_text
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._attention import fused_attention, label_attention
from eqtoolbox.symmetry.catalog._conv import cnn, resnet
from eqtoolbox.symmetry.catalog._dense import lora, mlp, swiglu
from eqtoolbox.symmetry.catalog._leaves import Leaves
from eqtoolbox.symmetry.catalog._records import Groups, Parts, Recipe, normal, vectors
from eqtoolbox.symmetry.catalog._recurrent import rnn
from eqtoolbox.symmetry.catalog._transformer import rms_net, transformer

_X, _IMAGES, _SEQUENCES = vectors(4), vectors(8, 8, 1), vectors(5, 4)
_LAYERS = ("Dense_0", "Dense_1", "Dense_2")
_BLOCKS = ("block_0", "block_1")

Make = Callable[[np.random.Generator], Parts]
Wrong = tuple[tuple[str, Symmetry], ...]


def _none(symmetry: Symmetry) -> Wrong:
    """No wrong symmetries."""
    return ()


def _tokens(rng: np.random.Generator, batch: int) -> Array:
    return jnp.asarray(rng.integers(11, size=(batch, 5)))


def generic(rng: np.random.Generator, shapes: Any) -> Any:
    """Parameters of these shapes at a generic point: no bias or mean is zero, no gain or variance one."""

    def fill(path: tuple, leaf: Any) -> Array:
        name = path_text(path[-1:])
        if name == "var":
            return jnp.exp(normal(rng, *leaf.shape, scale=0.3))
        if name in ("scale", "bias", "mean"):
            return (name == "scale") + normal(rng, *leaf.shape, scale=0.3)
        return normal(rng, *leaf.shape, scale=max(1, np.prod(leaf.shape[:-1]).item()) ** -0.5)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def _model(
    module: nn.Module,
    draw: Callable[[np.random.Generator, int], Array],
    symmetry: Callable[[Any], Symmetry],
    wrong: Callable[[Symmetry], Wrong] = _none,
) -> Make:
    """Makes a linen module at a generic point; ``symmetry`` maps its parameters to their symmetry."""

    def make(rng: np.random.Generator) -> Parts:
        shapes = jax.eval_shape(module.init, jax.random.key(0), draw(rng, 2))
        collections = set(shapes) != {"params"}
        params = generic(rng, shapes if collections else shapes["params"])

        def apply(params, x: Array) -> Array:
            return module.apply(params if collections else {"params": params}, x)  # pyright: ignore

        found = symmetry(params)
        return Parts(found, apply, params, draw, wrong(found))

    return make


def _changed(
    symmetry: Symmetry, labels: dict[str, str] | None = None, groups: Groups | None = None
) -> Symmetry:
    """The symmetry with some labels or groups exchanged."""
    return Symmetry({**symmetry.axes, **(labels or {})}, {**symmetry.groups, **(groups or {})})


def _mlp(activation: str, bias: bool = True) -> Make:
    module = zoo.MLP((7, 6, 3), activation, bias)
    return _model(module, _X, lambda params: mlp(params, _LAYERS, activation))


# What similar models have, and the six by which labels are judged do not.


def _wrong_resnet(symmetry: Symmetry) -> Wrong:
    both = ("relu", "norm_0_0")
    inner = symmetry.restrict("inner0")
    gain = "params/block_0/norm_0/scale"
    shortcut = "params/block_1/shortcut/kernel"
    return (
        ("the running mean stays", _changed(inner, {"batch_stats/block_0/norm_0/mean": "inner0^0"})),
        ("the gain does not undo the kernel", _changed(inner, {gain: "inner0{relu:1,norm_0_0:1}"})),
        ("a sign that ReLU does not pass on", _changed(inner, groups={"inner0": Monomial(4, both, both)})),
        (
            "the shortcut does not read the stream",
            _changed(symmetry.restrict("stream0"), {shortcut: "... _ _"}),
        ),
    )


def _wrong_group_norm(symmetry: Symmetry) -> Wrong:
    axes = {path: label for path, label in symmetry.axes.items() if "inner1" in label}
    axes = {path: re.sub(r"\(inner1g\S* inner1\S*\)", "inner1", label) for path, label in axes.items()}
    axes = {
        path: re.sub(r"stream\w+", "_", re.sub(r"\{[^}]*\}|\^0", "", label)) for path, label in axes.items()
    }
    return (("channels change groups", Symmetry(axes, {"inner1": Permutation(6)})),)


def _wrong_tied(symmetry: Symmetry) -> Wrong:
    symmetry = symmetry.restrict("residual")
    stream = symmetry.groups["residual"]
    assert isinstance(stream, Monomial)
    names = (*stream.scales, "last")
    last: dict[str, str] = dict.fromkeys(("norm/scale", "norm/bias"), "residual{last:1}")
    return (
        (
            "the last norm scaled, whose reader is tied",
            _changed(symmetry, last, {"residual": Monomial(8, names, names)}),
        ),
        ("O(8) fixing 1 on the stream", _changed(symmetry, groups={"residual": Stabiliser(Orthogonal(8))})),
    )


def _wrong_scan(symmetry: Symmetry) -> Wrong:
    path = "blocks/dense_0/kernel"
    crossed = symmetry.axes[path].replace("norm_1", "norm_0")
    stacked = {path: "layers ..." for path in symmetry.axes if path.startswith("blocks/")}
    return (
        *_wrong_tied(symmetry),
        ("the scaling of another norm", _changed(symmetry, {path: crossed}).restrict("residual")),
        ("the layers exchanged", Symmetry(stacked, {"layers": Permutation(3)})),
    )


def _wrong_lstm(symmetry: Symmetry) -> Wrong:
    signs = {path: label.replace("^0", "") for path, label in symmetry.axes.items()}
    return (
        ("the gates see the sign", Symmetry(signs, symmetry.groups)),
        ("O(6)", Symmetry(signs, {"h": Orthogonal(6)})),
    )


def _wrong_rms(symmetry: Symmetry) -> Wrong:
    return (
        ("O(7) in spite of the gains", _changed(symmetry, groups={"residual": Orthogonal(7)})),
        ("a branch that keeps its sign", _changed(symmetry, {"down_0/kernel": "hidden_0 residual^0"})),
        ("a gain without its reader", _changed(symmetry, {"up_0/kernel": "residual{stream:1} hidden_0"})),
    )


def _wrong_fused(symmetry: Symmetry) -> Wrong:
    return (
        (
            "keys move as queries",
            _changed(symmetry, {"qkv/kernel": "_ (heads qk + heads qk + heads vo)"}),
        ),
        (
            "queries, keys and values inside each head",
            Symmetry({"qkv/kernel": "_ (heads 9)", "out/kernel": "(heads 3) _"}, {"heads": Permutation(2)}),
        ),
    )


def _nnx_attention(rng: np.random.Generator) -> Parts:
    """Embedding, layer norm, attention on a residual stream, head: NNX modules, parameters as a pure dict."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.embed = nnx.Linear(4, 8, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                num_heads=3, in_features=8, qkv_features=6, decode=False, rngs=rngs
            )
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x: Array) -> Array:
            h = self.embed(x)
            return self.head(h + self.attention(self.norm(h)))

    graph, state, rest = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), nnx.Param, ...)
    params = generic(rng, nnx.to_pure_dict(state))

    def apply(params, x: Array) -> Array:
        state_at = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(state_at, params)
        return nnx.merge(graph, state_at, rest)(x)

    leaves = Leaves(params)
    gain = "norm"
    stream = Monomial(8, (gain,), (gain,))
    leaves.label("embed/kernel", "_ residual^0")
    leaves.label("embed/bias", "residual^0")
    for leaf in ("scale", "bias"):
        leaves.label(f"norm/{leaf}", "residual{norm:1}")
    names = {name: f"attention/{name}" for name in ("query", "key", "value", "out")}
    groups = label_attention(leaves, names, residual=("residual{norm:-1}", "residual^0"))
    leaves.label("head/kernel", "residual^0 _")
    return Parts(leaves.symmetry({**groups, "residual": stream}), apply, params, _SEQUENCES)


def _transformer(settings: dict[str, Any], wrong: Callable[[Symmetry], Wrong] = _none) -> Make:
    blocks = _BLOCKS[: settings.get("layers", 2)]
    scan = settings.get("scan", False)

    def symmetry(params: Any) -> Symmetry:
        return transformer(
            params,
            ["blocks"] if scan else blocks,
            norm=settings.get("norm", "layer"),
            tied=settings.get("tied", False),
            stacked=scan,
        )

    return _model(zoo.Transformer(**settings), _tokens, symmetry, wrong)


def _resnet(norm: str | None, wrong: Callable[[Symmetry], Wrong] = _none) -> Make:
    return _model(zoo.ResNet(norm=norm), _IMAGES, lambda params: resnet(params, _BLOCKS, norm), wrong)


def _rnn(cell: str, wrong: Callable[[Symmetry], Wrong] = _none) -> Make:
    kind = cell.removeprefix("optimized_")
    return _model(zoo.RNN(cell=cell), _SEQUENCES, lambda params: rnn(params, kind), wrong)


def _rms(gain: bool, wrong: Callable[[Symmetry], Wrong] = _none) -> Make:
    return _model(zoo.RMSNet(gain=gain), _X, lambda params: rms_net(params, 2), wrong)


def _lora(base_moves: bool) -> Make:
    return _model(zoo.LoRAMLP(), _X, lambda params: lora(params, _LAYERS[:2], base_moves=base_moves))


_CNN = _model(zoo.CNN(), _IMAGES, lambda params: cnn(params, ("Conv_0", "Conv_1", *_LAYERS[:2])))
_ATTENTION = _model(zoo.Attention(), _tokens, lambda params: transformer(params, _BLOCKS[:1]))
_FUSED = _model(zoo.FusedQKVAttention(), _SEQUENCES, lambda params: fused_attention(params, 2), _wrong_fused)
_SCAN = {"tied": True, "scan": True, "layers": 3, "heads": 2, "head_dim": 3}
_HEADS_3 = "in each block (GL(2)×GL(2))≀S(3) and S(10)"

#: The six models whose labels are the hardest.
SIX = (
    Recipe("resnet_batch", "S⋉(R₊²×Z₂)^n on 4, 4, 6, 6 channels", 40, _resnet("batch", _wrong_resnet)),
    Recipe(
        "transformer_scan",
        "stream S(8)⋉(R*^2 per layer)^8; ((GL(3)×GL(3))≀S(2))^3; S(10)^3",
        156,
        _transformer(_SCAN, _wrong_scan),
    ),
    Recipe(
        "transformer_tied", f"stream S(8)⋉(R*^4)^8; {_HEADS_3}", 80, _transformer({"tied": True}, _wrong_tied)
    ),
    Recipe("lstm", "B(6), one space twice on the recurrent kernels", 0, _rnn("lstm", _wrong_lstm)),
    Recipe("rms_gain", "stream S(7)⋉(R₊^3×Z₂^4)^7; S(10) twice", 21, _rms(True, _wrong_rms)),
    Recipe("fused_qkv", "(GL(3)×GL(3))≀S(2) on one kernel", 36, _FUSED),
)

RECIPES = (
    *SIX,
    Recipe("mlp_tanh", "B(7), B(6)", 0, _mlp("tanh")),
    Recipe("mlp_sin", "B(7), B(6)", 0, _mlp("sin")),
    Recipe("mlp_softsign", "B(7), B(6)", 0, _mlp("softsign")),
    Recipe("mlp_hard_tanh", "B(7), B(6)", 0, _mlp("hard_tanh")),
    Recipe("mlp_relu", "S(7)⋉R₊^7, S(6)⋉R₊^6", 13, _mlp("relu")),
    Recipe("mlp_leaky_relu", "S(7)⋉R₊^7, S(6)⋉R₊^6", 13, _mlp("leaky_relu")),
    Recipe("mlp_relu2", "S(7)⋉R₊^7, S(6)⋉R₊^6, readers -2", 13, _mlp("relu2")),
    Recipe("mlp_square", "S(7)⋉R*^7, S(6)⋉R*^6, readers -2", 13, _mlp("square", bias=False)),
    Recipe("mlp_gelu", "S(7), S(6)", 0, _mlp("gelu")),
    Recipe("mlp_silu", "S(7), S(6)", 0, _mlp("silu")),
    Recipe("mlp_radial", "O(7), O(6)", 36, _mlp("radial")),
    Recipe("deep_linear", "GL(7), GL(6)", 76, _mlp("linear", bias=False)),
    Recipe("deep_linear_bias", "GL(7), GL(6)", 83, _mlp("linear")),
    Recipe("cnn", "S⋉R₊^n on 5 and 6 channels and 9 units", 20, _CNN),
    Recipe("resnet", "S⋉R₊^n on 4, 4, 6, 6 channels", 20, _resnet(None)),
    Recipe(
        "resnet_group",
        "(S(2)⋉R₊^2)≀B(2) twice, (S(3)⋉R₊^3)≀B(2) twice",
        20,
        _resnet("group", _wrong_group_norm),
    ),
    Recipe("transformer", f"stream S(8)⋉(R*^5)^8; {_HEADS_3}", 88, _transformer({})),
    Recipe(
        "transformer_rms",
        f"stream S(8)⋉(R₊^2×Z₂^3)^8; {_HEADS_3}",
        40,
        _transformer({"layers": 1, "norm": "rms", "tied": True}),
    ),
    Recipe(
        "transformer_no_gain",
        f"stream O(8) fixing 1; {_HEADS_3}",
        45,
        _transformer({"layers": 1, "gain": False}),
    ),
    Recipe("attention", "stream S(8)⋉R*^8; (GL(3)×GL(3))≀S(2)", 44, _ATTENTION),
    Recipe("nnx_attention", "stream S(8)⋉R*^8; (GL(2)×GL(2))≀S(3)", 32, _nnx_attention),
    Recipe("rnn_simple", "B(6), one space twice on the recurrent kernel", 0, _rnn("simple")),
    Recipe("optimized_lstm", "B(6), as lstm", 0, _rnn("optimized_lstm")),
    Recipe("gru", "B(6), one space twice on the recurrent kernels", 0, _rnn("gru")),
    Recipe("rms", "stream O(7); S(10) twice", 21, _rms(False)),
    Recipe("swiglu", "S(7)⋉R*^7 on the linear branch", 7, _model(zoo.SwiGLU(), _X, swiglu)),
    Recipe("lora", "GL(2) twice, S(7)", 8, _lora(True)),
    Recipe("lora_frozen", "GL(2) twice", 8, _lora(False)),
)
