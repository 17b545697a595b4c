"""The contest of optimizers: who gets which trials, what is kept, what is compared, and one run by hand."""

from __future__ import annotations

import argparse
import functools
import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from benchmarks import optimizers
from contest import protocol, runs, schedules
from contest.cells import Cells, Trial
from contest.entrants import PEERS, Entrant, entrants, missing
from contest.summary import equal_time, interval, markdown, summary
from contest.tasks import FIRST_SELECTION, Horizon, tasks
from scipy import stats

HORIZON = Horizon(8, 2, (4, 8), ("constant", "cosine"))
TOY = Entrant("toy", "Toy", lambda *args: None, rates={"teacher": 1.0})


def _toy_task(stopped: bool = False, seeds: int = 3):
    task = tasks(quick=True)["linear"]
    return replace(
        task, horizons=(HORIZON,), seeds=seeds, selection=2, stopped=stopped, make=lambda seed: seed
    )


class Fake:
    """Runs whose validation loss is least at a known rate, another one for each budget; counts its calls."""

    def __init__(self, best: dict[int, float], test_best: float = 1e-3):
        self.best, self.test_best, self.trials = best, test_best, []

    def __call__(self, trial: Trial, instance) -> dict:
        assert instance == trial.seed
        self.trials.append(trial)
        worse = 0.5 if trial.schedule == "constant" else 0.0

        def loss(step, best):
            return 1 / step + (math.log(trial.rate / best)) ** 2 + worse

        steps = [2, 4, 6, 8]
        valid = [loss(s, self.best[4 if s <= 4 else 8]) for s in steps]
        return {
            "step": steps,
            "train": valid,
            "valid": valid,
            "test": [loss(s, self.test_best) for s in steps],
        }


def _contest(monkeypatch, tmp_path, fake, task, entrant=TOY):
    monkeypatch.setattr(protocol, "runner", lambda *args: fake)
    return protocol.contest(task, entrant, tmp_path, lambda line: None)


def test_each_budget_chooses_by_validation_and_the_grid_is_extended_as_far_as_allowed(monkeypatch, tmp_path):
    fake = Fake({4: 2.0, 8: 16.0}, test_best=0.25)
    _, chosen = _contest(monkeypatch, tmp_path, fake, _toy_task())
    assert chosen.choices == {(8, 4): ("cosine", 2.0, 0.0), (8, 8): ("cosine", 16.0, 0.0)}
    # Rates 1/4 .. 4 with two schedules, then 8, 16 and, since 16 was the last one, 32, with the better schedule.
    selection = {t for t in fake.trials if t.seed >= FIRST_SELECTION}
    assert chosen.trials == {8: 13}
    assert {t.rate for t in selection if t.schedule == "cosine"} == {2.0**k for k in range(-2, 6)}
    assert {t.rate for t in selection if t.schedule == "constant"} == {2.0**k for k in range(-2, 3)}
    # Results are of seeds that chose nothing, with the two configurations only.
    final = [(t.rate, t.seed) for t in fake.trials if t.seed < FIRST_SELECTION]
    assert sorted(final) == [(rate, seed) for rate in (2.0, 16.0) for seed in range(3)]

    far = Fake({4: 1e9, 8: 1e9})
    _, chosen = _contest(monkeypatch, tmp_path / "far", far, _toy_task())
    assert chosen.choices[8, 8][1] == 4 * 2.0 ** (2 * protocol.EXTENSIONS)  # each budget has its extensions


def test_the_second_number_is_extended_too():
    toy = replace(TOY, extras={"teacher": (0.1, 1.0, 10.0)})
    task, tried = (
        _toy_task(),
        [("cosine", rate, extra) for rate in (1.0, 2.0, 4.0) for extra in (0.1, 1.0, 10.0)],
    )
    assert protocol.further(toy, task, ("cosine", 2.0, 1.0), tried) == []
    assert protocol.further(toy, task, ("cosine", 2.0, 10.0), tried) == [("cosine", 2.0, 100.0)]
    low = protocol.further(toy, task, ("cosine", 4.0, 0.1), tried)
    np.testing.assert_allclose([c[1:] for c in low], [(8.0, 0.1), (4.0, 0.01)])
    assert protocol.further(replace(toy, rates=None), task, ("cosine", 4.0, 1.0), tried) == []


