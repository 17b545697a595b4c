"""The gradient of a homogeneous network among the eigenvectors of its Hessian (EQ-5.1b)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqtoolbox import zoo
from eqtoolbox.experiments._digits import DigitsNet, digits_net
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._trained import descent, trained
from eqtoolbox.identities import alignment, radial_hvp
from eqtoolbox.linalg import hvp_fn, stack_vdot, to_dense, top_eigenpairs, tree_norm, unravel_stack
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("EQ-5.1b",)


@dataclass(frozen=True)
class Config:
    """Gradient descent of bias-free networks, leaky ReLU on one digit and ReLU on many.

    Attributes:
      one_widths: hidden layers of the network that learns one digit with one output.
      one_rate: its step size.
      one_steps: its steps.
      widths: hidden layers of the network that learns many digits with ten outputs.
      examples: how many.
      rate: its step size.
      steps: its steps.
      batch_size: examples of a step of the same training by mini-batches.
      parts: measurements along either run.
      pairs: leading eigenpairs that are measured on many digits.
      seed: of the initial weights.
    """

    one_widths: tuple[int, ...] = (3, 3)
    one_rate: float = 0.02
    one_steps: int = 60
    widths: tuple[int, ...] = (32, 32)
    examples: int = 500
    rate: float = 0.1
    steps: int = 300
    batch_size: int = 20
    parts: int = 6
    pairs: int = 10
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains on one digit, measuring every eigenpair, and on many, by full and mini-batches, measuring a few."""
    store.progress.describe("one digit, all eigenpairs")
    # Leaky, so that no unit is dead on the one digit.
    one = digits_net(config.one_widths, "logistic", examples=1, activation="leaky_relu", seed=config.seed)
    measure = _measure(one, _all_pairs(one))
    step = lambda params, t: one.loss(params)  # noqa: E731
    found = {
        "one": _descend(store, "one", one, step, measure, config.one_rate, config.one_steps, config.parts)
    }
    many = digits_net(config.widths, "cross_entropy", examples=config.examples, seed=config.seed)
    measure = _measure(many, _leading_pairs(many, config.pairs))
    epochs = -(-config.steps * config.batch_size // config.examples)
    rows = zoo.batch_indices(jax.random.key(config.seed), config.examples, config.batch_size, epochs)
    losses = {
        "many": lambda params, t: many.loss(params),
        "noisy": lambda params, t: many.loss(params, rows[t]),
    }
    for name, loss in losses.items():
        store.progress.describe("many digits" if name == "many" else "many digits, mini-batches")
        found[name] = _descend(store, name, many, loss, measure, config.rate, config.steps, config.parts)
    size = sum(w.size for w in jax.tree.leaves(many.params))
    return {**found, "pairs": config.pairs, "parameters": size}


def _all_pairs(net: DigitsNet) -> Any:
    def pairs(params: Any) -> tuple[Any, Any]:
        values, vectors = jnp.linalg.eigh(to_dense(hvp_fn(net.loss, params), params))
        return values, unravel_stack(vectors.T, params)

    return pairs


def _leading_pairs(net: DigitsNet, count: int) -> Any:
    def pairs(params: Any) -> tuple[Any, Any]:
        found, _ = top_eigenpairs(
            hvp_fn(net.loss, params), params, count, key=jax.random.key(1), which="magnitude", tol=1e-8
        )
        return found.values, found.vectors

    return pairs


def _measure(net: DigitsNet, pairs: Any) -> Any:
    @jax.jit
    def measure(state: Any) -> dict[str, Any]:
        params = state["params"]
        values, vectors = pairs(params)
        found = alignment(net.model, net.output_loss, params, net.degree, values, vectors)
        gradient = jax.grad(net.loss)(params)
        radial = radial_hvp(net.model, net.output_loss, params, net.degree)
        return {
            "values": values,
            "gradient": found.gradient / tree_norm(gradient),
            "predicted": found.predicted / tree_norm(gradient),
            "cosine": found.cosine,
            "residual": found.residual.max(),
            "turned": values * stack_vdot(vectors, params) / tree_norm(radial),
            "radial": stack_vdot(vectors, radial) / tree_norm(radial),
            "curvature_residual": found.curvature_residual.max(),
            "gradient_share": jnp.sum((found.gradient / tree_norm(gradient)) ** 2),
            "params_share": jnp.sum((stack_vdot(vectors, params) / tree_norm(params)) ** 2),
            "outside": _outside(values, found.gradient, tree_norm(gradient)),
        }

    return measure


def _descend(
    store: Store,
    name: str,
    net: DigitsNet,
    loss: Callable[[Any, Any], Any],
    measure: Any,
    rate: float,
    steps: int,
    parts: int,
) -> dict[str, Any]:
    start, step = descent(loss, optax.sgd(rate))
    every = max(1, steps // parts)
    run = trained(store, name, start(net.params), step, steps=steps, every=every, measure=measure)
    return {"steps": run.times, "loss": run.records["loss"], **run.measured}


def _outside(values: Any, gradient: Any, length: Any) -> Any:
    """The norm of the gradient along the eigenvectors of eigenvalue zero, relative to ``length``."""
    null = jnp.abs(values) <= 1e-10 * jnp.max(jnp.abs(values))
    return jnp.sqrt(jnp.sum(jnp.where(null, gradient, 0) ** 2)) / length


def claims(result: Result) -> Sequence[Finding]:
    """The corollary for one output, what is left of it for many, and the concentration of the gradient."""
    one, many, noisy, pairs = result["one"], result["many"], result["noisy"], result["pairs"]
    count = one["values"].shape[1]
    rank = int(np.max(np.sum(np.abs(one["values"]) > 1e-10 * np.abs(one["values"]).max(1)[:, None], axis=1)))
    return [
        at_most(
            f"One digit, one output: ⟨g,u_k⟩ = αλ_k⟨θ,u_k⟩ for all {count} eigenpairs (largest error, of ‖g‖)",
            float(one["residual"].max()),
            1e-9,
            claims=CLAIM,
        ),
        at_most(
            f"One digit, one output: the gradient lies in the column space of the Hessian, of dimension {rank} (part "
            "outside)",
            float(one["outside"].max()),
            1e-6,
            claims=CLAIM,
        ),
        at_most(
            f"Many digits, ten outputs: λ_k⟨θ,u_k⟩ = ⟨Jᵀ(m∇²ℓf + (m−1)∇ℓ),u_k⟩ for the leading {pairs} (largest error)",
            float(many["curvature_residual"].max()),
            1e-6,
            claims=CLAIM,
        ),
        at_least(
            "Many digits, ten outputs: one α still does, as if there were one output (|cosine| of g and ∇²Lθ, least)",
            float(np.abs(many["cosine"]).min()),
            1 - 1e-6,
            claims=CLAIM,
            anticipated="refuted",
        ),
        at_least(
            f"Mini-batches: the leading {pairs} eigenvectors hold most of the gradient, at the end (share)",
            float(noisy["gradient_share"][-1]),
            0.5,
            claims=CLAIM,
        ),
        at_least(
            f"Full batch: the leading {pairs} eigenvectors hold most of the gradient, at the end (share)",
            float(many["gradient_share"][-1]),
            0.5,
            claims=CLAIM,
            anticipated="refuted",
        ),
    ]


def plot(result: Result) -> Figure:
    """Both sides for single eigenpairs at all points that were measured, and shares along training."""
    figure, (left, middle, right) = new_figure(3, height=3.4)
    one, many, noisy = result["one"], result["many"], result["noisy"]
    corollary = "⟨g,uₖ⟩ against αλₖ⟨θ,uₖ⟩, Corollary 1"
    _against(left, one["predicted"], one["gradient"], SERIES[0], corollary)
    left.set_title("One digit, one output")
    left.set_ylabel("left side")
    _against(middle, many["predicted"], many["gradient"], SERIES[0], "")
    _against(middle, many["turned"], many["radial"], SERIES[1], "⟨∇²Lθ,uₖ⟩ by (ii) against λₖ⟨θ,uₖ⟩")
    middle.set_title("Many digits, ten outputs")
    right.set_title(f"Share in {result['pairs']} eigenvectors")
    shares = [
        (noisy["gradient_share"], SERIES[2], "share of g, mini-batches"),
        (many["gradient_share"], SERIES[3], "share of g, full batch"),
        (many["params_share"], INK, "share of θ, full batch"),
    ]
    for share, colour, label in shares:
        right.plot(many["steps"], share, "o-", ms=2.8, color=colour, label=label)
    chance = result["pairs"] / result["parameters"]
    right.axhline(chance, color=MUTED, lw=1.0, ls=(0, (4, 3)), label="of a random vector")
    right.set_yscale("log")
    right.minorticks_off()
    right.set_xlabel("step")
    for ax in (left, middle):
        ax.set_xlabel("right side")
    handles, names = zip(
        *[pair for ax in (left, middle, right) for pair in zip(*ax.get_legend_handles_labels(), strict=True)],
        strict=True,
    )
    figure.legend(handles, names, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


def _against(ax: Any, x: Any, y: Any, colour: str, label: str) -> None:
    """Two sides of an equation by size; what is below 1e-4 of the whole is left out."""
    low, high = 1e-4, 2.0
    ax.plot([low, high], [low, high], color=MUTED, lw=0.9, ls=(0, (4, 3)))
    ax.plot(np.abs(x).ravel(), np.abs(y).ravel(), "o", ms=3.5, color=colour, alpha=0.8, mew=0, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.minorticks_off()
    ax.set_xticks([1e-4, 1e-2, 1])
    ax.set_yticks([1e-4, 1e-2, 1])
    ax.set_box_aspect(1)


EXPERIMENT = Experiment(
    name="gradient-alignment",
    title="The gradient among the eigenvectors of the Hessian",
    text=(
        "For a homogeneous network with one output and one example, ∇²Lθ is a multiple of the gradient g, so that "
        "⟨g,uₖ⟩ = αλₖ⟨θ,uₖ⟩ for every eigenpair of the Hessian: what g has along an eigenvector grows with its "
        "curvature. This is checked for all eigenpairs along training on one digit. With many examples or outputs "
        "∇²Lθ is Jᵀ(m∇²ℓf + (m−1)∇ℓ), in general no multiple of g: no single α exists. "
        "The paper reads the corollary as the reason why gradients lie in few leading eigenvectors. They do when the "
        "training is by mini-batches, whose noise keeps the sharp directions excited; in training by the full batch "
        "the same network learns with a gradient that is nearly orthogonal to them."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(one_widths=(8, 8), widths=(64, 64, 64), examples=1438, steps=4000, parts=40),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left and middle: components along Hessian eigenvectors by two ways, at all points measured, in units of the "
        "whole vector; on the dashed line they agree. Right: the share of a squared norm that lies in the leading "
        "eigenvectors of the Hessian of the full loss."
    ),
    cost=(0.25, 1.5),
    x64=True,
)
