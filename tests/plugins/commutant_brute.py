"""A second construction of everything the commutant computes, in plain NumPy: matrices of group elements."""

import itertools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from eqtoolbox import Symmetry, groups

KINDS = {
    "O": groups.Orthogonal,
    "B": groups.SignedPermutation,
    "S": groups.Permutation,
    "Z": groups.SignFlip,
    "F": lambda n: groups.Stabiliser(groups.Orthogonal(n)),
}


def _block_diagonal(blocks):
    rows = [np.asarray(b) for b in blocks]
    whole = np.zeros((sum(map(len, rows)),) * 2)
    start = 0
    for b in rows:
        whole[start : start + len(b), start : start + len(b)] = b
        start += len(b)
    return whole


def _orthogonal(rng, n):
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def generators(kind, n, seed=0):
    """Matrices that generate a group on Rⁿ, the orthogonal ones densely."""
    eye, rng = np.eye(n), np.random.default_rng(seed)
    swaps = [eye[[1, 0, *range(2, n)]], np.roll(eye, 1, 0)] if n > 1 else []
    flip = eye.copy()
    flip[0, 0] = -1
    if kind == "O":
        return [flip, *(_orthogonal(rng, n) for _ in range(3))]
    if kind == "S":
        return swaps
    if kind == "B":
        return [*swaps, flip]
    if kind == "Z":
        return [np.diag(1 - 2 * e) for e in eye]
    if kind == "F":  # fixes the vector of ones
        frame = np.linalg.qr(np.column_stack([np.ones(n), rng.normal(size=(n, n - 1))]))[0] if n > 1 else eye
        return (
            [frame @ _block_diagonal([[[1.0]], g]) @ frame.T for g in generators("O", n - 1)] if n > 1 else []
        )
    return []  # trivial


@dataclass(frozen=True)
class Space:
    """A group on one or two named axes: ``inner`` is None, or the group inside each of ``n`` units."""

    name: str
    kind: str
    n: int
    inner: tuple[str, int] | None = None

    @property
    def names(self):
        return (self.name, self.name + "in") if self.inner else (self.name,)

    @property
    def group(self):
        outer = KINDS.get(self.kind, groups.Trivial)(self.n)
        return outer if self.inner is None else groups.Wreath(KINDS[self.inner[0]](self.inner[1]), outer)

    def elements(self):
        """Generators, each as a function of the slot: "units", "squared" or "whole"."""
        found = []
        k = self.inner[1] if self.inner else 1
        for g in generators(self.kind, self.n):
            found.append(
                {
                    "units": g,
                    "squared": np.abs(g) if self.kind in "BSZ" else g,
                    "whole": np.kron(g, np.eye(k)),
                }
            )
        if self.inner:
            for unit, g in itertools.product(range(self.n), generators(*self.inner)):
                whole = _block_diagonal([g if i == unit else np.eye(k) for i in range(self.n)])
                found.append({"units": np.eye(self.n), "squared": np.eye(self.n), "whole": whole})
        return found

    def size(self, slot):
        return self.n * (self.inner[1] if slot == "whole" and self.inner else 1)

    def label(self, slot):
        if slot == "whole":
            return " ".join(self.names)
        return self.name + ("^2" if slot == "squared" and self.kind in "BSZ" else "")


