"""What the runs come to: means over seeds, differences in pairs, losses at equal time; as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from contest.cells import Cells
from contest.clock import Cost
from contest.entrants import Entrant
from contest.protocol import Chosen, results
from contest.tasks import Task
from scipy import stats

Runs = Mapping[str, tuple[Cells, Chosen]]


def mean(task: Task, values: np.ndarray) -> float:
    """The arithmetic mean of stopped tasks, the geometric one where losses span powers of ten."""
    if not np.all(np.isfinite(values)):
        return math.inf
    return float(np.mean(values) if task.stopped else np.exp(np.mean(np.log(np.maximum(values, 1e-30)))))


def interval(differences: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The mean of paired differences and the half-width of its t interval.

    >>> interval(np.array([1.0, 2.0, 3.0]))
    (2.0, 2.484...)
    """
    n = len(differences)
    centre = float(np.mean(differences))
    if n < 2 or not np.all(np.isfinite(differences)):
        return centre, math.inf
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n)
    return centre, float(half)


def summary(
    task: Task, entrants: Mapping[str, Entrant], runs: Runs, cost: Mapping[str, Cost], reference: str = "symo"
) -> dict[str, dict[str, Any]]:
    """One record for each entrant.

    Args:
      task: the task.
      entrants: by name.
      runs: cells and choices by entrant.
      cost: of a step, by entrant; may be empty.
      reference: the entrant that the others are compared with in pairs, if it has run.

    Returns:
      By entrant a record: "results" (means), "spread" (least and largest), "versus" (the mean difference to the
      reference with the half-width of its interval: of test losses, or of their logarithms where budgets choose),
      "choices", "trials", "equal time", "ms", "relative", "memory", "state".
    """
    numbers = {name: results(task, *pair) for name, pair in runs.items()}
    out: dict[str, dict[str, Any]] = {}
    for name, (cells, chosen) in runs.items():
        record: dict[str, Any] = {
            "title": entrants[name].title,
            "sees": entrants[name].sees,
            "results": {k: mean(task, v) for k, v in numbers[name].items()},
            "spread": {k: [float(v.min()), float(v.max())] for k, v in numbers[name].items()},
            "choices": {f"{s}|{b}": list(c) for (s, b), c in chosen.choices.items()},
            "trials": {str(k): v for k, v in chosen.trials.items()},
        }
        if reference in numbers and name != reference:
            record["versus"] = {
                k: interval(
                    v - numbers[reference][k] if task.stopped else _log_ratio(v, numbers[reference][k])
                )
                for k, v in numbers[name].items()
                if k.startswith("test")
            }
        if name in cost:
            record |= {
                "ms": 1e3 * cost[name].seconds,
                "memory": cost[name].memory,
                "state": cost[name].state,
            }
            if "adam" in cost:
                record["relative"] = cost[name].seconds / cost["adam"].seconds
                record["equal time"] = equal_time(task, cells, chosen, record["relative"])
        out[name] = record
    return out


def _log_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(a, 1e-30)) - np.log10(np.maximum(b, 1e-30))


def curve(
    task: Task, cells: Cells, choice: tuple[str, float, float], steps: int, which: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """Steps looked at, and the losses there of every seed, shape (seeds, looks)."""
    runs = [
        c
        for c in cells.all()
        if (c["steps"], c["schedule"], c["seed"] < task.seeds) == (steps, choice[0], True)
    ]
    runs = [c for c in runs if np.allclose((c["rate"], c["extra"]), choice[1:], rtol=1e-5)]
    runs.sort(key=lambda c: c["seed"])
    values = np.array([[math.inf if v is None else v for v in c[which]] for c in runs], float)
    return np.array(runs[0]["step"]), values


def equal_time(task: Task, cells: Cells, chosen: Chosen, relative: float) -> dict[str, float]:
    """The test loss in the time that Adam takes for each length of training.

    Where budgets choose learning rates, it is that of the configuration which has the least validation loss by then,
    among those run on all seeds; a stopped run may stop earlier.
    """
    out = {}
    for horizon in task.horizons:
        choices = {c for (steps, _), c in chosen.choices.items() if steps == horizon.steps}
        limit = max(int(horizon.steps / relative), horizon.every)
        best = (math.inf, math.inf)
        for choice in choices:
            steps, valid = curve(task, cells, choice, horizon.steps, "valid")
            _, test = curve(task, cells, choice, horizon.steps)
            last = int(np.searchsorted(steps, limit, side="right")) - 1
            if task.stopped:
                at = np.argmin(valid[:, : last + 1], axis=1)
                pair = mean(task, valid.min(axis=1)), mean(task, test[np.arange(len(at)), at])
            else:
                pair = mean(task, valid[:, last]), mean(task, test[:, last])
            best = min(best, pair)
        out[str(horizon.steps)] = best[1]
    return out


def columns(task: Task) -> list[str]:
    """The results that a table shows."""
    budgets = [b for h in task.horizons for b in h.budgets]
    if not task.stopped:
        return [f"test@{b}" for b in budgets]
    return [f"train@{budgets[1 if len(budgets) > 2 else 0]}", f"train@{budgets[-1]}", "test"]


def markdown(task: Task, record: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of a task."""
    shown = columns(task)
    lengths = [str(h.steps) for h in task.horizons]
    head = ["", *shown]
    compared = any("versus" in r for r in record.values())
    timed = any("ms" in r for r in record.values())
    if compared:
        head.append("test, minus symo's" if task.stopped else f"log₁₀ of {shown[-1]} over symo's")
    if timed:
        head += ["in Adam's time" if len(lengths) == 1 else f"in Adam's time for {n}" for n in lengths]
        head += ["ms/step ÷ Adam's", "MB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    best = {k: min(r["results"][k] for r in record.values()) for k in shown}
    for r in record.values():
        row = [r["title"] + ("" if r["sees"] == "gradients" else f" *(sees {r['sees']})*")]
        row += [_bold(r["results"][k], best[k]) for k in shown]
        if compared:
            row.append(_versus(r, shown[-1]))
        if timed:
            row += [_number(r.get("equal time", {}).get(n)) for n in lengths]
            memory = r.get("memory")
            row += [
                _number(r.get("relative")),
                "" if memory is None else f"{(memory + r['state']) / 2**20:.1f}",
            ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _bold(value: float, best: float) -> str:
    return f"**{_number(value)}**" if value <= best else _number(value)


def _versus(record: Mapping[str, Any], key: str) -> str:
    if "versus" not in record:
        return ""
    centre, half = record["versus"][key]
    return f"{centre:+.2g} ± {half:.1g}" if math.isfinite(half) else "diverged"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if math.isfinite(value) else "∞"
