"""Rules of elementwise operations: what passes through them, as a scaling, a sign or a permutation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from eqtoolbox.inference._analysis import Analysis, Value, register_rule
from eqtoolbox.inference._jaxpr import Equation

LINEAR = ("neg", "copy", "copy_p", "stop_gradient", "reduce_precision", "real", "optimization_barrier")
ODD = ("tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "erf_inv")
GENERAL = ("exp", "exp2", "log", "log1p", "expm1", "logistic", "erfc", "floor", "ceil", "round", "is_finite")
GENERAL += ("lgamma", "digamma", "acos", "acosh", "not", "population_count", "clz")
EVEN = ("cos", "cosh", "one_minus_square")


@register_rule(*LINEAR)
def linear(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Commutes with every matrix."""
    out = []
    for v in values:
        const = None if v.const is None else -v.const if eqn.name == "neg" else v.const
        out.append(replace(v, const=const))
    return out


@register_rule("convert_element_type")
def convert(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Linear between floating dtypes; a rounding to integers or booleans is any function."""
    (v,) = values
    if np.issubdtype(eqn.output_dtypes[0], np.inexact) or eqn.output_dtypes[0].name == "bfloat16":
        return [v]
    return general(a, eqn, values)


@register_rule(*ODD)
def odd(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Signs pass, scalings do not."""
    (v,) = values
    a.lower(v)
    for atom in v.atoms:
        a.still(atom, sign=False)
    a.whole_still(v, sign=False)
    return [_unknown_number(_without_scale(v), odd_function=True)]


@register_rule(*EVEN)
def even(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """The result does not see signs."""
    (v,) = values
    a.lower(v)
    for atom in v.atoms:
        a.still(atom, sign=False)
    a.whole_still(v, sign=False)
    return [_unknown_number(_without_sign(_without_scale(v)))]


@register_rule(*GENERAL)
def general(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Only permutations pass."""
    (v,) = values
    a.kill(v)
    return [_unknown_number(_without_sign(_without_scale(v)))]


@register_rule("abs")
def absolute(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    return [a.mapped(values[0], 1, sign="drop")]


@register_rule("sign")
def sign(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Does not see scalings."""
    (v,) = values
    a.lower(v)
    return [_unknown_number(_without_scale(v), odd_function=True)]


@register_rule("square")
def square(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    return [a.mapped(values[0], 2, sign="drop", quad=True)]


@register_rule("integer_pow")
def integer_power(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    y = int(eqn.options["y"])
    if y == 1:
        return values
    return [a.mapped(values[0], y, sign="keep" if y % 2 else "drop", quad=y == 2)]


@register_rule("sqrt", "rsqrt", "cbrt")
def roots(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    power = {"sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2), "cbrt": Fraction(1, 3)}[eqn.name]
    return [a.mapped(values[0], power, sign="keep" if eqn.name == "cbrt" else "none")]


@register_rule("pow")
def power(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    x, y = values
    if y.const is None or not math.isfinite(y.const):
        return binary_general(a, eqn, values)
    exponent = Fraction(y.const).limit_denominator(1000)
    if float(exponent) != y.const:
        return [_same_shape(a, eqn, general(a, eqn, [x])[0])]
    return [_same_shape(a, eqn, a.mapped(x, exponent, sign="none"))]


@register_rule("add", "add_any", "sub")
def added(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    x, y = (a.spread(a.without_eps(v), eqn.output_shapes[0]) for v in values)
    result = a.agree(x, y)
    if x.const is not None and y.const is not None:
        number = x.const + (y.const if eqn.name != "sub" else -y.const)
        result = replace(result, const=number, zero=number == 0)
    return [result]


@register_rule("mul", "div")
def multiplied(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    x, y = (a.spread(v, eqn.output_shapes[0]) for v in values)
    result = a.multiplied(x, y, 1 if eqn.name == "mul" else -1)
    if x.const is not None and y.const is not None and (eqn.name == "mul" or y.const):
        number = x.const * y.const if eqn.name == "mul" else x.const / y.const
        result = replace(result, const=number, zero=number == 0)
    return [result]


@register_rule("max", "min")
def extreme(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """With 0: positive scalings pass. With the infinity it never takes: nothing happens."""
    x, y = (a.spread(a.without_eps(v), eqn.output_shapes[0]) for v in values)
    if x.const is not None:
        x, y = y, x
    if y.const is not None and math.isinf(y.const) and (y.const < 0) == (eqn.name == "max"):
        return [x]
    a.lower(x)
    a.lower(y)
    for v in (x, y):
        for atom in v.atoms:
            a.still(atom, scale=False)
        a.whole_still(v, scale=False)
    return [_unknown_number(a.agree(x, y))]


@register_rule("clamp")
def clamp(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Odd where the bounds are opposite numbers."""
    low, x, high = (a.spread(v, eqn.output_shapes[0]) for v in values)
    if low.const is not None and high.const is not None:
        return (odd if low.const == -high.const else general)(a, eqn, [x])
    return binary_general(a, eqn, values)


@register_rule("ge", "gt", "le", "lt", "eq", "ne")
def compared(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """With 0 scalings do not matter; whether two numbers are equal does not depend on their sign either."""
    x, y = (a.spread(v, eqn.output_shapes[0]) for v in values)
    ordered = eqn.name not in ("eq", "ne")
    if not (x.zero or y.zero):
        result = a.agree(x, y)
    else:
        result = y if x.zero else x
        a.pairs(x, y)
    a.lower(result)
    if ordered:
        for v in (x, y):
            for atom in v.atoms:
                a.still(atom, scale=False)
            a.whole_still(v, scale=False)
    return [_unknown_number(_without_sign(_without_scale(result)))]


@register_rule("select_n")
def select(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """The cases move alike; the predicate is only permuted."""
    which, *cases = (a.spread(v, eqn.output_shapes[0]) for v in values)
    a.kill(which)
    result = cases[0]
    for case in cases[1:]:
        result = a.agree(result, case)
    pairs = a.pairs(result, which)
    for axis in pairs:
        for segment in axis:
            for x, y in segment:
                if y.node is not None:
                    a.spaces.lower(x.node if x.node is not None else y.node, 0, a.reason)
                    if x.node is None:
                        a.still(x)
    axes = tuple(
        tuple(
            tuple(x if x.node is not None else replace(y, q=x.q, f=x.f) for x, y in segment)
            for segment in axis
        )
        for axis in pairs
    )
    return [replace(result, axes=axes, const=None, hidden=result.hidden | which.hidden)]


@register_rule("and", "or", "xor", "rem", "atan2", "nextafter")
def binary_general(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Any function of its arguments: only permutations pass."""
    shape = eqn.output_shapes[0]
    spread = [a.spread(v, shape) for v in values]
    for v in spread:
        a.kill(v)
    result = spread[0]
    for v in spread[1:]:
        result = a.agree(replace(result, zero=False), replace(v, zero=False))
    return [_unknown_number(_without_sign(_without_scale(result)))]


def _same_shape(a: Analysis, eqn: Equation, value: Value) -> Value:
    return a.spread(value, eqn.output_shapes[0])


def _without_scale(v: Value) -> Value:
    axes = tuple(tuple(tuple(replace(x, q={}) for x in seg) for seg in axis) for axis in v.axes)
    return replace(v, axes=axes, u={})


def _without_sign(v: Value) -> Value:
    axes = tuple(tuple(tuple(replace(x, f=frozenset()) for x in seg) for seg in axis) for axis in v.axes)
    return replace(v, axes=axes, uf=frozenset())


def _unknown_number(v: Value, *, odd_function: bool = False) -> Value:
    axes = tuple(tuple(tuple(replace(x, quad=False) for x in seg) for seg in axis) for axis in v.axes)
    return replace(v, axes=axes, const=None, zero=v.zero and odd_function)
