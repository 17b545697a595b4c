"""The options of ``eqtoolbox ensemble``, and the presets of the paper's figures."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import optax
import tyro

from eqtoolbox.ensemble._errors import EnsembleError
from eqtoolbox.zoo import activations

_TWO = {"widths": (5, 5, 5), "activation": "tanh", "bias": True, "models": 10_000}
_THREE = {"widths": (5, 5, 5, 5), "activation": "tanh", "bias": True, "models": 10_000}
_RELU = {"widths": (5, 5, 5, 5), "activation": "relu", "bias": False, "models": 100_000}
_BASE = {"steps": 20, "examples": 500, "decades": 1.0, "learning_rate": 0.3, "optimizer": "sgd"}
#: What each preset sets; options given on the command line go before it. The paper's figures at full size.
PRESETS: dict[str, dict[str, Any]] = {
    "figure-2": {**_BASE, **_TWO},
    "figure-3": {**_BASE, **_THREE},
    "figure-4": {**_BASE, **_RELU},
    "figure-7": {**_BASE, **_TWO, "hessian": True},
    "figure-8": {**_BASE, **_THREE, "hessian": True},
    "figure-9": {**_BASE, **_RELU, "hessian": True},
}
#: All six figures: one ensemble has both the covariance and the Hessian of a network.
PAPER = ("figure-7", "figure-8", "figure-9")
_DEFAULTS = {**_BASE, **_TWO, "hessian": False}

Preset = Literal["figure-2", "figure-3", "figure-4", "figure-7", "figure-8", "figure-9", "paper"]


@dataclass(frozen=True)
class EnsembleConfig:
    """Trains thousands of models and averages their curvature: checkpoints, metrics, figures, factors.

    The same command goes on where a run was stopped.
    $ eqtoolbox ensemble --widths 5 5 5 --models 100000 --out runs/tanh
    $ eqtoolbox ensemble --preset paper --out runs
    $ eqtoolbox ensemble my_model.py:make --models 1000

    On several hosts start it on each, with --coordinator, --num-processes and
    --process-id, or with --distributed where JAX finds them by itself.

    Exit codes:
    0 done
    1 a bug
    2 something given or found is wrong
    130 interrupted; the same command goes on
    143 stopped by SIGTERM, with everything saved; the same command goes on
    """

    model: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE.py:FUNCTION]", help_behavior_hint="")
    ] = None
    """Your own model, as path/to/file.py:function; the function takes no arguments and returns an
    eqtoolbox.Problem with training examples."""
    preset: Annotated[tuple[Preset, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Figures of the paper at full size, each in a folder of its own below --out; paper is all of them. The other
    options change what they say."""
    widths: Annotated[
        tuple[int, ...] | None, tyro.conf.arg(metavar="INT ...", help_behavior_hint="(default: 5 5 5)")
    ] = None
    """Of the bundled MLP: inputs, hidden layers, outputs."""
    activation: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: tanh)")] = (
        None
    )
    """Of the bundled MLP."""
    bias: bool = True
    """Whether its layers have biases."""
    examples: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 500)")] = None
    """Of its data, from a random teacher."""
    decades: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 1)")] = None
    """Powers of ten that the eigenvalues of its inputs span."""
    models: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 10000)")] = None
    """How many."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 20)")] = None
    """Training steps on all examples. Statistics are taken before and after."""
    optimizer: Annotated[
        Literal["sgd", "momentum", "adam"] | None, tyro.conf.arg(help_behavior_hint="(default: sgd)")
    ] = None
    """Momentum is 0.9."""
    learning_rate: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.3)")
    ] = None
    """Of the training."""
    hessian: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Also averages the Hessian."""
    seed: int = 0
    """Of the models."""
    data_seed: int = 0
    """Of the bundled data."""
    x64: bool = False
    """In float64."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/ensemble")
    """The folder of the run."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    chunk: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: from their number)")
    ] = None
    """Models between two looks at the clock."""
    batch_size: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: from memory and a measurement)"),
    ] = None
    """Models taken together on a device."""
    layout: Annotated[
        Literal["last", "first", "loop"] | None, tyro.conf.arg(help_behavior_hint="(default: measured)")
    ] = None
    """Where arrays have the models: on the last axis, on the first, one after the other."""
    memory: Annotated[
        float | None, tyro.conf.arg(metavar="GB", help_behavior_hint="(default: half of it)")
    ] = None
    """That a batch may take on a device."""
    data_devices: int = 1
    """Devices that share the examples; the others share the models."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Of process 0, with several processes."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many there are."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Which one this is."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Several processes that JAX finds by itself: on TPU slices, under SLURM or MPI."""

    def runs(self) -> list[EnsembleConfig]:
        """One configuration for each preset, or this one; every option has its value.

        Raises:
          EnsembleError: names the option, the rule and the value.
        """
        names = [n for p in self.preset for n in (PAPER if p == "paper" else (p,))]
        if names and self.model is not None:
            raise EnsembleError(f"presets are for the bundled MLP, got {self.model} and --preset {names[0]}")
        found = [self._filled({**_DEFAULTS, **PRESETS[n]}, self.out / n) for n in dict.fromkeys(names)]
        found = found or [self._filled(_DEFAULTS, self.out)]
        for config in found:
            config.check()
        return found

    def _filled(self, values: dict[str, Any], out: Path) -> EnsembleConfig:
        missing = {k: v for k, v in values.items() if getattr(self, k, None) is None}
        missing["bias"] = self.bias and values["bias"]
        missing["hessian"] = self.hessian or values.get("hessian", False)
        return dataclasses.replace(self, **missing, out=out, preset=())

    def check(self) -> None:
        """Checks the numbers.

        Raises:
          EnsembleError: names the option, the rule and the value.
        """
        least = {
            "models": 2,
            "steps": 0,
            "examples": 1,
            "keep": 1,
            "data_devices": 1,
            "seed": 0,
            "data_seed": 0,
        }
        least |= {k: 1 for k in ("chunk", "batch_size") if getattr(self, k) is not None}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise EnsembleError(f"{flag(name)} must be at least {low}, got {getattr(self, name)}")
        for name in ("seed", "data_seed"):
            if getattr(self, name) >= 2**32:
                raise EnsembleError(f"{flag(name)} must be below 2³², got {getattr(self, name)}")
        if self.activation not in (None, *activations()):
            raise EnsembleError(
                f"--activation must be one of {', '.join(activations())}, got {self.activation!r}"
            )
        for name in ("learning_rate", "checkpoint_every", "memory"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise EnsembleError(f"{flag(name)} must be a positive number, got {value}")
        if len(self.widths or ()) < 2 or min(self.widths or (0,)) < 1:
            raise EnsembleError(f"--widths must be two or more positive numbers, got {self.widths}")
        several = [self.coordinator, self.num_processes, self.process_id]
        if any(x is not None for x in several) and any(x is None for x in several):
            raise EnsembleError(
                "--coordinator, --num-processes and --process-id belong together: give all three"
            )

    @property
    def times(self) -> tuple[int, ...]:
        """The numbers of steps after which statistics are taken."""
        return (0, self.steps) if self.steps else (0,)

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer."""
        rate = float(self.learning_rate or 0)
        made = {"sgd": optax.sgd(rate), "momentum": optax.sgd(rate, 0.9), "adam": optax.adam(rate)}
        return made[self.optimizer or "sgd"]

    def identity(self) -> dict[str, Any]:
        """What decides the numbers; a run goes on only with the same."""
        names = ["models", "steps", "optimizer", "learning_rate", "hessian", "seed", "x64", "chunk"]
        if self.model is None:
            names += ["widths", "activation", "bias", "examples", "decades", "data_seed"]
        found = {flag(name): getattr(self, name) for name in names}
        if self.model is not None:
            file = Path(self.model.rpartition(":")[0])
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""
            found["the model"] = f"{self.model} {digest}"
        for name in ("layout", "batch_size"):
            if getattr(self, name) is not None:
                found[flag(name)] = getattr(self, name)
        return found


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")
