"""`audit`: how much of the symmetry of a level set the known symmetry explains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from eqtoolbox.discovery._axes import axis_family
from eqtoolbox.discovery._families import Family, linear_family, real_leaves, translation_family
from eqtoolbox.discovery._novelty import Novelty, novelty
from eqtoolbox.discovery._null_space import NullSpace, needs, null_space
from eqtoolbox.linalg import check_integer, float64
from eqtoolbox.symmetry import Symmetry, check_symmetry, orbit_dimension

Params = Any


@dataclass(frozen=True)
class Certificate:
    """A statement with the number that decides it.

    Attributes:
      statement: what holds, in words.
      value: what was measured.
      bound: what it must be at most, or at least.
      at_least: which of the two.
    """

    statement: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it does; never for NaN."""
        return bool(self.value >= self.bound if self.at_least else self.value <= self.bound)


@dataclass(frozen=True)
class Audit:
    """What is known, what is there, and what was found.

    Attributes:
      parameters: p.
      level_set: the dimension of the set of parameters of the same outputs through θ, p − rank D_θf; None where p is
        above ``limit``, because a rank of the order of p takes a factor of p² numbers, with a sketch as without.
      orbit: the dimension of the known orbit through θ, part of that set.
      found: the symmetries found in a family.
      novelty: these compared with the known ones; None where none is known.
      certificates: why to believe the numbers.
      limit: the largest p at which the level set was to be measured.
    """

    parameters: int
    level_set: int | None
    orbit: int
    found: NullSpace = field(repr=False)
    novelty: Novelty | None = field(repr=False)
    certificates: tuple[Certificate, ...]
    limit: int = 1024

    @property
    def unexplained(self) -> int | None:
        """Dimensions of the level set that no known symmetry moves along; 0: the known symmetry is all there is."""
        return None if self.level_set is None else self.level_set - self.orbit

    @property
    def new(self) -> int:
        """How many of the symmetries found are not known."""
        return self.found.dimension if self.novelty is None else self.novelty.new

    @property
    def certified(self) -> bool:
        """Whether all certificates hold."""
        return all(c.holds for c in self.certificates)

    def __str__(self) -> str:
        level = "unknown" if self.level_set is None else str(self.level_set)
        rest = "" if self.unexplained is None else f", {self.unexplained} unexplained"
        lines = [
            f"{self.parameters} parameters; level set of dimension {level}, known orbit {self.orbit}{rest}",
            f"{self.found.dimension} {self.found.definition} symmetries in {self.found.family}, {self.new} new",
        ]
        if self.level_set is None:
            lines.insert(
                1,
                f"  the level set was not measured: {self.parameters} parameters are more than dense_limit = "
                f"{self.limit}; it would take {needs(self.parameters)}",
            )
        lines += [f"  {'holds' if c.holds else 'FAILS'}: {c.statement}" for c in self.certificates]
        return "\n".join(lines)


def default_family(params: Params, *, key: Array, most: int = 400) -> Family:
    """The largest of the usual families with at most ``most`` generators.

    All of gl(p); else full matrices on every axis; else one generator per unit; else full matrices on as many units
    as fit.
    """
    check_integer(most, "most", 1)
    q = sum(math.prod(np.shape(x)) for x in real_leaves(params))
    if q * q <= most:
        return linear_family(params)
    candidates = [axis_family(params, kind="full"), axis_family(params, kind="diagonal")]
    for family in candidates:
        if family.dimension <= most:
            return family
    axes = sum(len(np.shape(x)) for x in real_leaves(params))
    return axis_family(params, units=max(1, int(math.sqrt(most / max(axes, 1)))), key=key)


def audit(
    function: Callable[[Params, Any], Any],
    params: Params,
    inputs: Any,
    targets: Any = None,
    *,
    known: Symmetry | None = None,
    key: Array,
    family: Family | None = None,
    definition: str = "functional",
    output_loss: Callable[[Any, Any], Array] | None = None,
    dense_limit: int = 1024,
    **options: Any,
) -> Audit:
    """Compares the known symmetry with the level set of θ and with the symmetries found in a family.

    The level set {θ': s(θ') = s(θ)} contains the known orbit. Where their dimensions agree the known symmetry is,
    near θ, all there is: no family can find more. Where they do not, either a family shows a symmetry that is
    missing, or the level set is larger for no global reason (dead units, few data).

    >>> import jax, jax.numpy as jnp, eqtoolbox as eqt
    >>> params = {"u": jnp.array([[1.0, 2.0], [0.5, -1.0]]), "v": jnp.array([[1.0], [3.0]])}
    >>> sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.GeneralLinear(2)})
    >>> net = lambda p, x: x @ p["u"] @ p["v"]
    >>> found = eqt.discovery.audit(net, params, jnp.ones((4, 2)), known=sym, key=jax.random.key(0))
    >>> found.level_set, found.orbit, found.unexplained, found.certified
    (4, 4, 0, True)

    Args:
      function: (θ, inputs) -> outputs, samples along the first axis.
      params: the parameters θ.
      inputs: a data set, as for ``null_space``.
      targets: for the definitions of the loss.
      known: the symmetry that is known; None for none.
      key: a typed key.
      family: where to look; ``default_family`` when None.
      definition: in what sense of symmetry.
      output_loss: for the definitions of the loss.
      dense_limit: the largest p at which the dimension of the level set is computed, which takes p² numbers.
      **options: as for ``null_space``.

    Returns:
      The audit.

    Raises:
      TypeError: ``known`` is no symmetry.
      ValueError: as for ``null_space``.
    """
    if known is not None:
        check_symmetry(known, "audit")
    k_level, k_find, k_new, k_family = jax.random.split(key, 4)
    p = sum(math.prod(np.shape(x)) for x in real_leaves(params))
    say: list[Certificate] = []
    common = {"definition": definition, "output_loss": output_loss, **options}
    level = None
    if p <= dense_limit:
        moves = translation_family(params)
        here = null_space(moves, function, params, inputs, targets, key=k_level, **{**common, "spread": 0.0})
        level = here.dimension
        say.append(Certificate("the rank of D_θf at θ has a gap", here.gap, 1e3, at_least=True))
    with float64(params) as (fine,):
        continuous = known is not None and not known.is_discrete
        orbit = orbit_dimension(known, fine, full=True) if continuous and known is not None else None
    if orbit is not None and not isinstance(orbit, int):
        say.append(
            Certificate("the orbit of θ has a dimension with a gap", float(orbit.gap), 1e3, at_least=True)
        )
    size = 0 if orbit is None else int(orbit if isinstance(orbit, int) else orbit.rank)
    if level is not None:
        say.append(Certificate("the known orbit fits into the level set", size, level))
    family = default_family(params, key=k_family) if family is None else family
    found = null_space(family, function, params, inputs, targets, key=k_find, **common)
    say.append(Certificate("the rank of the generator equations has a gap", found.gap, 1e3, at_least=True))
    say.append(Certificate("symmetries found hold on equations not used", found.held_out, 1e-6))
    new = None
    if continuous and known is not None:
        new = novelty(found, known, params, inputs, key=k_new)
    return Audit(p, level, size, found, new, tuple(say), dense_limit)
