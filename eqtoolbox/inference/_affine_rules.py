"""What operations do to a shift: one rule per primitive, as derivatives of values written as sums of products.

Linear operations map every term. Of the others only those have a rule whose derivative may cancel later on: what a
softmax, a log-sum-exp, a normalisation or a maximum does to a common shift. A shift that reaches any other operation
ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eqtoolbox.inference._affine_program import Algebra, add_to, scaled
from eqtoolbox.inference._affine_terms import (
    Entry,
    Factor,
    Map,
    Out,
    Poly,
    Unfit,
    all_labels,
    extent,
    fresh,
    full,
    labels_of,
    put,
    put_all,
    refine,
)
from eqtoolbox.inference._jaxpr import Equation

#: A number so far down that the exponential of it vanishes, whatever is added.
MASKED = -1e30

SAME = ("neg", "copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier")
UNCHANGED = ("is_finite", "argmax", "argmin")
COMPARED = ("gt", "ge", "lt", "le", "eq", "ne")

Linear = Callable[[Algebra, Equation, list[Poly]], list[Poly]]


def lift(
    algebra: Algebra,
    poly: Poly,
    change: Callable[[list[Factor], Out], tuple[list[Factor], Sequence[Entry], Sequence[Any]]],
) -> Poly:
    """Maps every term: factors and result axes to new ones, and the labels that are summed."""
    result: Poly = {}
    for term, c in poly.items():
        factors, out, summed = change(list(term[0]), term[1])
        add_to(result, algebra.normal(c, factors, tuple(out), summed))
    return result


def constant_along(poly: Poly, axes: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether all terms are the same along these axes of the result."""
    for factors, out in poly:
        used = {x for _, entries, _ in factors for x in all_labels(entries)}
        for i in axes:
            if extent(out[i][1]) != shape[i] or used & set(out[i][1]):
                return False
    return True


# Linear operations with one operand: also used for the values themselves.


