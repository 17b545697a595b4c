"""Rules of operations that hold programs: calls, scans, branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eqtoolbox.inference._analysis import Analysis, Value, register_rule
from eqtoolbox.inference._jaxpr import Equation, Program, subprograms
from eqtoolbox.inference._piecewise import function_of, is_homogeneous, is_odd
from eqtoolbox.inference._rules_elementwise import odd
from eqtoolbox.inference._spaces import Atom, Axis, axis_size

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2", "custom_jvp_call")
CALLS += ("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin")
HELD = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@register_rule(*CALLS)
def call(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    programs = subprograms(eqn, HELD)
    if len(programs) != 1 or len(programs[0].inputs) != len(values):
        return a.opaque(eqn, values)
    special = _activation(a, eqn, programs[0], values)
    if special is not None:
        return special
    # Operations inside of JAX's own functions, such as relu, have no source line: say where those are called.
    outer, name = a.within, eqn.options.get("name")
    line = eqn.source or outer.split(" at ")[-1]
    a.within = f"in {name} at {line}" if name else line
    results = a.run(programs[0], values)
    a.within = outer
    return results


def _activation(a: Analysis, eqn: Equation, program: Program, values: list[Value]) -> Sequence[Value] | None:
    """A composed activation that is piecewise linear and odd, which none of its operations is."""
    moving = [v for v in values if v.const is None]
    if len(moving) != 1 or len(program.output_shapes) != 1 or moving[0].shape != program.output_shapes[0]:
        return None
    f = function_of(program, [v.const for v in values])
    if f is None or not is_odd(f) or is_homogeneous(f):
        return None
    return odd(a, eqn, moving)


@register_rule("cond")
def branch(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """The branches move alike; what chooses between them does not move."""
    index, *operands = values
    a.pin(index, a.reason)
    path, reason, results = a.path, a.reason, []
    for i, program in enumerate(subprograms(eqn, ("branches",))):
        a.path = (*path, "branch", i)
        results.append(a.run(program, operands))
    a.path, a.reason = path, reason
    joined = results[0]
    for other in results[1:]:
        joined = [a.agree(x, y) for x, y in zip(joined, other, strict=True)]
    return [replace(v, hidden=v.hidden | index.hidden, const=None) for v in joined]


@register_rule("scan")
def scan(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """The carry moves alike at every step; what is scanned over has a fixed leading axis, hidden in the body."""
    (program,) = subprograms(eqn, ("jaxpr",))
    # Versions of jax name the numbers of constants and carries differently; the shapes say them too.
    over_steps = sum(a != b for a, b in zip(eqn.input_shapes, program.shapes, strict=True))
    carries = sum(a == b for a, b in zip(eqn.output_shapes, program.output_shapes, strict=True))
    consts = len(values) - carries - over_steps
    fixed, first, over = values[:consts], values[consts : consts + carries], values[consts + carries :]
    path, reason, length = a.path, a.reason, eqn.options["length"]
    step: Axis = a.fixed_axis("step", length, a.reason)
    hidden = frozenset(atom.node for segment in step for atom in segment if atom.node is not None)
    rows = []
    for v in over:
        for segment in a.align(v.axes[0], step):
            for p, _ in segment:
                a.still(p)
        rows.append(replace(v, axes=v.axes[1:], hidden=v.hidden | hidden, const=v.const))
    carry = [_carried(a, v, i) for i, v in enumerate(first)]
    for node in hidden:
        a.steps.setdefault(a.spaces.root(node), set()).add(a.path)
    for v, c in zip(first, carry, strict=True):
        a.agree(c, v)
    a.path = (*path, "body")
    results = a.run(program, [*fixed, *carry, *rows])
    a.path, a.reason = path, reason
    for c, out in zip(carry, results[:carries], strict=True):
        a.agree(c, out)
    stacked = [
        replace(v, axes=(step, *v.axes), hidden=v.hidden - hidden, const=None) for v in results[carries:]
    ]
    return [*(replace(c, hidden=c.hidden | hidden) for c in carry), *stacked]


def _carried(a: Analysis, v: Value, number: int) -> Value:
    """A value like the first carry, with exponents of its own."""
    axes = []
    for i, axis in enumerate(v.axes):
        size = axis_size(axis)
        if size == 1:
            axes.append(((),))
            continue
        node = a.node((*a.path, "carry", number, i), size)
        new = a.normal((((Atom(node, size)),),))
        key = ("aux", *a.path, number, i)
        axes.append(a.named(new, key))
    return replace(a.named_whole(Value(tuple(axes)), ("aux", *a.path, number)), hidden=v.hidden)
