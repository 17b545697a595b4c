"""A residual net with every weight as u ⊙ w (MS, figure 7): ResNet18 on CIFAR-10, or a small one on the digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._residual import Recipe, ResidualNet, images, step_of
from eqtoolbox.experiments._store import Store
from eqtoolbox.mirror import dcs, prune, sparse
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VANILLA, PRODUCT = "vanilla", "u ⊙ w"


@dataclass(frozen=True)
class Config:
    """Two nets from the same weights, on the same batches, with the same decay of what is trained.

    Attributes:
      data: "digits" or "cifar10".
      root: the folder of the CIFAR-10 files; $EQTOOLBOX_DATA when it is empty.
      width: of the net; 64 for ResNet18.
      stages: of the net; (2, 2, 2, 2) for ResNet18.
      epochs: of training.
      every: epochs between two measurements.
      batch: examples of a step.
      rate: the learning rate, falling by a cosine.
      decay: weight decay of the vanilla net, in the gradient.
      factor_decay: that of u and w.
      tol: weights of at most this size count as 0.
      memory_batches: batch sizes at which the memory of a step of ResNet18 on CIFAR-10 is read from its compiled
        program, for both nets.
    """

    data: str = "digits"
    root: str = ""
    width: int = 8
    stages: tuple[int, ...] = (1, 1)
    epochs: int = 150
    every: int = 15
    batch: int = 128
    rate: float = 0.1
    decay: float = 5e-4
    factor_decay: float = 1e-2
    tol: float = 1e-6
    memory_batches: tuple[int, ...] = ()


def run(config: Config, store: Store) -> Result:
    """Accuracies along both runs, sizes of the weights, and accuracies with the small ones set to zero."""
    data = images(config.data, config.root)
    recipe = Recipe(ResidualNet(config.width, config.stages), data, config.epochs, config.every, config.batch)
    rate = optax.cosine_decay_schedule(config.rate, recipe.steps)
    sgd = optax.sgd(rate, momentum=0.9)
    result: dict[str, Any] = {"data": config.data}
    for name, tx in (
        (VANILLA, optax.chain(optax.add_decayed_weights(config.decay), sgd)),
        (PRODUCT, dcs(sgd, sparse(), config.factor_decay / 2)),
    ):
        store.progress.describe(name)
        net = recipe.train(store, "vanilla" if name == VANILLA else "product", tx)
        small, info = prune(net.params, sparse(), config.tol)
        sizes = np.sort(np.concatenate([np.abs(np.ravel(x)) for x in jax.tree.leaves(net.params)]))
        result[name] = {
            "accuracy": net.accuracy,
            "epochs": net.epochs,
            "seconds": net.seconds,
            "zeros": info.fraction,
            "zeroed": recipe.accuracy(small, net.stats),
            "sizes": sizes[:: max(1, len(sizes) // 2000)],
            "weights": len(sizes),
        }
    result["memory"] = {
        str(batch): store.once(f"memory-{batch}", lambda b=batch: _memory(b))
        for batch in config.memory_batches
    }
    return result


def _memory(batch: int) -> dict[str, int]:
    """Bytes that a step of ResNet18 takes in all, as the compiler states them."""
    module, found = ResidualNet(), {}
    x = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    y = jax.ShapeDtypeStruct((batch,), jnp.int32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    for name, tx in (
        ("vanilla", optax.sgd(0.1, momentum=0.9)),
        ("product", dcs(optax.sgd(0.1, momentum=0.9), sparse(), 1e-4)),
    ):
        state = jax.eval_shape(tx.init, variables["params"])
        carry = variables["params"], variables["batch_stats"], state
        step = jax.jit(lambda carry, x, y, tx=tx: step_of(module, tx, carry, x, y), donate_argnums=0)
        memory: Any = step.lower(carry, x, y).compile().memory_analysis()
        found[name] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return found


def claims(result: Result) -> Sequence[Finding]:
    """Accuracy, sparsity, and what zeroing does."""
    own, other, ids = result[PRODUCT], result[VANILLA], ("MS-F7",)
    found = [
        at_most(
            f"{result['data']}: points of accuracy lost by u ⊙ w against vanilla ({other['accuracy'][-1]:.2f} %)",
            other["accuracy"][-1] - own["accuracy"][-1],
            1.0,
            claims=ids,
        ),
        at_least(f"Share of the {own['weights']} weights below 1e-6, u ⊙ w", own["zeros"], 0.5, claims=ids),
        at_most("Share of the weights below 1e-6, vanilla", other["zeros"], 0.05, claims=ids),
        at_most(
            "Change of the accuracy, in points, when these are set to zero",
            abs(own["zeroed"] - own["accuracy"][-1]),
            0.0,
            claims=ids,
        ),
        at_most(
            "Time of an epoch of u ⊙ w over that of vanilla",
            own["seconds"] / other["seconds"],
            1.5,
            claims=ids,
        ),
    ]
    for batch, memory in result["memory"].items():
        if int(batch) >= 128:
            found.append(
                at_most(
                    f"ResNet18, batch {batch}: memory of a step over vanilla's (1.137 as XLA compiles for a processor)",
                    memory["product"] / memory["vanilla"],
                    1.1,
                    claims=ids,
                    anticipated="refuted",
                )
            )
    return found


def plot(result: Result) -> Figure:
    """Accuracy against the epoch, and the weights in order of size."""
    figure, (left, right) = new_figure(2, height=3.0)
    for name, color in ((VANILLA, MUTED), (PRODUCT, SERIES[0])):
        one = result[name]
        left.plot(one["epochs"], one["accuracy"], color=color, marker="o", ms=3, label=name)
        right.plot(
            np.linspace(0, 1, len(one["sizes"])), np.maximum(one["sizes"], 1e-20), color=color, label=name
        )
    right.axhline(1e-6, color=INK, lw=0.8, ls=":")
    right.set_yscale("log")
    left.set_xlabel("epoch")
    left.set_ylabel("test accuracy, %")
    right.set_xlabel("share of all weights")
    right.set_ylabel("|θ|")
    left.legend(labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="sparse-resnet",
    title="A residual net with every weight as a product",
    text=(
        "Two residual nets from the same weights, on the same batches, with momentum 0.9 and a cosine schedule: one "
        "trained as it is, one with every parameter as u ⊙ w by the optimizer wrapper. The accuracy is about the same, "
        "and most weights of the second fall below 1e-6; setting them to zero changes nothing. By default a small net "
        "learns the bundled digits, with more decay of u and w for its few steps. ResNet18 on CIFAR-10 as in the paper "
        "(a GPU, some hours): eqtoolbox reproduce sparse-resnet --full, with the binary files in $EQTOOLBOX_DATA."
    ),
    claim_ids=("MS-F7",),
    quick=Config(),
    full=Config(
        data="cifar10",
        width=64,
        stages=(2, 2, 2, 2),
        epochs=200,
        every=10,
        factor_decay=5e-4,
        memory_batches=(1, 128),
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption="Left: test accuracy against the epoch. Right: sizes of all weights in order; dotted: 1e-6.",
    cost=(2.0, 600.0),
)
