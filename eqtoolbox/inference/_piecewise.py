"""Piecewise linear functions of one number, exactly: is a composed activation odd, is it homogeneous?

A clip is written as two selections or as a maximum of a minimum; no rule of a single primitive can see that it
is odd. A program of one array and constants that is made of the operations below is evaluated as a function of
one number with rational breakpoints, and its parity and homogeneity are decided exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from eqtoolbox.inference._jaxpr import Known, Program, subprograms

_PASS = (
    "convert_element_type",
    "copy",
    "copy_p",
    "stop_gradient",
    "reduce_precision",
    "broadcast_in_dim",
    "reshape",
)
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


@dataclass(frozen=True)
class Piecewise:
    """A function of x: ``lines[2i]`` on the i-th open interval, ``lines[2i + 1]`` at the i-th breakpoint.

    Attributes:
      breaks: ascending.
      lines: pairs (slope, intercept), 2 len(breaks) + 1 of them; of a truth value: (0, 0) or (0, 1).
    """

    breaks: tuple[Fraction, ...]
    lines: tuple[tuple[Fraction, Fraction], ...]


def is_odd(f: Piecewise) -> bool:
    """Whether f(-x) = -f(x) for every x."""
    mirrored = [(slope, -intercept) for slope, intercept in reversed(f.lines)]
    return [-b for b in reversed(f.breaks)] == list(f.breaks) and all(
        _same(f, i, line, mirrored[i]) for i, line in enumerate(f.lines)
    )


def is_homogeneous(f: Piecewise) -> bool:
    """Whether f(cx) = c f(x) for every c > 0."""
    return all(_same(f, i, line, (line[0], Fraction(0))) for i, line in enumerate(f.lines)) and all(
        b == 0 for b in f.breaks
    )


def _same(f: Piecewise, i: int, a: tuple, b: tuple) -> bool:
    if i % 2 == 0:
        return a == b
    x = f.breaks[i // 2]
    return a[0] * x + a[1] == b[0] * x + b[1]


def function_of(program: Program, constants: list[Any]) -> Piecewise | None:
    """The function that a program is of its only varying input, or None where it is not made of known operations.

    Args:
      program: with one output.
      constants: for each input a number, or None for the one that varies.
    """
    if len(program.outputs) != 1 or sum(c is None for c in constants) != 1:
        return None
    env: dict[Any, Piecewise] = {}
    for variable, number in zip(program.inputs, constants, strict=True):
        value = _IDENTITY if number is None else _constant(number)
        if value is None:
            return None
        env[variable] = value
    for variable, array in program.constants:
        value = _uniform(array)
        if value is None:
            return None
        env[variable] = value
    for equation in program.equations:
        inputs = []
        for v in equation.inputs:
            value = _uniform(v.value) if isinstance(v, Known) else env.get(v)
            if value is None:
                return None
            inputs.append(value)
        result = _apply(equation, inputs)
        if result is None or len(equation.outputs) != 1:
            return None
        env[equation.outputs[0]] = _simple(result)
    out = program.outputs[0]
    return None if isinstance(out, Known) else env.get(out)


_IDENTITY = Piecewise((), ((Fraction(1), Fraction(0)),))


def _constant(number: Any) -> Piecewise | None:
    number = float(number)
    return Piecewise((), ((Fraction(0), Fraction(number)),)) if math.isfinite(number) else None


def _uniform(array: Any) -> Piecewise | None:
    x = np.asarray(array)
    if x.dtype.kind not in "biuf" or not x.size or not np.all(x == x.reshape(-1)[0]):
        return None
    return _constant(x.reshape(-1)[0])


def _apply(equation: Any, inputs: list[Piecewise]) -> Piecewise | None:
    name = equation.name
    if name in _PASS:
        if name == "convert_element_type" and np.dtype(equation.output_dtypes[0]).kind in "iu":
            return None
        return inputs[0]
    if name in _CALLS:
        programs = subprograms(equation, ("jaxpr", "call_jaxpr", "fun_jaxpr"))
        if len(programs) != 1 or len(programs[0].inputs) != len(inputs):
            return None
        return _call(programs[0], inputs)
    if name == "neg":
        return _map(inputs[0], lambda line: (-line[0], -line[1]))
    if len(inputs) == 2:
        return _binary(name, *inputs)
    if name == "abs":
        return _choose(
            *_cut_where_equal(inputs[0], _map(inputs[0], lambda t: (-t[0], -t[1]))), lambda a, b: a > b
        )
    if name == "select_n" and len(inputs) == 3:
        which, zero, one = inputs
        breaks = sorted({*which.breaks, *zero.breaks, *one.breaks})
        lines = []
        for w, a, b in zip(*(_on(f, breaks) for f in inputs), strict=True):
            if w not in ((0, 0), (0, 1)):
                return None
            lines.append(b if w[1] else a)
        return Piecewise(tuple(breaks), tuple(lines))
    if name == "clamp":
        low, x, high = inputs
        up = _choose(*_cut_where_equal(x, low), lambda a, b: a > b)
        return _choose(*_cut_where_equal(up, high), lambda a, b: a < b)
    return None


def _binary(name: str, x: Piecewise, y: Piecewise) -> Piecewise | None:
    """An operation on two functions."""
    if name in ("add", "add_any", "sub"):
        sign = -1 if name == "sub" else 1
        return _join(x, y, lambda a, b: (a[0] + sign * b[0], a[1] + sign * b[1]))
    if name == "mul":
        if any(a[0] and b[0] for a, b in _merged(x, y)[1]):
            return None
        return _join(x, y, lambda a, b: (a[0] * b[1] + b[0] * a[1], a[1] * b[1]))
    if name == "div":
        if any(b[0] or not b[1] for b in y.lines):
            return None
        return _join(x, y, lambda a, b: (a[0] / b[1], a[1] / b[1]))
    if name in ("max", "min"):
        first, second = _cut_where_equal(x, y)
        pick = (lambda a, b: a > b) if name == "max" else (lambda a, b: a < b)
        return _choose(first, second, pick)
    if name in ("gt", "ge", "lt", "le", "eq", "ne"):
        first, second = _cut_where_equal(x, y)
        compare: Callable[[Fraction, Fraction], bool] = {
            "gt": lambda a, b: a > b,
            "ge": lambda a, b: a >= b,
            "lt": lambda a, b: a < b,
            "le": lambda a, b: a <= b,
            "eq": lambda a, b: a == b,
            "ne": lambda a, b: a != b,
        }[name]
        return _truth(first, second, compare)
    return None


def _call(program: Program, inputs: list[Piecewise]) -> Piecewise | None:
    """A program inside, whose inputs are functions of the number."""
    env: dict[Any, Piecewise] = dict(zip(program.inputs, inputs, strict=True))
    for variable, array in program.constants:
        value = _uniform(array)
        if value is None:
            return None
        env[variable] = value
    for equation in program.equations:
        values = [_uniform(v.value) if isinstance(v, Known) else env.get(v) for v in equation.inputs]
        if any(v is None for v in values) or len(equation.outputs) != 1:
            return None
        result = _apply(equation, [v for v in values if v is not None])
        if result is None:
            return None
        env[equation.outputs[0]] = _simple(result)
    if len(program.outputs) != 1 or isinstance(program.outputs[0], Known):
        return None
    return env.get(program.outputs[0])


def _map(f: Piecewise, change: Callable[[tuple], tuple]) -> Piecewise:
    return Piecewise(f.breaks, tuple(change(line) for line in f.lines))


def _on(f: Piecewise, breaks: list[Fraction]) -> list[tuple]:
    """The lines of f on the intervals and points of more breakpoints."""
    lines = []
    for i in range(2 * len(breaks) + 1):
        if i % 2:
            x = breaks[i // 2]
            below = sum(b < x for b in f.breaks)
            lines.append(f.lines[2 * below + (x in f.breaks)])
        else:
            end = breaks[i // 2 - 1] if i else None
            below = sum(b <= end for b in f.breaks) if end is not None else 0
            lines.append(f.lines[2 * below])
    return lines


def _merged(a: Piecewise, b: Piecewise) -> tuple[list[Fraction], list[tuple[tuple, tuple]]]:
    breaks = sorted({*a.breaks, *b.breaks})
    return breaks, list(zip(_on(a, breaks), _on(b, breaks), strict=True))


def _join(a: Piecewise, b: Piecewise, combine: Callable[[tuple, tuple], tuple]) -> Piecewise:
    breaks, pairs = _merged(a, b)
    return Piecewise(tuple(breaks), tuple(combine(x, y) for x, y in pairs))


def _cut_where_equal(a: Piecewise, b: Piecewise) -> tuple[Piecewise, Piecewise]:
    """Both functions with breakpoints wherever they cross."""
    breaks, pairs = _merged(a, b)
    crossings = set(breaks)
    for i, (p, q) in enumerate(pairs):
        if i % 2 or p[0] == q[0]:
            continue
        x = (q[1] - p[1]) / (p[0] - q[0])
        low = breaks[i // 2 - 1] if i else None
        high = breaks[i // 2] if i // 2 < len(breaks) else None
        if (low is None or x > low) and (high is None or x < high):
            crossings.add(x)
    every = sorted(crossings)
    return Piecewise(tuple(every), tuple(_on(a, every))), Piecewise(tuple(every), tuple(_on(b, every)))


def _values(a: Piecewise, b: Piecewise) -> list[tuple[tuple, tuple, Fraction]]:
    """The lines of both with a point at which to compare them."""
    breaks, pairs = _merged(a, b)
    out = []
    for i, (p, q) in enumerate(pairs):
        if i % 2:
            x = breaks[i // 2]
        elif not breaks:
            x = Fraction(0)
        elif i == 0:
            x = breaks[0] - 1
        elif i // 2 == len(breaks):
            x = breaks[-1] + 1
        else:
            x = (breaks[i // 2 - 1] + breaks[i // 2]) / 2
        out.append((p, q, x))
    return out


def _at(line: tuple, x: Fraction) -> Fraction:
    return line[0] * x + line[1]


def _choose(a: Piecewise, b: Piecewise, better: Callable[[Fraction, Fraction], bool]) -> Piecewise:
    breaks, _ = _merged(a, b)
    lines = tuple(p if better(_at(p, x), _at(q, x)) else q for p, q, x in _values(a, b))
    return Piecewise(tuple(breaks), lines)


def _truth(a: Piecewise, b: Piecewise, compare: Callable[[Fraction, Fraction], bool]) -> Piecewise:
    breaks, _ = _merged(a, b)
    lines = tuple((Fraction(0), Fraction(int(compare(_at(p, x), _at(q, x))))) for p, q, x in _values(a, b))
    return Piecewise(tuple(breaks), lines)


def _simple(f: Piecewise) -> Piecewise:
    """Without breakpoints at which nothing happens."""
    breaks, lines = [], [f.lines[0]]
    for i, x in enumerate(f.breaks):
        at, after = f.lines[2 * i + 1], f.lines[2 * i + 2]
        if after == lines[-1] and _at(at, x) == _at(after, x):
            continue
        breaks.append(x)
        lines += [at, after]
    return Piecewise(tuple(breaks), tuple(lines))
