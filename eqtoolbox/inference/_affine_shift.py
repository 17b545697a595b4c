"""The values of a program as products, and the shift of one operation's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from eqtoolbox.inference._affine_program import MAX_FACTORS, Algebra, add_to, as_fraction, flatten, scaled
from eqtoolbox.inference._affine_rules import (
    COMPARED,
    LINEAR,
    MASKED,
    UNCHANGED,
    along_axis,
    constant_along,
    contracted,
    convolved,
    is_real,
    lift,
    looked_up,
    multiplied,
    resized,
)
from eqtoolbox.inference._affine_terms import ONE, Factor, Out, Poly, Unfit, extent, full
from eqtoolbox.inference._jaxpr import Equation, Known, Program, evaluate

HALF = Fraction(1, 2)
ADDED = ("add", "add_any", "sub")


@dataclass
class Values:
    """All values of a program at the parameters as they are.

    Attributes:
      algebra: its atoms and forms.
      equations: in order.
      outputs: variables or constants.
      leaves: for every variable the parameters it depends on.
      data: variables that depend on the inputs of the model.
      shapes: of the variables.
      readers: the operations that read a variable.
      paths: of the leaves, which are the first variables.
      constants: arrays by variable.
      made: for every variable the operation that makes it.
      arrays: constants inside of operations.
    """

    algebra: Algebra
    equations: list[Equation]
    outputs: list[Any]
    leaves: dict[int, frozenset[str]]
    data: set[int]
    shapes: dict[int, tuple[int, ...]]
    readers: dict[int, list[int]]
    paths: list[str]
    constants: dict[int, Any]
    made: dict[int, int]
    arrays: dict[int, Any]

    def form(self, v: Any, shape: Sequence[int]) -> Poly:
        """The value of an input of an operation."""
        return self.known(v.value, shape) if isinstance(v, Known) else self.algebra.forms[v]

    def known(self, value: Any, shape: Sequence[int]) -> Poly:
        """A constant array."""
        a, number = self.algebra, _number(value)
        if number is not None and np.isfinite(number):
            dtype = np.asarray(value).dtype
            eps = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
            return a.constant(as_fraction(number, eps), shape)
        return a.plain(a.atom(shape, False, frozenset(), "array", self.keep(value)))

    def keep(self, array: Any) -> int:
        """The number by which an array is kept."""
        self.arrays[id(array)] = array
        return id(array)

    def number(self, v: Any) -> float | None:
        """The number that an input is everywhere, if it is known to be one."""
        return _number(v.value) if isinstance(v, Known) else self.algebra.numbers.get(v)

    def array(self, variable: int, leaves: dict[str, Any], seen: dict[int, Any]) -> Any:
        """The value of a variable that depends on parameters only."""
        if variable not in seen:
            if variable < len(self.paths):
                seen[variable] = leaves[self.paths[variable]]
            elif variable in self.constants:
                seen[variable] = self.constants[variable]
            else:
                eqn = self.equations[self.made[variable]]
                inputs = [
                    v.value if isinstance(v, Known) else self.array(v, leaves, seen) for v in eqn.inputs
                ]
                seen.update(zip(eqn.outputs, evaluate(eqn, inputs), strict=True))
        return seen[variable]


def _number(value: Any) -> float | None:
    x = np.asarray(value)
    if x.dtype == object or (x.dtype.kind not in "iuf" and "float" not in str(x.dtype)) or not x.size:
        return None
    first = float(x.reshape(-1)[0])
    return first if np.all(x == x.reshape(-1)[0]) else None


def read_values(program: Program, paths: list[str]) -> Values:
    """The values of a program whose first inputs are the parameters."""
    equations, constants, outputs = flatten(program)
    a = Algebra()
    values = Values(a, equations, outputs, {}, set(), {}, {}, paths, constants, {}, {})
    for i, shape in enumerate(program.shapes):
        values.shapes[i] = shape
        values.leaves[i] = frozenset(paths[i : i + 1])
        if i < len(paths):
            a.forms[i] = a.plain(a.atom(shape, False, values.leaves[i], "leaf", paths[i]))
        else:
            values.data.add(i)
            a.forms[i] = a.plain(a.atom(shape, True, frozenset(), "value", i))
    for variable, array in constants.items():
        values.shapes[variable], values.leaves[variable] = np.shape(array), frozenset()
        number = _number(array) if np.size(array) <= 1 << 16 and not _is_key(array) else None
        if number is not None and np.isfinite(number):
            a.forms[variable] = values.known(np.asarray(number, np.asarray(array).dtype), np.shape(array))
            a.numbers[variable] = number
        else:
            a.forms[variable] = a.plain(a.atom(np.shape(array), False, frozenset(), "value", variable))
    for k, eqn in enumerate(equations):
        read = [v for v in eqn.inputs if not isinstance(v, Known)]
        leaves = frozenset().union(*(values.leaves[v] for v in read))
        data = any(v in values.data for v in read)
        for v in set(read):
            values.readers.setdefault(v, []).append(k)
        for i, v in enumerate(eqn.outputs):
            values.shapes[v], values.leaves[v], values.made[v] = eqn.output_shapes[i], leaves, k
            if data:
                values.data.add(v)
        forms = _forms(values, eqn) if is_real(eqn.output_dtypes[0]) else None
        for i, v in enumerate(eqn.outputs):
            form = forms[i] if forms is not None else None
            if form is None or len(form) > 1 or any(len(t[0]) > MAX_FACTORS for t in form):
                atom = a.atom(eqn.output_shapes[i], data, leaves, "value", v)
                if eqn.name in ADDED:
                    a.parts[atom] = _sum(values, eqn)
                    a.learn(atom)
                form = a.plain(atom)
            a.forms[v] = form
        if eqn.name in ("broadcast_in_dim", "convert_element_type", "reshape", "copy", "stop_gradient"):
            number = values.number(eqn.inputs[0])
            if number is not None:
                a.numbers[eqn.outputs[0]] = number
    return values


def _is_key(array: Any) -> bool:
    return np.dtype(object) == getattr(array, "dtype", None) or "key" in str(getattr(array, "dtype", ""))


def _operand(values: Values, eqn: Equation, i: int) -> Poly:
    return values.form(eqn.inputs[i], eqn.input_shapes[i])


def _sum(values: Values, eqn: Equation) -> Poly:
    """A sum of two values, multiplied out once."""
    total: Poly = {}
    for i in range(2):
        form = spread(values.algebra, _operand(values, eqn, i), eqn.input_shapes[i], eqn.output_shapes[0])
        add_to(total, form, -1 if eqn.name == "sub" and i else 1)
    return total


def _forms(values: Values, eqn: Equation) -> list[Poly] | None:
    """The outputs of an operation as products, or None where they are none."""
    a = values.algebra
    try:
        if eqn.name in LINEAR:
            return LINEAR[eqn.name](a, eqn, [_operand(values, eqn, 0)])
        if eqn.name == "mul":
            return [multiplied(a, eqn, _operand(values, eqn, 0), _operand(values, eqn, 1))]
        if eqn.name == "dot_general":
            return [contracted(a, eqn, _operand(values, eqn, 0), _operand(values, eqn, 1))]
        if eqn.name == "div":
            inverse = a.power(_operand(values, eqn, 1), -ONE)
            return None if inverse is None else [multiplied(a, eqn, _operand(values, eqn, 0), inverse)]
        if eqn.name in POWERS or eqn.name == "integer_pow":
            power = a.power(_operand(values, eqn, 0), POWERS.get(eqn.name) or Fraction(eqn.options["y"]))
            return None if power is None else [power]
        if eqn.name in ADDED:
            total = _sum(values, eqn)
            return [total] if len(total) <= 1 else None
        if eqn.name == "conv_general_dilated":
            patches = _patches(values, eqn)
            return None if patches is None else [convolved(a, eqn, patches, _operand(values, eqn, 1))]
        if eqn.name == "gather":
            return [looked_up(a, eqn, _operand(values, eqn, 0), _index(values, eqn))]
    except Unfit:
        return None
    return None


POWERS = {"square": Fraction(2), "sqrt": HALF, "rsqrt": -HALF}


def _index(values: Values, eqn: Equation) -> int:
    """The atom of the positions of a gather."""
    v = eqn.inputs[1]
    if isinstance(v, Known):
        return values.algebra.atom(eqn.input_shapes[1], True, frozenset(), "array", values.keep(v.value))
    # It counts as data even where it is not: what is looked up is then never asked to be computed.
    return values.algebra.atom(eqn.input_shapes[1], True, values.leaves[v], "index", v)


def _patches(values: Values, eqn: Equation) -> int | None:
    o = eqn.options
    if o["feature_group_count"] != 1 or o["batch_group_count"] != 1 or isinstance(eqn.inputs[0], Known):
        return None
    x, spec = eqn.inputs[0], o["dimension_numbers"]
    shape, size, out = *eqn.input_shapes, eqn.output_shapes[0]
    window = [size[i] for i in spec.rhs_spec[2:]]
    positions = [out[i] for i in spec.out_spec[2:]]
    told = tuple(str(o[k]) for k in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"))
    key = (x, *window, told, spec.lhs_spec)
    whole = (shape[spec.lhs_spec[0]], *positions, *window, shape[spec.lhs_spec[1]])
    return values.algebra.atom(whole, True, values.leaves[x], "patches", key)


def spread(a: Algebra, poly: Poly, shape: Sequence[int], wanted: Sequence[int]) -> Poly:
    """An operand in the shape of the result of an elementwise operation."""
    if tuple(shape) == tuple(wanted) or not poly:
        return poly
    if not shape:
        return lift(a, poly, lambda f, out: (f, [full(n) for n in wanted], ()))

    def change(factors: list[Factor], out: Out):
        return factors, [e if m == n else full(n) for e, m, n in zip(out, shape, wanted, strict=True)], ()

    return lift(a, poly, change)


def shifted(values: Values, eqn: Equation, shifts: list[Poly]) -> list[Poly]:
    """The shifts of the outputs of an operation, to first order, from those of its inputs.

    Raises:
      Unfit: there is no rule by which the shift could go on.
    """
    a, name = values.algebra, eqn.name
    shape = eqn.output_shapes[0]

    def base(i: int) -> Poly:
        return _operand(values, eqn, i)

    def times(x: Poly, y: Poly) -> Poly:
        joined = [(i, i, n) for i, n in enumerate(shape)]
        return a.product(x, y, joined, [(0, i) for i in range(len(shape))])

    def alike() -> bool:
        first, *others = (spread(a, s, m, shape) for s, m in zip(shifts, eqn.input_shapes, strict=True))
        return all(s == first for s in others)

    if name in LINEAR:
        return LINEAR[name](a, eqn, shifts[:1])
    if name in ADDED:
        total: Poly = {}
        for i in range(2):
            moved = spread(a, shifts[i], eqn.input_shapes[i], shape)
            add_to(total, moved, -1 if name == "sub" and i else 1)
        return [total]
    if name in ("mul", "dot_general"):
        rule = multiplied if name == "mul" else contracted
        total = {}
        for x, y in ((shifts[0], base(1)), (base(0), shifts[1])):
            if x and y:
                add_to(total, rule(a, eqn, x, y))
        return [total]
    if name == "div":
        inverse = a.power(base(1), -ONE)
        if inverse is None:
            raise Unfit("a quotient by no product")
        total = multiplied(a, eqn, shifts[0], inverse) if shifts[0] else {}
        if shifts[1]:
            second = a.power(base(1), Fraction(-2))
            joined = [(i, i, n) for i, n in enumerate(eqn.input_shapes[1])]
            axes = [(0, i) for i in range(len(joined))]
            assert second is not None
            moved = a.product(shifts[1], second, joined, axes)
            add_to(total, multiplied(a, eqn, base(0), moved), -1)
        return [total]
    if name in POWERS or name == "integer_pow":
        exponent = POWERS.get(name) or Fraction(eqn.options["y"])
        # z^p moves by p z^(p-1); where z is no product, by p z^p z^(-1), if that is one.
        slope = base(0) if exponent == 2 else a.power(base(0), exponent - 1)
        if slope is None:
            raise Unfit("a root of no product")
        return [scaled(times(shifts[0], slope), exponent)]
    if name == "exp":
        return [times(shifts[0], a.forms[eqn.outputs[0]])]
    if name == "log":
        slope = a.power(base(0), -ONE)
        if slope is None:
            raise Unfit("a logarithm of no product")
        return [times(shifts[0], slope)]
    if name in ("max", "min"):
        bottom = -np.inf if name == "max" else np.inf
        for i in range(2):
            if values.number(eqn.inputs[1 - i]) == bottom:
                return [spread(a, shifts[i], eqn.input_shapes[i], shape)]
        if alike():
            return [spread(a, shifts[0], eqn.input_shapes[0], shape)]
        raise Unfit("its operands do not move alike")
    if name in ("reduce_max", "reduce_min"):
        axes = set(eqn.options["axes"])
        if not constant_along(shifts[0], list(axes), eqn.input_shapes[0]):
            raise Unfit("what it compares does not move alike")
        return [lift(a, shifts[0], lambda f, out: (f, [e for i, e in enumerate(out) if i not in axes], ()))]
    if name in UNCHANGED:
        axes = list(eqn.options.get("axes", ()))
        if not constant_along(shifts[0], axes, eqn.input_shapes[0]):
            raise Unfit("what it compares does not move alike")
        return [{}]
    if name in COMPARED:
        if not alike():
            raise Unfit("its operands do not move alike")
        return [{}]
    if name == "select_n":
        return [_selected(values, eqn, shifts)]
    if name == "gather":
        if shifts[1]:
            raise Unfit("positions that move")
        return [looked_up(a, eqn, shifts[0], _index(values, eqn))]
    if name == "conv_general_dilated":
        patches = _patches(values, eqn)
        if shifts[0] or patches is None:
            raise Unfit("a convolution")
        return [convolved(a, eqn, patches, shifts[1])]
    if name in ("concatenate", "stack_steps"):
        return [_joined(values, eqn, shifts)]
    if name in ("rev", "sort") and len(shifts) == 1:
        return along_axis(a, eqn, shifts)
    if name == "dynamic_slice":
        if any(shifts[1:]):
            raise Unfit("positions that move")
        poly = shifts[0]
        for axis, (n, m) in enumerate(zip(eqn.input_shapes[0], shape, strict=True)):
            if n != m:
                if not constant_along(poly, [axis], eqn.input_shapes[0]):
                    raise Unfit("a slice at a position that is not known")
                poly = resized(a, poly, axis, m)
        return [poly]
    raise Unfit("an operation that no shift passes")


def _selected(values: Values, eqn: Equation, shifts: list[Poly]) -> Poly:
    """A choice between cases: one that is as good as minus infinity moves along with the others."""
    a, shape = values.algebra, eqn.output_shapes[0]
    if shifts[0]:
        raise Unfit("a choice that depends on it")
    cases = list(enumerate(zip(eqn.inputs[1:], shifts[1:], strict=True)))
    kept = [(i, s) for i, (v, s) in cases if s or not _masked(values.number(v))]
    if len(cases) == 2 and _where_finite(values, eqn):
        kept = [case for case in kept if case[0] == 1]
    if all(s == kept[0][1] for _, s in kept):
        return kept[0][1]
    total: Poly = {}
    for i, s in kept:
        v = eqn.inputs[0]
        key = ("array", values.keep(v.value)) if isinstance(v, Known) else v
        data = not isinstance(v, Known) and v in values.data
        leaves = frozenset() if isinstance(v, Known) else values.leaves[v]
        atom = a.atom(eqn.input_shapes[0], data, leaves, "case", (key, i))
        chosen = spread(a, a.plain(atom), eqn.input_shapes[0], shape)
        joined = [(k, k, n) for k, n in enumerate(shape)]
        add_to(total, a.product(s, chosen, joined, [(0, k) for k in range(len(shape))]))
    return total


def _where_finite(values: Values, eqn: Equation) -> bool:
    """Whether it is a value where that is finite and another where nothing finite comes out anyway."""
    chooser = eqn.inputs[0]
    if isinstance(chooser, Known) or chooser not in values.made:
        return False
    test = values.equations[values.made[chooser]]
    return test.name == "is_finite" and test.inputs[0] == eqn.inputs[2]


def _masked(number: float | None) -> bool:
    return number is not None and number <= MASKED


def _joined(values: Values, eqn: Equation, shifts: list[Poly]) -> Poly:
    """A concatenation, or steps of a scan next to each other."""
    a, stacked = values.algebra, eqn.name == "stack_steps"
    axis = 0 if stacked else eqn.options["dimension"]
    size = eqn.output_shapes[0][axis]
    if stacked:
        if all(s == shifts[0] for s in shifts):
            return lift(a, shifts[0], lambda f, out: (f, [full(size), *out], ()))
        total: Poly = {}
        for k, s in enumerate(shifts):
            add_to(total, lift(a, s, lambda f, out, k=k: (f, [(k, ()), *out], ())))
        return total
    if all(constant_along(s, [axis], shape) for s, shape in zip(shifts, eqn.input_shapes, strict=True)):
        whole = [resized(a, s, axis, size) for s in shifts]
        if all(s == whole[0] for s in whole):
            return whole[0]
    total, start = {}, 0
    for s, shape in zip(shifts, eqn.input_shapes, strict=True):

        def change(factors: list[Factor], out: Out, start: int = start):
            moved = (out[axis][0] + start, out[axis][1])
            return factors, [moved if i == axis else e for i, e in enumerate(out)], ()

        add_to(total, lift(a, s, change))
        start += shape[axis]
    return total


def supported(poly: Poly, shape: Sequence[int]) -> bool:
    """Whether all terms reach over whole axes."""
    return all(e[0] == 0 and extent(e[1]) == n for _, out in poly for e, n in zip(out, shape, strict=True))
