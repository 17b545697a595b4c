"""The charges of every symmetry: conserved by gradient flow, moved by the step size, noise, momentum and decay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from markupsafe import Markup

from eqtoolbox import noether
from eqtoolbox.linalg import coarsest_dtype, float64, rounding, tree_norm
from eqtoolbox.pages import INK, MUTED, SERIES, draw, figure, kept, number, paragraph, table
from eqtoolbox.problem import Batch
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._train import Probe, Step, train

ADAM_RATE = 1e-3
MOMENTUM, DECAY = 0.9, 1e-3
#: One-step changes are measured at these multiples of the learning rate.
MULTIPLES = tuple(float(m) for m in np.logspace(-2, 1, 7))
#: The covariance of the noise is looked at every so many steps, from so many parts of a batch.
EVERY, PARTS = 10, 8


def charge_probe(context: Context, optimizer: optax.GradientTransformation, law: noether.Law | None) -> Probe:
    """Records what ``track_charges`` sees of a run, and what stochastic gradient flow predicts.

    Args:
      context: gives the symmetry, and the loss for the gradients of parts of a batch.
      optimizer: the run's.
      law: its update rule, or None where there is no law.
    """
    sym = context.symmetry
    tracked: Any = noether.track_charges(optimizer, sym, law=law)
    parts = min(PARTS, context.config.batch_size or 1)
    plain = law if law is not None and law.momentum == 0 and parts > 1 else None

    def init(params: Params) -> tuple[Any, Any, Any]:
        zero = jax.tree.map(jnp.zeros_like, noether.charge_fn(sym)(params))
        return tracked.init(params), zero, zero

    def noise(step: Step) -> Any:
        """The drift that the flow predicts for a step."""
        samples = gradients_of_parts(context, step, parts)
        rate = context.config.learning_rate
        estimate = noether.flow_drift(sym, samples, rate / (2 * parts))
        return jax.tree.map(lambda c: rate * c, estimate.value)

    def record(state: tuple[Any, Any, Any], step: Step) -> tuple[Any, dict[str, Array]]:
        tracker, predicted, rate = state
        count = tracker.charge_state.charge_count
        if plain is not None:
            new = jax.lax.cond(count % EVERY == 0, lambda: noise(step), lambda: rate)
            rate = jax.tree.map(lambda a, b: a.astype(b.dtype), new, rate)
            predicted = jax.tree.map(jnp.add, predicted, rate)
        tracker = tracked.update(step.gradient, tracker, step.params)[1]
        s = tracker.charge_state
        measured = {
            "norm": tree_norm(s.charge),
            "change": tree_norm(_minus(s.charge, s.charge_start)),
            "unexplained": tree_norm(_minus(_minus(s.charge, s.charge_start), s.charge_drift)),
            "residual": jnp.max(jnp.stack(list(s.charge_residual.values()))),
            "noise": tree_norm(predicted),
        }
        if law is not None:
            measured["law"] = tree_norm(_minus(s.charge_law.law_charge, s.charge_start))
            measured["error"] = tree_norm(_minus(s.charge_law.law_charge, s.charge))
        return (tracker, predicted, rate), measured

    return Probe(init, record)


def gradients_of_parts(context: Context, step: Step, parts: int) -> Params:
    """The gradients of equal parts of a step's batch, stacked; what does not divide is left out."""

    def cut(x: Array) -> Array:
        size = len(x) // parts
        return x[: parts * size].reshape(parts, size, *x.shape[1:])

    loss = context.problem.batch_loss
    return jax.lax.map(lambda batch: jax.grad(loss)(step.params, batch), jax.tree.map(cut, step.batch))


def _minus(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.subtract, a, b)


def at_start(context: Context) -> dict[str, Any]:
    """What is known at θ_0: the charges there are, and how one step moves them, in float64 where the model allows.

    Returns:
      ``kinds``: for each factor the numbers of generators and of charges, and why. ``one_step``: the change of the
      charges in one step of gradient descent and of Adam at the step sizes of ``MULTIPLES``, and how far the former
      is from η²⟨g, Mg⟩; None without charges, in less than float64, and where no charge is quadratic.
    """
    records = noether.charged(context.symmetry)
    kinds = {r.key: {"generators": r.generators, "charges": r.charges, "why": r.why} for r in records}
    fine = context.invariance.fine is not None
    if not (fine and any(r.charges for r in records)):
        return {"kinds": kinds, "one_step": None}
    with float64(context.params, context.examples) as trees:
        found = _measure(context, *trees)
    return {"kinds": kinds, "one_step": found if np.all(found["exact"] > 0) else None}


