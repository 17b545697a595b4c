"""Alignment of two networks by their symmetry: block coordinate descent on the distance of their weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from eqtoolbox.groups import Group, Monomial, Permutation, PositiveScaling, Product, Trivial, Wreath
from eqtoolbox.linalg import check_integer, check_like, cond, tree_norm, while_loop
from eqtoolbox.orbits._blocks import Layout, Pair, act_on, blocks_of, gain, layout_of, squared_distance
from eqtoolbox.orbits._match import forward_order, match
from eqtoolbox.orbits._refine import refine
from eqtoolbox.orbits._units import units_of
from eqtoolbox.symmetry import Symmetry, check_symmetry

Params = Any
Element = Any

#: What the published algorithm takes for no progress.
NO_PROGRESS = 1e-12
#: Sweeps of a continuous group go on while a step takes this share of the squared distance; where all spaces are
#: refined together at the end they need not be as fine.
TOLERANCE, COARSE = 1e-4, 1e-2
STARTS = ("identity", "permutations", "forward")


class Alignment(NamedTuple):
    """What ``match_weights`` found.

    Attributes:
      aligned: the moved parameters, ``sym.act(element, params)``.
      element: the element g that moves them.
      before: ‖θ_b - θ_a‖ over all leaves.
      after: ‖g θ_b - θ_a‖.
      sweeps: sweeps over all spaces that the best start took.
      converged: whether the last sweep made no progress.
    """

    aligned: Params
    element: Element
    before: Array
    after: Array
    sweeps: Array
    converged: Array


def weight_distance(a: Params, b: Params) -> Array:
    """The Euclidean distance between two parameter pytrees, in at least float32.

    Raises:
      ValueError: structures or shapes differ; names the leaf.
    """
    check_like(b, a, "b", "a")

    def difference(x: Any, y: Any) -> Array:
        dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
        return jnp.asarray(x, dtype) - jnp.asarray(y, dtype)

    return tree_norm(jax.tree.map(difference, a, b))


def align(
    sym: Symmetry,
    params: Params,
    *,
    to: Params,
    only: str | None = None,
    starts: Sequence[str] | None = None,
    key: Array | None = None,
    sweeps: int = 100,
) -> tuple[Params, Element]:
    """Moves a network along its orbit until its weights are nearest to those of another.

    ``aligned == sym.act(g, params)``: the outputs are those of ``params``. Spaces are taken one after the other
    in random order, and each takes the best element of its group while the others stay: permutations by linear
    assignment, signs and positive scalings in closed form or by Newton's method in one number per pair of units,
    rotations by Procrustes, GL by Gauss-Newton steps with Sylvester's equation, heads by the best element for
    each pair of heads and then an assignment, other groups by Gauss-Newton steps on their algebra. No step makes
    the distance larger.

    For permutations alone this is the published weight matching: the same steps in the same order. For more than
    permutations the descent starts from its result, so that the distance is never larger than with permutations
    alone, and again from an element found going forward through the network; the nearer one is returned.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.Monomial(4, scales=1)})
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> a = {"u": jax.random.normal(keys[0], (3, 4)), "v": jax.random.normal(keys[1], (4, 2))}
    >>> b = sym.act(sym.sample(keys[2]), a)
    >>> aligned, g = align(sym, b, to=a)
    >>> bool(jnp.allclose(aligned["u"], a["u"], atol=1e-4))
    True

    Works under ``jit``, ``vmap`` and ``lax.map``: many pairs of networks are aligned by one program. Under ``vmap`` a
    step computes those of all spaces, since pairs take different numbers of sweeps; ``lax.map`` does not.

    Args:
      sym: the symmetry of both.
      params: the parameters that are moved.
      to: those they should come near, of the same shapes.
      only: "permutations" to permute units, heads and coordinates only.
      starts: where the descent starts, of "identity", "permutations" (the result with ``only="permutations"``)
        and "forward"; the best end is returned. By default the identity for a symmetry of permutations and with
        ``only``, else the two others.
      key: of the random orders; that of sweep i is ``jax.random.permutation(jax.random.fold_in(key, i), spaces)``
        of the spaces in the order of ``sym.factors``.
      sweeps: at most that many over all spaces.

    Returns:
      The aligned parameters and the element g.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: ``to`` is not like ``params``, a leaf holds a number that is not finite, or an option is unknown.

    Reference:
      Ainsworth, Hayase & Srinivasa, "Git Re-Basin" (2023), Algorithm 1, for permutations.
    """
    found = match_weights(sym, params, to=to, only=only, starts=starts, key=key, sweeps=sweeps)
    return found.aligned, found.element


def match_weights(
    sym: Symmetry,
    params: Params,
    *,
    to: Params,
    only: str | None = None,
    starts: Sequence[str] | None = None,
    key: Array | None = None,
    sweeps: int = 100,
) -> Alignment:
    """``align`` with the distances before and after, the sweeps it took and whether it converged.

    Args:
      sym: as for ``align``.
      params: as for ``align``.
      to: as for ``align``.
      only: as for ``align``.
      starts: as for ``align``.
      key: as for ``align``.
      sweeps: as for ``align``.

    Returns:
      An ``Alignment``.

    Raises:
      TypeError: as for ``align``.
      ValueError: as for ``align``.
    """
    check_symmetry(sym, "align")
    sym.check(params)
    check_like(to, params, "to", "params")
    check_integer(sweeps, "sweeps", 1)
    if only not in (None, "permutations"):
        raise ValueError(f"`only` must be None or 'permutations', got {only!r}")
    if starts is None:
        plain = only is not None or all(_is_permuted(f.group) for f in sym.factors)
        starts = ("identity",) if plain else ("permutations", "forward")
    if isinstance(starts, str) or not starts or any(s not in STARTS for s in starts):
        raise ValueError(f"`starts` must be a tuple of {', '.join(map(repr, STARTS))}, got {starts!r}")
    for name, tree in (("params", params), ("to", to)):
        _check_finite(name, tree)
    key = jax.random.key(0) if key is None else key
    element, count, done = _search(sym, params, to, key, only is not None, tuple(starts), sweeps)
    aligned = sym.act(element, params)
    return Alignment(aligned, element, weight_distance(to, params), weight_distance(to, aligned), count, done)


@partial(jax.jit, static_argnames=("permute", "starts", "sweeps"))
def _search(
    sym: Symmetry, params: Params, to: Params, key: Array, permute: bool, starts: tuple[str, ...], sweeps: int
) -> tuple[Element, Array, Array]:
    """The element with the least distance at the end, over all starts, with its sweeps and convergence."""
    layout = layout_of(sym, params)
    moved, wanted = blocks_of(sym, params), blocks_of(sym, to)
    groups = [f.group for f in sym.factors]
    if not moved:
        return sym.identity(), jnp.asarray(0), jnp.asarray(True)
    dtype = jnp.result_type(*moved)
    work = _Work(groups, layout, wanted, key, sweeps)
    begin = moved, [g.identity(dtype) for g in groups]
    permuted = work.descend(begin, permute=True)[0] if "permutations" in starts else begin
    states = [permuted if start == "permutations" else begin for start in starts]
    if len(starts) == 1 and starts[0] != "forward":
        (_, element), count, done = work.descend(states[0], permute)
    else:
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
        forward = jnp.asarray([start == "forward" for start in starts])
        run = partial(work.descend, permute=permute)
        ends, counts, dones = jax.lax.map(lambda given: run(given[0], forward=given[1]), (stacked, forward))
        best = jnp.argmin(jax.vmap(work.distance)(ends[0]))
        (_, element), count, done = jax.tree.map(lambda x: x[best], (ends, counts, dones))
    if not permute and _refined(groups):
        found = refine(Product(*groups), tuple(element), work.all_pairs(moved))
        sound = jnp.stack([g.contains(h) for g, h in zip(groups, found, strict=True)]).all()
        element = jax.tree.map(lambda x, y: jnp.where(sound, x, y), found, tuple(element))
    return {f.key: g for f, g in zip(sym.factors, element, strict=True)}, count, done


class _Work(NamedTuple):
    """The problem, as the steps see it: groups, where they act, what is wanted, and how to go about it."""

    groups: list[Group]
    layout: Layout
    wanted: list[Array]
    key: Array
    sweeps: int

    def pairs(self, blocks: list[Array], f: int) -> list[Pair]:
        """The blocks of one factor."""
        return [Pair(blocks[b], self.wanted[b], self.layout.slots[b][f]) for b in self.layout.uses[f]]

    def all_pairs(self, blocks: list[Array]) -> list[Pair]:
        """All blocks, with the slots of all factors as ``Product`` numbers the spaces."""
        starts = [0, *itertools.accumulate(len(g.sizes) for g in self.groups)]
        return [
            Pair(
                block,
                wanted,
                tuple(s._replace(space=s.space + starts[f]) for f, slots in each.items() for s in slots),
            )
            for block, wanted, each in zip(blocks, self.wanted, self.layout.slots, strict=True)
        ]

    def distance(self, blocks: list[Array]) -> Array:
        return squared_distance([Pair(b, w, ()) for b, w in zip(blocks, self.wanted, strict=True)])

    def descend(
        self, state: tuple[list[Array], list[Any]], permute: bool, forward: Array | None = None
    ) -> tuple[tuple[list[Array], list[Any]], Array, Array]:
        """Sweeps in random order until one makes no progress.

        Args:
          state: the blocks, and the elements that moved them.
          permute: only permutes.
          forward: whether to go forward through the factors first, each matched on the blocks that depend on no
            factor still to come, and taken whatever the distance to the others.
        """
        count = len(self.groups)
        steps = [self._step(f, permute, forward is not None) for f in range(count)]
        firsts = [f for f, _ in forward_order([set(s) for s in self.layout.slots], count)]
        masks = np.zeros((len(firsts), len(self.wanted)), bool)
        for i, (_, some) in enumerate(forward_order([set(s) for s in self.layout.slots], count)):
            masks[i, some] = True

        # A permutation that is best stays so until a block of its space moves: such steps are not taken again.
        final = np.array([self._is_final(f, permute) for f in range(count)])
        touches = np.array([[bool(set(a) & set(b)) for b in self.layout.uses] for a in self.layout.uses])

        def body(carry):
            state, turn, progress, due = carry
            sweep, place = turn // count, turn % count
            order = jax.random.permutation(jax.random.fold_in(self.key, sweep), count)
            chosen, progress = order[place], progress & (place > 0)
            if forward is None:
                take = lambda: jax.lax.switch(chosen, steps, (state, None))  # noqa: E731
                state, won = cond(due[chosen], take, lambda: (state, jnp.zeros_like(progress)))
                due = jnp.where(
                    jnp.arange(count) == chosen,
                    ~jnp.asarray(final),
                    due | (won & jnp.asarray(touches)[chosen]),
                )
                return state, turn + 1, progress | won, due
            # Turns below 0 are those of going forward.
            first = jnp.clip(turn + len(firsts), 0, len(firsts) - 1)
            chosen = jnp.where(turn < 0, jnp.asarray(firsts)[first], chosen)
            mask = jnp.asarray(masks)[first] | (turn >= 0)
            state, won = jax.lax.switch(chosen, steps, (state, (mask, turn < 0)))
            return state, turn + 1, progress | won, due

        def going(carry):
            _, turn, progress, _ = carry
            return (turn < count * self.sweeps) & ((turn <= 0) | (turn % count > 0) | progress)

        begin = jnp.asarray(0) if forward is None else jnp.where(forward, -len(firsts), 0)
        first = (state, begin, jnp.asarray(False), jnp.ones(count, bool))
        state, turn, progress, _ = while_loop(going, body, first)
        return state, turn // count, ~progress

    def _is_final(self, f: int, permute: bool) -> bool:
        """Whether one step finds the best element of a factor, so that a second finds no other."""
        spec = units_of(self.groups[f])
        if spec is None or any(len(self.layout.slots[b][f]) > 1 for b in self.layout.uses[f]):
            return False
        return permute or (self.groups[f].dimension == 0 and len(spec.knobs) <= 1)

    def _step(self, f: int, permute: bool, masked: bool) -> Callable[[Any], Any]:
        """The step of one factor; taken only where it lessens the distance."""
        group, uses = self.groups[f], self.layout.uses[f]
        finite = permute or group.dimension == 0

        def step(given):
            (blocks, g), how = given
            before = self.pairs(blocks, f)
            seen = before
            if masked:
                mask, always = how
                seen = [
                    p._replace(moved=jnp.where(mask[b], p.moved, 0), wanted=jnp.where(mask[b], p.wanted, 0))
                    for b, p in zip(uses, before, strict=True)
                ]
            h = match(group, seen, permute, _spent(group, g[f]))
            after = act_on(group, h, before)
            won, composed = gain(before, after), group.compose(h, g[f])
            # Rounding decides nothing: gains below that of the sums are none.
            parts = [jnp.sum(p.wanted**2) + jnp.sum(p.moved**2) for p in before]
            size = sum(parts[1:], parts[0])
            noise = NO_PROGRESS if finite else NO_PROGRESS + (8 * jnp.finfo(size.dtype).eps) ** 2 * size
            take = won > noise
            if masked:
                take = take | always
            if not finite:
                take = take & group.contains(composed)
            blocks, g = list(blocks), list(g)
            for b, pair in zip(uses, after, strict=True):
                blocks[b] = jnp.where(take, pair.moved, blocks[b])
            g[f] = jax.tree.map(lambda x, y: jnp.where(take, x, y), composed, g[f])
            share = COARSE if _refined(self.groups) else TOLERANCE
            enough = 0.0 if finite else share * squared_distance(before)
            return (blocks, g), take & (won > enough)

        return step


def _refined(groups: Sequence[Group]) -> bool:
    """Whether some group has generators that do not act unit by unit: these are coupled across spaces."""
    return any(g.dimension and units_of(g) is None for g in groups)


def _spent(group: Group, g: Any) -> Array | None:
    """The logarithms of the scalings an element holds already."""
    if isinstance(group, Monomial):
        return jnp.log(g.scale)
    return jnp.log(g)[None] if isinstance(group, PositiveScaling) else None


def _is_permuted(group: Group) -> bool:
    """Whether the group does nothing but permute."""
    match group:
        case Permutation() | Trivial():
            return True
        case Monomial():
            return not (group.num_scales or group.num_signs)
        case Product():
            return all(_is_permuted(g) for g in group.groups)
        case Wreath():
            return _is_permuted(group.inner) and _is_permuted(group.outer)
    return False


def _check_finite(name: str, tree: Params) -> None:
    """Checks arrays that are not traced.

    Raises:
      ValueError: naming the leaf.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        if not np.isfinite(
            np.asarray(jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32)))
        ).all():
            text = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"leaf {text!r} of `{name}` holds numbers that are not finite")
