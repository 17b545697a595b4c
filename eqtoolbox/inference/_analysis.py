"""One pass over a program: every value with its axes, and the equations its exponents have to satisfy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from eqtoolbox.inference._exact import Form, Parity, add, scaled
from eqtoolbox.inference._jaxpr import Equation, Known, Program
from eqtoolbox.inference._spaces import Atom, Axis, Spaces, axis_size, wild


@dataclass(frozen=True)
class Value:
    """What is known of an array.

    Attributes:
      axes: one per axis.
      hidden: spaces it is indexed by without having their axis (the step of a scan).
      zero: whether it is zero everywhere, and so compatible with every scaling.
      const: its value where it is one known number.
      u: exponent of a scaling of the whole array.
      uf: the same for a sign.
    """

    axes: tuple[Axis, ...]
    hidden: frozenset[int] = frozenset()
    zero: bool = False
    const: float | None = None
    u: Form = field(default_factory=dict)
    uf: Parity = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis_size(axis) for axis in self.axes)

    @property
    def atoms(self) -> list[Atom]:
        return [atom for axis in self.axes for segment in axis for atom in segment]


Rule = Callable[["Analysis", Equation, list[Value]], Sequence[Value]]
RULES: dict[str, Rule] = {}


def register_rule(*names: str) -> Callable[[Rule], Rule]:
    """Declares the rule of primitives: (analysis, equation, input values) -> output values.

    A rule states what the operation asks of its inputs (``Analysis.still``, ``lower``, ``kill``, ``pin``, ``agree``)
    and returns the axes of its outputs. One that states too little makes wrong symmetries, which the self-check of
    ``infer_symmetry`` refuses.

    Args:
      *names: of the primitives.

    Raises:
      TypeError: there is no name, one is no string, or what is declared is no function.
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"register_rule needs the names of primitives, got {names!r}")

    def declare(rule: Rule) -> Rule:
        if not callable(rule):
            raise TypeError(f"the rule of {', '.join(names)} must be a function, got {rule!r}")
        for name in names:
            RULES[name] = rule
        return rule

    return declare


def rules() -> dict[str, Rule]:
    """The rules by name of the primitive; ``register_rule`` adds to them."""
    return RULES