def _same(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    return [scaled(polys[0], -1 if eqn.name == "neg" else 1)]


def _transpose(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    order = eqn.options["permutation"]
    return [lift(a, polys[0], lambda f, out: (f, [out[i] for i in order], ()))]


def _broadcast(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    shape, places = eqn.output_shapes[0], eqn.options["broadcast_dimensions"]

    def change(factors: list[Factor], out: Out):
        axes = [full(n) for n in shape]
        for source, target in enumerate(places):
            if eqn.input_shapes[0][source] == shape[target]:
                axes[target] = out[source]
        return factors, axes, ()

    return [lift(a, polys[0], change)]


def _squeeze(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    gone = {i % len(eqn.input_shapes[0]) for i in eqn.options["dimensions"]}
    return [lift(a, polys[0], lambda f, out: (f, [e for i, e in enumerate(out) if i not in gone], ()))]


def _reshape(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    old, new = eqn.input_shapes[0], eqn.output_shapes[0]
    if 0 in old:
        raise Unfit("an empty array")

    def change(factors: list[Factor], out: Out):
        axes: list[Entry] = [(0, ())] * len(new)
        i = j = 0
        while i < len(old) or j < len(new):
            if i < len(old) and old[i] == 1:
                i += 1
                continue
            if j < len(new) and new[j] == 1:
                j += 1
                continue
            left, right = [i], [j]
            m, n = old[i], new[j]
            while m != n:
                if m < n:
                    left.append(left[-1] + 1)
                    m *= old[left[-1]]
                else:
                    right.append(right[-1] + 1)
                    n *= new[right[-1]]
            i, j = left[-1] + 1, right[-1] + 1
            factors, out, found = _regroup(factors, out, left, [new[k] for k in right], old)
            for k, entry in zip(right, found, strict=True):
                axes[k] = entry
        return factors, axes, ()

    return [lift(a, polys[0], change)]


def _regroup(factors: list[Factor], out: Out, axes: list[int], sizes: list[int], old: Sequence[int]):
    """Consecutive axes as others of the same total size."""
    if len(axes) == 1 and len(sizes) == 1:
        return factors, out, [out[axes[0]]]
    labels = tuple(x for i in axes for x in out[i][1])
    partial = [i for i in axes if out[i][0] or extent(out[i][1]) != old[i]]
    start, inner = 0, 1
    if partial:
        if any(old[i] != 1 for i in axes[: axes.index(partial[0])]) or len(partial) > 1:
            raise Unfit("a reshape of a part of an axis")
        for i in axes[axes.index(partial[0]) + 1 :]:
            inner *= old[i]
        start = out[partial[0]][0] * inner
    total, rest, places = extent(labels), 1, []
    wanted: list[tuple[int, ...]] = []
    for k in reversed(range(1, len(sizes))):
        wanted.insert(0, (sizes[k],))
        rest *= sizes[k]
    if start % rest or total % rest:
        raise Unfit("a reshape of a part of an axis")
    names = [fresh(n) for n in (total // rest, *(n for (n,) in wanted)) if n != 1]
    to_old, to_new = refine(labels, tuple(names))
    factors, out = put_all(factors, to_old), tuple(put(e, to_old) for e in out)
    given = iter(names)
    for k, n in enumerate((total // rest, *(n for (n,) in wanted))):
        parts = to_new[next(given)][1] if n != 1 else ()
        places.append((start // rest if k == 0 else 0, parts))
    return factors, out, places


def _reduce_sum(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    gone = set(eqn.options["axes"])

    def change(factors: list[Factor], out: Out):
        summed = [x for i in gone for x in labels_of(out[i])]
        return factors, [e for i, e in enumerate(out) if i not in gone], summed

    return [lift(a, polys[0], change)]


def _cut(a: Algebra, poly: Poly, axis: int, start: int, stop: int) -> Poly:
    """The entries from start to stop of an axis."""
    result: Poly = {}
    for term, c in poly.items():
        factors, out = list(term[0]), term[1]
        offset, labels = out[axis]
        low, high = max(start, offset), min(stop, offset + extent(labels))
        if low >= high:
            continue
        if not labels:
            add_to(result, a.normal(c, factors, (*out[:axis], (offset - start, ()), *out[axis + 1 :])))
            continue
        inner = extent(labels[1:])
        if (low - offset) % inner or (high - low) % inner:
            raise Unfit("a slice across a product of axes")
        size = (high - low) // inner
        mapping: Map = {labels[0]: ((low - offset) // inner, (fresh(size),) if size > 1 else ())}
        kept = mapping[labels[0]][1] + labels[1:]
        new = [put(e, mapping) if i != axis else e for i, e in enumerate(out)]
        new[axis] = (low - start, kept)
        add_to(result, a.normal(c, put_all(factors, mapping), tuple(new)))
    return result


def _slice(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    (poly,), shape = polys, eqn.input_shapes[0]
    strides = eqn.options["strides"] or (1,) * len(shape)
    bounds = zip(eqn.options["start_indices"], eqn.options["limit_indices"], strides, strict=True)
    for axis, (start, stop, stride) in enumerate(bounds):
        if (start, stop, stride) == (0, shape[axis], 1):
            continue
        if stride == 1:
            poly = _cut(a, poly, axis, start, stop)
        elif not constant_along(poly, [axis], shape):
            raise Unfit("a slice with a stride")
        else:
            poly = resized(a, poly, axis, eqn.output_shapes[0][axis])
    return [poly]


def resized(a: Algebra, poly: Poly, axis: int, size: int) -> Poly:
    """The same along an axis of another length."""
    return lift(a, poly, lambda f, out: (f, [full(size) if i == axis else e for i, e in enumerate(out)], ()))


def _split(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    parts, start = [], 0
    for size in eqn.options["sizes"]:
        parts.append(_cut(a, polys[0], eqn.options["axis"], start, start + size))
        start += size
    return parts


def _take_step(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    step = eqn.options["index"]
    taken = _cut(a, polys[0], 0, step, step + 1)
    return [lift(a, taken, lambda f, out: (f, out[1:], ()))]


def along_axis(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    """Passes what is the same along the axis."""
    axes: Sequence[int] = eqn.options["dimensions"] if eqn.name == "rev" else (eqn.options["dimension"],)
    if not constant_along(polys[0], axes, eqn.input_shapes[0]):
        raise Unfit("it changes the order along an axis")
    return polys


def _convert(a: Algebra, eqn: Equation, polys: list[Poly]) -> list[Poly]:
    if not is_real(eqn.output_dtypes[0]):
        raise Unfit("a rounding to integers")
    return polys


def is_real(dtype: Any) -> bool:
    """Whether a dtype is of floating point."""
    return dtype is None or getattr(dtype, "kind", "") == "f" or str(dtype).startswith(("bfloat", "float"))


LINEAR: dict[str, Linear] = {
    **dict.fromkeys(SAME, _same),
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "expand_dims": _reshape,
    "reshape": _reshape,
    "reduce_sum": _reduce_sum,
    "slice": _slice,
    "split": _split,
    "take_step": _take_step,
    "convert_element_type": _convert,
}


# Products.


def multiplied(a: Algebra, eqn: Equation, x: Poly, y: Poly) -> Poly:
    """The elementwise product."""
    rank = len(eqn.output_shapes[0])
    shapes = [s or (1,) * rank for s in eqn.input_shapes[:2]]
    x, y = (
        p if s else lift(a, p, lambda f, out: (f, [(0, ())] * rank, ()))
        for p, s in zip((x, y), eqn.input_shapes[:2], strict=True)
    )
    joined = [(i, i, n) for i, n in enumerate(eqn.output_shapes[0]) if shapes[0][i] == shapes[1][i]]
    out = [(0 if shapes[0][i] == n else 1, i) for i, n in enumerate(eqn.output_shapes[0])]
    return a.product(x, y, joined, out)


def contracted(a: Algebra, eqn: Equation, x: Poly, y: Poly) -> Poly:
    """``dot_general``."""
    (x_sum, y_sum), (x_batch, y_batch) = eqn.options["dimension_numbers"]
    shapes = eqn.input_shapes
    joined = [(i, j, shapes[0][i]) for i, j in zip((*x_sum, *x_batch), (*y_sum, *y_batch), strict=True)]
    out = [(0, i) for i in x_batch]
    out += [(0, i) for i in range(len(shapes[0])) if i not in (*x_sum, *x_batch)]
    out += [(1, j) for j in range(len(shapes[1])) if j not in (*y_sum, *y_batch)]
    return a.product(x, y, joined, out)


def convolved(a: Algebra, eqn: Equation, patches: int, kernel: Poly) -> Poly:
    """A convolution as the product of patches (batch, positions, window, features) with the kernel."""
    spec = eqn.options["dimension_numbers"]
    outs, ins, *window = spec.rhs_spec
    size = eqn.input_shapes[1]
    batch, features, *positions = spec.out_spec
    first = 1 + len(positions)
    joined = [(first + k, axis, size[axis]) for k, axis in enumerate((*window, ins))]
    out: list[tuple[int, int]] = [(0, 0)] * len(spec.out_spec)
    out[batch], out[features] = (0, 0), (1, outs)
    for k, axis in enumerate(positions):
        out[axis] = (0, 1 + k)
    return a.product(a.plain(patches), kernel, joined, out)


def looked_up(a: Algebra, eqn: Equation, operand: Poly, index: int) -> Poly:
    """Rows of a table, as ``x[i]`` and ``jnp.take`` write them, at an atom of integers."""
    numbers, sizes = eqn.options["dimension_numbers"], eqn.options["slice_sizes"]
    shape, (*batch, last) = eqn.input_shapes
    if last != 1 or len(numbers.start_index_map) != 1 or getattr(numbers, "operand_batching_dims", ()):
        raise Unfit("a gather of several axes")
    (axis,) = numbers.start_index_map
    if sizes[axis] != 1 or any(
        n != m for i, (n, m) in enumerate(zip(sizes, shape, strict=True)) if i != axis
    ):
        raise Unfit("a gather of parts of axes")
    offsets = set(numbers.offset_dims)
    collapsed = axis in numbers.collapsed_slice_dims

    def change(factors: list[Factor], out: Out):
        places = [full(n) for n in batch]
        at: Entry = ("at", index, (*places, (0, ())))
        offset, labels = out[axis]
        used = {x for _, entries, _ in factors for x in all_labels(entries)}
        if used & set(labels) or offset or extent(labels) != shape[axis]:
            if len(labels) != 1 or offset or extent(labels) != shape[axis]:
                raise Unfit("a gather of a part of an axis")

            def place(entry: Entry) -> Entry:
                if entry[0] != "at" and labels[0] in entry[1]:
                    if entry != (0, labels):
                        raise Unfit("a gather of a part of an axis")
                    return at
                if entry[0] == "at" and labels[0] in set(labels_of(entry)):
                    raise Unfit("a gather in a gather")
                return entry

            factors = [(i, tuple(place(e) for e in entries), p) for i, entries, p in factors]
        kept = iter(e if i != axis else (0, ()) for i, e in enumerate(out) if i != axis or not collapsed)
        rest = iter(places)
        axes = [next(kept) if i in offsets else next(rest) for i in range(len(eqn.output_shapes[0]))]
        return factors, axes, ()

    return lift(a, operand, change)
