"""Who takes part: one table, with what each sees, how it is built, and where its learning rates are looked for."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optax
from contest.tasks import Task
from jax import Array
from peers import kfac, muon, shampoo, soap

import eqtoolbox as eqt
from eqtoolbox import zoo
from eqtoolbox.groups import Permutation

Schedule = Callable[[Array], Array]
Build = Callable[..., optax.GradientTransformation]
GRADIENTS, ACTIVATIONS, VALUES, CURVATURE = "gradients", "activations", "gradients and values", "curvature"
SYMO, NEWTON = ("_symo", "_whitening"), ("_gauss_newton", "_kronecker", "_quadratic")


@dataclass(frozen=True)
class Entrant:
    """One optimizer with one set of options.

    Attributes:
      name: in files and on the command line.
      title: for people.
      build: (schedule, task, extra, **options) -> transformation.
      options: of ``build``; the same on all tasks.
      rates: by group of tasks, the middle of its five learning rates, a factor 2 apart; None where it has none.
      sees: what it is given of the problem.
      extras: by group, values of a second number that is tried too, such as a damping.
      schedules: those it is tried with, where they are not the task's.
      arguments: (task, params, batch, value, gradient, key) -> further arguments of its ``update``.
      static: whether ``extra`` may not be traced.
      full_batch: whether it needs the same loss in every step.
      dense: whether it needs a network of dense layers only.
      fails: by task, how it fails there.
      own_loop: whether it makes its own steps, outside jit.
      ours: whether it is of this library; ``ablation`` that it is one of its variants.
      modules: of this library's curvature, on whose source its results depend.
    """

    name: str
    title: str
    build: Build
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] | None = None
    sees: str = GRADIENTS
    extras: Mapping[str, tuple[float, ...]] | None = None
    schedules: tuple[str, ...] | None = None
    arguments: Callable[..., dict[str, Any]] | None = None
    static: bool = False
    full_batch: bool = False
    dense: bool = False
    fails: Mapping[str, str] = field(default_factory=dict)
    own_loop: bool = False
    ours: bool = False
    ablation: bool = False
    modules: tuple[str, ...] = SYMO

    def settings(self) -> dict[str, Any]:
        """What a stored result depends on."""
        settings = {"name": self.name, "options": {k: str(v) for k, v in self.options.items()}}
        return {**settings, "source": _our_source(self.modules)} if self.ours or self.ablation else settings

    def absent(self, task: Task) -> str | None:
        """Why it does not train this task here, or None."""
        if reason := missing(self):
            return reason
        if self.full_batch and task.batch is not None:
            return "its line search, or its trust in the model, needs the same loss in every step"
        if self.dense and not isinstance(task.module, zoo.MLP):
            return "it has factors of dense layers only"
        return self.fails.get(task.name)

    def grid(self, task: Task, count: int = 5) -> tuple[float, ...]:
        """Its learning rates before the grid is extended."""
        if self.rates is None:
            return (1.0,)
        return tuple(self.rates[task.group] * 2.0 ** (i - count // 2) for i in range(count))

    def second(self, task: Task) -> tuple[float, ...]:
        """Its values of the second number."""
        return (0.0,) if self.extras is None else self.extras[task.group]


def _our_source(names: tuple[str, ...]) -> str:
    """A digest of modules: results of another version are not kept."""
    folder = Path(inspect.getfile(eqt.curvature)).parent
    texts = [path.read_bytes() for path in sorted(folder.glob("*.py")) if path.stem in names]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def _rates(teacher: float, digits: float, models: float | None = None) -> dict[str, float]:
    return {"teacher": teacher, "digits": digits, "models": digits if models is None else models}


def _nesterov(schedule: Schedule, task: Task, extra: Array, momentum: float):
    return optax.sgd(schedule, momentum, nesterov=True)


def _adam(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return optax.adam(schedule, **options)


def _muon(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return optax.contrib.muon(schedule, muon_weight_dimension_numbers=muon.dimension_numbers, **options)


def _muon_after(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return muon.muon_after(schedule, **options)


def _shampoo(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return shampoo.shampoo(schedule, **options)


def _soap(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return soap.soap(schedule, **options)


def _kfac(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return kfac.kfac(schedule, damping=extra, **options)


def _kfac_statistics(task: Task, params: Any, batch: Any, value: Array, gradient: Any, key: Array):
    probe = kfac.squared_probe if task.kind == "squared" else kfac.categorical_probe
    seen = kfac.statistics(task.apply, params, batch.inputs, lambda outputs: probe(key, outputs))
    return {"statistics": seen}


def _lbfgs(schedule: Schedule, task: Task, extra: float, **options: Any):
    return optax.lbfgs(memory_size=int(extra), **options)


def _line_search(task: Task, params: Any, batch: Any, value: Array, gradient: Any, key: Array):
    return {"value": value, "grad": gradient, "value_fn": lambda p: task.loss(p, batch)}


def _symo(schedule: Schedule, task: Task, extra: Array, permutations: bool = False, **options: Any):
    sym = task.symmetry()
    if permutations:
        sym = sym.subgroup({f.key: Permutation(f.group.n) for f in sym.factors if _of_units(f.group)})
    return eqt.symo(schedule, sym, **options)  # pyright: ignore[reportAttributeAccessIssue]


def _of_units(group: Any) -> bool:
    """Whether a group acts on one axis of units, which it may permute."""
    return len(group.sizes) == 1 and hasattr(group, "n")


def _newton(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return eqt.curvature.symmetry_gauss_newton(schedule, task.symmetry(), floor=extra, **options)


def _newton_l2(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return eqt.curvature.symmetry_gauss_newton(schedule, task.symmetry(), weight_decay=extra, **options)


def _newton_batches(schedule: Schedule, task: Task, extra: Array, **options: Any):
    return eqt.curvature.symmetry_gauss_newton(schedule, task.symmetry(), damping=extra, **options)


def _functions(task: Task, params: Any, batch: Any, value: Array, gradient: Any, key: Array):
    return {
        "output_fn": lambda p: task.apply(p, batch.inputs),
        "output_loss": lambda outputs: task.output_loss(outputs, batch.targets),
    }


def _no_build(*args: Any, **options: Any):
    raise TypeError("this optimizer makes its own steps")


_DAMPINGS = {
    "teacher": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    **dict.fromkeys(("digits", "models"), (1e-3, 1e-2, 1e-1)),
}
_FIRST_DAMPINGS = dict.fromkeys(("teacher", "digits", "models"), (1e-3, 1e-2, 1e-1, 1.0, 1e1))
_FLOORS = dict.fromkeys(("teacher", "digits", "models"), (1e-5, 1e-3))
_WEIGHT_DECAYS = dict.fromkeys(("teacher", "digits", "models"), (1e-3, 1e-2, 1e-1))
_MEMORY = dict.fromkeys(("teacher", "digits", "models"), (5.0, 10.0, 20.0, 40.0, 80.0))

PEERS = (
    Entrant("nesterov", "SGD, Nesterov 0.9", _nesterov, {"momentum": 0.9}, _rates(0.2, 0.1)),
    Entrant("adam", "Adam", _adam, {"b1": 0.9, "b2": 0.95}, _rates(1e-2, 4e-3)),
    Entrant("muon", "Muon", _muon, {"beta": 0.9}, _rates(4e-2, 2e-2)),
    Entrant("muon-after", "Muon, momentum after", _muon_after, {"momentum": 0.9}, _rates(8e-2, 4e-2)),
    Entrant(
        "shampoo", "Shampoo", _shampoo, {"decay": 0.95, "eps": 1e-8, "momentum": 0.9}, _rates(8e-2, 3e-2)
    ),
    Entrant(
        "shampoo-after",
        "Shampoo, momentum after",
        _shampoo,
        {"decay": 0.95, "eps": 1e-8, "momentum": 0.9, "after": True},
        _rates(8e-2, 3e-2),
    ),
    Entrant("shampoo-sum", "Shampoo, sums", _shampoo, {"decay": 1.0, "momentum": 0.0}, _rates(0.4, 0.2)),
    Entrant("soap", "SOAP", _soap, {"b1": 0.9, "b2": 0.95, "every": 10}, _rates(2e-2, 8e-3)),
    Entrant(
        "lbfgs",
        "L-BFGS",
        _lbfgs,
        {},
        sees=VALUES,
        extras=_MEMORY,
        schedules=("line search",),
        arguments=_line_search,
        static=True,
        full_batch=True,
    ),
    Entrant(
        "kfac",
        "K-FAC (ours, exact factors)",
        _kfac,
        {"decay": 0.95, "momentum": 0.9},
        _rates(0.5, 0.1),
        ACTIVATIONS,
        _DAMPINGS,
        ("cosine",),
        _kfac_statistics,
        dense=True,
    ),
    Entrant(
        "kfac-jax",
        "K-FAC (kfac-jax, adaptive)",
        _no_build,
        {"inverse_update_period": 1},
        sees=ACTIVATIONS,
        extras=_FIRST_DAMPINGS,
        schedules=("adaptive",),
        fails={
            "transformer": "it takes the kernels of Flax's attention for those of a dense layer, and raises"
        },
        own_loop=True,
    ),
)

_SYMO_RATES = _rates(5e-2, 2e-2)
OURS = (
    Entrant("symo", "symo", _symo, {}, _SYMO_RATES, ours=True),
    Entrant(
        "symo-full", "symo, all sides", _symo, {"sides": None, "largest_units": None}, _SYMO_RATES, ours=True
    ),
    Entrant(
        "newton",
        "symmetry Gauss-Newton",
        _newton,
        {},
        sees=CURVATURE,
        extras=_FLOORS,
        schedules=("adaptive",),
        arguments=_functions,
        ours=True,
        modules=NEWTON,
        full_batch=True,
    ),
    Entrant(
        "newton-l2",
        "symmetry Gauss-Newton, L2",
        _newton_l2,
        {},
        sees=CURVATURE,
        extras=_WEIGHT_DECAYS,
        schedules=("adaptive",),
        arguments=_functions,
        full_batch=True,
        ours=True,
        modules=NEWTON,
    ),
    Entrant(
        "newton-batches",
        "symmetry Gauss-Newton, fixed damping",
        _newton_batches,
        {"products": 5, "samples": 1, "adapt": 1, "factor_decay": 0.95, "every": 2},
        _rates(0.5, 0.2),
        CURVATURE,
        _DAMPINGS,
        ("cosine",),
        _functions,
        ours=True,
        modules=NEWTON,
    ),
)


def _variant(name: str, title: str, **options: Any) -> Entrant:
    return Entrant(f"symo-{name}", f"symo, {title}", _symo, options, _SYMO_RATES, ablation=True)


#: The paper's optimizer, and what is left of the default without each of its parts.
ABLATIONS = (
    _variant(
        "paper", "as in the paper", factor_decay=0.95, momentum=None, every=1, largest_units=0, max_rms=None
    ),
    _variant("symmetry-only", "no factors on the units", largest_units=0),
    _variant("uncoupled", "layers not coupled", couple=False),
    _variant("permutations", "permutations for every space", permutations=True),
    _variant("momentum-first", "momentum first", momentum_first=True),
    _variant("no-momentum", "no momentum", momentum=None),
    _variant("fixed-memory", "memory does not grow", factor_decay=0.95, momentum=0.9),
    _variant("every-1", "roots fresh in every step", every=1),
    _variant("every-10", "roots every 10 steps", every=10),
    _variant("every-100", "roots every 100 steps", every=100),
)


def missing(entrant: Entrant) -> str | None:
    """Why an entrant cannot run here, or None."""
    if entrant.own_loop and importlib.util.find_spec("kfac_jax") is None:
        return "kfac_jax is not installed"
    if (entrant.ours or entrant.ablation) and not hasattr(eqt, "symo"):
        return "eqtoolbox has no symo"
    return None


def entrants(ablations: bool = False) -> dict[str, Entrant]:
    """The table by name, our own first.

    Args:
      ablations: also variants of our own.

    Returns:
      The entrants.
    """
    rows = (*OURS, *(ABLATIONS if ablations else ()), *PEERS)
    return {row.name: row for row in rows}