@dataclass(frozen=True)
class Architecture:
    """Leaves as products of axes; an axis is a direct sum of segments; a segment a space with a slot, or a size."""

    spaces: tuple[Space, ...]
    leaves: tuple[tuple[tuple[object, ...], ...], ...]

    def segment_size(self, s):
        return s if isinstance(s, int) else s[0].size(s[1])

    def shape(self, leaf):
        return tuple(sum(map(self.segment_size, axis)) for axis in leaf)

    @property
    def p(self):
        return sum(int(np.prod(self.shape(leaf))) for leaf in self.leaves)

    def symmetry(self):
        labels = {}
        for i, leaf in enumerate(self.leaves):
            words = []
            for axis in leaf:
                parts = [str(s) if isinstance(s, int) else s[0].label(s[1]) for s in axis]
                text = " + ".join(parts)
                words.append(f"({text})" if " " in text else "_" if isinstance(axis[0], int) else text)
            labels[f"leaf{i}"] = " ".join(words)
        return Symmetry(labels, {s.names if len(s.names) > 1 else s.name: s.group for s in self.spaces})

    def params(self):
        return {f"leaf{i}": jnp.ones(self.shape(leaf)) for i, leaf in enumerate(self.leaves)}

    def matrix(self, space, element):
        """The p × p matrix of an element of one of the groups."""
        blocks = []
        for leaf in self.leaves:
            whole = np.eye(1)
            for axis in leaf:
                parts = [
                    np.eye(self.segment_size(s)) if isinstance(s, int) or s[0] != space else element[s[1]]
                    for s in axis
                ]
                whole = np.kron(whole, _block_diagonal(parts))
            blocks.append(whole)
        return _block_diagonal(blocks)

    def generators(self):
        return [self.matrix(space, e) for space in self.spaces for e in space.elements()]


def invariant_basis(matrices, p):
    """An orthonormal basis, shape (k, p, p), of the symmetric A with g A gᵀ = A for every matrix g given."""
    i, j = np.triu_indices(p)
    units = np.zeros((len(i), p, p))
    units[np.arange(len(i)), i, j] = units[np.arange(len(i)), j, i] = np.where(i == j, 1, np.sqrt(0.5))
    normal = np.zeros((len(i),) * 2)
    for g in matrices:
        moved = (g @ units @ g.T - units).reshape(len(i), -1)
        normal += moved @ moved.T
    w, v = np.linalg.eigh(normal)
    small = w < 1e-10
    assert not np.any((w >= 1e-10) & (w < 1e-6)), "the null space is not clear"
    return np.tensordot(v[:, small].T, units, 1)


def limit(space):
    """How many axes of a leaf may carry a space: the products of characters of signs inside units are refused."""
    return 1 if space.inner and space.inner[0] == "Z" else 2


@st.composite
def architectures(draw, largest=13, kinds="OBSZFT", wreaths=True):
    """Random architectures with at most ``largest`` parameters; no space is on more than two axes of a leaf."""
    spaces = []
    for name in "hk"[: draw(st.integers(1, 2))]:
        kind = draw(st.sampled_from(kinds))
        inner = None
        if wreaths and kind in "SBZT" and draw(st.integers(0, 3)) == 0:
            inner = (draw(st.sampled_from("OBSZ")), draw(st.integers(1, 3)))
        spaces.append(Space(name, kind, draw(st.integers(1, 3 if inner else 6)), inner))
    # every axis of a space is on some label
    leaves = [(((s, "whole" if s.inner else "units"),),) for s in spaces]
    for _ in range(draw(st.integers(0, 3))):
        leaf, used = [], dict.fromkeys(spaces, 0)
        for _ in range(draw(st.integers(0, 2))):
            axis = []
            for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
                free = [s for s in spaces if used[s] < limit(s)]
                if not free or draw(st.integers(0, 3)) == 0:
                    axis.append(draw(st.integers(1, 3)))
                    continue
                space = draw(st.sampled_from(free))
                slots = ["whole", "units"] if space.inner else ["units", "squared"]
                axis.append((space, draw(st.sampled_from(slots))))
                used[space] += 1
            leaf.append(tuple(axis))
        candidate = Architecture(tuple(spaces), (*leaves, tuple(leaf)))
        if candidate.p <= largest:
            leaves.append(tuple(leaf))
    return Architecture(tuple(spaces), tuple(leaves))


def mlp(widths, group):
    """The symmetry of the hidden units of an MLP with biases, and its parameters; kernels are (in, out)."""
    axes, params, acting = {}, {}, {}
    last = len(widths) - 2
    for i, (m, n) in enumerate(itertools.pairwise(widths)):
        before, after = "_" if i == 0 else f"h{i}*", "_" if i == last else f"h{i + 1}"
        axes[f"w{i + 1}"], axes[f"b{i + 1}"] = f"{before} {after}", after
        params[f"w{i + 1}"], params[f"b{i + 1}"] = jnp.ones((m, n)), jnp.ones(n)
        if i < last:
            acting[after] = group(n)
    return Symmetry(axes, acting), params
