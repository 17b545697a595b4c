"""Which initialisers are distributions that the groups of hidden units leave alone (GC, appendix D)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._two_sample import GROUPS, IMPLAUSIBLE, PLAUSIBLE, invariance_p
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Kernels between two hidden layers.

    Attributes:
      samples: of each initialiser.
      units: of each of two hidden layers.
      seed: of all.
    """

    samples: int = 4000
    units: int = 5
    seed: int = 5


def sparse(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Gaussian entries of which one third of each column, at random places, is zero, as torch's ``sparse_``."""
    value_key, place_key = jax.random.split(key)
    ranks = jnp.argsort(jax.random.uniform(place_key, shape), axis=0)
    return jnp.where(ranks < -(-shape[0] // 3), 0, jax.random.normal(value_key, shape, dtype))


def near_identity(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """The identity and small Gaussian noise."""
    return jnp.eye(*shape, dtype=dtype) + 0.1 * jax.random.normal(key, shape, dtype)


def initialisers() -> dict[str, tuple[Callable[..., Array], str]]:
    """Initialisers by name, with the groups under which they are invariant."""
    init = jax.nn.initializers
    return {
        "normal": (init.normal(1.0), "OBS"),
        "orthogonal": (init.orthogonal(), "OBS"),
        "variance scaling, normal": (init.variance_scaling(1.0, "fan_in", "normal"), "OBS"),
        "truncated normal": (init.truncated_normal(1.0), "BS"),
        "lecun normal (Flax default)": (init.lecun_normal(), "BS"),
        "he normal": (init.he_normal(), "BS"),
        "glorot uniform": (init.glorot_uniform(), "BS"),
        "uniform(−1, 1)": (partial(jax.random.uniform, minval=-1.0), "BS"),
        "sparse": (sparse, "BS"),
        "uniform(0, 1)": (init.uniform(1.0), "S"),
        "uniform(−0.5, 1)": (partial(jax.random.uniform, minval=-0.5), "S"),
        "constant": (init.constant(1.0), "S"),
        "near the identity": (near_identity, ""),
    }


def run(config: Config, store: Store) -> Result:
    """The probability that each is invariant, under each group."""
    axes, n = {"kernel": "a* b"}, config.units
    symmetries = [Symmetry(axes, {"a": group(n), "b": group(n)}) for group in GROUPS.values()]
    names, table = list(initialisers()), []
    for row, (name, (function, _)) in enumerate(initialisers().items()):
        store.progress.describe(name)
        key = jax.random.fold_in(jax.random.key(config.seed), row)
        draw_key, *test_keys = jax.random.split(key, 1 + len(GROUPS))
        draw = jax.jit(jax.vmap(partial(function, shape=(n, n))))
        drawn = {"kernel": draw(jax.random.split(draw_key, config.samples))}
        table.append([invariance_p(sym, drawn, k) for sym, k in zip(symmetries, test_keys, strict=True)])
    expected = [[group in groups for group in GROUPS] for _, groups in initialisers().values()]
    return {"names": names, "p": np.array(table), "expected": np.array(expected)}


def claims(result: Result) -> Sequence[Finding]:
    """Those that should be invariant may be, and those that should not are not."""
    found = []
    p, expected = result["p"], result["expected"]
    for i, group in enumerate(GROUPS):
        yes, no = p[expected[:, i], i], p[~expected[:, i], i]
        found.append(
            at_least(
                f"Invariant under {group}: {_listed(result, expected[:, i])} (least probability of {len(yes)})",
                yes.min(),
                PLAUSIBLE,
                claims=("GC-D",),
            )
        )
        found.append(
            at_most(
                f"Not invariant under {group}: {_listed(result, ~expected[:, i])} (largest probability of {len(no)})",
                no.max(),
                IMPLAUSIBLE,
                claims=("GC-D",),
            )
        )
    return found


def _listed(result: Result, which: np.ndarray) -> str:
    return ", ".join(name for name, kept in zip(result["names"], which, strict=True) if kept)


def plot(result: Result) -> Figure:
    """The probabilities, on a line for each initialiser."""
    figure, (ax,) = new_figure(height=3.9)
    rows = np.arange(len(result["names"]))
    floor = 1e-30
    for i, (group, marker) in enumerate(zip(GROUPS, "osD", strict=True)):
        p = np.maximum(result["p"][:, i], floor)
        ax.plot(p, rows + 0.22 * (i - 1), marker, ms=4.5, color=SERIES[i], label=f"under {group}")
    ax.axvline(PLAUSIBLE, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    ax.set_xscale("log")
    ax.set_xlim(floor / 10, 10)
    ax.set_yticks(rows, result["names"])
    ax.invert_yaxis()
    ax.minorticks_off()
    ax.set_xlabel("probability of such a difference, if invariant (1e-30 stands for anything below)")
    figure.legend(loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="invariant-initialisers",
    title="Which initialisers the groups of hidden units leave alone",
    text=(
        "Samples of a kernel between two hidden layers, half of them moved by random elements of O, B or S of each "
        "hidden layer, are compared by two-sample tests. Gaussian and orthogonal initialisers are invariant under all "
        "three, symmetric uniform and sparse ones under B and S, uniform ones on other intervals under S alone. What "
        "JAX and Flax call normal by fan (lecun, he, glorot) is a truncated Gaussian: under O it is not invariant, "
        "other than in the paper, which has PyTorch's in mind."
    ),
    claim_ids=("GC-D",),
    quick=Config(),
    full=Config(samples=40000),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Probability of the difference between samples and moved samples, for the smallest of several "
        "Kolmogorov-Smirnov tests times their number. Left of the dashed line a distribution is not invariant."
    ),
    cost=(0.3, 0.5),
)
