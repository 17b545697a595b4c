"""The only module that touches jaxprs: a traced function as a list of equations with a small interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jaxlib
import numpy as np

#: Where JAX itself is.
_JAX = tuple(f"{Path(str(module.__file__)).parent}/" for module in (jax, jaxlib))


@dataclass(frozen=True, eq=False)
class Known:
    """An input of an equation that is a constant array."""

    value: np.ndarray


@dataclass(frozen=True)
class Equation:
    """One operation.

    Attributes:
      name: of the primitive.
      inputs: variables (hashable ids) or ``Known`` constants.
      outputs: variables.
      shapes: of the inputs, then of the outputs.
      options: the parameters of the primitive.
      source: where it was written, as text.
      bind: does the operation on arrays.
    """

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[Any, ...]
    options: dict[str, Any]
    source: str
    bind: Callable[..., Any] = lambda *_: ()


@dataclass(frozen=True)
class Program:
    """A function as equations.

    Attributes:
      inputs: its variables, in the order of the arguments.
      constants: pairs (variable, array).
      equations: in order.
      outputs: variables or ``Known`` constants.
      shapes: of the inputs.
      output_shapes: of the outputs.
    """

    inputs: tuple[Any, ...]
    constants: tuple[tuple[Any, Any], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]


def trace(function: Callable[..., Any], *arguments: Any) -> Program:
    """The program of a function at arguments, which may be ``ShapeDtypeStruct``."""
    return read(jax.make_jaxpr(function)(*arguments))


def read(closed: Any) -> Program:
    """The program of a jaxpr, closed or not."""
    jaxpr = getattr(closed, "jaxpr", closed)
    constants = tuple(zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=False))
    equations = tuple(_equation(eqn) for eqn in jaxpr.eqns)
    return Program(
        tuple(jaxpr.invars),
        constants,
        equations,
        tuple(_atom(v) for v in jaxpr.outvars),
        tuple(tuple(v.aval.shape) for v in jaxpr.invars),
        tuple(tuple(v.aval.shape) for v in jaxpr.outvars),
    )


def subprograms(equation: Equation, names: Sequence[str]) -> list[Program]:
    """The programs that an equation holds under the first of these names that it has."""
    for name in names:
        if name in equation.options:
            held = equation.options[name]
            return [read(p) for p in (held if isinstance(held, (tuple, list)) else [held])]
    return []


def _atom(v: Any) -> Any:
    if isinstance(v, jex.Literal):
        return Known(np.asarray(v.val))
    return v


def _shape(v: Any) -> tuple[int, ...]:
    return tuple(getattr(v.aval, "shape", ()))


def _equation(eqn: Any) -> Equation:
    return Equation(
        eqn.primitive.name,
        tuple(_atom(v) for v in eqn.invars),
        tuple(eqn.outvars),
        tuple(_shape(v) for v in eqn.invars),
        tuple(_shape(v) for v in eqn.outvars),
        tuple(getattr(v.aval, "dtype", None) for v in eqn.outvars),
        dict(eqn.params),
        _source(eqn),
        lambda *arrays: eqn.primitive.bind(*arrays, **eqn.params),
    )


def _source(eqn: Any) -> str:
    """The innermost line outside of JAX, and the innermost one outside of installed packages where that is another."""
    traceback = getattr(eqn.source_info, "traceback", None)
    frames = [f for f in getattr(traceback, "frames", ()) or () if not f.file_name.startswith(("<", *_JAX))]
    own = next((f for f in frames if "-packages/" not in f.file_name), None)
    lines = dict.fromkeys(_line(f) for f in (*frames[:1], own) if f is not None)
    return " <- ".join(lines)


def _line(frame: Any) -> str:
    return f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.line_num}"


def evaluate(equation: Equation, arrays: Sequence[Any]) -> list[Any]:
    """The outputs of one operation at arrays."""
    results = equation.bind(*arrays)
    return list(results) if isinstance(results, (tuple, list)) else [results]
