"""The contest of optimizers: the same tasks, trials, schedules and seeds for all, with times measured in turns.

``python scripts/benchmark.py optimizers`` runs it all, or goes on where it was stopped: every finished run is kept in
``--out``. Tables and figures are written there too. Learning rates are chosen on validation examples: on seeds of
their own, from five rates and the task's schedules, and further where the best is the last one tried. Among all
benchmarks (no name given) only a step of ``symo`` is timed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.timing import Row, interleaved
from contest import clock, figures
from contest.entrants import Entrant, entrants, missing
from contest.protocol import contest
from contest.summary import markdown, summary
from contest.tasks import Task, tasks

from eqtoolbox import zoo

#: The largest cost of a step relative to Adam's, on digits at batch 128, by hidden width.
BARS = {128: 1.25, 512: 1.6}
#: Largest cost of the fuller variant relative to Muon's.
FULLER_BAR = 1.0
#: Models of the ensemble of optimizers.
MODELS = 16
#: Steps before those that are timed, and how many these are.
PHASES = {"steps 1 to 200": (0, 200), "steps 1001 to 1100": (1000, 100), "steps 2001 to 2200": (2000, 200)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's own options."""
    group = parser.add_argument_group("optimizers", __doc__.splitlines()[0])
    group.add_argument("--tasks", help=f"comma-separated, of {', '.join(tasks())}")
    group.add_argument("--entrants", help=f"comma-separated, of {', '.join(entrants(ablations=True))}")
    group.add_argument("--ablations", action="store_true", help="also variants of symo")
    group.add_argument("--quick", action="store_true", help="smallest sizes: whether it runs, not who wins")
    group.add_argument("--out", type=Path, default=Path("results/optimizers"), help="default: %(default)s")
    group.add_argument("--no-times", action="store_true", help="time nothing; show times of before, if any")


def _chosen(table: dict[str, Any], names: str | None, what: str) -> dict[str, Any]:
    if names is None:
        return table
    wrong = [n for n in names.split(",") if n not in table]
    if wrong:
        raise SystemExit(f"--{what}: must be of {', '.join(table)}, got {', '.join(wrong)}")
    return {n: table[n] for n in names.split(",")}


def bench(options: argparse.Namespace | None = None) -> list[Row]:
    """The contest, and rows of times; without options only the rows with a bar."""
    if options is None:
        return rows()
    out = options.out / "quick" if options.quick else options.out
    playing = _chosen(entrants(options.ablations or bool(options.entrants)), options.entrants, "entrants")
    played = _chosen(tasks(options.quick), options.tasks, "tasks")
    able = {n: e for n, e in playing.items() if missing(e) is None}
    runs, summaries = {}, {}
    for name, task in played.items():
        runs[name] = {n: contest(task, e, out) for n, e in able.items() if e.absent(task) is None}
    for name, task in played.items():
        summaries[name] = summary(
            task, able, runs[name], _costs(task, able, options, out / f"{name}.times.json")
        )
        absent = [f"{e.title}: {reason}.\n" for e in playing.values() if (reason := e.absent(task))]
        text = "\n".join((f"## {task.title}\n", markdown(task, summaries[name]), "", *absent))
        (out / f"{name}.md").write_text(text)
        print(text)
    path = out / "summary.json"
    record = (json.loads(path.read_text()) if path.exists() else {}) | summaries
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for group in dict.fromkeys(task.group for task in played.values()):
        members = [task for task in played.values() if task.group == group and runs[task.name]]
        if members:
            (out / f"{group}.png").write_bytes(figures.figure(members, runs, summaries))
    return [] if options.no_times else rows()


def _costs(
    task: Task, able: dict[str, Entrant], options: argparse.Namespace, path: Path
) -> dict[str, clock.Cost]:
    """What steps cost, measured together; or with ``--no-times`` as last measured, if they were."""
    if not options.no_times:
        cost = clock.costs(task, able)
        path.write_text(json.dumps({name: c._asdict() for name, c in cost.items()}, indent=1) + "\n")
    stored = json.loads(path.read_text()) if path.exists() else {}
    return {name: clock.Cost(**c) for name, c in stored.items()}


def rows(repeats: int = 5) -> list[Row]:
    """A step on digits at batch 128 with a bar, at two widths: the mean of the first 200, and of 100 later ones."""
    table = entrants()
    out = []
    for width, bar in BARS.items():
        task = _wide(tasks()["digits-tanh"], width)
        names = ("symo", "adam", "symo-full", "muon") if width == min(BARS) else ("symo", "adam")
        able = {n: table[n] for n in names if missing(table[n]) is None}
        for when, (start, steps) in PHASES.items():
            cost = {n: c.seconds for n, c in clock.costs(task, able, repeats, start, steps).items()}
            for name in [n for n in cost if n != "adam"]:
                title, limit = f"{able[name].title}, width {width}, {when}", bar if name == "symo" else None
                out.append(Row(title, cost[name], cost["adam"], "Adam", limit))
            if "symo-full" in cost:
                title = f"{able['symo-full'].title}, width {width}, {when}"
                out.append(Row(title, cost["symo-full"], cost["muon"], "Muon", FULLER_BAR))
    return [*out, *_ensemble(repeats), *_curvature(repeats)]


def _ensemble(repeats: int) -> list[Row]:
    """A step of symo for many models at once, against one jitted step after the other; gradients are given."""
    import jax
    import jax.numpy as jnp

    import eqtoolbox as eqt

    task = tasks()["diabetes"]
    params = task.make(0).params
    tx = eqt.curvature.symo(0.02, task.symmetry())
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), (MODELS, *p.shape)), params)
    states = jax.vmap(lambda _: tx.init(params))(jnp.arange(MODELS))
    together, single = jax.jit(jax.vmap(tx.update)), jax.jit(tx.update)
    parts = [jax.tree.map(lambda x, i=i: x[i], (grads, states)) for i in range(MODELS)]
    calls = {
        "ours": lambda: together(grads, states),
        "loop": lambda: [single(*part) for part in parts],
    }
    seconds = interleaved(calls, 5 * repeats)
    name = f"symo, {MODELS} models at once, a step with new roots"
    return [Row(name, seconds["ours"], seconds["loop"], f"{MODELS} separate steps")]


def _curvature(repeats: int) -> list[Row]:
    """A step of the Gauss-Newton variant, gradient and all, where each entrant is at home."""
    table, out = entrants(), []
    for task, name, steps in (("tanh", "newton", 10), ("digits-tanh", "newton-batches", 50)):
        able = {n: table[n] for n in (name, "adam", "kfac-jax") if missing(table[n]) is None}
        cost = {n: c.seconds for n, c in clock.costs(tasks()[task], able, repeats, steps=steps).items()}
        for other in [n for n in cost if n != name]:
            out.append(Row(f"{table[name].title}, {task}", cost[name], cost[other], table[other].title))
    return out


def _wide(task: Task, width: int) -> Task:
    module = zoo.MLP((width, width, 10), "tanh")
    make = task.make

    def wider(seed: int):
        import jax

        instance = make(seed)
        return instance._replace(
            params=module.init(jax.random.key(seed), instance.train.inputs[:1])["params"]
        )

    return replace(task, module=module, make=wider)
