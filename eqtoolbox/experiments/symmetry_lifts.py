"""Symmetries of large networks from small ones, each with its negative control (DC-T6.6 to DC-T6.10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import discovery, groups
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, SERIES, new_figure
from eqtoolbox.symmetry import DataDependentAction, Symmetry, rotation_cocycle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name, claims, and the control that must fail.
LIFTS = {
    "sub-network": (("DC-T6.6", "DC-T6.9"), "tied weights"),
    "wider": (("DC-T6.7",), "softmax over the units"),
    "deeper": (("DC-T6.8",), "features of one layer only"),
    "smaller batch": (("DC-T6.10",), "padding drawn anew"),
}
SHAPES = {"a": (3, 4), "b": (4, 2)}
WIDE, UNITS = {"a": (3, 7), "b": (7, 2)}, (5, 0, 3, 6)


@dataclass(frozen=True)
class Config:
    """Random networks.

    Attributes:
      draws: parameters, data and group elements.
      seed: of everything random.
    """

    draws: int = 50
    seed: int = 0


def _block(theta: Any, s: Array) -> Array:
    return jnp.tanh(s @ theta["a"]) @ theta["b"]


def _layer(w: Array, x: Array) -> Array:
    return jnp.tanh(x @ w)


def run(config: Config, store: Store) -> Result:
    """Errors of each lifted action, and of its control: (draws, 4) and (draws,)."""
    action = DataDependentAction.mlp(
        {k: np.zeros(s) for k, s in SHAPES.items()}, ["a", "b"], rotation_cocycle(jnp.tanh)
    )
    measure = jax.jit(jax.vmap(lambda k: _measure(action, k)))
    return {
        "errors": store.once(
            "errors", lambda: measure(jax.random.split(jax.random.key(config.seed), config.draws))
        )
    }


def _measure(action: DataDependentAction, key: Array) -> dict[str, dict[str, Array]]:
    keys = jax.random.split(key, 12)
    g, h = action.sample(keys[0]), action.sample(keys[1])
    x = jax.random.normal(keys[2], (5,))
    inner = {name: jax.random.normal(k, s) for k, (name, s) in zip(keys[3:], SHAPES.items(), strict=False)}
    wide = {name: jax.random.normal(k, s) for k, (name, s) in zip(keys[5:], WIDE.items(), strict=False)}
    first, middle = jax.random.normal(keys[7], (5, 5)), jax.random.normal(keys[8], (5, 3))
    last = jax.random.normal(keys[9], (2, 2))

    def laws(act: Callable, function: Callable, params: Any, x: Array) -> Array:
        unit = act(action.identity(jnp.float64), params, x)
        return jnp.stack(
            [
                _off(function, act, g, params, x),
                _apart(unit, params),
                _apart(act(g, act(h, params, x), x), act(action.compose(g, h), params, x)),
            ]
        )

    parts = discovery.SubNetwork(
        paths=("a", "b"),
        features=lambda p, x: _layer(p["middle"], x),
        block=_block,
        rest=lambda p, t, x: jnp.tanh(t) @ p["last"],
    )
    whole = {"middle": middle, "last": last, **inner}
    network = lambda p, x: jnp.tanh(_block(p, _layer(p["middle"], x))) @ p["last"]  # noqa: E731
    tied = lambda p, x: network(p, x) + jnp.sum(p["b"]) * p["last"][0]  # noqa: E731
    sub = discovery.lift_subnetwork(action.act, parts)

    wider = discovery.lift_wider(action.act, {"a": 1, "b": 0}, UNITS)
    coupled = lambda p, s: jax.nn.softmax(s @ p["a"]) @ p["b"]  # noqa: E731
    short = jax.random.normal(keys[10], (3,))

    stack = [first, middle, inner]
    deep = lambda p, x: _block(p[2], _layer(p[1], _layer(p[0], x)))  # noqa: E731
    deeper = discovery.lift_deeper(action.act, [_layer, _layer, _block], 2)
    printed = lambda g, p, x: [*p[:2], action.act(g, p[2], _layer(p[1], x))]  # noqa: E731

    return {
        "sub-network": {"right": laws(sub, network, whole, x), "control": _off(tied, sub, g, whole, x)},
        "wider": {"right": laws(wider, _block, wide, short), "control": _off(coupled, wider, g, wide, short)},
        "deeper": {"right": laws(deeper, deep, stack, x), "control": _off(deep, printed, g, stack, x)},
        "smaller batch": _batch(keys[11]),
    }


def _off(function: Callable, act: Callable, g: Any, params: Any, x: Array) -> Array:
    return jnp.max(jnp.abs(function(act(g, params, x), x) - function(params, x)))


def _apart(p: Any, q: Any) -> Array:
    return jnp.max(jnp.stack(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), p, q))))


def _batch(key: Array) -> dict[str, Array]:
    """An action for two samples: GL on a linear network, conjugated by a matrix that depends on them."""
    keys = jax.random.split(key, 8)
    sym = Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.GeneralLinear(4)})
    params = {"u": jax.random.normal(keys[0], (2, 4)), "v": jax.random.normal(keys[1], (4, 2))}
    x, fixed = jax.random.normal(keys[2], (1, 2)), jax.random.normal(keys[3], (1, 2))
    g, h = sym.sample(keys[4]), sym.sample(keys[5])

    def act(g: Any, p: Any, x: Array) -> Any:
        turn = jnp.eye(4) + 0.2 * jnp.tanh(jnp.sum(x)) * jnp.eye(4, k=1)
        return sym.act({"h": turn @ g["h"] @ jnp.linalg.inv(turn)}, p)

    function = lambda p, x: x @ p["u"] @ p["v"]  # noqa: E731
    padded = lambda g, p, x: act(g, p, jnp.concatenate([x, fixed]))  # noqa: E731
    anew = lambda k, g, p: act(g, p, jnp.concatenate([x, jax.random.normal(k, (1, 2))]))  # noqa: E731
    k1, k2, k3 = jax.random.split(keys[6], 3)
    right = jnp.stack(
        [
            _off(function, padded, g, params, x),
            _apart(padded(sym.identity(jnp.float64), params, x), params),
            _apart(padded(g, padded(h, params, x), x), padded(sym.compose(g, h), params, x)),
        ]
    )
    return {
        "right": right,
        "control": _apart(anew(k1, g, anew(k2, h, params)), anew(k3, sym.compose(g, h), params)),
    }


def claims(result: Result) -> Sequence[Finding]:
    """Each lift keeps the function and the axioms; each control fails."""
    found = []
    for name, (ids, control) in LIFTS.items():
        own = result["errors"][name]
        found += [
            at_most(
                f"{name}: invariance, identity and associativity (largest error)",
                float(np.max(own["right"])),
                1e-8,
                claims=ids,
            ),
            at_least(
                f"{name}, {control}: it fails (median error)",
                float(np.median(own["control"])),
                1e-2,
                claims=ids,
            ),
        ]
    return found


def plot(result: Result) -> Figure:
    """Errors of lifts and controls."""
    figure, (axis,) = new_figure(1, height=3.2)
    for i, (name, (_, control)) in enumerate(LIFTS.items()):
        own = result["errors"][name]
        for values, colour, offset in (
            (own["right"].max(1), SERIES[0], -0.15),
            (own["control"], SERIES[1], 0.15),
        ):
            jitter = np.linspace(-0.1, 0.1, len(values))
            axis.plot(i + offset + jitter, np.maximum(values, 1e-18), ".", ms=3, color=colour)
        axis.text(i, 3e2, control, ha="center", fontsize=7, color=INK)
    axis.plot([], [], ".", color=SERIES[0], label="lift")
    axis.plot([], [], ".", color=SERIES[1], label="negative control")
    axis.set_yscale("log")
    axis.minorticks_off()
    axis.set_ylim(1e-18, 2e3)
    axis.set_xticks(range(len(LIFTS)), list(LIFTS))
    axis.set_ylabel("error")
    axis.set_title("Symmetries of parts, and what is none")
    axis.legend(labelcolor=INK, fontsize=7, loc="center right")
    return figure


EXPERIMENT = Experiment(
    name="symmetry-lifts",
    title="Symmetries of large networks from small ones",
    text=(
        "An action on a block of a network, with the block's inputs as its data, acts on the whole network; on chosen "
        "units of a wider layer; on a layer of a deeper one; and on smaller batches padded by a fixed map. With tied "
        "weights, units that are coupled, the wrong features or padding drawn anew it is no symmetry."
    ),
    claim_ids=tuple(i for ids, _ in LIFTS.values() for i in ids),
    quick=Config(),
    full=Config(draws=1000),
    run=run,
    claims=claims,
    plot=plot,
    caption="Largest error of invariance, identity and associativity for random networks, and of controls.",
    cost=(0.4, 0.4),
    x64=True,
)
