"""Rules of operations that move entries: transposes, reshapes, slices, joins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from eqtoolbox.inference._analysis import Analysis, Value, register_rule
from eqtoolbox.inference._jaxpr import Equation
from eqtoolbox.inference._spaces import Atom, Axis, Segment, axis_size, segment_size, wild


@register_rule("transpose")
def transpose(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    (v,) = values
    return [replace(v, axes=tuple(v.axes[i] for i in eqn.options["permutation"]))]


@register_rule("squeeze")
def squeeze(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    (v,) = values
    gone = set(eqn.options["dimensions"])
    return [replace(v, axes=tuple(axis for i, axis in enumerate(v.axes) if i not in gone))]


@register_rule("expand_dims")
def expand(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    return reshape(a, eqn, values)


@register_rule("broadcast_in_dim")
def broadcast(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """New axes are constant."""
    v = values[0]
    axes = [wild(n) for n in eqn.options["shape"]]
    for source, target in enumerate(eqn.options["broadcast_dimensions"]):
        if axis_size(v.axes[source]) == eqn.options["shape"][target]:
            axes[target] = v.axes[source]
    return [replace(v, axes=tuple(axes))]


@register_rule("reshape")
def reshape(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Axes are regrouped; a space may turn out to be a product."""
    v, shape = values[0], eqn.output_shapes[0]
    while True:
        count = a.spaces.refinements
        v = replace(v, axes=tuple(a.normal(axis) for axis in v.axes))
        axes = _regrouped(a, v.axes, shape)
        if axes is not None:
            return [replace(v, axes=axes)]
        if a.spaces.refinements == count:
            a.pin(v, f"{a.reason}: a reshape across spaces")
            return [replace(a.blank(shape, "reshape", a.reason), hidden=v.hidden)]


