"""Loss against steps and against time: one figure for each group of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from contest.cells import Cells
from contest.protocol import Chosen
from contest.summary import curve
from contest.tasks import Task
from scipy import stats

from eqtoolbox.pages import INK, house_style, new_figure, to_png

DASHED, DOTTED = (0, (4, 1.5)), (0, (1, 1.2))
#: Colours that colour-blind readers tell apart (Okabe and Ito); one for each family, lines for its members.
LOOKS: dict[str, dict[str, Any]] = {
    "nesterov": {"color": "#8c8c8c"},
    "lbfgs": {"color": "#8c8c8c", "linestyle": (0, (4, 1.5, 1, 1.5))},
    "adam": {"color": "#e69f00"},
    "muon": {"color": "#56b4e9"},
    "muon-after": {"color": "#56b4e9", "linestyle": DASHED},
    "shampoo": {"color": "#009e73"},
    "shampoo-after": {"color": "#009e73", "linestyle": DASHED},
    "shampoo-sum": {"color": "#009e73", "linestyle": DOTTED},
    "soap": {"color": "#cc79a7"},
    "kfac": {"color": "#d55e00", "linestyle": DASHED},
    "kfac-jax": {"color": "#d55e00"},
    "symo": {"color": INK, "linewidth": 2.4, "zorder": 5},
}
OURS = {"color": INK, "linewidth": 1.8, "zorder": 5}
OUR_LINES = (DASHED, DOTTED, (0, (4, 1.5, 1, 1.5)), (0, (6, 1, 1, 1, 1, 1)))


def look(name: str, ours: tuple[str, ...]) -> dict[str, Any]:
    """How an entrant's line is drawn."""
    if name in LOOKS:
        return LOOKS[name]
    return {**OURS, "linestyle": OUR_LINES[ours.index(name) % len(OUR_LINES)]}


def figure(
    tasks: list[Task],
    runs: Mapping[str, Mapping[str, tuple[Cells, Chosen]]],
    summaries: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> bytes:
    """A PNG file: a row for each task; test loss against steps on the left, against seconds on the right.

    Lines are geometric means over seeds of the run with the learning rate chosen for the last step; bands their 95 %
    t intervals. Marks are runs whose learning rate was chosen for that step.
    """
    with house_style():
        timed = any("ms" in record for task in tasks for record in summaries[task.name].values())
        fig, axes = new_figure(1 + timed, len(tasks), height=0.9 + 2.5 * len(tasks))
        pairs = zip(axes[::2], axes[1::2], strict=True) if timed else ((a, None) for a in axes)
        handles: dict[str, Any] = {}
        for task, (left, right) in zip(tasks, pairs, strict=True):
            ours = tuple(n for n in runs[task.name] if n not in LOOKS)
            levels = []
            for name, (cells, chosen) in runs[task.name].items():
                style = look(name, ours)
                per_step = summaries[task.name][name].get("ms")
                label = summaries[task.name][name]["title"]
                for horizon in task.horizons[-1:]:
                    choice = chosen.choices[horizon.steps, 0 if task.stopped else horizon.budgets[-1]]
                    steps, low, centre, high = _band(*curve(task, cells, choice, horizon.steps))
                    levels += [centre[np.isfinite(centre)]]
                    (line,) = left.plot(steps, centre, label=label, **style)
                    left.fill_between(steps, low, high, color=style["color"], alpha=0.13, linewidth=0)
                    handles.setdefault(label, line)
                    if per_step and right is not None:
                        right.plot(steps * per_step / 1e3, centre, **style)
                        right.fill_between(
                            steps * per_step / 1e3, low, high, color=style["color"], alpha=0.13, linewidth=0
                        )
                _marks(left, task, cells, chosen, style)
            _limits(left, right, levels)
            left.set(title=task.title, xlabel="steps", ylabel="test loss")
            if right is not None:
                right.set(xlabel="seconds")
        fig.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=4,
            handlelength=2.6,
            fontsize=8,
        )
        return to_png(fig)


def _band(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Geometric means with their intervals."""
    with np.errstate(invalid="ignore"):
        logs = np.log(np.maximum(values, 1e-30))
        centre = logs.mean(axis=0)
        n = len(logs)
        half = stats.t.ppf(0.975, n - 1) * logs.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else 0 * centre
    return steps, np.exp(centre - half), np.exp(centre), np.exp(centre + half)


def _marks(axes: Any, task: Task, cells: Cells, chosen: Chosen, style: Mapping[str, Any]) -> None:
    if task.stopped:
        return
    for (steps, budget), choice in chosen.choices.items():
        looked, _, centre, _ = _band(*curve(task, cells, choice, steps))
        mark = {"solid": "x", DASHED: "o", DOTTED: "s"}.get(style.get("linestyle", "solid"), "D")
        level = centre[list(looked).index(budget)]
        axes.plot(budget, level, mark, color=style["color"], markersize=4, fillstyle="none")


def _limits(left: Any, right: Any, levels: list[np.ndarray]) -> None:
    """Logarithmic axes that end where the lines do; what diverges leaves the frame."""
    values = np.concatenate(levels)
    starts = np.concatenate([level[:1] for level in levels])
    for axes in filter(None, (left, right)):
        axes.set(yscale="log", ylim=(values.min() / 1.6, 1.6 * np.median(starts) + 0.3 * starts.max()))
    left.set_xlim(left=0)
    if right is not None:
        right.set_xscale("log")
