"""The architectures for which permutation specs have been published, at any width, and these specs in short form.

The specs are those of Ainsworth, Hayase and Srinivasa, "Git Re-Basin" (2023): which axes of which leaves one
permutation acts on. A spec maps the path of a leaf to one name per axis, None for an axis that stays.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

Spec = dict[str, tuple[str | None, ...]]


def _conv(name: str, before: str | None, after: str) -> Spec:
    return {f"{name}/kernel": (None, None, before, after)}


def _vectors(name: str, space: str, *leaves: str) -> Spec:
    return {f"{name}/{leaf}": (space,) for leaf in leaves}


def _dense(name: str, before: str | None, after: str | None) -> Spec:
    return {f"{name}/kernel": (before, after), f"{name}/bias": (after,)}


# A multilayer perceptron.


class Perceptron(nn.Module):
    widths: tuple[int, ...] = (8, 7, 6)

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.log_softmax(nn.Dense(10)(x))


def perceptron_spec(hidden: int = 3) -> Spec:
    spaces = [None, *(f"p{i}" for i in range(hidden)), None]
    return {k: v for i in range(hidden + 1) for k, v in _dense(f"Dense_{i}", *spaces[i : i + 2]).items()}


# VGG16 with layer normalisation.

VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class VGG(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        for stage in VGG16:
            for factor in stage:
                x = nn.relu(nn.LayerNorm()(nn.Conv(self.width * factor, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.reshape(x, (x.shape[0], -1))
        for _ in range(2):
            x = nn.relu(nn.Dense(8 * self.width)(x))
        return nn.log_softmax(nn.Dense(10)(x))


def vgg_spec() -> Spec:
    found: Spec = {}
    for i in range(13):
        found |= _conv(f"Conv_{i}", f"c{i - 1}" if i else None, f"c{i}")
        found |= _vectors(f"Conv_{i}", f"c{i}", "bias")
        found |= _vectors(f"LayerNorm_{i}", f"c{i}", "scale", "bias")
    return (
        found | _dense("Dense_0", "c12", "d0") | _dense("Dense_1", "d0", "d1") | _dense("Dense_2", "d1", None)
    )


# ResNet20 with layer normalisation and convolutional shortcuts.


class Block20(nn.Module):
    channels: int
    strides: int

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, self.channels, (3, 3), use_bias=False)
        y = nn.relu(nn.LayerNorm(name="norm1")(conv(strides=self.strides, name="conv1")(x)))
        y = nn.LayerNorm(name="norm2")(conv(name="conv2")(y))
        if self.strides != 1:
            x = nn.LayerNorm(name="shortcut_norm")(conv(strides=self.strides, name="shortcut_conv")(x))
        return nn.relu(y + x)


class ResNet20(nn.Module):
    width: int = 4
    blocks: tuple[int, ...] = (3, 3, 3)

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.relu(nn.LayerNorm(name="norm1")(x))
        for g, count in enumerate(self.blocks):
            for b in range(count):
                strides = 2 if g and not b else 1
                x = Block20(self.width * 2**g, strides, name=f"group{g}_block{b}")(x)
        return nn.log_softmax(nn.Dense(10, name="dense")(jnp.mean(x, (1, 2))))


def resnet20_spec(blocks: tuple[int, ...] = (3, 3, 3)) -> Spec:
    found = _conv("conv1", None, "g0") | _vectors("norm1", "g0", "scale", "bias")
    for g, count in enumerate(blocks):
        for b in range(count):
            name, space = f"group{g}_block{b}", f"g{g}"
            before, inner = f"g{g - 1}" if g and not b else space, f"{name} inner"
            found |= _conv(f"{name}/conv1", before, inner) | _conv(f"{name}/conv2", inner, space)
            found |= _vectors(f"{name}/norm1", inner, "scale", "bias")
            found |= _vectors(f"{name}/norm2", space, "scale", "bias")
            if before != space:
                found |= _conv(f"{name}/shortcut_conv", before, space)
                found |= _vectors(f"{name}/shortcut_norm", space, "scale", "bias")
    return found | _dense("dense", f"g{len(blocks) - 1}", None)


# ResNet50 with batch normalisation, bottlenecks of a quarter of the width, strides in the 3 x 3 convolutions.


class Bottleneck(nn.Module):
    channels: int
    strides: int

    @nn.compact
    def __call__(self, x):
        conv, norm = partial(nn.Conv, use_bias=False), partial(nn.BatchNorm, use_running_average=True)
        y = nn.relu(norm(name="norm0")(conv(self.channels, (1, 1), name="conv0")(x)))
        y = conv(self.channels, (3, 3), self.strides, name="conv1")(y)
        y = nn.relu(norm(name="norm1")(y))
        y = norm(name="norm2")(conv(4 * self.channels, (1, 1), name="conv2")(y))
        if x.shape != y.shape:
            x = conv(4 * self.channels, (1, 1), self.strides, name="shortcut_conv")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(y + x)


class ResNet50(nn.Module):
    width: int = 4
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (7, 7), 2, use_bias=False, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for g, count in enumerate(self.blocks):
            for b in range(count):
                strides = 2 if g and not b else 1
                x = Bottleneck(self.width * 2**g, strides, name=f"group{g}_block{b}")(x)
        return nn.Dense(10, name="dense")(jnp.mean(x, (1, 2)))


def resnet50_spec(blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Spec:
    found = _conv("conv", None, "g") | _vectors("norm", "g", "scale", "bias")
    for g, count in enumerate(blocks):
        for b in range(count):
            name, space = f"group{g}_block{b}", f"g{g}"
            before = space if b else f"g{g - 1}" if g else "g"
            spaces = [before, f"{name} 0", f"{name} 1", space]
            for i in range(3):
                found |= _conv(f"{name}/conv{i}", spaces[i], spaces[i + 1])
                found |= _vectors(f"{name}/norm{i}", spaces[i + 1], "scale", "bias")
            if not b:
                found |= _conv(f"{name}/shortcut_conv", before, space)
                found |= _vectors(f"{name}/shortcut_norm", space, "scale", "bias")
    return found | _dense("dense", f"g{len(blocks) - 1}", None)


#: name -> (module, shape of the inputs, published spec)
PUBLISHED: dict[str, tuple[Any, tuple[int, ...], Spec]] = {
    "mlp": (Perceptron(), (2, 12), perceptron_spec()),
    "vgg16": (VGG(), (2, 32, 32, 3), vgg_spec()),
    "resnet20": (ResNet20(), (2, 32, 32, 3), resnet20_spec()),
    "resnet50": (ResNet50(), (2, 64, 64, 3), resnet50_spec()),
}
