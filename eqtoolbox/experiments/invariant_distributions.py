"""A transformation has an invariant distribution only if it is similar to an orthogonal one (GC, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.groups import GeneralLinear, Orthogonal
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Eigenvalues of the transformations similar to orthogonal ones: angles of pairs, and real ones.
SIMILAR = {
    "distinct eigenvalues": ((0.7, 1.9), (1.0, -1.0)),
    "a repeated real eigenvalue": ((0.7,), (1.0, 1.0, 1.0, -1.0)),
    "a repeated complex pair": ((0.7, 0.7), (1.0, -1.0)),
}
DRIFTING = ("shear", "an element of GL")


@dataclass(frozen=True)
class Config:
    """Random transformations.

    Attributes:
      powers: how often each is applied.
      seed: of all.
    """

    powers: int = 60
    seed: int = 7


def similar(rng: np.random.Generator, angles: Sequence[float], real: Sequence[float]) -> np.ndarray:
    """G = V B V⁻¹ for a random V and B of rotations by the angles and the real eigenvalues."""
    size = 2 * len(angles) + len(real)
    b = np.zeros((size, size))
    for i, a in enumerate(angles):
        b[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]
    b[2 * len(angles) :, 2 * len(angles) :] = np.diag(real)
    v = rng.normal(size=(size, size)) + 2 * np.eye(size)
    return v @ b @ np.linalg.inv(v)


def lyapunov_construction(g: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Σ = V D Vᵀ of Lemma C.3 from G alone, with random positive D.

    The columns of V are the real and imaginary parts of eigenvectors; D is one positive number for each pair and
    each real eigenvalue, a special case also where eigenvalues repeat.
    """
    values, vectors = np.linalg.eig(g)
    sigma = np.zeros_like(g)
    for value, vector in zip(values, vectors.T, strict=True):
        if abs(value.imag) < 1e-9:
            sigma += rng.uniform(0.5, 2.0) * np.outer(vector.real, vector.real)
        elif value.imag > 0:
            d = rng.uniform(0.5, 2.0)
            sigma += d * (np.outer(vector.real, vector.real) + np.outer(vector.imag, vector.imag))
    return sigma


