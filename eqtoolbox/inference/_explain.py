"""Why each space has its group: what took a larger one away, and where."""

from __future__ import annotations

from dataclasses import dataclass

from eqtoolbox.groups import Trivial, Wreath
from eqtoolbox.inference._analysis import Analysis, Value
from eqtoolbox.inference._solve import Space, why_no_torus
from eqtoolbox.symmetry import Symmetry


@dataclass(frozen=True)
class SpaceReport:
    """One space.

    Attributes:
      name: in the labels; empty where nothing acts.
      size: units.
      group: as text.
      inside: the name of the space each of whose units has a group of its own here, or empty.
      lost: larger groups and what took them away, such as "O(8): reduce_sum normalization.py:122 <- model.py:61":
        the operation and its source line, and the line of your code that leads there.
      pinned: what took the permutations away, or empty.
      leaves: the leaf axes it is on.
    """

    name: str
    size: int
    group: str
    inside: str
    lost: tuple[str, ...]
    pinned: str
    leaves: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Why an inferred symmetry is what it is.

    Attributes:
      spaces: those on which a group acts.
      pinned: those on which none acts.
      unknown: operations without a rule, with the source line of one use.
      untouched: leaves on which no group acts.
      dimension: of the group.
      orbit_dimension: of the orbits of generic parameters: less where a part of the group leaves them alone. None where
        the matrix of generators is too large to find out.
    """

    spaces: tuple[SpaceReport, ...]
    pinned: tuple[SpaceReport, ...]
    unknown: tuple[tuple[str, str], ...]
    untouched: tuple[str, ...]
    dimension: int
    orbit_dimension: int | None = None

    def __str__(self) -> str:
        known = self.orbit_dimension is not None
        orbits = f", orbits of dimension {self.orbit_dimension}" if known else ""
        lines = [f"group of dimension {self.dimension}{orbits}"]
        for space in self.spaces:
            inside = f", one for each {space.inside}" if space.inside else ""
            lines.append(f"{space.name} ({space.size}): {space.group}{inside}")
            lines.append(f"  on {', '.join(space.leaves)}")
            lines += [f"  lost {text}" for text in space.lost]
            lines += [f"  not permuted: {space.pinned}"] if space.pinned else []
        for space in self.pinned:
            lines.append(f"pinned ({space.size}): {space.pinned}; on {', '.join(space.leaves)}")
        lines += [
            f"unknown operation {name} at {source or 'an unknown line'}" for name, source in self.unknown
        ]
        if self.untouched:
            lines.append(f"no group acts on {', '.join(self.untouched)}")
        return "\n".join(lines)


def _lost(analysis: Analysis, space: Space) -> tuple[str, ...]:
    """The larger groups that a space might have had, and why it has not."""
    if space.group is None:
        return ()
    n, scales, signs = space.size, *why_no_torus(analysis, space)
    matrices = [f"GL({n})" if space.scales else f"O({n})", f"O({n}) fixing 1"]
    found = [f"{group}: {reason}" for group, reason in zip(matrices, space.lost, strict=False)]
    found += [f"scalings: {scales}"] if scales else []
    return tuple(found + ([f"signs: {signs}"] if signs else []))


def _group_text(space: Space) -> str:
    if space.torus is not None:
        return str(Wreath(space.torus, Trivial(space.size)))
    return "" if space.group is None else str(space.group)


def explanation(
    sym: Symmetry, spaces: dict[int, Space], analysis: Analysis, leaves: dict[str, Value]
) -> Explanation:
    """The explanation of what ``build`` returned."""
    acted, pinned = [], []
    for space in spaces.values():
        report = SpaceReport(
            space.name,
            space.size,
            _group_text(space),
            spaces[space.parent].name if space.parent is not None and space.group is not None else "",
            _lost(analysis, space),
            space.pins[0] if space.pins else "",
            tuple(f"{path}[{variable[1]}]" for path, variable in space.variables),
        )
        (pinned if space.group is None else acted).append(report)
    touched = {path for space in spaces.values() if space.group is not None for path, _ in space.variables}
    scaled = {path for path, text in sym.axes.items() if "|" in text}
    return Explanation(
        tuple(acted),
        tuple(pinned),
        tuple(analysis.unknown.items()),
        tuple(path for path in leaves if path not in touched | scaled),
        sym.dimension,
    )
