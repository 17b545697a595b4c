"""Random programs from the operations the analysis has rules for, and a few it has none for.

A recipe is a list of steps (operation, i, j), each applied to two of the hidden arrays made so far, and the name of
what is read off at the end. Hidden arrays have shape (rows, 6).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ROWS, N = 5, 6
Step = tuple[str, int, int]


class Recipe(NamedTuple):
    """A program: its steps and the name of its end."""

    steps: tuple[Step, ...]
    end: str


def parameters(seed: int = 0, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "A": (4, N), "A2": (4, N), "B": (N, 3), "C": (N, N), "D": (N, N), "b": (N,), "g": (N,), "t": (),
        "K": (N, 2, 3), "O": (2, 3, N), "H": (2, 3, 3), "W": (3, N, N), "F": (3, 1, N), "E": (7, N),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def inputs(seed: int = 1, rows: int = ROWS, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype(dtype)


def _heads(h):
    return h.reshape(h.shape[0], 2, 3)


def _flat(h):
    return h.reshape(h.shape[0], N)


def _conv(h, kernel, groups=1):
    """Along the rows."""
    return lax.conv_general_dilated(
        h[None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )[0]


def _attend(q, k, v):
    q, k, v = map(_heads, (q, k, v))
    return _flat(jnp.einsum("hts,shd->thd", jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k)), v))


def _scan(h, p):
    return lax.scan(lambda c, w: (jnp.tanh(c @ w), c), h, p["W"])


def _rms(h):
    return h * lax.rsqrt(1e-2 + jnp.mean(h**2, -1, keepdims=True))


#: name -> (h, k, p) -> hidden
OPERATIONS: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {
    # linear in the units
    "add": lambda h, k, p: h + k,
    "subtract": lambda h, k, p: h - k,
    "negate": lambda h, k, p: -h,
    "times number": lambda h, k, p: 0.5 * h,
    "times scalar": lambda h, k, p: p["t"] * h,
    "kernel": lambda h, k, p: h @ p["C"],
    "other kernel": lambda h, k, p: h @ p["D"],
    "transposed kernel": lambda h, k, p: h @ p["C"].T,
    "symmetric kernel": lambda h, k, p: h @ (p["C"] + p["C"].T),
    "low rank": lambda h, k, p: (h @ p["B"]) @ p["B"].T,
    "gram kernel": lambda h, k, p: h @ (p["A"].T @ p["A"]),
    "bias": lambda h, k, p: h + p["b"][None],
    "gain": lambda h, k, p: h * p["g"][None],
    "heads kernel": lambda h, k, p: jnp.einsum("tn,nhd,hdm->tm", h, p["K"], p["O"]),
    "head kernel": lambda h, k, p: _flat(jnp.einsum("thd,hde->the", _heads(h), p["H"])),
    "mix rows": lambda h, k, p: jnp.flip(h, 0) + h,
    "convolve": lambda h, k, p: _conv(h, p["W"]),
    "depthwise": lambda h, k, p: _conv(h, p["F"], N),
    "grouped": lambda h, k, p: _conv(h, p["W"][:, :3], 2),
    "stop": lambda h, k, p: lax.stop_gradient(h),
    # unit by unit
    "tanh": lambda h, k, p: jnp.tanh(h),
    "sin": lambda h, k, p: jnp.sin(h),
    "cos": lambda h, k, p: jnp.cos(h),
    "exp": lambda h, k, p: jnp.exp(-jnp.abs(h)),
    "log": lambda h, k, p: jnp.log1p(h**2),
    "relu": lambda h, k, p: jax.nn.relu(h),
    "leaky": lambda h, k, p: jax.nn.leaky_relu(h),
    "gelu": lambda h, k, p: jax.nn.gelu(h),
    "silu": lambda h, k, p: jax.nn.silu(h),
    "sigmoid": lambda h, k, p: jax.nn.sigmoid(h),
    "hard tanh": lambda h, k, p: jax.nn.hard_tanh(h),
    "relu6": lambda h, k, p: jax.nn.relu6(h),
    "clip": lambda h, k, p: jnp.clip(h, -1, 2),
    "abs": lambda h, k, p: jnp.abs(h),
    "sign": lambda h, k, p: jnp.sign(h) * h,
    "square": lambda h, k, p: h**2,
    "cube": lambda h, k, p: h**3,
    "root": lambda h, k, p: jnp.sqrt(jnp.abs(h)),
    "power": lambda h, k, p: jnp.abs(h) ** 1.5,
    "cube root": lambda h, k, p: jnp.cbrt(h),
    "shift": lambda h, k, p: h + 0.5,
    "soft threshold": lambda h, k, p: jnp.where(jnp.abs(h) > 0.5, h, 0),
    "round": lambda h, k, p: jnp.round(4 * h),
    "erf": lambda h, k, p: lax.erf(h),
    # two arrays
    "times": lambda h, k, p: h * k,
    "gate": lambda h, k, p: h * jax.nn.sigmoid(k),
    "divide": lambda h, k, p: h / (1 + k**2),
    "ratio": lambda h, k, p: h / jnp.where(k == 0, 1, k),
    "maximum": lambda h, k, p: jnp.maximum(h, k),
    "minimum": lambda h, k, p: jnp.minimum(h, k),
    "where": lambda h, k, p: jnp.where(k > 0, h, -h),
    "where above": lambda h, k, p: jnp.where(h > k, h, k),
    "angle": lambda h, k, p: jnp.arctan2(h, 1 + k**2),
    "attend": lambda h, k, p: _attend(h, k, h + k),
    "attend to other": lambda h, k, p: _attend(h, h, k),
    # over the units
    "centre": lambda h, k, p: h - jnp.mean(h, -1, keepdims=True),
    "length": lambda h, k, p: h / jnp.sqrt(1e-3 + jnp.sum(h**2, -1, keepdims=True)),
    "rms": lambda h, k, p: _rms(h),
    "layer norm": lambda h, k, p: _rms(h - jnp.mean(h, -1, keepdims=True)),
    "softmax": lambda h, k, p: jax.nn.softmax(h),
    "times maximum": lambda h, k, p: h * jnp.max(h, -1, keepdims=True),
    "times sum": lambda h, k, p: h * jnp.sum(h, -1, keepdims=True),
    "times product": lambda h, k, p: h * jnp.prod(jnp.tanh(h), -1, keepdims=True),
    "times inner": lambda h, k, p: h * jnp.sum(h * k, -1, keepdims=True),
    "times fourth": lambda h, k, p: h * jnp.sum(jnp.tanh(h) ** 4, -1, keepdims=True),
    "row norm": lambda h, k, p: h / (1 + jnp.max(jnp.abs(h), 0, keepdims=True)),
    "cumulate": lambda h, k, p: jnp.cumsum(h, -1),
    "cumulate rows": lambda h, k, p: jnp.cumsum(h, 0),
    "sort": lambda h, k, p: jnp.sort(h, -1),
    "largest": lambda h, k, p: jnp.where(h == jnp.max(h, -1, keepdims=True), h, 0),
    "one hot": lambda h, k, p: h * jax.nn.one_hot(jnp.argmax(k, -1), N, dtype=h.dtype),
    # shapes
    "heads softmax": lambda h, k, p: _flat(jax.nn.softmax(_heads(h), 1)),
    "within heads": lambda h, k, p: _flat(_heads(h) * jnp.sum(_heads(k), -1, keepdims=True)),
    "across heads": lambda h, k, p: _flat(_heads(h) + jnp.mean(_heads(k), 1, keepdims=True)),
    "swap heads": lambda h, k, p: _flat(jnp.transpose(_heads(h), (0, 2, 1))),
    "maxout": lambda h, k, p: _flat(jnp.tile(jnp.max(_heads(h), 1, keepdims=True), (1, 2, 1))),
    "misreshape": lambda h, k, p: h.reshape(h.shape[0], 3, 2).reshape(h.shape[0], N),
    "part": lambda h, k, p: jnp.concatenate([jnp.tanh(h[:, :2]), k[:, 2:]], -1),
    "exchange parts": lambda h, k, p: jnp.concatenate([h[:, 3:], h[:, :3]], -1),
    "roll": lambda h, k, p: jnp.roll(h, 1, -1),
    "reverse": lambda h, k, p: h[:, ::-1],
    "strided": lambda h, k, p: jnp.repeat(h[:, ::2], 2, -1),
    "pad": lambda h, k, p: jnp.pad(h[:, 1:5], ((0, 0), (1, 1))),
    "mask": lambda h, k, p: h * jnp.asarray([[1.0, 1, 1, 2, 2, 2]], h.dtype),
    "weights": lambda h, k, p: h @ jnp.ones((N, N), h.dtype),
    "take": lambda h, k, p: h + p["E"][jnp.arange(h.shape[0]) % 7],
    "update": lambda h, k, p: h.at[:, 1].set(k[:, 1]),
    "outer": lambda h, k, p: jnp.einsum("ti,tj,tj->ti", h, k, jnp.tanh(h)),
    # control
    "loop": lambda h, k, p: lax.fori_loop(0, 2, lambda _, c: jnp.tanh(c) + k, h),
    "loop kernel": lambda h, k, p: lax.fori_loop(0, 2, lambda _, c: c @ p["C"], h),
    "scan last": lambda h, k, p: _scan(h, p)[0],
    "scan all": lambda h, k, p: jnp.sum(_scan(h, p)[1], 0),
    "branch": lambda h, k, p: lax.cond(jnp.sum(h**2) > 1, jnp.tanh, jax.nn.relu, h),
    "branch on scalar": lambda h, k, p: lax.cond(p["t"] > 0, lambda x: x, lambda x: -x, h),
    "checkpoint": lambda h, k, p: jax.checkpoint(lambda x: jnp.tanh(x @ p["D"]))(h),
    "members": lambda h, k, p: jnp.mean(jax.vmap(lambda w: jax.nn.relu(h @ w))(p["W"]), 0),
    "gradient": lambda h, k, p: jax.grad(lambda y: jnp.sum(jnp.tanh(y @ p["C"]) * k))(h),
    "fft": lambda h, k, p: jnp.abs(jnp.fft.fft(h)) * jnp.arange(1, N + 1)[None],  # no two are equal
}  # fmt: skip

#: name -> (h, k, p) -> outputs
ENDS: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {
    "kernel": lambda h, k, p: h @ p["B"],
    "both": lambda h, k, p: (h @ p["B"], k @ p["B"]),
    "inner": lambda h, k, p: jnp.sum(h * k, -1),
    "sum": lambda h, k, p: jnp.sum(h, -1),
    "gram": lambda h, k, p: h @ k.T,
    "all": lambda h, k, p: h,
    "maximum": lambda h, k, p: jnp.max(h, -1),
    "logits": lambda h, k, p: jax.nn.log_softmax(h @ p["B"]),
    "tied": lambda h, k, p: jnp.tanh(h) @ p["A"].T,
}


def program(recipe: Recipe) -> Callable[[dict[str, Any], Any], Any]:
    """The function (parameters, inputs) -> outputs of a recipe."""

    def run(p: dict[str, Any], x: Any) -> Any:
        made = [x @ p["A"], x @ p["A2"]]
        for name, i, j in recipe.steps:
            made.append(OPERATIONS[name](made[i % len(made)], made[j % len(made)], p))
        return ENDS[recipe.end](made[-1], made[-2], p)

    return run


class _Noting(dict):
    """Parameters that note which of them are asked for."""

    def __init__(self, leaves: dict[str, Any]) -> None:
        super().__init__(leaves)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def parameters_of(recipe: Recipe, seed: int = 0, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    """The parameters that a program reads."""
    every = parameters(seed, dtype)
    return {name: jnp.asarray(every[name]) for name in _read(recipe)}


@cache
def _read(recipe: Recipe) -> list[str]:
    """Which parameters a program reads."""
    noting = _Noting({name: jnp.asarray(x) for name, x in parameters().items()})
    jax.eval_shape(lambda x: program(recipe)(noting, x), inputs())
    return sorted(noting.read)


def random_recipe(rng: np.random.Generator, longest: int = 6) -> Recipe:
    names, ends = sorted(OPERATIONS), sorted(ENDS)
    steps = []
    for made in range(2, 2 + int(rng.integers(1, longest + 1))):
        # Mostly what was made last, so that steps follow each other.
        i = made - 1 if rng.random() < 0.7 else int(rng.integers(made))
        steps.append((names[rng.integers(len(names))], i, int(rng.integers(made))))
    return Recipe(tuple(steps), ends[rng.integers(len(ends))])