class Analysis:
    """The state of the analysis of one program.

    Attributes:
      rules: by name of the primitive.
      spaces: all spaces found so far.
      rows: equations (form = 0, reason) on the exponents of scalings.
      odd_rows: the same for signs.
      carried: for every block of a value the spaces that it carries, as often as it does.
      unknown: operations without a rule.
      negligible: numbers up to this size are taken for zero where something is added to them or compared with them.
      neglected: those so taken, with the operation and source line.
    """

    def __init__(self, rules: Mapping[str, Rule], negligible: float = 0.0) -> None:
        self.rules = rules
        self.negligible = negligible
        self.neglected: dict[str, float] = {}
        self.spaces = Spaces()
        self.kept: dict[Any, int] = {}
        self.unknown: dict[str, str] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets what is built anew in every pass."""
        self.rows: list[tuple[Form, str]] = []
        self.odd_rows: list[tuple[Parity, str]] = []
        self.carried: list[tuple[int, ...]] = []
        self.linked: list[tuple[frozenset[int], frozenset[int]]] = []
        self.steps: dict[int, set[tuple[Any, ...]]] = {}
        self.path: tuple[Any, ...] = ()
        self.reason = ""
        self.within = ""
        self.misfits = 0
        self.spaces.changed = False

    # Values.

    def node(self, key: Any, size: int) -> int:
        """The space kept for a key over all passes."""
        if key not in self.kept:
            self.kept[key] = self.spaces.new(size)
        return self.kept[key]

    def fixed_axis(self, key: Any, size: int, reason: str) -> Axis:
        """A new axis on which nothing acts."""
        if size == 1:
            return ((),)
        node = self.node((*self.path, key), size)
        self.spaces.pin(node, reason)
        self.spaces.lower(node, 0, reason)
        return ((Atom(node, size),),)

    def leaf(self, key: Any, shape: tuple[int, ...]) -> Value:
        """A parameter: each atom of its axes has a variable of its own."""
        axes = []
        for i, size in enumerate(shape):
            node = self.node(("leaf", key, i), size)
            axis = self.spaces.normal(((Atom(node, size),),) if size > 1 else ((),))
            axes.append(self.named(axis, (key, i)))
        return self.named_whole(Value(tuple(axes)), (key,))

    def named(self, axis: Axis, key: tuple[Any, ...]) -> Axis:
        """An axis whose atoms have exponents of their own."""
        return tuple(
            tuple(
                replace(atom, q={(*key, s, i): Fraction(1)}, f=frozenset({(*key, s, i)}))
                for i, atom in enumerate(segment)
            )
            for s, segment in enumerate(axis)
        )

    def named_whole(self, value: Value, key: tuple[Any, ...]) -> Value:
        """A value with exponents of its own as a whole."""
        return replace(value, u={key: Fraction(1)}, uf=frozenset({key}))

    def constant(self, array: Any, key: Any) -> Value:
        """A constant array: free along the axes on which it does not vary."""
        x = np.asarray(array) if not hasattr(array, "dtype") or _plain(array) else None
        if x is None or x.dtype == object:
            return Value(
                tuple(self.fixed_axis((key, i), n, "a constant") for i, n in enumerate(np.shape(array)))
            )
        axes = []
        for i, size in enumerate(x.shape):
            uniform = size == 1 or bool(np.all(x == np.take(x, [0], axis=i)))
            axes.append(wild(size) if uniform else self.fixed_axis((key, i), size, "an array that varies"))
        number = (
            float(x.reshape(-1)[0]) if x.size and x.dtype != bool and np.all(x == x.reshape(-1)[0]) else None
        )
        return Value(tuple(axes), zero=number == 0, const=number)

    def blank(self, shape: tuple[int, ...], key: Any, reason: str) -> Value:
        """A value with fixed axes only."""
        return Value(tuple(self.fixed_axis((key, i), n, reason) for i, n in enumerate(shape)))

    # Equations.

    def equal(self, a: Form, b: Form) -> None:
        """The equation a = b on exponents of scalings."""
        self.zero_form(add(a, b, -1))

    def zero_form(self, form: Form) -> None:
        if form:
            self.rows.append((form, self.reason))

    def zero_parity(self, parity: Parity) -> None:
        if parity:
            self.odd_rows.append((parity, self.reason))

    def still(self, atom: Atom, *, scale: bool = True, sign: bool = True) -> None:
        """Nothing but permutations acts on this atom."""
        if scale:
            self.zero_form(atom.q)
        if sign:
            self.zero_parity(atom.f)

    def link(self, linked: set[int], *values: Value) -> None:
        """Notes that an operation sums over spaces or multiplies along them, with operands that carry others."""
        hidden = frozenset.intersection(*(v.hidden for v in values)) if values else frozenset()
        self.linked.append((frozenset(linked), frozenset(linked) | hidden))

    def whole_still(self, value: Value, *, scale: bool = True, sign: bool = True) -> None:
        if scale:
            self.zero_form(value.u)
        if sign:
            self.zero_parity(value.uf)

    def lower(self, value: Value, level: int = 0) -> None:
        for atom in value.atoms:
            self.spaces.lower(atom.node, level, self.reason)

    def kill(self, value: Value, *, scale: bool = True, sign: bool = True) -> None:
        """The value goes through something that only permutations commute with."""
        self.lower(value)
        for atom in value.atoms:
            self.still(atom, scale=scale, sign=sign)
        self.whole_still(value, scale=scale, sign=sign)

    def pin(self, value: Value, reason: str) -> None:
        """The value goes through something that nothing commutes with."""
        for axis in value.axes:
            self.spaces.pin_axis(axis, reason)
        for node in value.hidden:
            self.spaces.pin(node, reason)
        self.kill(value)

    def plain(self, value: Value) -> Value:
        """The value, whose products unit by unit are not summed: they end the isotropy of their spaces."""
        for atom in value.atoms:
            if atom.quad:
                self.spaces.lower(atom.node, 0, self.reason)
        return value

    # Elementwise.

    def without_eps(self, value: Value) -> Value:
        """The value, or zero if it is one number that is to be neglected."""
        if value.const is None or not 0 < abs(value.const) <= self.negligible:
            return value
        self.neglected[self.reason] = value.const
        return replace(value, zero=True, const=0.0)

    def spread(self, value: Value, shape: tuple[int, ...]) -> Value:
        """An operand in the shape of the result: scalars and axes of size 1 do not vary."""
        axes = value.axes or tuple(((),) for _ in shape)
        grown = (x if axis_size(x) == n else wild(n) for x, n in zip(axes, shape, strict=True))
        return replace(value, axes=tuple(grown))

    def normal(self, axis: Axis) -> Axis:
        """An axis in terms of spaces that are not refined; nothing acts on factors that this takes apart."""
        for atom in self.spaces.lost(axis):
            self.still(atom)
        return self.spaces.normal(axis)

    def align(self, a: Axis, b: Axis) -> list[tuple[tuple[Atom, Atom], ...]]:
        """The pairs of atoms of two axes that an operation makes one, segment by segment.

        Axes that cannot be cut alike are pinned, nothing acts on them, and the result is another pinned axis.
        """
        pairs = self.spaces.align(a, b, self.reason)
        left, right = self.normal(a), self.normal(b)
        if pairs is not None:
            return pairs
        for axis in (left, right):
            self.spaces.pin_axis(axis, self.reason)
            for segment in axis:
                for atom in segment:
                    self.still(atom)
        self.misfits += 1
        fixed = self.fixed_axis(("misfit", self.misfits, axis_size(a)), axis_size(a), self.reason)
        return [tuple((atom, atom) for atom in segment) for segment in fixed]

    def pairs(self, a: Value, b: Value) -> list[list[tuple[tuple[Atom, Atom], ...]]]:
        """The aligned atoms of two arrays of one shape, axis by axis."""
        return [self.align(x, y) for x, y in zip(a.axes, b.axes, strict=True)]

    def aligned(self, a: Value, b: Value, combine: Callable[[Atom, Atom], Atom]) -> tuple[Axis, ...]:
        """The axes of the result of an elementwise operation."""
        return tuple(
            tuple(tuple(combine(x, y) for x, y in segment) for segment in axis) for axis in self.pairs(a, b)
        )

    def agree(self, a: Value, b: Value) -> Value:
        """Two values that are added, or of which one is chosen: they must move alike."""

        def combine(x: Atom, y: Atom) -> Atom:
            if a.zero or b.zero:
                return (y if a.zero else x) if (y if a.zero else x).node is not None else (x if a.zero else y)
            if x.node is None and y.node is None:
                return x
            if x.node is None or y.node is None:
                moving = y if x.node is None else x
                self.still(moving)
                self.spaces.lower(moving.node, 0 if moving.quad else 1, self.reason)
                return moving
            self.equal(x.q, y.q)
            self.zero_parity(x.f ^ y.f)
            if x.quad != y.quad:
                self.spaces.lower(x.node, 0, self.reason)
            return x

        axes = self.aligned(a, b, combine)
        main = b if a.zero else a
        if not (a.zero or b.zero):
            self.equal(a.u, b.u)
            self.zero_parity(a.uf ^ b.uf)
        return Value(axes, a.hidden | b.hidden, a.zero and b.zero, None, main.u, main.uf)

    def multiplied(self, a: Value, b: Value, sign: int = 1) -> Value:
        """The product a * b, or the quotient for ``sign`` -1."""

        def combine(x: Atom, y: Atom) -> Atom:
            if x.node is None and y.node is None:
                return x
            quad = False
            if y.node is None:
                quad = x.quad
            elif x.node is None:
                quad = y.quad
            elif x.quad or y.quad:
                self.spaces.lower(x.node, 0, self.reason)
            else:
                quad = True
            if sign < 0 and y.node is not None:
                self.spaces.lower(y.node, 0, self.reason)
            kept = x if x.node is not None else y
            return replace(kept, q=add(x.q, y.q, sign), f=x.f ^ y.f, quad=quad)

        axes = self.aligned(a, b, combine)
        return Value(
            axes,
            a.hidden | b.hidden,
            a.zero or (b.zero and sign > 0),
            None,
            add(a.u, b.u, sign),
            a.uf ^ b.uf,
        )

    def mapped(self, value: Value, factor: Any, *, sign: str, quad: bool = False) -> Value:
        """A power of the value: exponents times ``factor``; signs kept, dropped or forbidden."""

        def one(atom: Atom) -> Atom:
            if sign == "none":
                self.still(atom, scale=False)
            if atom.node is not None and (not quad or atom.quad):
                self.spaces.lower(atom.node, 0, self.reason)
            f = atom.f if sign == "keep" else frozenset()
            return replace(atom, q=scaled(atom.q, factor), f=f, quad=quad)

        axes = tuple(tuple(tuple(one(a) for a in segment) for segment in axis) for axis in value.axes)
        if sign == "none":
            self.whole_still(value, scale=False)
        uf = value.uf if sign == "keep" else frozenset()
        return replace(value, axes=axes, const=None, zero=False, u=scaled(value.u, factor), uf=uf)

    # Running.

    def run(self, program: Program, inputs: Sequence[Value]) -> list[Value]:
        """The values of the outputs of a program."""
        env: dict[Any, Value] = {}
        for i, (variable, array) in enumerate(program.constants):
            env[variable] = self.constant(array, ("const", i))
        for variable, value in zip(program.inputs, inputs, strict=True):
            env[variable] = value
        outer = self.path
        for i, equation in enumerate(program.equations):
            self.path, self.misfits = (*outer, i), 0
            values = [self._read(env, v, j) for j, v in enumerate(equation.inputs)]
            self.reason = f"{equation.name} {equation.source or self.within}".strip()
            for variable, value in zip(equation.outputs, self.apply(equation, values), strict=True):
                env[variable] = value
                self.note(value)
        self.path = outer
        return [self._read(env, v, ("out", j)) for j, v in enumerate(program.outputs)]

    def apply(self, equation: Equation, values: list[Value]) -> Sequence[Value]:
        """The rule of an equation, or the one for unknown operations."""
        values = [replace(v, axes=tuple(self.normal(axis) for axis in v.axes)) for v in values]
        rule = self.rules.get(equation.name)
        result = rule(self, equation, values) if rule else None
        return self.opaque(equation, values) if result is None else result

    def opaque(self, equation: Equation, values: list[Value]) -> list[Value]:
        """Pins everything that goes in and comes out."""
        moving = [
            v for v in values if any(a.node is not None and not self.spaces[a.node].pins for a in v.atoms)
        ]
        if moving or any(v.u or v.uf or any(a.q or a.f for a in v.atoms) for v in values):
            self.unknown[equation.name] = equation.source
        for value in values:
            self.pin(value, f"unknown operation {self.reason}")
        hidden = frozenset().union(*(v.hidden for v in values)) if values else frozenset()
        return [
            replace(self.blank(shape, ("opaque", i), f"unknown operation {self.reason}"), hidden=hidden)
            for i, shape in enumerate(equation.output_shapes)
        ]

    def _read(self, env: dict[Any, Value], variable: Any, key: Any) -> Value:
        if isinstance(variable, Known):
            return self.constant(variable.value, ("literal", key))
        return env[variable]

    def note(self, value: Value) -> None:
        """Notes which spaces the blocks of a value carry together: one segment of each of its axes."""
        for segments in itertools.product(*value.axes):
            nodes = (atom.node for segment in segments for atom in segment if atom.node is not None)
            self.carried.append((*nodes, *value.hidden))


def _plain(array: Any) -> bool:
    try:
        return np.dtype(array.dtype).kind in "biufc"
    except TypeError:
        return False
