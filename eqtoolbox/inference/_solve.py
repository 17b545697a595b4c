"""From the spaces and equations of an analysis to the groups, and to a `Symmetry`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from eqtoolbox.groups import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Product,
    Scaling,
    SignFlip,
    Stabiliser,
    Trivial,
    UnitGroup,
    Wreath,
)
from eqtoolbox.inference._analysis import Analysis, Value
from eqtoolbox.inference._exact import (
    Form,
    Parity,
    Variable,
    add,
    echelon,
    in_span,
    parity_echelon,
    parity_solutions,
    solutions,
)
from eqtoolbox.symmetry import Symmetry

#: Equations of a space up to which the one that leaves no solution is looked for.
EXPLAINED_ROWS = 200
#: Operations that make axes move alike, and so rarely are why nothing moves.
LINKING = ("add", "sub", "mul", "dot_general", "conv_general_dilated", "concatenate", "select_n")


@dataclass
class Space:
    """What is known of one space at the end.

    Attributes:
      node: its number.
      size: units.
      variables: of the leaf axes it is on, pairs (path, variable).
      scales: generators of scalings: exponents on these variables.
      signs: generators of signs: the variables that flip.
      step_scales: pairs (space of the steps of a scan, generator) of scalings, one for each step.
      step_signs: the same for signs.
      steps: the sizes of the scans behind these.
      pins: why it is not permuted; empty if it is.
      iso: 2 for any matrix, 1 for those that fix the ones vector, 0 for none.
      lost: why not more.
      group: the group of one copy.
      torus: of a space that is not permuted, the scalings and signs of one unit where they are several.
      parent: the space it depends on, or None.
      name: in labels.
    """

    node: int
    size: int
    variables: list[tuple[str, Variable]] = field(default_factory=list)
    scales: list[Form] = field(default_factory=list)
    signs: list[Parity] = field(default_factory=list)
    step_scales: list[tuple[int, Form]] = field(default_factory=list)
    step_signs: list[tuple[int, Parity]] = field(default_factory=list)
    steps: dict[int, int] = field(default_factory=dict)
    pins: list[str] = field(default_factory=list)
    iso: int = 0
    lost: list[str] = field(default_factory=list)
    group: Group | None = None
    torus: Monomial | None = None
    parent: int | None = None
    name: str = ""


def find_spaces(analysis: Analysis, leaves: dict[str, Value]) -> dict[int, Space]:
    """The spaces on the axes of the leaves, with their scalings and signs."""
    spaces: dict[int, Space] = {}
    for path, value in leaves.items():
        for atom in value.atoms:
            assert atom.node is not None
            own = analysis.spaces[atom.node]
            space = spaces.setdefault(
                atom.node,
                Space(atom.node, atom.size, pins=own.pins, iso=own.iso, lost=own.lost),
            )
            (variable,) = atom.q
            space.variables.append((path, variable))
    linear = _by_variable([form for form, _ in analysis.rows])
    odd = _by_variable([parity for parity, _ in analysis.odd_rows])
    for space in spaces.values():
        names = [v for _, v in space.variables]
        rows, odd_rows = _reaching(linear, names), _reaching(odd, names)
        space.scales, space.signs = solutions(rows, names), parity_solutions(odd_rows, names)
        _split_steps(analysis, leaves, space, rows, odd_rows)
        space.group = _group(space)
    return spaces


def why_no_torus(analysis: Analysis, space: Space) -> tuple[str, str]:
    """What took the scalings of a space away, and what its signs; empty where it has some.

    The first operation without whose equations there would be a solution, or else the first; those that only make
    axes move alike do not count.
    """
    names = [v for _, v in space.variables]
    scales = "" if space.scales or space.step_scales else _culprit(analysis.rows, names, solutions)
    signs = "" if space.signs or space.step_signs else _culprit(analysis.odd_rows, names, parity_solutions)
    return scales, signs


def _culprit(rows: list, names: list[Variable], solve: Callable[[list, list[Variable]], list]) -> str:
    found = _reaching(_by_variable([form for form, _ in rows]), names)
    near = [(form, reason) for form, reason in rows if any(form is other for other in found)]
    if len(near) > EXPLAINED_ROWS:
        return ""
    reasons = list(dict.fromkeys(reason for _, reason in near))
    suspects = [reason for reason in reasons if reason.split(" ")[0] not in LINKING] or reasons
    for suspect in suspects:
        if solve([form for form, reason in near if reason != suspect], names):
            return suspect
    return suspects[0] if suspects else ""


def _split_steps(
    analysis: Analysis, leaves: dict[str, Value], space: Space, rows: list[Form], odd_rows: list[Parity]
) -> None:
    """Finds the scalings and signs that act within single steps of a scan: one for each step, not one for all.

    These are the solutions that leave the carry and every leaf that is not scanned alone.
    """
    names = [v for _, v in space.variables]
    for step, carries in analysis.steps.items():
        step = analysis.spaces.root(step)
        scanned = {p for p, value in leaves.items() if any(a.node == step for a in value.atoms)}
        own = [v for p, v in space.variables if p in scanned]
        if not own or space.node == step:
            continue
        still = {v for p, v in space.variables if p not in scanned}
        still |= {
            v for row in [*rows, *odd_rows] for v in row if v[0] == "aux" and tuple(v[1:]) and _of(v, carries)
        }
        inner = solutions([*rows, *({v: Fraction(1)} for v in still)], own)
        flips = parity_solutions([*odd_rows, *(frozenset({v}) for v in still)], own)
        if len(own) == len(names) and not any(_of(v, carries) for row in rows for v in row if v[0] == "aux"):
            continue  # wholly inside the steps: its group is another one in each
        space.steps[step] = analysis.spaces[step].size
        space.step_scales += [(step, form) for form in inner]
        space.step_signs += [(step, parity) for parity in flips]
        space.scales = _modulo(space.scales, inner, names)
        space.signs = _parity_modulo(space.signs, flips, names)


def _of(variable: Variable, carries: set[tuple]) -> bool:
    """Whether a variable belongs to the carry of a scan."""
    return any(variable[1 : 1 + len(key)] == key for key in carries)


def _modulo(vectors: list[Form], inner: list[Form], order: list[Variable]) -> list[Form]:
    """The vectors that extend a basis of ``inner`` to one of all."""
    kept: list[Form] = []
    for vector in vectors:
        if not in_span(vector, [*inner, *kept]):
            kept.append(vector)
    return echelon(kept, order)


def _parity_modulo(vectors: list[Parity], inner: list[Parity], order: list[Variable]) -> list[Parity]:
    kept: list[Parity] = []
    for vector in vectors:
        if len(parity_echelon([*inner, *kept, vector], order)) > len(parity_echelon([*inner, *kept], order)):
            kept.append(vector)
    return kept


def _by_variable(rows: list) -> tuple[list, dict[Variable, list[int]]]:
    where: dict[Variable, list[int]] = {}
    for i, row in enumerate(rows):
        for variable in row:
            where.setdefault(variable, []).append(i)
    return rows, where


def _reaching(indexed: tuple[list, dict[Variable, list[int]]], names: Iterable[Variable]) -> list:
    """The rows that are connected with these variables."""
    rows, where = indexed
    seen: set[int] = set()
    todo, known = list(names), set(names)
    while todo:
        for i in where.get(todo.pop(), ()):
            if i in seen:
                continue
            seen.add(i)
            for variable in rows[i]:
                if variable not in known:
                    known.add(variable)
                    todo.append(variable)
    return [rows[i] for i in sorted(seen)]


def _group(space: Space) -> Group | None:
    """The group of one copy of a space; None where nothing acts."""
    n, r, s = space.size, len(space.scales), len(space.signs)
    if space.pins:
        return _unpermuted(space)
    if space.step_scales or space.step_signs:
        return _units_only(space)
    if space.iso == 2 and r == 1 and all(abs(q) == 1 for q in _exponents(space, 0)):
        return GeneralLinear(n)
    if space.iso == 2 and r == 0 and s == 1 and len(space.signs[0]) == len(space.variables):
        return Orthogonal(n)
    if space.iso == 1 and r == 0 and n > 1:
        return Stabiliser(Orthogonal(n))
    if not r and not s:
        return Permutation(n)
    return _units_only(space)


def _unpermuted(space: Space) -> Group | None:
    """The group of a space that is not permuted; sets the torus where it is not one scaling or one sign."""
    n, r, s = space.size, len(space.scales), len(space.signs)
    steps = bool(space.step_scales or space.step_signs)
    single = not steps and r + s == 1
    torus = _monomial(replace(space, size=1), space.steps) if steps or r + s > 1 else None
    space.torus = torus if isinstance(torus, Monomial) else None
    if single:
        return PositiveScaling(n) if r else SignFlip(n)
    return Trivial(n) if space.torus else None


def _exponents(space: Space, number: int) -> list[Fraction]:
    generator = space.scales[number]
    return [generator.get(v, Fraction(0)) for _, v in space.variables]


def _generator_names(space: Space) -> tuple[list[str], list[str]]:
    """Names of the scalings and signs; one scaling and one sign that act alike share theirs: R*."""
    scales = [chr(ord("a") + i) if i < 18 else f"a{i}" for i in range(len(space.scales))]
    signs = [f"s{i}" if len(space.signs) > 1 else "s" for i in range(len(space.signs))]
    if len(scales) == len(signs) == 1 and not space.step_scales and not space.step_signs:
        odd = {v for v, q in space.scales[0].items() if q.denominator == 1 and q.numerator % 2}
        if odd == set(space.signs[0]) and all(q.denominator == 1 for q in space.scales[0].values()):
            signs = scales
    return scales, signs


def _monomial(space: Space, sizes: dict[int, int]) -> Group:
    """The permutations, scalings and signs of a space."""
    scales, signs = _generator_names(space)
    scales = [*scales, *(f"g{i}[{sizes[step]}]" for i, (step, _) in enumerate(space.step_scales))]
    signs = [*signs, *(f"z{i}[{sizes[step]}]" for i, (step, _) in enumerate(space.step_signs))]
    return Monomial(space.size, scales, signs) if scales or signs else Permutation(space.size)


def exponent_text(space: Space, variable: Variable, spaces: dict[int, Space]) -> str:
    """What the label of an axis says of the exponent."""
    group = space.torus or space.group
    if isinstance(group, Monomial):
        terms: dict[str, Fraction] = {}
        scales, signs = _generator_names(space)
        for name, generator in zip(scales, space.scales, strict=True):
            if generator.get(variable):
                terms[name] = generator[variable]
        if scales != signs:
            for name, parity in zip(signs, space.signs, strict=True):
                if variable in parity:
                    terms[name] = Fraction(1)
        for i, (step, generator) in enumerate(space.step_scales):
            if generator.get(variable):
                terms[f"g{i}[{spaces[step].name}]"] = generator[variable]
        for i, (step, parity) in enumerate(space.step_signs):
            if variable in parity:
                terms[f"z{i}[{spaces[step].name}]"] = Fraction(1)
        if len({*group.scales, *group.signs}) == 1:
            return _power(next(iter(terms.values()), Fraction(0)))
        return "{" + ",".join(f"{k}:{v}" for k, v in terms.items()) + "}" if terms else "^0"
    if isinstance(group, (GeneralLinear, PositiveScaling)):
        return _power(space.scales[0].get(variable, Fraction(0)))
    if isinstance(group, SignFlip):
        return "" if variable in space.signs[0] else "^0"
    return ""


def _power(power: Fraction) -> str:
    return "" if power == 1 else "*" if power == -1 else f"^{power}"


def dependences(analysis: Analysis, spaces: dict[int, Space]) -> dict[int, set[int]]:
    """For each space those that go with it everywhere: its group may be another one for each of their units.

    A space that a block of a value carries twice does not say for which of the two.
    """
    root = analysis.spaces.root
    found: dict[int, set[int] | None] = dict.fromkeys(spaces)
    for carried in analysis.carried:
        counts = Counter(root(n) for n in carried)
        once = {n for n, count in counts.items() if count == 1}
        for node in counts.keys() & found.keys():
            old = found[node]
            others = once - {node}
            found[node] = others if old is None else old & others
    for linked, allowed in analysis.linked:
        near = {root(n) for n in allowed}
        for node in {root(n) for n in linked} & found.keys():
            found[node] = (found[node] or set()) & near
    return {node: {d for d in (deps or ()) if d in spaces} for node, deps in found.items()}


def choose_parents(spaces: dict[int, Space], deps: dict[int, set[int]], leaves: dict[str, Value]) -> None:
    """Gives each space with a group the innermost space that it depends on."""
    order = {node: i for i, node in enumerate(spaces)}
    sums = {(path, i) for path, value in leaves.items() for i, axis in enumerate(value.axes) if len(axis) > 1}
    for node, space in spaces.items():
        if space.group is None:
            continue
        mutual = {d for d in deps[node] if node in deps[d] and order[d] > order[node]}
        options = deps[node] - mutual
        once = {d for d in options if _once(spaces[d], spaces[node], sums)}
        if once:
            space.parent = max(once, key=lambda d: (len(deps[d] & once), order[d]))
    for space in spaces.values():
        if space.parent is not None:
            outer = spaces[space.parent]
            if not isinstance(outer.group, UnitGroup):
                outer.group = Trivial(outer.size) if outer.group is None else _units_only(outer)
    for node in spaces:
        _drop_redundant(spaces, node, leaves)


def _once(outer: Space, inner: Space, sums: set[tuple[str, int]]) -> bool:
    """Whether each axis with the inner space has the outer one beside it, or once elsewhere on its leaf.

    Elsewhere it has to be on an axis that is no direct sum, of which it would be one part.
    """
    places = [(path, v[1], v[2]) for path, v in outer.variables]
    for path, v in inner.variables:
        beside = sum(place == (path, v[1], v[2]) for place in places)
        apart = [place[:2] for place in places if place[0] == path and place[1] != v[1]]
        if beside != 1 and (beside or len(apart) != 1 or apart[0] in sums):
            return False
    return True


def _units_only(space: Space) -> Group:
    """The permutations, scalings and signs among the matrices of a space."""
    return _monomial(space, space.steps)


def _drop_redundant(spaces: dict[int, Space], node: int, leaves: dict[str, Value]) -> None:
    """Drops scalings and signs of an outer space that those inside its units contain."""
    outer = spaces[node]
    inside = [s for s in spaces.values() if s.parent == node and s.group is not None]
    if not inside or not (outer.torus or isinstance(outer.group, (Monomial, PositiveScaling, SignFlip))):
        return

    blocks = [
        [next(iter(atom.q)) for segment in chosen for atom in segment]
        for value in leaves.values()
        for chosen in itertools.product(*value.axes)
    ]

    def per_block(generator: Form) -> Form:
        totals = (
            (i, sum((generator.get(v, Fraction(0)) for v in names), Fraction(0)))
            for i, names in enumerate(blocks)
        )
        return {i: total for i, total in totals if total}

    def flips(parity: Parity) -> Parity:
        return frozenset(i for i, names in enumerate(blocks) if sum(v in parity for v in names) % 2)

    span = [per_block(g) for s in inside for g in s.scales]
    outer.scales = [g for g in outer.scales if not in_span(per_block(g), span)]
    order = list(range(len(blocks)))
    odd = parity_echelon([flips(p) for s in inside for p in s.signs], order)
    outer.signs = [p for p in outer.signs if len(parity_echelon([*odd, flips(p)], order)) > len(odd)]
    if outer.pins:
        group = _unpermuted(outer)
        outer.group = group if isinstance(group, UnitGroup) else Trivial(outer.size)
    else:
        outer.group = _units_only(outer)


def whole_scalings(
    analysis: Analysis, leaves: dict[str, Value], spaces: dict[int, Space], every: bool
) -> list[Form]:
    """Scalings of whole leaves that no scaling of a space contains: exponents by path.

    One of the leaves is a single number, unless ``every`` scaling is wanted.
    """
    variables = [(path,) for path in leaves]
    rows = [form for form, _ in analysis.rows if any(len(v) == 1 or v[0] == "aux" for v in form)]
    found = [{v[0]: q for v, q in form.items()} for form in solutions(rows, variables)]
    known = []
    for space in spaces.values():
        for generator in [*space.scales, *(form for _, form in space.step_scales)]:
            total: Form = {}
            for path, variable in space.variables:
                if generator.get(variable):
                    total = add(total, {path: generator[variable]})
            known.append(total)
    scalars = [path for path, value in leaves.items() if not value.axes]
    extra: list[Form] = []
    for form in echelon(found, [*scalars, *(path for path in leaves if path not in scalars)]):
        if (every or any(path in form for path in scalars)) and not in_span(form, [*known, *extra]):
            extra.append(form)
    return extra


def build(
    analysis: Analysis, leaves: dict[str, Value], whole_leaves: bool = False
) -> tuple[Symmetry, dict[int, Space]]:
    """The symmetry that the analysis found, and its spaces."""
    spaces = find_spaces(analysis, leaves)
    choose_parents(spaces, dependences(analysis, spaces), leaves)
    wanted = {s.parent for s in spaces.values() if s.parent is not None and s.group is not None}
    wanted |= {step for s in spaces.values() for step, _ in [*s.step_scales, *s.step_signs]}
    number = 0
    for node, space in spaces.items():
        if space.group is not None or node in wanted:
            number += 1
            space.name = f"h{number}"
    scalings = whole_scalings(analysis, leaves, spaces, whole_leaves)
    axes = {}
    for path, value in leaves.items():
        parts = [_axis_text(axis, spaces) for axis in value.axes]
        whole = [f"t{i + 1}^{form[path]}" for i, form in enumerate(scalings) if form.get(path)]
        text = " ".join(parts) + (f" | {' '.join(whole)}" if whole else "")
        if whole or any(s.name and path in {p for p, _ in s.variables} for s in spaces.values()):
            axes[path] = text.strip()
    groups: dict[str | tuple[str, ...], Group] = {}
    for node, space in spaces.items():
        if space.name and space.parent is None:
            names, group = _assemble(node, spaces)
            groups[names] = group
    for i in range(len(scalings)):
        groups[f"t{i + 1}"] = Scaling(1)
    return Symmetry(axes, groups), spaces


def _axis_text(axis, spaces: dict[int, Space]) -> str:
    segments = []
    for segment in axis:
        atoms = []
        for atom in segment:
            space = spaces[atom.node]
            (variable,) = atom.q
            exponent = exponent_text(space, variable, spaces)
            one = f" {space.name}one{exponent}" if space.torus else exponent
            atoms.append(space.name + one if space.name else str(atom.size))
        segments.append(" ".join(atoms) or "1")
    text = " + ".join(segments)
    if len(segments) == 1 and " " not in text:
        return text
    return f"({text})"


def _assemble(node: int, spaces: dict[int, Space]) -> tuple[tuple[str, ...], Group]:
    """The group of a space and everything inside its units, with the names of the spaces in order."""
    space = spaces[node]
    inside = [_assemble(n, spaces) for n, s in spaces.items() if s.parent == node and s.group is not None]
    group = space.group or Trivial(space.size)
    if space.torus:
        inside = [((f"{space.name}one",), space.torus), *inside]
    if not inside:
        return (space.name,), group
    assert isinstance(group, UnitGroup)
    names = tuple(name for part, _ in inside for name in part)
    inner = inside[0][1] if len(inside) == 1 else Product(*(g for _, g in inside))
    return (space.name, *names), Wreath(inner, group)