def test_a_stopped_contest_goes_on_and_knows_another_optimizer(monkeypatch, tmp_path):
    task, first = _toy_task(), Fake({4: 2.0, 8: 2.0})
    cells, chosen = _contest(monkeypatch, tmp_path, first, task)
    path = cells.path
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:8]) + "\n" + lines[8][:20])  # killed within a line
    second = Fake({4: 2.0, 8: 2.0})
    again, chosen_again = _contest(monkeypatch, tmp_path, second, task)
    assert len(second.trials) == len(first.trials) - 7
    assert chosen_again == chosen
    for name, values in protocol.results(task, again, chosen_again).items():
        np.testing.assert_array_equal(values, protocol.results(task, cells, chosen)[name])
    third = Fake({4: 2.0, 8: 2.0})
    _contest(monkeypatch, tmp_path, third, task, replace(TOY, options={"momentum": 0.5}))
    assert len(third.trials) == len(first.trials)
    fourth = Fake({4: 2.0, 8: 2.0})
    _contest(monkeypatch, tmp_path, fourth, task)
    assert not fourth.trials


def test_results_are_stopped_by_validation_and_compared_in_pairs(tmp_path):
    task = _toy_task(stopped=True, seeds=4)
    choice, rng, pairs = ("cosine", 1.0, 0.0), np.random.default_rng(0), {}
    for name in ("symo", "toy"):
        cells = Cells(tmp_path, name, {})
        for seed in range(4):
            valid, test = rng.uniform(1, 2, 4), rng.uniform(1, 2, 4)
            record = {
                "step": [2, 4, 6, 8],
                "train": [1.0] * 4,
                "valid": [*valid[:3], None],
                "test": list(test),
            }
            cells.put(Trial(8, *choice, seed), record)
            pairs.setdefault(name, []).append(test[np.argmin(valid[:3])])
        pairs[name] = np.array(pairs[name]), cells
    chosen = protocol.Chosen({(8, 0): choice}, {8: 1})
    for values, cells in pairs.values():
        np.testing.assert_array_equal(protocol.results(task, cells, chosen)["test"], values)
    played = {name: (cells, chosen) for name, (_, cells) in pairs.items()}
    table = summary(task, {name: replace(TOY, name=name) for name in played}, played, {})
    ours, toy = pairs["symo"][0], pairs["toy"][0]
    want = stats.ttest_rel(toy, ours).confidence_interval(0.95)
    centre, half = table["toy"]["versus"]["test"]
    np.testing.assert_allclose((centre - half, centre + half), tuple(want))
    assert table["toy"]["results"]["test"] == pytest.approx(toy.mean())
    assert f"{centre:+.2g}" in markdown(task, table)
    assert interval(np.array([1.0]))[1] == math.inf
    # In half the time only the first two looks count.
    halved = equal_time(task, pairs["toy"][1], chosen, 2.0)["8"]
    firsts = [c["test"][int(np.argmin(c["valid"][:2]))] for c in pairs["toy"][1].all()]
    assert halved == pytest.approx(np.mean(firsts))


def test_a_run_is_training_by_hand():
    task = replace(tasks(quick=True)["diabetes"], batch=16)
    instance, trial = task.make(3), Trial(8, "cosine", 0.02, 0.0, 3)
    nesterov = next(e for e in PEERS if e.name == "nesterov")
    run = runs.runner(task, nesterov, HORIZON)
    found = run(trial, instance)
    assert found["step"] == [2, 4, 6, 8]
    params, trace = instance.params, jax.tree.map(jnp.zeros_like, instance.params)
    gradient = jax.jit(jax.grad(task.loss))
    for t, rows in enumerate(np.asarray(task.indices(3, len(instance.train.targets), 8))):
        g = gradient(params, jax.tree.map(lambda a, rows=rows: a[rows], instance.train))
        trace = jax.tree.map(lambda m, g: 0.9 * m + g, trace, g)
        rate = 0.01 * (1 + math.cos(math.pi * t / 8))
        params = jax.tree.map(lambda p, m, g, rate=rate: p - rate * (g + 0.9 * m), params, trace, g)
    for name in runs.SETS:
        want = float(task.loss(params, getattr(instance, name)))
        assert found[name][-1] == pytest.approx(want, rel=1e-4)
    assert run(trial._replace(rate=1e30), instance)["valid"][-1] is None


