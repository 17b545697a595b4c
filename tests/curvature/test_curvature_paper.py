"""The blocks that the paper prints for an MLP, (29)-(36) and (113)-(142), against the commutant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commutant_brute import mlp

from eqtoolbox import groups
from eqtoolbox.curvature import Commutant

WIDTHS = [(3, 4, 2), (3, 4, 5, 2), (2, 3, 3, 4, 2)]


def units(*shape):
    """All matrices of a shape with one entry."""
    return list(np.eye(int(np.prod(shape))).reshape(-1, *shape))


def symmetric(n):
    """A basis of the symmetric matrices."""
    return [a + a.T for a in units(n, n) if np.flatnonzero(a)[0] % n >= np.flatnonzero(a)[0] // n]


def swapped(m, a, b):
    """m K: the columns (a, b) in the order (b, a)."""
    return m.reshape(-1, a, b).swapaxes(1, 2).reshape(len(m), -1)


def ones(m, n=1):
    return np.ones((m, n))


class Blocks:
    """Matrices of all parameters that are zero outside one pair of leaves, symmetric."""

    def __init__(self, widths):
        _, params = mlp(widths, groups.Permutation)
        sizes = [params[name].size for name in sorted(params)]
        self.p, self.found = sum(sizes), []
        ends = np.cumsum(sizes)
        self.place = {n: slice(e - s, e) for n, e, s in zip(sorted(params), ends, sizes, strict=True)}

    def add(self, row, column, matrices):
        for m in matrices:
            whole = np.zeros((self.p, self.p))
            whole[self.place[row], self.place[column]] = m
            self.found.append(whole if row == column else whole + whole.T)

    def stack(self):
        return np.array(self.found)


def odd(d):
    """(29)-(36)."""
    last, out = len(d) - 1, Blocks(d)
    out.add("w1", "w1", [np.kron(a, np.eye(d[1])) for a in symmetric(d[0])])
    for k in range(2, last):
        out.add(f"w{k}", f"w{k}", [np.eye(d[k - 1] * d[k])])
    out.add(f"w{last}", f"w{last}", [np.kron(np.eye(d[-2]), a) for a in symmetric(d[-1])])
    if last == 2:
        out.add("w1", "w2", [swapped(np.kron(a, np.eye(d[1])), d[2], d[1]) for a in units(d[0], d[2])])
    for k in range(1, last):
        out.add(f"b{k}", f"b{k}", [np.eye(d[k])])
    out.add(f"b{last}", f"b{last}", symmetric(d[-1]))
    out.add("b1", "w1", [np.kron(a, np.eye(d[1])) for a in units(1, d[0])])
    out.add(f"b{last - 1}", f"w{last}", [np.kron(np.eye(d[-2]), a) for a in units(1, d[-1])])
    return out


def other(d):
    """(118)-(142) as printed."""
    last, out = len(d) - 1, Blocks(d)

    def pair(k):  # the identity and the matrix of ones of layer k
        return [np.eye(d[k]), ones(d[k], d[k])]

    for k in range(1, last):
        out.add(f"b{k}", f"b{k}", pair(k))  # (118)
        for j in range(k + 1, last):
            out.add(f"b{k}", f"b{j}", [ones(d[k], d[j])])  # (119)
        out.add(f"b{k}", f"b{last}", [ones(d[k]) @ a for a in units(1, d[-1])])  # (120)
    out.add(f"b{last}", f"b{last}", symmetric(d[-1]))  # (121)
    for k in range(2, last):
        out.add(f"w{k}", f"w{k}", [np.kron(a, b) for a in pair(k - 1) for b in pair(k)])  # (122)
    for k in range(2, last - 1):
        between = [np.kron(ones(d[k - 1], d[k + 1]), a) for a in pair(k)]
        out.add(f"w{k}", f"w{k + 1}", [swapped(m, d[k + 1], d[k]) for m in between])  # (123)
    for k in range(2, last):
        for j in range(k + 2, last):
            out.add(f"w{k}", f"w{j}", [np.kron(ones(d[k - 1], d[j - 1]), ones(d[k], d[j]))])  # (124)
    out.add("w1", "w1", [np.kron(a, b) for a in symmetric(d[0]) for b in pair(1)])  # (125)
    if last > 2:
        between = [np.kron(a @ ones(1, d[2]), b) for a in units(d[0], 1) for b in pair(1)]
        out.add("w1", "w2", [swapped(m, d[2], d[1]) for m in between])  # (126)
        for j in range(3, last):
            out.add("w1", f"w{j}", [np.kron(a @ ones(1, d[j - 1]), ones(d[1], d[j])) for a in units(d[0], 1)])
        left = [np.kron(a @ ones(1, d[-2]), ones(d[1], d[-1])) for a in units(d[0], 1)]
        right = [np.kron(ones(d[0], d[-2]), ones(d[1]) @ a) for a in units(1, d[-1])]
        out.add("w1", f"w{last}", left + right)  # (128)
        for k in range(2, last - 1):
            out.add(
                f"w{k}",
                f"w{last}",
                [np.kron(ones(d[k - 1], d[-2]), ones(d[k]) @ a) for a in units(1, d[-1])],  # (129)
            )
        between = [np.kron(ones(d[-3]) @ a, b) for a in units(1, d[-1]) for b in pair(last - 1)]
        out.add(f"w{last - 1}", f"w{last}", [swapped(m, d[-1], d[-2]) for m in between])  # (130)
    else:
        between = [np.kron(a, b) for a in units(d[0], d[2]) for b in pair(1)]
        out.add("w1", "w2", [swapped(m, d[2], d[1]) for m in between])  # (132)
    out.add(
        f"w{last}", f"w{last}", [np.kron(b, a) for a in symmetric(d[-1]) for b in pair(last - 1)]
    )  # (131)
    for k in range(2, last):
        out.add(f"b{k}", f"w{k}", [np.kron(ones(1, d[k - 1]), a) for a in pair(k)])  # (133)
    for k in range(1, last - 1):
        out.add(f"b{k}", f"w{k + 1}", [np.kron(a, ones(1, d[k + 1])) for a in pair(k)])  # (134)
    for k in range(1, last):
        for j in range(2, last):
            if j not in (k, k + 1):
                out.add(f"b{k}", f"w{j}", [ones(d[k], d[j - 1] * d[j])])  # (135)
    out.add("b1", "w1", [np.kron(a, b) for a in units(1, d[0]) for b in pair(1)])  # (136)
    for k in range(2, last):
        out.add(f"b{k}", "w1", [np.kron(ones(d[k]) @ a, ones(1, d[1])) for a in units(1, d[0])])  # (137)
    out.add(f"b{last}", "w1", [np.kron(a, ones(1, d[1])) for a in units(d[-1], d[0])])  # (138)
    for k in range(2, last):
        whole = [np.kron(a @ ones(1, d[k - 1]), ones(1, d[k])) for a in units(d[-1], 1)]
        out.add(f"b{last}", f"w{k}", whole)  # (139)
    out.add(f"b{last}", f"w{last}", [np.kron(ones(1, d[-2]), a) for a in units(d[-1], d[-1])])  # (140)
    out.add(
        f"b{last - 1}", f"w{last}", [np.kron(b, a) for a in units(1, d[-1]) for b in pair(last - 1)]
    )  # (141)
    for k in range(2, last - 1):
        out.add(f"b{k}", f"w{last}", [np.kron(ones(d[k], d[-2]), a) for a in units(1, d[-1])])  # (142)
    return out


def missing(d):
    """What (128) and (142) leave out: all of d_0 × d_L between the outer kernels, and the first bias."""
    last, out = len(d) - 1, Blocks(d)
    if last > 2:
        whole = [np.kron(a, ones(d[1], d[-2])) for a in units(d[0], d[-1])]  # rows (0, 1), columns (L, L-1)
        out.add("w1", f"w{last}", [swapped(m, d[-1], d[-2]) for m in whole])
        out.add("b1", f"w{last}", [np.kron(ones(d[1], d[-2]), a) for a in units(1, d[-1])])
    return out


def rank(matrices):
    return int(np.linalg.matrix_rank(matrices.reshape(len(matrices), -1)))


def change(com, matrices):
    """How far a random combination of matrices is from its projection on the commutant, relative."""
    whole = np.tensordot(np.random.default_rng(0).normal(size=len(matrices)), matrices, 1)
    kept = jax.jit(lambda m: com.to_dense(com.project(m)))(whole)
    return np.linalg.norm(kept - whole) / np.linalg.norm(whole)


@pytest.mark.claim("GC-T3.1")
@pytest.mark.parametrize("widths", WIDTHS)
def test_odd_activations_have_the_printed_blocks(widths, x64, record_claim):
    """The span of (29)-(36) is the commutant of O and of B: inside it and as large."""
    printed = odd(widths).stack()
    com = Commutant(*mlp(widths, groups.Orthogonal))
    found = change(com, printed)
    assert found < 1e-12
    assert rank(printed) == com.num_factors == Commutant(*mlp(widths, groups.SignedPermutation)).num_factors
    record_claim("GC-T3.1", measured=found, expected="<= 1e-12")


@pytest.mark.claim("GC-T3.2")
@pytest.mark.parametrize("widths", WIDTHS)
def test_other_activations_have_more_than_the_printed_blocks(widths, x64, record_claim):
    """(118)-(142) lie in the commutant of S, and miss what (128) and (142) leave out when L > 2."""
    printed = other(widths).stack()
    com = Commutant(*mlp(widths, groups.Permutation))
    assert change(com, printed) < 1e-12
    # (128) has d_0 + d_L - 1 of d_0 d_L numbers; (142) starts at the second layer and has d_L less.
    left_out = (widths[0] - 1) * (widths[-1] - 1) + widths[-1] if len(widths) > 3 else 0
    assert rank(printed) == com.num_factors - left_out
    if left_out:
        more = missing(widths).stack()
        assert change(com, more) < 1e-12
        assert rank(np.concatenate([printed, more])) == com.num_factors
    record_claim("GC-T3.2", measured=left_out, expected="0 numbers left out")


@pytest.mark.claim("GC-T3.2")
def test_a_counterexample_to_128(x64):
    """An invariant matrix with Ω = (1, -1)ᵀ(1, -1) between the outer kernels is orthogonal to all ω 1ᵀ + 1 ωᵀ."""
    widths = (2, 3, 3, 2)
    com = Commutant(*mlp(widths, groups.Permutation))
    omega = np.array([[1.0, -1], [-1, 1]])
    blocks = Blocks(widths)
    blocks.add("w1", "w3", [swapped(np.kron(omega, ones(3, 3)), 2, 3)])
    matrix = blocks.stack()
    assert change(com, matrix) < 1e-12
    printed = other(widths).stack()
    rows = printed.reshape(len(printed), -1).T
    residual = matrix.ravel() - rows @ np.linalg.lstsq(rows, matrix.ravel(), rcond=None)[0]
    share = np.sum(residual**2) / np.sum(matrix**2)
    np.testing.assert_allclose(share, 1, rtol=1e-10)


@pytest.mark.claim("GC-T3.1", "GC-T3.2")
@pytest.mark.parametrize("widths", WIDTHS[1:])
def test_the_mean(widths, x64):
    """Odd: the last bias alone (26)-(28). Other: (113)-(117), d_0 + 2 d_L + 2 L - 3 numbers."""
    rng = np.random.default_rng(0)
    sym, params = mlp(widths, groups.Permutation)
    tree = {k: jnp.asarray(rng.normal(size=x.shape)) for k, x in params.items()}
    last = len(widths) - 1
    kept = Commutant(*mlp(widths, groups.Orthogonal)).invariant(tree)
    for name, x in kept.items():
        np.testing.assert_array_equal(x, tree[name] if name == f"b{last}" else 0)
    com = Commutant(sym, params)
    assert com.components[0].multiplicity == widths[0] + 2 * widths[-1] + 2 * last - 3
    for name, x in com.invariant(tree).items():
        layer, raw = int(name[1]), np.asarray(tree[name])
        axes = []  # those of hidden units
        if name[0] == "w":
            axes = [i for i, k in enumerate((layer - 1, layer)) if 0 < k < last]
        elif layer < last:
            axes = [0]
        expected = np.broadcast_to(raw.mean(tuple(axes), keepdims=True), raw.shape)
        np.testing.assert_allclose(x, expected, atol=1e-14)


@pytest.mark.claim("GC-L2.4")
@pytest.mark.parametrize("group", [groups.Permutation, groups.SignedPermutation])
def test_averages_over_an_orbit_commute_and_those_of_a_wrong_symmetry_do_not(group, x64, record_claim):
    """Gradient mean and covariance, Hessian, Gauss-Newton over all g θ: Σ = g Σ gᵀ, and a function of Σ too."""
    widths = (2, 3, 1)
    sym, params = mlp(widths, group)
    com = Commutant(sym, params)
    rng = np.random.default_rng(1)
    tree = {k: jnp.asarray(rng.normal(size=x.shape)) for k, x in params.items()}
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(7, 1))
    signs = (
        np.array(np.meshgrid(*[[1, -1]] * 3)).reshape(3, -1).T if group != groups.Permutation else ones(1, 3)
    )
    orders = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1], [1, 0, 2], [0, 2, 1], [2, 1, 0]])
    act = jax.nn.softplus if group == groups.Permutation else jnp.tanh

    def outputs(p):
        return act(x @ p["w1"] + p["b1"][None]) @ p["w2"] + p["b2"][None]

    def loss(v):
        return jnp.mean((outputs(_tree(com, v)) - y) ** 2)

    def move(signs, order):
        w1, b1, w2 = tree["w1"] * signs[None], tree["b1"] * signs, tree["w2"] * signs[:, None]
        return _flat({"w1": w1[:, order], "b1": b1[order], "w2": w2[order], "b2": tree["b2"]})

    def curvatures(v):
        g, j = jax.grad(loss)(v), jax.jacobian(lambda u: outputs(_tree(com, u)).ravel())(v)
        return g, jnp.outer(g, g), jax.hessian(loss)(v), j.T @ j

    points = jax.vmap(jax.vmap(move, (0, None)), (None, 0))(signs, orders).reshape(-1, com.size)
    assert len(points) == len(signs) * 6
    mean, *matrices = jax.tree.map(lambda a: np.asarray(a.mean(0)), jax.jit(jax.vmap(curvatures))(points))
    project = jax.jit(lambda m: com.to_dense(com.project(m)))
    errors = [np.linalg.norm(project(m) - m) / np.linalg.norm(m) for m in matrices]
    w, v = np.linalg.eigh(matrices[0] + np.eye(com.size))
    root = (v * w**-0.5) @ v.T
    errors.append(np.linalg.norm(project(root) - root) / np.linalg.norm(root))
    kept = _flat(com.invariant(_tree(com, jnp.asarray(mean))))
    errors.append(np.linalg.norm(kept - mean) / np.linalg.norm(mean))
    assert max(errors) < 1e-12
    record_claim("GC-L2.4", measured=max(errors), expected="<= 1e-12")
    if group == groups.Permutation:  # the commutant of a larger group, which the model does not have
        wrong = Commutant(*mlp(widths, groups.SignedPermutation))
        outside = matrices[0] - wrong.to_dense(wrong.project(matrices[0]))
        assert np.linalg.norm(outside) > 0.1 * np.linalg.norm(matrices[0])


def _tree(com, v):
    sizes = [int(np.prod(s)) for _, s in com.leaves]
    parts = jnp.split(v, np.cumsum(sizes)[:-1])
    return {path: part.reshape(s) for (path, s), part in zip(com.leaves, parts, strict=True)}


def _flat(tree):
    return jnp.concatenate([tree[k].ravel() for k in sorted(tree)])
