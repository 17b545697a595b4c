"""Experiments: saved, resumed to the bit, never mixed up, found by name, and what the command says."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_experiment as toy

from eqtoolbox import cli, experiments
from eqtoolbox.experiments import (
    ExperimentError,
    Finding,
    Store,
    all_experiments,
    at_least,
    at_most,
    find_experiments,
    load_tree,
    open_store,
    run_experiment,
    save_tree,
    trained,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The toy experiment, run without interruption."""
    return run_experiment(toy.EXPERIMENT, out=tmp_path_factory.mktemp("whole"))


def same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


# --- trees ------------------------------------------------------------------------------------------


def test_trees_come_back_as_they_were(tmp_path):
    tree = {
        "a": [np.arange(3, dtype=np.int8), (True, None, "text", 2, 0.1, float("inf"))],
        "b": {"bf16": jnp.arange(4, dtype=jnp.bfloat16).reshape(2, 2) / 3, "scalar": np.float64(0.1)},
        "empty": [],
    }
    save_tree(tmp_path / "t.npz", tree | {"key": jax.random.key(3)})
    found = load_tree(tmp_path / "t.npz")
    np.testing.assert_array_equal(
        jax.random.key_data(found.pop("key")), jax.random.key_data(jax.random.key(3))
    )
    same(found, tree)
    assert found["b"]["bf16"].dtype == jnp.bfloat16
    assert found["b"]["scalar"].dtype == np.float64
    with np.load(tmp_path / "t.npz") as file:
        np.testing.assert_array_equal(file["a/0"], np.arange(3))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"b": object()}}, "got object at a/b"),
        ({"a": [1, {2: 3}]}, "keys of a saved dict are texts without '/', got 2 at a/1"),
        ({"a": np.array([None])}, "arrays of objects cannot be saved, got one at a"),
        ({"a": Finding("s", 1, "e", "verified")}, "got Finding at a"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, tree, message):
    with pytest.raises(TypeError, match=message):
        save_tree(tmp_path / "t.npz", tree)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path):
    save_tree(tmp_path / "t.npz", {"a": np.arange(100)})
    (tmp_path / "t.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:200])
    with pytest.raises(ExperimentError, match=r"t\.npz is damaged"):
        load_tree(tmp_path / "t.npz")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    save_tree(tmp_path / "t.npz", {"a": 1})

    def fail(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        save_tree(tmp_path / "t.npz", {"a": 2})
    assert load_tree(tmp_path / "t.npz") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


# --- stores -----------------------------------------------------------------------------------------


def test_once_computes_once_and_returns_what_was_saved(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": jnp.arange(3), "y": (1, "z")}

    first = Store(tmp_path).once("a/b", compute)
    second = Store(tmp_path).once("a/b", compute)
    same(first, second)
    assert isinstance(first["x"], np.ndarray)
    assert len(calls) == 1
    for name in ("", "../a", "/a", "a//b", "a b"):
        with pytest.raises(ValueError, match="a piece is named by letters"):
            Store(tmp_path).once(name, compute)


def test_a_failed_piece_is_not_there(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Store(tmp_path).once("a", fail)
    assert Store(tmp_path).once("a", lambda: 1) == 1


def test_other_configurations_and_versions_have_other_folders(tmp_path):
    def folder(config, version=1):
        return open_store(tmp_path, "toy", version, "custom", config).folder

    folders = [folder(toy.Config()), folder(toy.Config(rate=0.2)), folder(toy.Config(sizes=(3, 3)))]
    folders.append(folder(toy.Config(), version=2))
    assert len(set(folders)) == 4
    assert folder(toy.Config()) == folders[0]
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    assert manifest["config"] == {"rate": 0.2, "steps": 10, "every": 3, "sizes": [3, 2]}
    (folders[0] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExperimentError, match="is of another configuration"):
        folder(toy.Config())
    (folders[0] / "manifest.json").write_text("{")
    with pytest.raises(ExperimentError, match="is damaged"):
        folder(toy.Config())


def test_a_run_cut_in_other_segments_is_refused(tmp_path):
    def go(**changes):
        settings = {"steps": 4, "every": 2} | changes
        return trained(Store(tmp_path), "t", jnp.zeros(2), lambda s, t: (s + t, s[0]), **settings)

    np.testing.assert_array_equal(go().state, [6.0, 6.0])
    np.testing.assert_array_equal(go().records, [0.0, 0.0, 1.0, 3.0])
    assert go().measured is None
    with pytest.raises(ExperimentError, match="raise the version"):
        go(every=3)
    with pytest.raises(ValueError, match="must be positive, got 4 and 0"):
        go(every=0)


# --- runs -------------------------------------------------------------------------------------------


def test_a_run_is_saved_with_what_it_was_made_of(whole):
    assert sorted(p.name for p in whole.folder.iterdir()) == [
        "figure.png",
        "manifest.json",
        "result.json",
        "result.npz",
    ]
    assert (whole.folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((whole.folder / "result.json").read_text())
    assert record["size"] == "quick"
    assert record["config"]["sizes"] == [3, 2]
    assert {"python", "jax", "eqtoolbox"} <= set(record["versions"])
    assert record["seconds"] > 0
    assert [f["verdict"] for f in record["findings"]] == ["verified", "refuted"]
    assert [f["measured"] for f in record["findings"]] == [pytest.approx(whole.result["norm"].max())] * 2
    assert whole.as_anticipated
    assert whole.result["loss"].shape == (10,)
    assert whole.result["times"].tolist() == [0, 3, 6, 9, 10]
    assert whole.result["norm"].shape == (5,)
    assert np.linalg.norm(whole.result["w"]) == pytest.approx(whole.result["norm"][-1])
    assert whole.result["beside"]["note"] == "a text"


def test_a_finished_run_is_read_and_its_claims_and_plot_are_made_anew(whole):
    def never(config, store):
        raise AssertionError

    other = replace(toy.EXPERIMENT, run=never, claims=lambda r: [at_most("Now", r["rate"], 0.0)])
    again = run_experiment(other, out=whole.folder.parents[1])
    same(again.result, whole.result)
    assert [f.statement for f in again.findings] == ["Now"]
    assert not again.as_anticipated
    assert again.facts == whole.facts
    with pytest.raises(AssertionError):
        run_experiment(other, out=whole.folder.parents[1], force=True)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, whole, at):
    calls = []

    def look(state):
        calls.append(1)
        if len(calls) == at:
            raise Stop
        return {"norm": jnp.linalg.norm(state["params"]["w"])}

    stopped = replace(toy.EXPERIMENT, run=lambda config, store: toy.run(config, store, look))
    with pytest.raises(Stop):
        run_experiment(stopped, out=tmp_path)
    assert not list(tmp_path.rglob("result*"))
    calls.clear()
    again = run_experiment(stopped if at == 5 else toy.EXPERIMENT, out=tmp_path)
    assert len(calls) < 5
    same(again.result, whole.result)


KILLED = """
import os, signal, sys, pathlib
import jax
sys.path.insert(0, sys.argv[1])
import toy_experiment as toy
from dataclasses import replace
from eqtoolbox.experiments import run_experiment
calls = []
def look(state):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"norm": jax.numpy.linalg.norm(state["params"]["w"])}
run = lambda config, store: toy.run(config, store, look)
run_experiment(replace(toy.EXPERIMENT, run=run), out=pathlib.Path(sys.argv[2]))
"""


def test_a_killed_process_loses_the_segment_in_flight_only(tmp_path, whole):
    plugins = str(Path(toy.__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, plugins, str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    state = load_tree(next(tmp_path.rglob("train/state.npz")))
    assert state["done"] == 2
    calls = []

    def look(state):
        calls.append(1)
        return {"norm": jnp.linalg.norm(state["params"]["w"])}

    goes_on = replace(toy.EXPERIMENT, run=lambda config, store: toy.run(config, store, look))
    again = run_experiment(goes_on, out=tmp_path)
    assert len(calls) == 3  # of 5
    same(again.result, whole.result)


def test_an_experiment_in_float64(tmp_path):
    def run(config, store):
        return {"x": jnp.ones(2) / 3, "piece": store.once("p", lambda: jnp.ones(2) / 3)}

    changed = replace(toy.EXPERIMENT, run=run, x64=True, claims=lambda r: [], name="fine")
    result = run_experiment(replace(changed, plot=lambda r: toy.new_figure()[0]), out=tmp_path).result
    assert result["x"].dtype == result["piece"].dtype == np.float64


def test_what_is_wrong_with_an_experiment_is_said(tmp_path):
    with pytest.raises(TypeError, match="full must be a frozen dataclass, got 3"):
        replace(toy.EXPERIMENT, full=3)
    with pytest.raises(TypeError, match="must return a dict, got int"):
        run_experiment(replace(toy.EXPERIMENT, run=lambda c, s: 3), out=tmp_path)
    with pytest.raises(TypeError, match="toy is configured by Config, got 3"):
        run_experiment(toy.EXPERIMENT, 3, out=tmp_path)
    other = replace(toy.EXPERIMENT, run=lambda c, s: {}, claims=lambda r: [at_most("", 1, 2, claims=("B",))])
    with pytest.raises(ValueError, match="are not among its"):
        run_experiment(other, out=tmp_path)


# --- findings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (at_most("", 1.0, 1.0), "verified"),
        (at_most("", 1.1, 1.0), "refuted"),
        (at_most("", 1.1, 1.0, error=0.1), "inconclusive"),
        (at_most("", 0.9, 1.0, error=0.1), "inconclusive"),
        (at_most("", 0.7, 1.0, error=0.1), "verified"),
        (at_most("", float("nan"), 1.0), "inconclusive"),
        (at_least("", 1.0, 1.0), "verified"),
        (at_least("", 0.7, 1.0, error=0.1), "refuted"),
        (at_least("", np.int64(3), 2), "verified"),
    ],
)
def test_verdicts(finding, verdict):
    assert finding.verdict == verdict
    assert finding.as_anticipated == (verdict == "verified")


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Two experiments instead of the real ones, in an empty working folder."""
    found = {"toy": toy.EXPERIMENT, "toy-two": replace(toy.EXPERIMENT, name="toy-two", title="B <two>")}
    for module in ("_experiment", "_command"):
        monkeypatch.setattr(sys.modules[f"eqtoolbox.experiments.{module}"], "all_experiments", lambda: found)
    monkeypatch.chdir(tmp_path)
    return found


def test_one_experiment_by_name(toys, tmp_path, capsys):
    assert cli.main(["reproduce", "toy_two", "--out", "here"]) == 0
    shown = capsys.readouterr()
    assert "✓ verified: The weights stay small" in shown.out
    assert "✗ refuted, as is known: The weights grow large" in shown.out
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["toy-two"]
    assert shown.err == ""


def test_all_of_them_on_one_page(toys, tmp_path, capsys):
    assert cli.main(["reproduce", "--all", "--full"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("as expected") == 2
    page = (tmp_path / "results" / "index.html").read_text()
    assert "2 experiments of full size" in page
    assert "every verdict as expected" in page
    assert "B &lt;two&gt;" in page
    assert "B <two>" not in page
    assert "&#34;Segoe UI&#34;" not in page
    assert page.count("<svg") == 2
    for outside in ("http://", "https://", "src=", "<link", "@import"):
        assert outside not in page


def test_a_verdict_that_is_not_expected_and_an_experiment_that_fails(toys, tmp_path, capsys):
    def fail(config, store):
        raise RuntimeError("a bug")

    toys["toy"] = replace(toy.EXPERIMENT, claims=lambda r: [at_most("Small", 2.0, 1.0)])
    assert cli.main(["reproduce", "toy"]) == 1
    assert "✗ refuted, not verified: Small" in capsys.readouterr().out
    toys["toy"] = replace(toy.EXPERIMENT, run=fail, version=2)
    assert cli.main(["reproduce", "toy"]) == 1
    assert "RuntimeError: a bug" in capsys.readouterr().err
    assert cli.main(["reproduce", "--all"]) == 1
    shown = capsys.readouterr()
    assert "RuntimeError: a bug" in shown.err
    assert "failed" in shown.out
    assert "B &lt;two&gt;" in (tmp_path / "results" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy-tow"], "there is no experiment 'toy-tow'; did you mean toy-two"),
        (["zzz"], "there is no experiment 'zzz'; there are toy, toy-two"),
        ([], "name an experiment, or run all by --all"),
        (["--all", "toy"], "either --all or names"),
        (["toy", "--out", "file"], "--out file cannot be written"),
    ],
)
def test_wrong_arguments(toys, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    assert cli.main(["reproduce", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_says_that_the_same_command_goes_on(toys, capsys):
    def stop(config, store):
        raise KeyboardInterrupt

    toys["toy"] = replace(toy.EXPERIMENT, run=stop)
    assert cli.main(["reproduce", "toy"]) == 130
    assert "interrupted, the same command goes on" in capsys.readouterr().err


# --- the registry -----------------------------------------------------------------------------------


def test_the_list_names_every_experiment(capsys):
    assert cli.main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    for name in all_experiments():
        assert name in shown


def test_an_experiment_is_one_file(tmp_path, monkeypatch):
    text = Path(toy.__file__).read_text()
    (tmp_path / "toy.py").write_text(text)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    assert find_experiments(["toy"])[0].title == "A toy"
    (tmp_path / "other_name.py").write_text(text)
    with pytest.raises(ValueError, match=r"in other_name\.py must be named like it, got 'toy'"):
        all_experiments()


def test_experiments_name_claims_of_the_ledger():
    import tomllib

    ledger = tomllib.loads((Path(__file__).parents[1] / "claims.toml").read_text(encoding="utf-8"))
    for experiment in all_experiments().values():
        assert set(experiment.claim_ids) <= set(ledger)
        assert experiment.quick != experiment.full


def test_one_string_is_no_sequence_of_names():
    with pytest.raises(TypeError, match="find_experiments needs a sequence of names, got the string 'toy'"):
        find_experiments("toy")
