"""Infinitesimal symmetries of small networks, counted by null spaces (DC-T6.11, DC-T6.12, DC-T6.16, DC-E6.8)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import discovery, groups
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE, FLOW, TRANSFORMER, TRIVIAL = ("DC-T6.11",), ("DC-T6.12",), ("DC-T6.16",), ("DC-E6.8",)
SIGMA: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "leaky": lambda z: jnp.where(z > 0, z, 0.1 * z),
    "square": jnp.square,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "radial": lambda z: z / (1 + jnp.sqrt(jnp.sum(z * z, -1, keepdims=True))),
}
#: Exponent of the outgoing weights and group of the hidden units, by activation; others have no continuous one.
KNOWN: dict[str, tuple[str, Callable[[int], Any]]] = {
    "linear": ("^-1", groups.GeneralLinear),
    "leaky": ("^-1", groups.PositiveScaling),
    "square": ("^-2", groups.PositiveScaling),
    "radial": ("^-1", groups.Orthogonal),
}


class Network(NamedTuple):
    """Activation, widths, the dimension that is right, and how many of it the known symmetry does not have."""

    sigma: str
    widths: tuple[int, ...]
    dimension: int
    extra: int = 0

    @property
    def name(self) -> str:
        """Activation and widths."""
        return f"{self.sigma} {'-'.join(map(str, self.widths))}"


NETWORKS = (
    Network("linear", (1, 1, 1), 1),
    Network("linear", (2, 2, 2), 4),
    Network("linear", (2, 3, 2), 9),
    Network("leaky", (2, 2, 2), 2),
    Network("radial", (3, 3, 2), 3),
    Network("sigmoid", (3, 3, 1), 0),
    Network("tanh", (2, 2, 2, 1), 0),
    Network("linear", (3, 2, 1), 7, 3),
    Network("leaky", (3, 3, 2), 3),
    Network("square", (2, 2, 2), 2),
    Network("leaky", (2, 2, 2, 2), 4),
    Network("linear", (3, 3, 1), 18, 9),
    Network("linear", (1, 3, 2), 15, 6),
)


@dataclass(frozen=True)
class Config:
    """Which networks.

    Attributes:
      networks: how many of ``NETWORKS``.
      data: numbers of losses whose level set is measured.
      seed: of everything random.
    """

    networks: int = 8
    data: tuple[int, ...] = (1, 3, 5, 8, 11, 12)
    seed: int = 0


def apply(network: Network) -> Callable[[Any, Array], Array]:
    """(θ, x) -> W_L σ(… σ(W_1 x)), samples as rows."""

    def forward(p: Any, x: Array) -> Array:
        for i in range(len(network.widths) - 1):
            x = (SIGMA[network.sigma](x) if i else x) @ p[f"W{i}"].T
        return x

    return forward


def known(network: Network) -> Symmetry | None:
    """The continuous symmetry that labels express."""
    if network.sigma not in KNOWN:
        return None
    power, group = KNOWN[network.sigma]
    inner = range(1, len(network.widths) - 1)
    spaces = ["_", *(f"h{i}" for i in inner), "_"]
    axes = {
        f"W{i}": f"{b} {a if a == '_' else a + power}" for i, (a, b) in enumerate(itertools.pairwise(spaces))
    }
    return Symmetry(axes, {f"h{i}": group(network.widths[i]) for i in inner})


def run(config: Config, store: Store) -> Result:
    """The null space of each network, the level sets of a sigmoid network, and the counts of a tiny transformer."""
    key, found = jax.random.key(config.seed), {}
    for i, network in enumerate(NETWORKS[: config.networks]):
        store.progress.describe(f"generators of {network.name}")
        own = jax.random.fold_in(key, i)
        found[network.name] = store.once(network.name.replace(" ", "-"), lambda n=network, k=own: _one(n, k))
    return {
        "networks": found,
        "level_sets": _level_sets(config, jax.random.fold_in(key, 100)),
        "skew": _skew_action(jax.random.fold_in(key, 101)),
        "transformer": store.once("transformer", lambda: _transformer(jax.random.fold_in(key, 102))),
    }


def _one(network: Network, key: Array) -> dict[str, Any]:
    widths, sym = network.widths, known(network)
    params = {f"W{i}": jnp.ones((b, a)) for i, (a, b) in enumerate(itertools.pairwise(widths))}
    k_find, k_new = jax.random.split(key)
    family = discovery.linear_family(params)
    found = discovery.null_space(family, apply(network), params, jnp.ones((4, widths[0])), key=k_find)
    new = None if sym is None or not found.dimension else discovery.novelty(found, sym, params, key=k_new)
    return {
        "dimension": found.dimension,
        "new": found.dimension if new is None else new.new,
        "unseen": 0 if new is None else new.unseen,
        "gap": found.gap,
        "spectrum": found.spectrum,
        "words": [found.describe(j, 4) for j in range(min(found.dimension, 4))],
    }


def _level_sets(config: Config, key: Array) -> dict[str, Any]:
    """p − rank D_θL for d losses of a sigmoid 3-3-1 network, and the losses along flows inside."""
    k_theta, k_x, k_w = jax.random.split(key, 3)
    theta, w = jax.random.normal(k_theta, (12,)), jax.random.normal(k_w, (12,))
    data = jax.random.normal(k_x, (max(config.data), 4))

    def losses(p: Array, x: Array) -> Array:
        return (jax.nn.sigmoid(x[:, :3] @ p[:9].reshape(3, 3)) @ p[9:] - x[:, 3]) ** 2

    jacobian = np.asarray(jax.jacrev(lambda p: losses(p, data))(theta))
    free = [12 - int(np.linalg.matrix_rank(jacobian[:d])) for d in config.data]

    @jax.jit
    def drift(theta: Array) -> Array:
        x = data[:3]
        field = lambda p: discovery.level_set_field(lambda q: losses(q, x), p, w / 4)  # noqa: E731
        return jnp.max(jnp.abs(losses(discovery.flow(field, theta, 2.0, 200), x) - losses(theta, x)))

    return {"data": np.array(config.data), "free": np.array(free), "drift": float(drift(theta))}


def _skew_action(key: Array) -> float:
    """W_1 -> W_1 + S W_2ᵀuᵀ with S skew, at finite size: how far W_2 W_1 moves."""
    k1, k2, k3, k4 = jax.random.split(key, 4)
    w1, w2 = jax.random.normal(k1, (5, 4)), jax.random.normal(k2, (1, 5))
    s, u = jax.random.normal(k3, (5, 5)), jax.random.normal(k4, (1, 4))
    return float(jnp.max(jnp.abs(w2 @ (w1 + (s - s.T) @ w2.T @ u) - w2 @ w1)))


def attention(params: Any, x: Array) -> Array:
    """One head, residual, and a linear feed-forward map Z W1 W2: no norm, no activation; x (batch, tokens, 2)."""
    scores = jax.nn.softmax((x @ params["Q"]) @ jnp.swapaxes(x @ params["K"], -1, -2) / jnp.sqrt(2.0))
    return (x + scores @ (x @ params["V"])) @ params["F1"] @ params["F2"]


def _transformer(key: Array) -> dict[str, Any]:
    shapes = {"Q": (2, 2), "K": (2, 2), "V": (2, 2), "F1": (2, 4), "F2": (4, 2)}
    keys = jax.random.split(key, len(shapes) + 4)
    params = {name: jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=False)}
    sym = Symmetry(
        {"Q": "_ k", "K": "_ k*", "F1": "_ f", "F2": "f* _"},
        {"k": groups.GeneralLinear(2), "f": groups.GeneralLinear(4)},
    )
    x, y = jax.random.normal(keys[-4], (8, 2, 2)), jax.random.normal(keys[-3], (8, 2, 2))
    family = discovery.axis_family(params, sym)
    audit = discovery.audit(attention, params, x, known=sym, key=keys[-2], family=family)
    here = discovery.null_space(
        discovery.translation_family(params),
        attention,
        params,
        x,
        y,
        key=keys[-1],
        output_loss=lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
        definition="data_dependent_loss",
        spread=0.0,
    )
    return {
        "parameters": audit.parameters,
        "rank": audit.parameters - (audit.level_set or 0),
        "orbit": audit.orbit,
        "new": audit.new,
        "losses": int(here.rank.rank),
        "text": str(audit),
    }


def claims(result: Result) -> Sequence[Finding]:
    """The table, the generators that no label expresses, level sets, and the transformer."""
    right = {n.name: n for n in NETWORKS}
    found = []
    for name, own in result["networks"].items():
        expected = right[name]
        good = own["dimension"] == expected.dimension and own["new"] == expected.extra and not own["unseen"]
        statement = f"{name}: dimension of the symmetries, and how many are not in the known algebra"
        found.append(
            Finding(
                statement,
                f"{own['dimension']}, {own['new']}",
                f"{expected.dimension}, {expected.extra}",
                "verified" if good else "refuted",
                TABLE,
            )
        )
    least = min(own["gap"] for own in result["networks"].values())
    found.append(at_least("The gap that decides these (least)", least, 1e6, claims=TABLE))
    found.append(
        at_most(
            "The extra generators of scalar outputs are exact: W_2(W_1 + S W_2ᵀuᵀ) = W_2 W_1 at finite S",
            result["skew"],
            1e-12,
            claims=TABLE,
        )
    )
    level = result["level_sets"]
    expected_free = [12 - int(d) for d in level["data"]]
    same = level["free"].tolist() == expected_free
    text = ", ".join(map(str, level["free"].tolist()))
    found += [
        Finding(
            f"sigmoid 3-3-1: directions that keep {', '.join(map(str, level['data'].tolist()))} losses, with no "
            "symmetry of the architecture",
            text,
            ", ".join(map(str, expected_free)),
            "verified" if same else "refuted",
            FLOW + TRIVIAL,
        ),
        at_most(
            "Flows in the level set of three losses keep them over time 2", level["drift"], 1e-9, claims=FLOW
        ),
    ]
    own = result["transformer"]
    for words, value, expected in (
        ("parameters", own["parameters"], 28),
        ("functional rank", own["rank"], 12),
        ("rank of the derivative of 8 losses", own["losses"], 8),
        ("dimension of the known orbit", own["orbit"], 16),
        ("symmetries of its axes that are not known", own["new"], 0),
    ):
        verdict = "verified" if value == expected else "refuted"
        found.append(Finding(f"Tiny transformer: {words}", value, str(expected), verdict, TRANSFORMER))
    return found


def plot(result: Result) -> Figure:
    """Spectra, the numbers of generators, and the dimensions of level sets."""
    figure, (left, middle, right) = new_figure(3, height=3.6)
    networks = result["networks"]
    for i, own in enumerate(networks.values()):
        values = np.maximum(own["spectrum"] / own["spectrum"][0], 1e-18)
        null = np.arange(len(values)) >= len(values) - own["dimension"]
        left.plot(np.full((~null).sum(), i), values[~null], "_", color=SERIES[0], ms=7)
        left.plot(np.full(null.sum(), i), values[null], "_", color=SERIES[1], ms=7)
    left.plot([], [], "_", color=SERIES[0], label="no symmetry")
    left.plot([], [], "_", color=SERIES[1], label="symmetry")
    left.set_yscale("log")
    left.minorticks_off()
    left.set_ylim(1e-19, 1e3)
    left.set_ylabel("singular value / largest")
    left.set_title("The gap")
    left.legend(labelcolor=INK, loc="upper right", ncols=2, fontsize=7)
    names, positions = list(networks), np.arange(len(networks))
    new = np.array([own["new"] for own in networks.values()])
    known_part = np.array([own["dimension"] for own in networks.values()]) - new
    middle.bar(positions, known_part, color=SERIES[0], label="known")
    middle.bar(positions, new, bottom=known_part, color=SERIES[1], label="in no label")
    for i, total in enumerate(known_part + new):
        middle.text(i, total + 0.15, str(total), ha="center", va="bottom", fontsize=7, color=INK)
    middle.set_ylim(0, 1.3 * max((known_part + new).max(), 1))
    middle.set_ylabel("generators")
    middle.set_title("Symmetries found")
    middle.legend(labelcolor=INK, loc="upper left", fontsize=7)
    for ax in (left, middle):
        ax.set_xticks(positions, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    level = result["level_sets"]
    right.plot(level["data"], level["free"], "o", color=SERIES[0], ms=4, label="sigmoid 3-3-1")
    right.plot(level["data"], 12 - level["data"], color=MUTED, lw=0.8, ls=":", label="p − d")
    right.set_xticks(level["data"])
    right.set_xlabel("losses kept, d")
    right.set_ylabel("directions left")
    right.set_title("Level sets of data")
    right.legend(labelcolor=INK, fontsize=7)
    return figure


EXPERIMENT = Experiment(
    name="null-space-dimensions",
    title="All infinitesimal symmetries of small networks",
    text=(
        "All generators in gl(p) of small networks, as the null space of linear equations at random parameters: as "
        "many as the known symmetry has, and more for linear networks with one input or one output. A smooth "
        "activation has none. Directions that keep a few losses are there in any network: finding one is no "
        "discovery."
    ),
    claim_ids=TABLE + FLOW + TRANSFORMER + TRIVIAL,
    quick=Config(),
    full=Config(networks=len(NETWORKS)),
    run=run,
    claims=claims,
    plot=plot,
    caption="Singular values of the generator equations, generators found, and directions that keep d losses.",
    cost=(0.8, 1.5),
    x64=True,
)