def _regrouped(a: Analysis, axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[Axis, ...] | None:
    out: list[Axis] = []
    old, new = list(axes), list(shape)
    while old or new:
        if new and new[0] == 1 and not (old and axis_size(old[0]) == 1):
            out.append(((),))
            new.pop(0)
            continue
        if old and axis_size(old[0]) == 1 and not (new and new[0] == 1):
            old.pop(0)
            continue
        group, sizes = [old.pop(0)], [new.pop(0)]
        while (have := math.prod(map(axis_size, group))) != (want := math.prod(sizes)):
            if have < want:
                group.append(old.pop(0))
            else:
                sizes.append(new.pop(0))
        parts = _group(a, group, tuple(sizes))
        if parts is None:
            return None
        out += parts
    return tuple(out)


def _group(a: Analysis, group: list[Axis], sizes: tuple[int, ...]) -> list[Axis] | None:
    """Consecutive axes as others of the same total size."""
    if len(group) == 1 and len(sizes) == 1:
        return list(group)
    if any(len(axis) > 1 for axis in group[1:]):
        return None
    tail: Segment = tuple(atom for axis in group[1:] for segment in axis for atom in segment)
    segments = [(*segment, *tail) for segment in group[0]]
    if len(sizes) == 1:
        return [tuple(segments)]
    rest = math.prod(sizes[1:])
    if len(segments) == 1:
        cut = a.spaces.factors(segments[0], sizes)
        return None if cut is None else [(segment,) for segment in cut]
    heads: list[Segment] = []
    tails: Axis | None = None
    for segment in segments:
        if segment_size(segment) % rest:
            return None
        cut = a.spaces.factors(segment, (segment_size(segment) // rest, *sizes[1:]))
        if cut is None:
            return None
        heads.append(cut[0])
        if tails is not None and [tuple(s) for s in tails] != cut[1:]:
            return None
        tails = tuple(cut[1:])
    return [tuple(heads), *((segment,) for segment in tails or ())]


@register_rule("concatenate")
def concatenate(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """A direct sum on one axis; on the others, and as wholes, the parts move alike."""
    axis = eqn.options["dimension"]
    result = values[0]
    joined: Axis = values[0].axes[axis]
    for v in values[1:]:
        hide = [
            replace(w, axes=tuple(x if i != axis else ((),) for i, x in enumerate(w.axes)))
            for w in (result, v)
        ]
        other = a.agree(*hide)
        joined = (*joined, *v.axes[axis])
        result = replace(other, axes=tuple(x if i != axis else joined for i, x in enumerate(other.axes)))
    return [replace(result, const=None, zero=all(v.zero for v in values))]


@register_rule("split")
def split(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    (v,), axis = values, eqn.options["axis"]
    parts, start = [], 0
    for size in eqn.options["sizes"]:
        parts.append(_part(a, v, axis, start, start + size, ("split", start)))
        start += size
    return parts


@register_rule("slice")
def slice_rule(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    (v,) = values
    strides = eqn.options["strides"] or (1,) * len(v.axes)
    bounds = zip(eqn.options["start_indices"], eqn.options["limit_indices"], strides, strict=True)
    for axis, (start, limit, stride) in enumerate(bounds):
        if (start, limit, stride) == (0, axis_size(v.axes[axis]), 1):
            continue
        if stride == 1:
            v = _part(a, v, axis, start, limit, ("slice", axis))
        else:
            v = _opaque_axis(a, v, axis, eqn.output_shapes[0][axis], ("slice", axis), moved=True)
    return [v]


def _part(a: Analysis, v: Value, axis: int, start: int, limit: int, key: object) -> Value:
    """The entries from ``start`` to ``limit`` of an axis: a part of a direct sum."""
    size = axis_size(v.axes[axis])
    if (start, limit) == (0, size):
        return v
    sizes = (start, limit - start, size - limit)
    cuts: Axis = tuple((Atom(None, n),) if n != 1 else () for n in sizes if n)
    a.align(v.axes[axis], cuts)
    axes = list(v.axes)
    axes[axis] = a.normal(v.axes[axis])
    kept: list[Segment] = []
    position = 0
    for segment in axes[axis]:
        end = position + segment_size(segment)
        inside = max(0, min(end, limit) - max(position, start))
        if inside == end - position:
            kept.append(segment)
        elif inside:
            inner = segment_size(segment[1:]) if segment else 1
            if not segment or segment[0].node is not None or inside % inner:
                return _opaque_axis(a, v, axis, limit - start, key, moved=True)
            kept.append((replace(segment[0], size=inside // inner), *segment[1:]))
        position = end
    axes[axis] = tuple(kept)
    return replace(v, axes=tuple(axes), const=v.const)


def _opaque_axis(a: Analysis, v: Value, axis: int, size: int, key: object, *, moved: bool = False) -> Value:
    """The value with an axis of other entries: that axis is pinned, the others pass.

    An axis along which the value is constant stays one only where entries are ``moved``, not where they are summed.
    """
    for segment in v.axes[axis]:
        for atom in segment:
            a.still(atom)
    a.spaces.pin_axis(v.axes[axis], a.reason)
    uniform = moved and all(atom.node is None for segment in v.axes[axis] for atom in segment)
    new = wild(size) if uniform else a.fixed_axis(key, size, a.reason)
    return replace(v, axes=tuple(new if i == axis else x for i, x in enumerate(v.axes)))


@register_rule("rev", "cumsum", "cumlogsumexp", "cummax", "cummin", "cumprod")
def along_an_axis(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Depends on the order of entries; linear ones leave the other axes alone."""
    (v,) = values
    axes = eqn.options.get("dimensions") or (eqn.options["axis"],)
    if eqn.name not in ("rev", "cumsum"):
        a.kill(v)
    for axis in axes:
        v = _opaque_axis(a, v, axis, axis_size(v.axes[axis]), (eqn.name, axis), moved=eqn.name == "rev")
    return [replace(v, const=None)]


@register_rule("pad")
def pad(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Zeros around: a direct sum with something that does not move."""
    v, filler = values
    for axis, (low, high, interior) in enumerate(eqn.options["padding_config"]):
        size = eqn.output_shapes[0][axis]
        if (low, high, interior) == (0, 0, 0):
            continue
        if interior or low < 0 or high < 0 or not filler.zero:
            a.kill(v) if not filler.zero else None
            v = _opaque_axis(a, v, axis, size, ("pad", axis))
            continue
        ends = [((Atom(None, n),),) if n > 1 else ((),) for n in (low, high)]
        grown = (*(ends[0] if low else ()), *v.axes[axis], *(ends[1] if high else ()))
        v = replace(v, axes=tuple(grown if i == axis else x for i, x in enumerate(v.axes)))
    return [replace(v, const=None)]


@register_rule("dynamic_slice")
def dynamic_slice(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    v, *starts = values
    for s in starts:
        a.pin(s, a.reason)
    for axis, size in enumerate(eqn.output_shapes[0]):
        if size != axis_size(v.axes[axis]):
            v = _opaque_axis(a, v, axis, size, ("dynamic_slice", axis), moved=True)
    hidden = frozenset().union(*(s.hidden for s in starts)) if starts else frozenset()
    return [replace(v, hidden=v.hidden | hidden)]


@register_rule("gather")
def gather(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Axes taken whole pass; indexed ones are pinned."""
    operand, indices = values
    a.pin(indices, a.reason)
    numbers, sizes = eqn.options["dimension_numbers"], eqn.options["slice_sizes"]
    gone = set(numbers.collapsed_slice_dims) | set(getattr(numbers, "operand_batching_dims", ()))
    whole: list[Axis] = []
    for axis, size in enumerate(sizes):
        if size == axis_size(operand.axes[axis]) and axis not in gone:
            whole.append(operand.axes[axis])
            continue
        for segment in operand.axes[axis]:
            for atom in segment:
                a.still(atom)
        a.spaces.pin_axis(operand.axes[axis], a.reason)
        if axis not in gone:
            whole.append(a.fixed_axis(("gather", axis), size, a.reason))
    offsets, axes, taken = set(numbers.offset_dims), [], iter(whole)
    for i, size in enumerate(eqn.output_shapes[0]):
        axes.append(next(taken) if i in offsets else a.fixed_axis(("index", i), size, a.reason))
    return [replace(operand, axes=tuple(axes), hidden=operand.hidden | indices.hidden, const=None)]


@register_rule(
    "iota",
    "random_bits",
    "random_seed",
    "random_wrap",
    "random_unwrap",
    "random_split",
    "random_fold_in",
    "threefry2x32",
)
def given(a: Analysis, eqn: Equation, values: list[Value]) -> Sequence[Value]:
    """Numbers that have nothing to do with the parameters, if their inputs do not."""
    for v in values:
        a.pin(v, a.reason)
    return [a.blank(shape, ("given", i), a.reason) for i, shape in enumerate(eqn.output_shapes)]