def _measure(context: Context, params: Params, batch: Batch) -> dict[str, np.ndarray]:
    """For each step size: the change of the charges under ``sgd`` and ``adam``, ``exact`` η²|C(g)|, their ``gap``."""
    sym, adam = context.symmetry, optax.scale_by_adam()
    charge = noether.charge_fn(sym)

    @jax.jit
    def directions(params: Params, batch: Batch) -> tuple[Params, Params]:
        gradient = jax.grad(context.problem.batch_loss)(params, batch)
        return gradient, adam.update(gradient, adam.init(params))[0]

    @jax.jit
    def moved(params: Params, direction: Params, rate: Array) -> Any:
        """C(θ - rate · direction) - C(θ), by the charges themselves."""
        there = jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, params, direction)
        return _minus(charge(there), charge(params))

    def norm(tree: Any) -> float:
        return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree))))

    gradient, adam_direction = directions(params, batch)
    square = jax.device_get(noether.drift(sym, params, gradient).second)
    rates = context.config.learning_rate * np.asarray(MULTIPLES)
    sgd = [jax.device_get(moved(params, gradient, jnp.asarray(r))) for r in rates]
    scaled = [jax.device_get(moved(params, adam_direction, jnp.asarray(ADAM_RATE * m))) for m in MULTIPLES]
    gaps = [jax.tree.map(lambda c, s, r=r: c - r**2 * s, c, square) for r, c in zip(rates, sgd, strict=True)]
    return {
        "sgd": np.asarray([norm(c) for c in sgd]),
        "adam": np.asarray([norm(c) for c in scaled]),
        "exact": rates**2 * norm(square),
        "gap": np.asarray([norm(c) for c in gaps]),
    }


def _start(context: Context) -> tuple[dict[str, Any], Any]:
    found = context.once("charges at start", lambda: at_start(context))
    return found["kinds"], found["one_step"]


def _any(kinds: dict[str, Any]) -> bool:
    return any(kind["charges"] for kind in kinds.values())


def probe(context: Context) -> Probe | None:
    """Records the charges along training."""
    kinds, _ = _start(context)
    law = noether.Law(context.config.learning_rate)
    return charge_probe(context, context.optimizer, law) if _any(kinds) else None


def run(context: Context) -> SectionResult:
    """Compares the drift of the charges with its law, with what noise predicts, and with Adam's."""
    kinds, one_step = _start(context)
    if not _any(kinds):
        return SectionResult(_absent(kinds), data={"kinds": kinds})
    rate = context.config.learning_rate * (1 - MOMENTUM)
    heavy = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate, MOMENTUM))
    others = {
        "momentum": (heavy, noether.Law(rate, MOMENTUM, l2=DECAY)),
        "adam": (optax.adam(ADAM_RATE), None),
    }
    records = {"sgd": context.training.records[SECTION.name]}
    for name, (optimizer, law) in others.items():
        records[name] = train(
            context.problem,
            optimizer,
            context.params,
            context.data,
            context.indices,
            probes={SECTION.name: charge_probe(context, optimizer, law)},
            progress=context.progress,
        ).records[SECTION.name]
    start = float(tree_norm(noether.charge_fn(context.symmetry)(context.params)))
    scale = start or float(tree_norm(context.params)) ** 2
    data: dict[str, Any] = {name: _data(record, scale) for name, record in records.items()}
    data |= {"kinds": kinds, "start": start, "one_step": _slopes(one_step, scale)}
    steps, dtype = len(context.training.loss), coarsest_dtype(context.params)
    room = 10 * rounding(dtype) * max(steps, 10) ** 0.5
    checks = [
        Check(
            f"{name}: in {steps} steps the charges follow their exact law ({dtype})", data[key]["error"], room
        )
        for key, name in (("sgd", "Gradient descent"), ("momentum", "Heavy ball with weight decay"))
    ]
    if data["one_step"] is not None:
        checks.append(
            Check(
                "One step moves them by exactly η²⟨g, Mg⟩, at 1 to 10 learning rates (float64)",
                float(np.max(data["one_step"]["sgd_relative_error"][np.asarray(MULTIPLES) >= 1])),
                1e-6,
            )
        )
    note = (
        f"of their norm under gradient descent, {number(data['momentum']['final'])} with momentum and decay, both as "
        f"their laws say; {number(data['adam']['final'])} under Adam"
    )
    numbers = [Number("Drift of the charges", data["sgd"]["final"], note)]
    return SectionResult(_html(context, data), numbers, checks, data)


def _data(record: dict[str, np.ndarray], scale: float) -> dict[str, Any]:
    keep = kept(len(record["norm"]))
    found = {
        "steps": (keep + 1).tolist(),
        "norm": record["norm"][keep],
        "change": record["change"][keep] / scale,
        "unexplained": float(record["unexplained"].max()) / scale,
        "residual": float(record["residual"].max()),
        "final": float(record["change"][-1]) / scale,
        "noise": record["noise"][keep] / scale,
    }
    if "law" in record:
        found |= {"law": record["law"][keep] / scale, "error": float(record["error"].max()) / scale}
    return found


def _slopes(one_step: dict[str, np.ndarray] | None, scale: float) -> dict[str, Any] | None:
    """The one-step changes relative to the charges, and their slopes in log-log; None where a change is 0."""
    if one_step is None or not all(np.all(one_step[name] > 0) for name in ("sgd", "adam")):
        return None
    rate = np.log(MULTIPLES)
    return {
        "multiples": list(MULTIPLES),
        "sgd": one_step["sgd"] / scale,
        "adam": one_step["adam"] / scale,
        "sgd_relative_error": one_step["gap"] / one_step["exact"],
        "sgd_slope": float(np.polyfit(rate, np.log(one_step["sgd"]), 1)[0]),
        "adam_slope": float(np.polyfit(rate, np.log(one_step["adam"]), 1)[0]),
    }