def solutions(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """An orthonormal basis of the symmetric Σ = GΣGᵀ for all G, shape (k, n, n)."""
    n = len(matrices[0])
    upper = np.array([(i, j) for i in range(n) for j in range(i, n)])
    basis = np.zeros((len(upper), n, n))
    for row, (i, j) in zip(basis, upper, strict=True):
        row[i, j] = row[j, i] = 1.0 if i == j else np.sqrt(0.5)
    images = [np.einsum("ab,kbc,dc->kad", g, basis, g) - basis for g in matrices]
    rows = np.concatenate([image.reshape(len(upper), -1) for image in images], axis=1)
    u, s, _ = np.linalg.svd(rows)
    return np.einsum("ik,iab->kab", u[:, s < 1e-9 * max(1.0, s[0])], basis)


def definiteness(basis: np.ndarray, rng: np.random.Generator, tries: int = 2000) -> float:
    """The largest ratio of the least to the largest |eigenvalue| over random members of a space of matrices."""
    if not len(basis):
        return -1.0
    members = np.einsum("tk,kab->tab", rng.normal(size=(tries, len(basis))), basis)
    members = np.concatenate([members, -members])
    values = np.linalg.eigvalsh(members)
    return float(np.max(values[:, 0] / np.abs(values).max(1)))


def on_layers(h: np.ndarray) -> np.ndarray:
    """The action on one row of the kernel before and one column after a layer: x → hx, y → h⁻ᵀy."""
    n, zero = len(h), np.zeros_like(h)
    assert h.shape == (n, n)
    return np.block([[h, zero], [zero, np.linalg.inv(h).T]])


def run(config: Config, store: Store) -> Result:
    """Solutions of the Lyapunov equation, the construction, and the spread of a distribution moved again and again."""
    rng = np.random.default_rng(config.seed)
    result: dict[str, Any] = {"similar": {}, "groups": {}, "spread": {}}
    transformations = {}
    for name, (angles, real) in SIMILAR.items():
        g = similar(rng, angles, real)
        sigma = lyapunov_construction(g, rng)
        gap = np.abs(g @ sigma @ g.T - sigma).max() / np.abs(sigma).max()
        basis = solutions([g])
        result["similar"][name] = {
            "gap": gap,
            "least": np.linalg.eigvalsh(sigma)[0] / np.abs(sigma).max(),
            "solutions": len(basis),
            "printed": _printed_count(angles, real),
            "hermitian": _hermitian_count(angles, real),
        }
        transformations[name] = g
    transformations["shear"] = np.array([[1.0, 1.0], [0.0, 1.0]])
    transformations["an element of GL"] = on_layers(_elements(GeneralLinear(3), 1, config.seed)[0])
    for name in DRIFTING:
        basis = solutions([transformations[name]])
        result["similar"][name] = {"solutions": len(basis), "definite": definiteness(basis, rng)}
    for name, group in (("GL", GeneralLinear(3)), ("O", Orthogonal(3))):
        basis = solutions([on_layers(h) for h in _elements(group, 4, config.seed + 1)])
        result["groups"][name] = {"solutions": len(basis), "definite": definiteness(basis, rng)}
    for name, g in transformations.items():
        power, spread = np.eye(len(g)), []
        for _ in range(config.powers + 1):
            spread.append(np.sum(power**2) / len(g))
            power = g @ power
        result["spread"][name] = np.array(spread)
    return result


def _elements(group: Any, count: int, seed: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.vmap(lambda k: group.act(group.sample(k), jnp.eye(3), axis=0))(keys))


def _counts(angles: Sequence[float], real: Sequence[float]) -> tuple[list[int], list[int]]:
    return [np.sum(np.equal(angles, a)) for a in set(angles)], [np.sum(np.equal(real, r)) for r in set(real)]


def _printed_count(angles: Sequence[float], real: Sequence[float]) -> int:
    """Free numbers of D in Lemma C.3: symmetric μ × μ for every eigenvalue and every pair."""
    pairs, ones = _counts(angles, real)
    return int(sum(m * (m + 1) // 2 for m in [*pairs, *ones]))


def _hermitian_count(angles: Sequence[float], real: Sequence[float]) -> int:
    """What it should be: D is Hermitian, with μ² free numbers, for every pair."""
    pairs, ones = _counts(angles, real)
    return int(sum(m**2 for m in pairs) + sum(m * (m + 1) // 2 for m in ones))


def claims(result: Result) -> Sequence[Finding]:
    """The construction solves the equation; without similarity there is no positive solution."""
    own, found = ("GC-C",), []
    for name in SIMILAR:
        r = result["similar"][name]
        found.append(
            at_most(
                f"{name}: Σ = VDVᵀ solves Σ = GΣGᵀ (largest error, relative)", r["gap"], 1e-10, claims=own
            )
        )
        text = f"{name}: Σ = VDVᵀ is positive definite (least eigenvalue, of the largest entry)"
        found.append(at_least(text, r["least"], 1e-6, claims=own))
        text = f"{name}: {r['solutions']} solutions, {r['hermitian']} with a Hermitian D for each pair (difference)"
        found.append(at_most(text, abs(int(r["solutions"]) - int(r["hermitian"])), 0, claims=own))
        found.append(
            at_most(
                f"{name}: the D of Lemma C.3 gives all solutions, {r['printed']} of {r['solutions']} (missing)",
                int(r["solutions"]) - int(r["printed"]),
                0,
                claims=own,
                anticipated="refuted" if "complex" in name else "verified",
            )
        )
    for name in DRIFTING:
        r = result["similar"][name]
        text = f"{name}: no positive definite solution, among {r['solutions']} (ratio of extreme eigenvalues)"
        found.append(at_most(text, r["definite"], 1e-6, claims=own))
    for name, r in result["groups"].items():
        text = f"{name}(3) on the kernels around a layer: {r['solutions']} solutions (ratio of extreme eigenvalues)"
        if name == "O":
            found.append(at_least(text, r["definite"], 0.1, claims=own))
        else:
            found.append(at_most(text, r["definite"], 1e-6, claims=own))
    for name, spread in result["spread"].items():
        half = len(spread) // 2
        growth = float(spread[half:].max() / spread[:half].max())
        text = f"{name}: spread of a Gaussian moved again and again, later over earlier"
        decide = at_least if name in DRIFTING else at_most
        found.append(decide(text, growth, 2.0, claims=own))
    return found


def plot(result: Result) -> Figure:
    """The spread against the number of times the transformation was applied."""
    figure, (ax,) = new_figure(height=3.1)
    for i, (name, spread) in enumerate(result["spread"].items()):
        style = "--" if name in DRIFTING else "-"
        ax.plot(
            spread, ls=style, lw=1.4, color=SERIES[i % len(SERIES)] if i < len(SERIES) else INK, label=name
        )
    ax.set_yscale("log")
    ax.set_ylim(0.1, 1e12)
    ax.set_xlabel("times applied")
    ax.set_ylabel("mean variance")
    ax.minorticks_off()
    figure.legend(loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="invariant-distributions",
    title="Which transformations have an invariant distribution",
    text=(
        "A distribution with a positive definite covariance that G leaves alone has Σ = GΣGᵀ, and then G is similar to "
        "an orthogonal matrix. For such G the construction Σ = VDVᵀ from eigenvectors solves the equation; where a "
        "complex pair is repeated μ times D has μ² free numbers, a Hermitian matrix, and not μ(μ+1)/2 as printed. A "
        "shear has semidefinite solutions only, and GL on the kernels around a layer an indefinite one only, so that "
        "Gaussian parameters moved by it spread for ever; its compact subgroup O has positive ones."
    ),
    claim_ids=("GC-C",),
    quick=Config(),
    full=Config(powers=200),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Mean variance of standard Gaussian parameters to which a transformation is applied again and again. Full: "
        "similar to an orthogonal one. Dashed: not similar to one."
    ),
    cost=(0.05, 0.1),
    x64=True,
)
