"""Who gets which trials: a grid of learning rates and schedules, chosen on validation examples, then fresh seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contest.cells import Cells, Trial
from contest.entrants import Entrant
from contest.runs import Run, runner
from contest.tasks import FIRST_SELECTION, Horizon, Instance, Task

#: Times that a grid may be extended, for each result that chooses a learning rate.
EXTENSIONS = 4
Choice = tuple[str, float, float]


class Chosen(NamedTuple):
    """What an entrant is judged by on one task.

    Attributes:
      choices: by (steps, budget) the schedule, learning rate and second number; budget 0 is the stopped run.
      trials: how many configurations were tried at each length.
    """

    choices: dict[tuple[int, int], Choice]
    trials: dict[int, int]


def criterion(cell: dict[str, Any], budget: int) -> float:
    """The validation loss that chooses: at a budget, or with budget 0 the least along the run."""
    values = [math.inf if v is None else v for v in cell["valid"]]
    if budget:
        return values[cell["step"].index(budget)]
    return min(values)


def contest(
    task: Task,
    entrant: Entrant,
    out: Path,
    say: Callable[[str], None] = print,
) -> tuple[Cells, Chosen]:
    """All runs of an entrant on a task; those already in ``out`` are not run again.

    Args:
      task: what is trained.
      entrant: by whom.
      out: folder of results.
      say: told what is chosen.

    Returns:
      The runs, and what was chosen.
    """
    cells = Cells(out / task.name, entrant.name, {**task.settings(), **entrant.settings()})
    instances = functools.lru_cache(maxsize=2)(task.make)
    choices: dict[tuple[int, int], Choice] = {}
    trials: dict[int, int] = {}
    for horizon in task.horizons:
        run = runner(task, entrant, horizon)
        budgets = (0,) if task.stopped else horizon.budgets
        best, count = select(task, entrant, horizon, budgets, cells, run, instances)
        trials[horizon.steps] = count
        choices |= {(horizon.steps, budget): choice for budget, choice in best.items()}
        for seed in range(task.seeds):
            for choice in sorted(set(best.values())):
                _one(cells, run, instances, horizon, choice, seed)
        for budget, (name, rate, extra) in best.items():
            at = f" at {budget}" if budget else ""
            say(f"{task.name} {horizon.steps}{at}: {entrant.name} {name}, rate {rate:.4g}, {extra:.3g}")
    return cells, Chosen(choices, trials)


def _one(cells: Cells, run: Run, instances: Callable[[int], Instance], horizon: Horizon, choice, seed: int):
    trial = Trial(horizon.steps, *choice, seed)
    return cells.get(trial) or cells.put(trial, run(trial, instances(seed)))


def select(
    task: Task,
    entrant: Entrant,
    horizon: Horizon,
    budgets: Iterable[int],
    cells: Cells,
    run: Run,
    instances: Callable[[int], Instance],
) -> tuple[dict[int, Choice], int]:
    """The best configuration for each budget, on the seeds for selection.

    Where the best learning rate, or second number, is the first or last that was tried with the rest the same, the
    next one is tried too, ``EXTENSIONS`` times for each budget.

    Returns:
      By budget the choice, and how many configurations were tried.
    """
    seeds = range(FIRST_SELECTION, FIRST_SELECTION + task.selection)
    scores: dict[Choice, dict[int, float]] = {}

    def score(choices: Iterable[Choice]) -> None:
        for seed in seeds:
            for choice in choices:
                cell = _one(cells, run, instances, horizon, choice, seed)
                found = scores.setdefault(choice, dict.fromkeys(budgets, 0.0))
                for budget in budgets:
                    loss = criterion(cell, budget)  # averaged as the results are
                    found[budget] += (loss if task.stopped else math.log(max(loss, 1e-30))) / len(seeds)

    schedules = entrant.schedules or horizon.schedules
    score(
        [
            (name, rate, extra)
            for extra in entrant.second(task)
            for name in schedules
            for rate in entrant.grid(task)
        ]
    )
    best: dict[int, Choice] = {}
    for budget in budgets:
        for extension in range(EXTENSIONS + 1):
            best[budget] = min(scores, key=lambda c: scores[c][budget])
            moves = further(entrant, task, best[budget], list(scores))
            if not moves or extension == EXTENSIONS:
                break
            score(moves)
    return best, len(scores)


def further(entrant: Entrant, task: Task, best: Choice, tried: list[Choice]) -> list[Choice]:
    """The next learning rate, and the next second number, where the best is the first or last that was tried."""
    name, rate, extra = best
    rates = [c[1] for c in tried if (c[0], c[2]) == (name, extra)]
    extras = [c[2] for c in tried if (c[0], c[1]) == (name, rate)]
    moves = []
    if entrant.rates is not None and rate in (min(rates), max(rates)):
        moves.append((name, rate * (2.0 if rate == max(rates) else 0.5), extra))
    values = entrant.second(task)
    if len(values) > 1 and extra in (min(extras), max(extras)):
        ratio = values[1] / values[0]
        moves.append((name, rate, extra * ratio if extra == max(extras) else extra / ratio))
    return moves


def results(task: Task, cells: Cells, chosen: Chosen) -> dict[str, np.ndarray]:
    """The numbers of the table, one for each seed.

    Returns:
      By name of the column: the test loss at each budget, and for stopped tasks the training loss there, and the
      test loss at the step of the least validation loss.
    """
    out: dict[str, np.ndarray] = {}
    for horizon in task.horizons:
        for budget in horizon.budgets:
            choice = chosen.choices[horizon.steps, 0 if task.stopped else budget]
            runs = [_find(cells, horizon, choice, seed) for seed in range(task.seeds)]
            for which in ("train", "test"):
                out[f"{which}@{budget}"] = np.array([_at(cell, which, budget) for cell in runs])
        if task.stopped:
            choice = chosen.choices[horizon.steps, 0]
            runs = [_find(cells, horizon, choice, seed) for seed in range(task.seeds)]
            out["test"] = np.array([_stopped(cell) for cell in runs])
    return out


def _find(cells: Cells, horizon: Horizon, choice: Choice, seed: int) -> dict[str, Any]:
    cell = cells.get(Trial(horizon.steps, *choice, seed))
    if cell is None:
        raise KeyError(f"{cells.path}: no run of {choice} with seed {seed}")
    return cell


def _at(cell: dict[str, Any], which: str, step: int) -> float:
    value = cell[which][cell["step"].index(step)]
    return math.inf if value is None else value


def _stopped(cell: dict[str, Any]) -> float:
    values = [math.inf if v is None else v for v in cell["valid"]]
    value = cell["test"][int(np.argmin(values))]
    return math.inf if value is None else value