def _kinds(kinds: dict[str, Any]) -> Markup:
    rows = [[space, kind["generators"], kind["charges"], kind["why"]] for space, kind in kinds.items()]
    return table(["space", "generators", "charges", "which"], rows, narrow=True)


def _absent(kinds: dict[str, Any]) -> list[Markup]:
    text = "A generator with a symmetric matrix has a charge, which gradient flow conserves. This model has none:"
    return [paragraph(text), _kinds(kinds)]


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    html = [
        paragraph(
            "Every generator with a symmetric matrix M gives a charge C = ⟨θ, Mθ⟩ that gradient flow conserves. For "
            "layers of linear units they are the entries of W₁W₁ᵀ − W₂ᵀW₂; for a ReLU unit, the squared norm of its "
            "incoming weights and bias minus that of its outgoing weights; for a shift, the sum of what is shifted. A "
            "step of size η moves them by exactly η²⟨g, Mg⟩, and momentum and weight decay have exact laws of their "
            "own, which need the gradients only. Adam has none: the first order of its update stays."
        ),
        paragraph(
            "What should be seen: drifts that lie on their laws (circles) to rounding, under gradient descent and with "
            "momentum and decay; the prediction of stochastic gradient flow near the former, less the part of the mean "
            "gradient; a larger drift under Adam. In one step, slope 2 for gradient descent and slope 1 for Adam.",
            "see",
        ),
    ]
    config = context.config
    caption = (
        f"Left: |C(θₜ) − C(θ₀)| / |C(θ₀)| along training; |C(θ₀)| = {number(data['start'])}. Gradient descent with "
        f"learning rate {number(config.learning_rate)}; heavy ball with β = {MOMENTUM}, "
        f"{number(config.learning_rate * (1 - MOMENTUM))} and L2 decay {number(DECAY)}; Adam with {number(ADAM_RATE)}. "
        f"The noise is estimated from {PARTS} parts of every {EVERY}th batch."
    )
    if data["one_step"]:
        caption += (
            " Right: the same after one step from θ₀, against the step size as a multiple of the learning rate, "
            "in float64, with fitted slopes."
        )
    html.append(figure(_picture(data), caption))
    names = {"sgd": "gradient descent", "momentum": "heavy ball, decay", "adam": "Adam"}
    rows = []
    for key, name in names.items():
        part = data[key]
        law = part.get("error", "no law")
        rows.append([name, part["final"], law, float(part["noise"][-1]) or "—", part["residual"]])
    head = [
        "trained by",
        "relative change",
        "largest error of the law",
        "predicted by noise",
        "residual ⟨g, Xθ⟩",
    ]
    html.append(table(head, rows, narrow=True))
    html.append(_kinds(data["kinds"]))
    return html


def _picture(data: dict[str, Any]) -> Markup:
    step = data["one_step"]

    def paint(fig: Any, axes: Any) -> None:
        ax = axes[0]
        ax.set_title("Change of the charges in training")
        style = {"ms": 4.5, "mfc": "none", "mew": 1.1, "color": INK}
        labels = (("adam", "Adam", 2), ("momentum", "heavy ball, decay", 1), ("sgd", "gradient descent", 0))
        for key, label, colour in labels:
            part = data[key]
            steps = np.asarray(part["steps"])
            ax.plot(steps, part["change"], color=SERIES[colour], label=label)
            if "law" in part:
                at = np.unique(np.geomspace(1, max(len(steps) - 1, 1), 12).round().astype(int))
                at = at[at < len(steps)]
                ax.plot(steps[at], part["law"][at], "o", label="exact law" if key == "sgd" else None, **style)
            if np.any(part["noise"] > 0):
                ax.plot(steps, part["noise"], color=MUTED, ls=(0, (4, 3)), label="stochastic gradient flow")
        ax.set_xlabel("step")
        ax.set_ylabel("relative change")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.minorticks_off()
        if step:
            ax = axes[1]
            ax.set_title("Change in one step")
            for name, colour, at, shift in (("adam", SERIES[2], 3, (-4, 9)), ("sgd", SERIES[0], 2, (10, -8))):
                values = np.asarray(step[name])
                ax.plot(step["multiples"], values, "o-", ms=3.5, color=colour)
                ax.annotate(
                    f"slope {step[f'{name}_slope']:.2f}",
                    (step["multiples"][at], values[at]),
                    xytext=shift,
                    textcoords="offset points",
                    color=colour,
                    fontsize=8.5,
                    ha="right" if name == "adam" else "left",
                )
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel("step size / learning rate")
            ax.set_ylabel("relative change")
            ax.axvline(1, color=MUTED, lw=0.9, ls=(0, (4, 3)))
            ax.minorticks_off()
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)

    alt = "Change of the charges along training and in one step, with their laws, under three optimizers."
    return draw("charges", alt, paint, columns=2 if step else 1, height=3.5)


SECTION = Section("charges", "Charges and their drift", 30, run, probe)
