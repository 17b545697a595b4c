"""Terms that depend on parameters only, computed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.inference._affine_shift import Values
from eqtoolbox.inference._affine_terms import Entry, Label, Poly, Term, extent


class Replay:
    """Terms at given parameters.

    On the host, without compilation, where everything given is a NumPy array.

    Attributes:
      values: of the program.
      leaves: arrays by path.
      symbols: arrays by number of the atom.
    """

    def __init__(self, values: Values, leaves: dict[str, Any], symbols: dict[int, Array], dtype: Any) -> None:
        self.values, self.leaves, self.symbols, self.dtype = values, leaves, symbols, dtype
        self.seen: dict[int, Any] = {}
        on_host = not any(isinstance(x, jax.Array) for x in (*leaves.values(), *symbols.values()))
        self.xp: Any = np if on_host else jnp

    def poly(self, poly: Poly, shape: tuple[int, ...]) -> Array:
        """A sum of terms as an array."""
        total = self.xp.zeros(shape, self.dtype)
        for term, c in sorted(poly.items(), key=lambda item: sorted(f[0] for f in item[0][0])):
            total = total + float(c) * self._placed(term, shape)
        return total

    def _placed(self, term: Term, shape: tuple[int, ...]) -> Array:
        """A term, zero outside of the range of its axes."""
        out = term[1]
        value = self._product(term).reshape(tuple(extent(e[1]) for e in out))
        room = [(e[0], n - e[0] - extent(e[1])) for e, n in zip(out, shape, strict=True)]
        return self.xp.pad(value, room) if any(r != (0, 0) for r in room) else value

    def _product(self, term: Term) -> Array:
        """A term with an axis for each label of its result."""
        factors, out = term
        names: dict[Label, int] = {}
        wanted = [x for e in out for x in e[1]]
        operands: list[Any] = []
        have: set[Label] = set()
        for atom, entries, power in sorted(factors, key=lambda f: (f[0], f[2])):
            x = self._entries(self._atom(atom), entries)
            if power != 1:
                x = x ** int(power) if power.denominator == 1 else x ** float(power)
            labels = [x for e in entries for x in e[1]]
            have.update(labels)
            operands += [x, [names.setdefault(x, len(names)) for x in labels]]
        kept = [x for x in wanted if x in have]
        if operands:
            exact = {} if self.xp is np else {"precision": jax.lax.Precision.HIGHEST}
            value = self.xp.einsum(*operands, [names[x] for x in kept], **exact)
        else:
            value = self.xp.ones((), self.dtype)
        value = value.reshape(tuple(x[1] if x in have else 1 for x in wanted))
        return self.xp.broadcast_to(value, tuple(x[1] for x in wanted))

    def _entries(self, array: Array, entries: tuple[Entry, ...]) -> Array:
        """An atom with an axis for each label."""
        for axis, (offset, labels) in enumerate(entries):
            if offset or extent(labels) != array.shape[axis]:
                array = array[(slice(None),) * axis + (slice(offset, offset + extent(labels)),)]
        return array.reshape(tuple(x[1] for e in entries for x in e[1]))

    def _atom(self, number: int) -> Array:
        if number in self.symbols:
            return self.xp.asarray(self.symbols[number], self.dtype)
        atom = self.values.algebra.atoms[number]
        if atom.kind == "term":
            return self._product(atom.source)
        if atom.kind == "leaf":
            return self.xp.asarray(self.leaves[atom.source], self.dtype)
        if atom.kind == "array":
            return self.xp.asarray(self.values.arrays[atom.source], self.dtype)
        if atom.kind == "case":
            condition, case = atom.source
            chosen = (
                self.values.arrays[condition[1]]
                if isinstance(condition, tuple)
                else self.values.array(condition, self.leaves, self.seen)
            )
            return self.xp.asarray(self.xp.asarray(chosen).astype(int) == case, self.dtype)
        return self.xp.asarray(self.values.array(atom.source, self.leaves, self.seen), self.dtype)
