"""What an experiment is, and how experiments are found.

An experiment is one module of this package that defines ``EXPERIMENT``; nothing else has to be changed. It has:

- ``Config``, a frozen dataclass with everything that can be chosen, plain values and tuples only;
- ``run(config, store)``, which returns a dict of arrays, numbers and texts (dicts in it are fine), and keeps what
  takes long by ``store.once(name, compute)`` and ``trained(store, name, ...)``;
- ``claims(result)``, which returns findings: statement, measured, expected, verdict;
- ``plot(result)``, which returns a figure made by ``pages.new_figure``.

``claims`` and ``plot`` see nothing but the saved result: they are run again without running the experiment again.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._finding import Finding
from eqtoolbox.experiments._store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
      name: that of its module, with dashes.
      title: a heading.
      text: what is done and what should be seen, a few sentences.
      claim_ids: what it is about, ids of ``tests/claims.toml``.
      quick: the configuration that takes seconds.
      full: the configuration that takes minutes.
      run: (config, store) -> result, a dict of arrays, numbers and texts.
      claims: result -> findings.
      plot: result -> figure, drawn in the house style.
      caption: of the figure.
      cost: minutes of the quick and of the full size, on two CPU cores.
      version: raise it when ``run`` changes what it computes, so that older results are left alone.
      x64: whether it runs in float64.
    """

    name: str
    title: str
    text: str
    claim_ids: tuple[str, ...]
    quick: Any
    full: Any
    run: Callable[[Any, Store], Result]
    claims: Callable[[Result], Sequence[Finding]]
    plot: Callable[[Result], Figure]
    caption: str
    cost: tuple[float, float]
    version: int = 1
    x64: bool = False

    def __post_init__(self):
        for size in ("quick", "full"):
            config = getattr(self, size)
            frozen = is_dataclass(config) and getattr(type(config), "__dataclass_params__").frozen  # noqa: B009
            if not frozen or isinstance(config, type):
                raise TypeError(
                    f"Experiment {self.name!r}: {size} must be a frozen dataclass, got {config!r}"
                )
        if type(self.quick) is not type(self.full):
            raise TypeError(f"Experiment {self.name!r}: quick and full must be of one class")

    def size_of(self, config: Any) -> str:
        """``"quick"``, ``"full"`` or ``"custom"``."""
        return "quick" if config == self.quick else "full" if config == self.full else "custom"


def all_experiments() -> dict[str, Experiment]:
    """All experiments by name, in order: the ``EXPERIMENT`` of every public module of this package.

    Raises:
      ValueError: one is not named like its module.
    """
    from eqtoolbox import experiments as package

    found = {}
    for module in sorted(
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")
    ):
        experiment = importlib.import_module(f"{package.__name__}.{module}").EXPERIMENT
        if experiment.name != module.replace("_", "-"):
            raise ValueError(f"the experiment in {module}.py must be named like it, got {experiment.name!r}")
        found[experiment.name] = experiment
    return found


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """The experiments of those names; underscores count as dashes.

    Raises:
      TypeError: one string instead of a sequence of names.
      ExperimentError: there is none of a name; says which names are near.
    """
    if isinstance(names, str):
        raise TypeError(f"find_experiments needs a sequence of names, got the string {names!r}")
    known, found = all_experiments(), []
    for name in names:
        key = name.replace("_", "-")
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=3, cutoff=0.5)
            near = near or [k for k in known if any(word in k for word in key.lower().split("-"))]
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise ExperimentError(f"there is no experiment {name!r}; {hint}")
        found.append(known[key])
    return found
