"""Teleportation on a small regression (DB-F4.5, DB-F4.7, DB-EC1 to DB-EC4, DC-X3.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.orbits import (
    feature_action,
    gradient_norm,
    preconditioned_gradient_norm,
    teleport,
    teleport_as_printed,
    teleport_params,
)
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Equivariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Params = Any
FIGURE, SWEEP, MOMENTUM = ("DB-F4.5",), ("DB-F4.7",), ("DC-X3.4",)
LAYERS = ("first", "second", "third")


@dataclass(frozen=True)
class Config:
    """A LeakyReLU network of three layers, everything uniform in [0, 1], loss ½‖Y - f(X)‖².

    Attributes:
      sizes: of the layers.
      samples: of the one batch.
      seeds: runs.
      steps: of descent.
      at: the step before which it teleports, once.
      rate: of gradient descent.
      adagrad: learning rate of AdaGrad.
      momentum: learning rate and decay of heavy ball.
      reach: the largest norm of a step on the features, for heavy ball and the two norms of AdaGrad.
      tried: learning rates of the printed teleport for the sweep.
      inner: numbers of its steps for the sweep.
      longest: steps that a run of the sweep may take.
    """

    sizes: tuple[int, ...] = (5, 6, 7, 8)
    samples: int = 4
    seeds: int = 5
    steps: int = 300
    at: int = 5
    rate: float = 1e-4
    adagrad: float = 0.1
    momentum: tuple[float, float] = (2e-5, 0.9)
    reach: float = 0.01
    tried: tuple[float, ...] = (1e-9, 1e-8, 1e-7)
    inner: tuple[int, ...] = (8,)
    longest: int = 800


def leaky(slope: float) -> Callable[[Array], Array]:
    """LeakyReLU; its inverse has the inverse slope."""
    return lambda z: jnp.where(z > 0, z, slope * z)


@dataclass(frozen=True)
class _Task:
    """One problem: the loss and the actions at its batch."""

    x: Array
    y: Array
    root: bool = False

    def loss(self, params: Params) -> Array:
        h = leaky(0.1)(leaky(0.1)(self.x @ params["first"]) @ params["second"])
        half = jnp.sum((h @ params["third"] - self.y) ** 2) / 2
        return jnp.sqrt(2 * half) if self.root else half

    def action(self, params: Params, **form: Any) -> Equivariance:
        return feature_action(params, LAYERS, self.x, leaky(0.1), leaky(10.0), **form)


PRINTED: dict[str, Any] = {"element": "first_order", "residual": False}


def _draw(key: Array, config: Config) -> tuple[_Task, Params]:
    keys = jax.random.split(key, len(LAYERS) + 2)
    shapes = zip(config.sizes, config.sizes[1:], strict=False)
    params = {name: jax.random.uniform(k, s) for name, k, s in zip(LAYERS, keys, shapes, strict=False)}
    x = jax.random.uniform(keys[-2], (config.samples, config.sizes[0]))
    y = jax.random.uniform(keys[-1], (config.samples, config.sizes[-1]))
    return _Task(x, y), params


def run(config: Config, store: Store) -> Result:
    """Descends with each optimizer and each kind of teleport; sweeps; momentum."""
    store.progress.describe("teleports of a regression")
    found: dict[str, Any] = {}
    for name in ("descent", "adagrad"):
        found[name] = store.once(name, lambda n=name: _kinds(n, config))
    found["buffers"] = store.once("buffers", lambda: _buffers(config))
    store.progress.describe("sweep of learning rates")
    found["sweep"] = store.once("sweep", lambda: _sweep(config))
    found["at"] = config.at
    return found


def _follow(
    tx: Any, task: _Task, params: Params, steps: int, move: Callable | None, at: int
) -> dict[str, Array]:
    """Losses and slopes of ``steps`` steps, with a move before step ``at``: params -> (params, info)."""
    loss = task.loss
    state = tx.init(params)

    def step(carry: tuple, t: Array) -> tuple[tuple, dict[str, Array]]:
        params, state = carry
        before = loss(params)
        if move is not None:
            params = jax.lax.cond(t == at, partial(move, task), lambda p: p, params)
        value, gradient = jax.value_and_grad(loss)(params)
        seen = {"loss": before, "moved": value, "slope": optax.tree.norm(gradient) ** 2}
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), seen

    return jax.lax.scan(step, (params, state), jnp.arange(steps))[1]


#: For each form of the printed search its factors of the learning rate, by name.
FORMS = {
    "printed": (PRINTED, {"printed": 1.0, "printed, no move": 0.0}),
    "exact": ({"element": "inverse"}, {"exact": 1.0, "exact, a tenth": 0.1, "exact, no move": 0.0}),
}


def _kinds(name: str, config: Config) -> dict[str, Any]:
    """The optimizer alone, with printed searches, and with ours; the last for descent with the loss unsquared too."""
    down = name == "descent"
    tx = optax.sgd(config.rate)
    if not down:
        tx = optax.adagrad(config.adagrad, initial_accumulator_value=0.0, eps=1e-10)
    rate, inner = (1e-7, 8) if down else (1e-5, 2)
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def ours(task: _Task, params: Params) -> Params:
        limit: dict[str, Any] = {"max_curvature": 1 / config.rate} if down else {}
        eq = task.action(params)
        return teleport_params(eq, task.loss, params, steps=10, learning_rate=1e-2, retract=True, **limit)[0]

    def alone(key: Array, move: Callable | None = None) -> dict[str, Array]:
        task, params = _draw(key, config)
        return _follow(tx, task, params, config.steps, move, config.at)

    found: dict[str, Any] = {
        "none": jax.jit(jax.vmap(alone))(jax.random.clone(keys)),
        "ours": jax.jit(jax.vmap(partial(alone, move=ours)))(jax.random.clone(keys)),
    }
    for form, factors in FORMS.values() if down else [FORMS["printed"]]:

        def one(key: Array, factor: Array, form: dict = form) -> dict[str, Array]:
            def move(task: _Task, params: Params) -> Params:
                search = partial(teleport_as_printed, steps=inner, retract=True)
                # A learning rate must be positive: this one moves nothing.
                tried = jnp.maximum(rate * factor, 1e-30)
                return search(task.action(params, **form), task.loss, params, learning_rate=tried)[0]

            return alone(key, move)

        many = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))
        stack = many(jax.random.clone(keys), jnp.asarray(list(factors.values())))
        found |= {kind: jax.tree.map(lambda v, k=k: v[k], stack) for k, kind in enumerate(factors)}
    if name == "descent":

        def rooted(key: Array) -> dict[str, Array]:
            task, params = _draw(key, config)
            return _follow(tx, _Task(task.x, task.y, True), params, config.steps, None, config.at)

        found["without the square"] = jax.jit(jax.vmap(rooted))(jax.random.clone(keys))
    return jax.device_get(found)


def _buffers(config: Config) -> dict[str, Any]:
    """Heavy ball with what it remembers moved, kept and dropped; AdaGrad with its own norm as the objective."""
    rate, decay = config.momentum
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def follow(tx: Any, task: _Task, params: Params) -> Array:
        extra = {"value_fn": task.loss} if isinstance(tx, optax.GradientTransformationExtraArgs) else {}

        def step(carry: tuple, _: Any) -> tuple[tuple, Array]:
            params, state = carry
            value, gradient = jax.value_and_grad(task.loss)(params)
            updates, state = tx.update(gradient, state, params, **extra)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), None, length=config.steps)[1]

    def wrapped(inner: Any, **options: Any) -> Callable[[Array], Array]:
        def one(key: Array) -> Array:
            task, params = _draw(key, config)
            when = lambda t: t == config.at  # noqa: E731
            eq = task.action(params)
            tx = teleport(inner, eq, every=when, retract=True, max_step=config.reach, **options)
            return follow(tx, task, params)

        return one

    def plain(inner: Any) -> Callable[[Array], Array]:
        def one(key: Array) -> Array:
            task, params = _draw(key, config)
            return follow(inner, task, params)

        return one

    ball = optax.sgd(rate, decay)
    ada = optax.adagrad(config.adagrad, initial_accumulator_value=0.0, eps=1e-10)
    limit = (1 - decay) / rate
    runs = {
        "momentum": plain(ball),
        **{how: wrapped(ball, buffers=how, max_curvature=limit) for how in ("transport", "keep", "reset")},
        "‖∇L‖": wrapped(ada, objective=gradient_norm, buffers="keep"),
        "‖∇L‖_A": wrapped(ada, objective=preconditioned_gradient_norm, buffers="keep"),
    }
    return {k: np.asarray(jax.jit(jax.vmap(f))(jax.random.clone(keys))) for k, f in runs.items()}


def _sweep(config: Config) -> dict[str, Any]:
    """Steps until |L_t - L_{t-1}| < 1e-3, alone and with a printed teleport, and what a teleport costs in steps."""
    tx = optax.sgd(config.rate)
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def until(losses: Array) -> Array:
        still = jnp.abs(jnp.diff(losses)) < 1e-3
        return jnp.where(still.any(), jnp.argmax(still) + 1, losses.shape[0])

    def one(key: Array, rate: Array, inner: int | None, form: dict) -> tuple[Array, Array]:
        task, params = _draw(key, config)

        def move(task: _Task, params: Params) -> Params:
            eq = task.action(params, **form)
            return teleport_as_printed(
                eq, task.loss, params, steps=inner or 1, learning_rate=rate, retract=True
            )[0]

        seen = _follow(tx, task, params, config.longest, move if inner else None, config.at)
        steps = until(seen["loss"])
        return steps, seen["loss"][-1]

    alone = jax.jit(jax.vmap(lambda k: one(k, jnp.float64(0), None, PRINTED)))(keys)
    found: dict[str, Any] = {"alone": np.asarray(alone[0]), "end": np.asarray(alone[1])}
    rates = jnp.asarray(config.tried)
    for label, form in (("printed", PRINTED),):
        steps, ends = [], []
        for inner in config.inner:
            many = jax.vmap(jax.vmap(lambda k, r, n=inner, f=form: one(k, r, n, f), (0, None)), (None, 0))
            a, b = jax.jit(many)(jax.random.clone(keys), rates)
            steps.append(np.asarray(a))
            ends.append(np.asarray(b))
        found[label], found[f"{label}_end"] = np.stack(steps), np.stack(ends)
    return {**found, "cost": _cost(config)}


def _cost(config: Config) -> float:
    """What one step of a printed teleport costs, in steps of descent; medians of calls that take turns."""
    task, params = _draw(jax.random.key(1), config)
    action = task.action(params, **PRINTED)

    @jax.jit
    def descend(params: Params) -> Params:
        down = lambda _, p: jax.tree.map(lambda w, g: w - config.rate * g, p, jax.grad(task.loss)(p))  # noqa: E731
        return jax.lax.fori_loop(0, 64, down, params)

    @jax.jit
    def ascend(params: Params) -> Params:
        return teleport_as_printed(action, task.loss, params, steps=64, learning_rate=1e-12, retract=True)[0]

    seconds: dict[str, list[float]] = {"descend": [], "ascend": []}
    for _ in range(15):
        for name, call in (("descend", descend), ("ascend", ascend)):
            start = time.perf_counter()
            jax.block_until_ready(call(params))
            seconds[name].append(time.perf_counter() - start)
    return float(np.median(seconds["ascend"][1:]) / np.median(seconds["descend"][1:]))


def claims(result: Result) -> Sequence[Finding]:
    """What teleports do to the loss at once, and later; the printed ones and exact ones."""
    at = result["at"]
    down, ada = result["descent"], result["adagrad"]
    jump = lambda runs, kind: runs[kind]["moved"][:, at] / runs[kind]["loss"][:, at]  # noqa: E731
    later = lambda runs, kind, t: runs[kind]["loss"][:, t]  # noqa: E731
    printed = jump(down, "printed")
    wins = lambda runs, kind, t: float(np.mean(later(runs, kind, t) < later(runs, "none", t)))  # noqa: E731
    found = [
        at_most(
            "Descent: the printed teleport, I ± T, keeps the loss (largest relative change)",
            float(np.abs(printed - 1).max()),
            1e-3,
            claims=("DB-EC1",),
            anticipated="refuted",
        ),
        at_most(
            "Descent: exact inverses at the printed learning rate: every run ends below where it was at the teleport",
            float(np.nanmax(np.nan_to_num(later(down, "exact", -1) / later(down, "none", at), nan=np.inf))),
            1.0,
            claims=("DB-EC2",),
            anticipated="refuted",
        ),
        at_most(
            "Descent: exact inverses at a tenth of it keep the loss (largest relative change)",
            float(np.abs(jump(down, "exact, a tenth") - 1).max()),
            1e-9,
            claims=("DB-EC2",),
        ),
        at_least(
            "Descent: and are below descent alone at step 50 (share of seeds)",
            wins(down, "exact, a tenth", 50),
            1.0,
            claims=(*FIGURE, "DB-EC2"),
        ),
    ]
    for name, runs in (("Descent", down), ("AdaGrad", ada)):
        found += [
            at_most(
                f"{name}: our teleports keep the loss (largest relative change)",
                float(np.abs(jump(runs, "ours") - 1).max()),
                1e-12,
                claims=FIGURE,
            ),
            at_least(
                f"{name}: and enlarge the gradient (least ratio of the rates)",
                float((runs["ours"]["slope"][:, at] / runs["none"]["slope"][:, at]).min()),
                1.0,
                claims=FIGURE,
            ),
            at_least(
                f"{name}: and are below the optimizer alone at step 50 (share of seeds)",
                wins(runs, "ours", 50),
                0.8,
                claims=FIGURE,
            ),
            at_most(
                f"{name}: and at the end (mean loss, of the mean without)",
                float(np.mean(later(runs, "ours", -1)) / np.mean(later(runs, "none", -1))),
                1.0,
                claims=FIGURE,
                anticipated="refuted" if name == "Descent" else "verified",
            ),
        ]
    shift = lambda kind: float(  # noqa: E731
        np.max(np.abs(later(down, kind, 50) / later(down, "none", 50) - 1))
    )
    found += [
        at_most(
            "The printed form with a group element of 1 changes nothing (loss 45 steps later, relative)",
            shift("printed, no move"),
            1e-6,
            claims=("DB-EC3",),
            anticipated="refuted",
        ),
        at_most(
            "The corrected form with a group element of 1", shift("exact, no move"), 1e-6, claims=("DB-EC3",)
        ),
        at_most(
            "With the printed loss, without the square, the printed rate makes progress (last loss², of the first)",
            float(
                np.mean((later(down, "without the square", -1) / later(down, "without the square", 0)) ** 2)
            ),
            0.01,
            claims=("DB-EC4",),
            anticipated="refuted",
        ),
    ]
    runs = result["buffers"]
    ends = {k: float(np.mean(v[:, 50])) for k, v in runs.items()}
    soon = {k: float(np.mean(v[:, 20])) for k, v in runs.items()}
    three = [ends[k] for k in ("transport", "keep", "reset")]
    found += [
        at_most(
            f"Momentum, step 20: buffer moved {soon['transport']:.3g}, kept {soon['keep']:.3g}, without teleport "
            f"{soon['momentum']:.3g}; the worse of the two, of that",
            max(soon["transport"], soon["keep"]) / soon["momentum"],
            1.0,
            claims=MOMENTUM,
        ),
        at_most(
            f"Momentum, step 50: moved, kept, dropped {', '.join(f'{v:.3g}' for v in three)}, without "
            f"{ends['momentum']:.3g}; the worst of the three, of that",
            max(three) / ends["momentum"],
            1.0,
            claims=MOMENTUM,
            anticipated="refuted",
        ),
        at_most(
            "Momentum, step 50: the three differ by (largest, of that without)",
            (max(three) - min(three)) / ends["momentum"],
            0.1,
            claims=MOMENTUM,
            anticipated="refuted",
        ),
        at_most(
            f"AdaGrad: its own norm is the better objective ({ends['‖∇L‖_A']:.3g}, {ends['‖∇L‖']:.3g}; ratio)",
            ends["‖∇L‖_A"] / ends["‖∇L‖"],
            1.0,
            claims=MOMENTUM,
        ),
    ]
    return [*found, *_sweep_claims(result["sweep"])]


def _sweep_claims(sweep: dict[str, Any]) -> list[Finding]:
    alone = sweep["alone"]
    fine = sweep["printed_end"] <= 2 * sweep["end"]
    ratios = (alone / sweep["printed"])[fine]
    return [
        at_least(
            f"Sweep of printed teleports that end as low as descent: share with fewer steps (one step of a teleport "
            f"costs {sweep['cost']:.1f} of descent)",
            float(np.mean(ratios > 1)),
            0.5,
            claims=SWEEP,
            anticipated="refuted",
        ),
    ]


def plot(result: Result) -> Figure:
    """Losses of descent, AdaGrad and momentum by step."""
    figure, axes = new_figure(3, height=3.4)
    at = result["at"]
    for ax, name, title in zip(axes, ("descent", "adagrad"), ("Gradient descent", "AdaGrad"), strict=False):
        runs = result[name]
        for kind, colour in (("none", MUTED), ("printed", SERIES[2]), ("ours", SERIES[0])):
            losses = runs[kind]["loss"]
            label = {"none": "alone", "printed": "teleport as printed", "ours": "ours"}[kind]
            ax.plot(np.mean(losses, 0), color=colour, lw=1.4, label=label if name == "descent" else None)
        ax.axvline(at, color=MUTED, lw=0.6, ls=":")
        ax.set_title(title)
    for (kind, losses), colour in zip(list(result["buffers"].items())[:4], (MUTED, *SERIES[:3]), strict=True):
        label = {
            "momentum": "momentum alone",
            "transport": "buffer moved",
            "keep": "kept",
            "reset": "dropped",
        }[kind]
        axes[2].plot(
            np.mean(losses, 0), color=colour, lw=1.4, ls="-" if kind != "keep" else "--", label=label
        )
    axes[2].set_title("Momentum, our teleports")
    axes[2].legend(labelcolor=INK)
    axes[0].set_ylabel("mean loss")
    for ax in axes:
        ax.set_yscale("log")
        ax.set_ylim(0.5, 2000)
        ax.set_xlabel("step")
        ax.minorticks_off()
    axes[0].legend(labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="teleport-regression",
    title="Teleportation on a small regression",
    text=(
        "A LeakyReLU network of three layers on four samples, with one teleport before step 5. As printed, with 1 + T "
        "and 1 − T for its inverse, the teleport itself lowers the loss by one or two orders of magnitude: it is not a "
        "symmetry at these learning rates. With exact inverses and the residual form the loss stays to rounding, and "
        "what is left of the speed-up is that of teleportation: descent has lost it by the end, AdaGrad has not. Heavy "
        "ball gains for some steps only, and it does matter what becomes of its buffer. The printed teleport of "
        "AdaGrad throws it off the figure."
    ),
    claim_ids=FIGURE + SWEEP + MOMENTUM + ("DB-EC1", "DB-EC2", "DB-EC3", "DB-EC4"),
    quick=Config(),
    full=Config(
        seeds=20,
        tried=(1e-9, 1e-8, 1e-7, 1e-6, 1e-5),
        inner=(1, 2, 4, 8, 16, 32),
        longest=2000,
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Mean loss by step; a dotted line where it teleports. Left and middle: alone, with the printed teleport, and "
        "with ours. Right: heavy ball with its buffer moved as a covector, kept, and dropped."
    ),
    cost=(1.5, 6.0),
    x64=True,
)
