"""Rules of sums, products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eqtoolbox.inference._analysis import Analysis, Value, register_rule
from eqtoolbox.inference._exact import add
from eqtoolbox.inference._jaxpr import Equation
from eqtoolbox.inference._rules_shape import _opaque_axis
from eqtoolbox.inference._spaces import Atom, Axis, axis_size


@register_rule("reduce_sum")
def reduce_sum(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """A product unit by unit and its sum is a contraction; any other sum reads the ones vector."""
    (v,) = values
    gone = set(eqn.options["axes"])
    for i in gone:
        for segment in v.axes[i]:
            for atom in segment:
                a.still(atom)
                if not atom.quad:
                    a.spaces.lower(atom.node, 1, a.reason)
    return [replace(v, axes=tuple(x for i, x in enumerate(v.axes) if i not in gone), const=None)]


@register_rule("reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
def reduce_extreme(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Symmetric in the entries, and nonlinear on every axis."""
    (v,) = values
    gone = set(eqn.options["axes"])
    extreme = eqn.name in ("reduce_max", "reduce_min")
    a.kill(v, scale=not extreme)
    for i in gone:
        for segment in v.axes[i]:
            for atom in segment:
                a.still(atom)
    return [replace(v, axes=tuple(x for i, x in enumerate(v.axes) if i not in gone), const=None)]


@register_rule("argmax", "argmin")
def arg_extreme(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    (v,) = values
    gone = set(eqn.options["axes"])
    a.kill(v)
    for i in gone:
        a.spaces.pin_axis(v.axes[i], a.reason)
    return [replace(v, axes=tuple(x for i, x in enumerate(v.axes) if i not in gone), const=None)]


def contracted(a: Analysis, x: Axis, y: Axis) -> set[int]:
    """The sum over two axes of a product: one contravariant to the other. The spaces that it links."""
    linked = set()
    for segment in a.align(x, y):
        for p, q in segment:
            node = p.node if p.node is not None else q.node
            if p.node is None or q.node is None:
                a.still(q if p.node is None else p)
                a.spaces.lower(node, 0 if p.quad or q.quad else 1, a.reason)
                continue
            a.zero_form(add(p.q, q.q))
            a.zero_parity(p.f ^ q.f)
            if p.quad or q.quad:
                a.spaces.lower(node, 0, a.reason)
            linked.add(node)
    return linked


def batched(a: Analysis, x: Axis, y: Axis) -> tuple[Axis, set[int]]:
    """An axis on which two arrays are multiplied entry by entry."""
    linked: set[int] = set()

    def combine(p: Atom, q: Atom) -> Atom:
        kept = p if p.node is not None else q
        if p.node is not None and q.node is not None:
            linked.add(p.node)
            a.spaces.lower(kept.node, 0, a.reason)
        return replace(kept, q=add(p.q, q.q), f=p.f ^ q.f, quad=False)

    pairs = a.align(x, y)
    return tuple(tuple(combine(p, q) for p, q in segment) for segment in pairs), linked


@register_rule("dot_general")
def dot_general(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    x, y = (a.plain(v) for v in values)
    (x_sum, y_sum), (x_batch, y_batch) = eqn.options["dimension_numbers"]
    linked: set[int] = set()
    axes: list[Axis] = []
    for i, j in zip(x_batch, y_batch, strict=True):
        axis, found = batched(a, x.axes[i], y.axes[j])
        axes.append(axis)
        linked |= found
    for i, j in zip(x_sum, y_sum, strict=True):
        linked |= contracted(a, x.axes[i], y.axes[j])
    axes += [axis for i, axis in enumerate(x.axes) if i not in (*x_sum, *x_batch)]
    axes += [axis for j, axis in enumerate(y.axes) if j not in (*y_sum, *y_batch)]
    a.link(linked, x, y)
    return [Value(tuple(axes), x.hidden | y.hidden, x.zero or y.zero, None, add(x.u, y.u), x.uf ^ y.uf)]


@register_rule("conv_general_dilated")
def convolution(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """A contraction over channels; positions are pinned. Groups of channels are a space of their own."""
    if eqn.options["batch_group_count"] != 1:
        return a.opaque(eqn, values)
    x, w = (a.plain(v) for v in values)
    spec, groups = eqn.options["dimension_numbers"], eqn.options["feature_group_count"]
    batch, features, *positions = spec.lhs_spec
    outs, ins, *window = spec.rhs_spec
    for v, places in ((x, positions), (w, window)):
        for i in places:
            for segment in v.axes[i]:
                for atom in segment:
                    a.still(atom)
            a.spaces.pin_axis(v.axes[i], a.reason)
    linked: set[int] = set()
    channels, inner, outputs = x.axes[features], w.axes[ins], w.axes[outs]
    if groups > 1:
        first, second = _in_groups(a, channels, groups), _in_groups(a, outputs, groups)
        if first is None or second is None:
            return a.opaque(eqn, values)
        (group, channels), (other, rest) = first, second
        shared, linked = batched(a, group, other)
        outputs = tuple((*s, *t) for s in shared for t in rest)
    linked |= contracted(a, channels, inner)
    axes: list[Axis] = [((),)] * len(spec.out_spec)
    axes[spec.out_spec[0]] = x.axes[batch]
    axes[spec.out_spec[1]] = outputs
    for k, i in enumerate(spec.out_spec[2:]):
        axes[i] = a.fixed_axis(("position", k), eqn.output_shapes[0][i], a.reason)
    a.link(linked, x, w)
    return [Value(tuple(axes), x.hidden | w.hidden, x.zero or w.zero, None, add(x.u, w.u), x.uf ^ w.uf)]


def _in_groups(a: Analysis, axis: Axis, groups: int) -> tuple[Axis, Axis] | None:
    """An axis as (groups, rest)."""
    while True:
        count = a.spaces.refinements
        axis = a.normal(axis)
        if len(axis) != 1:
            return None
        cut = a.spaces.factors(axis[0], (groups, axis_size(axis) // groups))
        if cut is not None:
            return (cut[0],), (cut[1],)
        if a.spaces.refinements == count:
            return None


@register_rule("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window")
def window(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Axes with a window of one entry pass, the others are pinned."""
    if eqn.name == "reduce_window":
        return a.opaque(eqn, values)
    (v,) = values
    if eqn.name != "reduce_window_sum":
        a.kill(v, scale=False)
    for axis, size in enumerate(eqn.options["window_dimensions"]):
        if size != 1 or eqn.output_shapes[0][axis] != axis_size(v.axes[axis]):
            v = _opaque_axis(a, v, axis, eqn.output_shapes[0][axis], ("window", axis))
    return [replace(v, const=None)]
