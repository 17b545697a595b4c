"""Inference of symmetries from shapes, against tracing the model, which cannot be spared."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from benchmarks.timing import Row, interleaved
from flax import linen as nn

from eqtoolbox import infer_symmetry
from eqtoolbox.inference import affine_redundancies

F32, I32 = jnp.float32, jnp.int32


class GPT2(nn.Module):
    """The shape of GPT-2 small: 12 layers, width 768, 12 heads, tied embedding."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width)
        position = self.param("position", nn.initializers.normal(), (1024, self.width))
        x = embed(tokens) + position[: tokens.shape[1]]
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x += nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            x += nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


class Bottleneck(nn.Module):
    width: int
    strides: int

    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.BatchNorm(use_running_average=True)  # noqa: E731
        y = nn.relu(norm()(nn.Conv(self.width, (1, 1), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(self.width, (3, 3), self.strides, use_bias=False)(y)))
        y = norm()(nn.Conv(4 * self.width, (1, 1), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(4 * self.width, (1, 1), self.strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), 2, use_bias=False)(x)
        x = nn.max_pool(nn.relu(nn.BatchNorm(use_running_average=True)(x)), (3, 3), (2, 2))
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000)(jnp.mean(x, (1, 2)))


class Block(nn.Module):
    width: int
    heads: int

    @nn.compact
    def __call__(self, x, _):
        x += nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
        x += nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return x, None


class Scanned(nn.Module):
    """A transformer of 100 layers under one scan."""

    layers: int = 100
    width: int = 256

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        x, _ = stack(self.width, 8)(nn.Dense(self.width)(x), None)
        return nn.Dense(10)(nn.LayerNorm()(x))


#: name -> (module, shape of the inputs, their dtype, seconds that are allowed)
MODELS: dict[str, tuple[nn.Module, tuple[int, ...], Any, float]] = {
    "GPT-2 small": (GPT2(), (2, 64), I32, 1.0),
    "ResNet-50": (ResNet50(), (2, 224, 224, 3), F32, 3.0),
    "100 scanned layers": (Scanned(), (2, 16, 32), F32, 3.0),
}


def bench(repeats: int = 5) -> list[Row]:
    rows = []
    for name, (module, shape, dtype, allowed) in MODELS.items():
        x = jax.ShapeDtypeStruct(shape, dtype)
        variables = jax.eval_shape(module.init, jax.random.key(0), x)

        def apply(v, x, module=module):
            return module.apply(v, x)

        calls = {
            "infer": lambda: infer_symmetry(apply, variables, x),  # noqa: B023
            "trace": lambda: jax.make_jaxpr(lambda v, x: apply(v, x))(variables, x),  # noqa: B023
            "affine": lambda: affine_redundancies(apply, variables, x),  # noqa: B023
        }
        t = interleaved(calls, repeats)
        rows.append(Row(f"symmetry of {name}", t["infer"], allowed, f"{allowed:g} s allowed", 1.0))
        rows.append(Row(f"symmetry of {name}", t["infer"], t["trace"], "its trace"))
        rows.append(Row(f"affine redundancies of {name}", t["affine"], t["trace"], "its trace"))
    return rows