def test_what_sees_activations_gets_them():
    task = replace(tasks(quick=True)["diabetes"], batch=16)
    run = runs.runner(task, entrants()["kfac"], HORIZON)
    found = run(Trial(8, "cosine", 0.1, 0.1, 0), task.make(0))
    assert found["train"][-1] < 0.8 * found["train"][0]


@pytest.mark.parametrize(("name", "last"), [("constant", 1.0), ("cosine", 0.0), ("decay 1e-2", 0.01)])
def test_schedules_are_traced(name, last):
    at = functools.partial(schedules.schedule, steps=10)
    values = jax.jit(lambda rate, form: jax.vmap(at(rate, form))(jnp.arange(12)))(2.0, schedules.shape(name))
    np.testing.assert_allclose(values[0], 2.0)
    np.testing.assert_allclose(values[10:], 2.0 * last, atol=1e-6)
    with pytest.raises(ValueError, match="linear"):
        schedules.shape("linear")


def test_splits_are_disjoint_and_seeds_differ():
    task = tasks()["digits-tanh"]
    a, b = task.make(0), task.make(1)
    sizes = [len(getattr(a, name).targets) for name in runs.SETS]
    assert sum(sizes) == 1797
    assert sizes[1] == sizes[2]
    images = np.concatenate([np.asarray(getattr(a, name).inputs) for name in runs.SETS])
    assert len(np.unique(images.round(4), axis=0)) == 1797
    assert not np.allclose(a.train.inputs[:5], b.train.inputs[:5])
    assert not np.allclose(a.params["Dense_0"]["kernel"], b.params["Dense_0"]["kernel"])


def test_every_entrant_has_rates_for_every_group_and_a_missing_one_says_so():
    for entrant in entrants(ablations=True).values():
        for task in tasks().values():
            assert entrant.grid(task)
            assert entrant.second(task)
        assert entrant.own_loop or missing(entrant) is None or entrant.ours or entrant.ablation
    assert "line search" in entrants()["lbfgs"].absent(tasks()["digits-tanh"])
    assert entrants()["lbfgs"].absent(tasks()["linear"]) is None
    assert "dense" in entrants()["kfac"].absent(tasks()["cnn"])


def test_the_command_writes_tables_and_figures(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    optimizers.arguments(parser)
    options = parser.parse_args(
        [
            "--quick",
            "--no-times",
            "--tasks",
            "diabetes",
            "--entrants",
            "nesterov,adam",
            "--out",
            str(tmp_path),
        ]
    )
    times = tmp_path / "quick" / "diabetes.times.json"
    times.parent.mkdir()
    cost = {
        "adam": {"seconds": 1e-3, "memory": 2**20, "state": 0},
        "nesterov": {"seconds": 5e-4, "memory": None},
    }
    cost["nesterov"]["state"] = 0
    times.write_text(json.dumps(cost))
    assert optimizers.bench(options) == []
    record = json.loads((tmp_path / "quick" / "summary.json").read_text())
    assert set(record["diabetes"]) == {"nesterov", "adam"}
    assert all(math.isfinite(r["results"]["test"]) for r in record["diabetes"].values())
    assert record["diabetes"]["nesterov"]["relative"] == 0.5
    assert (tmp_path / "quick" / "models.png").read_bytes().startswith(b"\x89PNG")
    assert "| Adam |" in capsys.readouterr().out
    options.entrants = "sgd"
    with pytest.raises(SystemExit, match="sgd"):
        optimizers.bench(options)


def test_adam_of_the_table_is_adam():
    """What is built is what the title says; the options are those that are stored."""
    adam = entrants()["adam"]
    tx = adam.build(lambda count: 0.1, None, None, **adam.options)
    params = {"w": jnp.ones(3)}
    got, _ = tx.update({"w": jnp.array([1.0, -2.0, 0.5])}, tx.init(params), params)
    plain = optax.adam(0.1, 0.9, 0.95)
    want, _ = plain.update({"w": jnp.array([1.0, -2.0, 0.5])}, plain.init(params), params)
    np.testing.assert_array_equal(got["w"], want["w"])
    assert adam.settings()["options"] == {"b1": "0.9", "b2": "0.95"}
