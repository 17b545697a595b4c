"""Runs that are stopped, killed, damaged and refused; several processes; the files that are left."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqtoolbox as eqt
from eqtoolbox import cli
from eqtoolbox import ensemble as en
from eqtoolbox.ensemble import _checkpoint, _run
from eqtoolbox.pages import load_tree

TINY = {
    "widths": (2, 3, 2),
    "examples": 20,
    "models": 44,
    "steps": 2,
    "chunk": 8,
    "layout": "last",
    "batch_size": 2,
    "checkpoint_every": 1e-6,
}


def config(out, **changes):
    (found,) = en.EnsembleConfig(**{**TINY, **changes}, out=out).runs()
    return found


def numbers(out):
    """All arrays of a run's statistics, by name."""
    with np.load(out / "statistics.npz") as file:
        return {k: file[k] for k in file.files}


def same_bits(a, b):
    a, b = numbers(a), numbers(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Crash(Exception):
    pass


def stop_after(monkeypatch, chunks):
    """The stream raises after some chunks of this process."""
    advance, count = en.Stream.advance, iter(range(chunks))

    def crashing(self, state, done):
        if next(count, None) is None:
            raise Crash
        return advance(self, state, done)

    monkeypatch.setattr(en.Stream, "advance", crashing)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("ensemble") / "whole"
    en.run_ensemble(config(out))
    return out


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A run that stopped after 4 of 6 chunks."""
    out = tmp_path_factory.mktemp("ensemble") / "half"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Crash):
            en.run_ensemble(config(out))
    return out


@pytest.fixture
def half(crashed, tmp_path):
    """A copy of it."""
    return shutil.copytree(crashed, tmp_path / "half")


def test_what_a_run_leaves(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["models"], summary["left_out"], summary["parameters"]) == (44, 0, 17)
    assert (finished / "figure.png").stat().st_size > 10_000
    assert "<svg" in (finished / "report.html").read_text()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == {"event": "done", "models": 44, "left_out": 0}
    assert lines[-2]["models"] == 44
    assert lines[-2]["models_per_second"] > 0
    com, blocks = en.load_factors(finished / "covariance-t2.npz")
    matrices = load_tree(finished / "statistics.npz")["t2"]["matrices"]["covariance"]
    order = np.ix_(*[en.Net((2, 3, 2), examples=20).order()] * 2)
    kept = np.asarray(com.to_dense(blocks))[
        order
    ]  # a little else: where the mean is known to be 0, it is not taken
    assert np.linalg.norm(kept - matrices["projection"]) < 0.1 * np.linalg.norm(kept)
    assert len(list((finished / "checkpoints").iterdir())) == 2  # keep
    before = numbers(finished)
    en.run_ensemble(config(finished))  # all is done: read, and written again
    assert before.keys() == numbers(finished).keys()


def test_factors_are_a_preconditioner(finished):
    """The file alone is enough: ``scale_by_symmetry`` starts from it, or keeps to it."""
    com, blocks = en.load_factors(finished / "second-moment-t2.npz")
    params = en.Net((2, 3, 2)).init(jax.random.key(0))
    grads = jax.tree.map(jnp.ones_like, params)
    tx = eqt.scale_by_symmetry(
        com.symmetry, factors=blocks, factor_decay=1.0, momentum=None, largest_units=0, max_rms=None
    )
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    expected = com.matvec(com.apply(lambda w: w**-0.5, blocks, damping=1e-7), grads)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    with pytest.raises(en.EnsembleError, match="there is no file"):
        en.load_factors(finished / "nothing.npz")
    with pytest.raises(en.EnsembleError, match=r"statistics.npz is no file of factors"):
        en.load_factors(finished / "statistics.npz")
    with pytest.raises(en.EnsembleError, match=r"it is no file of factors, or not whole"):
        en.load_factors(finished / "figure.png")


def test_a_stopped_run_ends_with_the_same_bits(half, finished, capsys):
    first, *_ = (half / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first)["models"] == 8
    arguments = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items() if k != "widths"]
    assert cli.main(["ensemble", "--widths", "2", "3", "2", *arguments, "--out", str(half)]) == 0
    assert capsys.readouterr().out.strip() == str(half)
    same_bits(half, finished)


def test_a_changed_configuration_is_refused(half):
    before = everything(half)
    with pytest.raises(
        en.EnsembleError, match=r"of another run \(--models is 52, was 44\): nothing was changed"
    ):
        en.run_ensemble(config(half, models=52))
    with pytest.raises(en.EnsembleError, match=r"--activation is 'relu', was 'tanh'"):
        en.run_ensemble(config(half, activation="relu"))
    assert everything(half) == before


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # orbax's own reads go on and fail
def test_a_damaged_or_foreign_checkpoint_is_refused(half, tmp_path):
    newest = half / "checkpoints" / "4"
    files = {p: p.read_bytes() for p in (newest / "state").rglob("d/*")}
    for damage in (lambda b: b[: len(b) // 2], lambda b: b[:30] + bytes(x ^ 1 for x in b[30:90]) + b[90:]):
        for path, content in files.items():
            path.write_bytes(damage(content))
        before = everything(half)
        with pytest.raises(
            en.EnsembleError, match=r"checkpoint .*/4 (cannot be read|is damaged).*nothing was changed"
        ):
            en.run_ensemble(config(half))
        assert everything(half) == before
    for path, content in files.items():
        path.write_bytes(content)
    record = half / "run.json"
    text = record.read_text()
    record.write_text(text.replace('"--seed": 0', '"--seed": 7'))
    with pytest.raises(en.EnsembleError, match=r"the checkpoint .*/4 is of another run: nothing was changed"):
        en.run_ensemble(config(half, seed=7))
    record.write_text(text[:100])
    with pytest.raises(en.EnsembleError, match=r"run.json is damaged or of something else"):
        en.run_ensemble(config(half))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(en.EnsembleError, match=r"holds something else than a run: nothing was changed"):
        en.run_ensemble(config(tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


FULL = """
import resource, sys
import eqtoolbox as eqt
from eqtoolbox import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(cli.main(["ensemble", *sys.argv[2:]]))
"""


def command(out, **changes):
    options = {**TINY, **changes, "out": out}
    words = []
    for name, value in options.items():
        values = [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        words += [f"--{name.replace('_', '-')}", *values]
    return words


def environment(devices=1):
    return {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


def start(out, devices=1, **changes):
    return subprocess.Popen(
        [sys.executable, "-m", "eqtoolbox", "ensemble", *command(out, **changes)],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_full_disk_destroys_nothing(half, finished):
    """No file may become larger than 2 kB: what a checkpoint holds does not fit."""
    good = {p: b for p, b in everything(half).items() if p.parts[0] == "checkpoints"}
    run = subprocess.run(
        [sys.executable, "-c", FULL, "2000", *command(half)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == cli.WRONG, run.stderr
    assert "a checkpoint cannot be written" in run.stderr
    assert "the last good one is" in run.stderr
    left = everything(half)
    assert all(left.get(p) == b for p, b in good.items() if p.parts[1] == "4")
    en.run_ensemble(config(half))
    same_bits(half, finished)


def killed(out, seed, times, devices, budget, **changes):
    """Runs and kills at random moments, the first time after the first checkpoint, until it was killed often enough."""
    chance, kills = random.Random(seed), 0
    while kills < times:
        process = start(out, devices, **changes)
        deadline = time.monotonic() + budget
        seen = sorted(p.name for p in (out / "checkpoints").glob("*")) if out.exists() else []
        while process.poll() is None and time.monotonic() < deadline:
            now = sorted(p.name for p in (out / "checkpoints").glob("*")) if out.exists() else []
            if now != seen and (kills or any(n.isdigit() for n in now)):
                time.sleep(chance.random() * 0.4)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (-signal.SIGKILL, 0)
        if process.returncode == 0:
            break
    end = start(out, devices, **changes)
    text, _ = end.communicate(timeout=budget)
    assert end.returncode == 0, text
    return kills


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    many = {"models": 400, "checkpoint_every": 0.2}
    whole = start(tmp_path / "whole", **many)
    assert killed(tmp_path / "killed", 0, 1, 1, 120, **many) == 1
    text, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, text
    same_bits(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("devices", [1, 8])
def test_killed_twenty_times(tmp_path, devices):
    many = {"models": {1: 24_000, 8: 8_000}[devices], "checkpoint_every": 0.2}
    assert killed(tmp_path / "killed", devices, 20, devices, 300, **many) == 20
    text, _ = (whole := start(tmp_path / "whole", devices, **many)).communicate(timeout=600)
    assert whole.returncode == 0, text
    same_bits(tmp_path / "killed", tmp_path / "whole")


def test_sigterm_saves_and_says_so(tmp_path, monkeypatch, capsys):
    """As a preempted machine gets it: in the middle of a chunk."""
    advance = en.Stream.advance

    def interrupted(self, state, done):
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self, state, done)

    monkeypatch.setattr(en.Stream, "advance", interrupted)
    words = command(tmp_path / "run", checkpoint_every=1000)
    assert cli.main(["ensemble", *words]) == cli.STOPPED
    assert "stopped after 24 of 44 models, which are saved in" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["3"]


def processes(out, **changes):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    several = {"coordinator": f"127.0.0.1:{port}", "num_processes": 2}
    return [start(out, 4, **changes, **several, process_id=i) for i in range(2)]


def finish(processes, timeout=200):
    texts = [p.communicate(timeout=timeout)[0] for p in processes]
    assert all(p.returncode == 0 for p in processes), texts


def agree(a, b):
    """To 1e-6 of the size of what was averaged: a mean that is nearly zero has the rounding errors of its samples."""
    a, b = load_tree(a / "statistics.npz"), load_tree(b / "statistics.npz")
    for time_ in ("t0", "t2"):
        for name, rows in b[time_].items():
            if name == "matrices":
                continue
            for (_, value, error), (_, other, other_error) in zip(rows, a[time_][name], strict=True):
                size = np.sqrt(np.max(value**2) + 160 * np.max(error**2))
                assert np.abs(value - other).max() <= 1e-6 * size, (time_, name)
                assert np.abs(error - other_error).max() <= 1e-6 * size, (time_, name)
        raw, other = (x[time_]["matrices"]["covariance"]["raw"] for x in (a, b))
        assert np.abs(raw - other).max() <= 1e-6 * np.abs(raw).max()


def test_two_processes_of_four_devices_agree_with_eight(tmp_path):
    many = {"models": 160, "chunk": 40}
    pair = processes(tmp_path / "pair", **many)
    en.run_ensemble(config(tmp_path / "eight", **many))
    finish(pair)
    agree(tmp_path / "pair", tmp_path / "eight")


@pytest.mark.slow
def test_eight_devices_agree_with_one(tmp_path):
    many = {"models": 160, "chunk": 40}
    en.run_ensemble(config(tmp_path / "eight", **many))
    finish([start(tmp_path / "alone", 1, **many)])
    agree(tmp_path / "eight", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dead", [1, 0], ids=["worker", "coordinator"])
def test_a_process_that_dies_ends_the_others(tmp_path, dead):
    """Within a minute and with a message that says so; all of them started again, the run goes on."""
    many = {"models": 1200, "chunk": 40, "checkpoint_every": 0.1}
    pair = processes(tmp_path / "dies", **many)
    try:
        deadline = time.monotonic() + 120
        while not any(p.name.isdigit() for p in (tmp_path / "dies/checkpoints").glob("*")):
            assert time.monotonic() < deadline
            assert all(p.poll() is None for p in pair)
            time.sleep(0.1)
        pair[dead].kill()
        began = time.monotonic()
        other = pair[1 - dead]
        text, _ = other.communicate(timeout=90)
        assert time.monotonic() - began < 60
    finally:
        for p in pair:
            p.kill()
            p.communicate()
    assert other.returncode != 0
    assert "died" in text
    if dead == 1:  # without a coordinator JAX ends the process itself, with its own words
        assert "start all of them again" in text
    whole = processes(tmp_path / "whole", **many)
    finish(processes(tmp_path / "dies", **many))
    finish(whole)
    same_bits(tmp_path / "dies", tmp_path / "whole")


def test_options_that_are_refused(tmp_path, capsys):
    for words, message in (
        (["--models", "1"], "--models must be at least 2, got 1"),
        (["--activation", "rlu"], "--activation must be one of identity, linear, relu"),
        (["--data-seed", "4294967296"], "--data-seed must be below 2³², got 4294967296"),
        (["--learning-rate", "-1"], "--learning-rate must be a positive number, got -1.0"),
        (["--coordinator", "a:1"], "--coordinator, --num-processes and --process-id belong together"),
        (["x.py:make", "--preset", "figure-2"], "presets are for the bundled MLP"),
        (["no.py:make"], "there is no file 'no.py'"),
    ):
        assert cli.main(["ensemble", *words, "--out", str(tmp_path / "run")]) == cli.WRONG
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_presets_are_the_figures():
    runs = en.EnsembleConfig(preset=("paper",)).runs()
    assert [(r.out.name, r.models, r.activation, r.bias) for r in runs] == [
        ("figure-7", 10_000, "tanh", True),
        ("figure-8", 10_000, "tanh", True),
        ("figure-9", 100_000, "relu", False),
    ]
    assert all(r.hessian and r.examples == 500 and r.times == (0, 20) for r in runs)
    (small,) = en.EnsembleConfig(preset=("figure-2",), models=100).runs()
    assert (small.models, small.hessian, small.widths) == (100, False, (5, 5, 5))


USER = """
import jax, jax.numpy as jnp, numpy as np
import eqtoolbox as eqt

def make():
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    def init(key):
        k = jax.random.split(key)
        return {"u": jax.random.normal(k[0], (3, 4)), "v": jax.random.normal(k[1], (4, 2))}
    return eqt.Problem("mine", init, lambda p, x: (x @ p["u"]) @ p["v"], lambda y, t: jnp.mean((y - t) ** 2),
                       train=(x, x[:, :2]))
"""


def test_a_model_of_the_user(tmp_path):
    """Its symmetry is inferred; a Hessian as well."""
    (tmp_path / "mine.py").write_text(USER)
    words = ["--models", "20", "--steps", "1", "--learning-rate", "0.01", "--hessian", "--layout", "first"]
    out = tmp_path / "run"
    assert (
        cli.main(["ensemble", f"{tmp_path}/mine.py:make", *words, "--batch-size", "4", "--out", str(out)])
        == 0
    )
    com, blocks = en.load_factors(out / "hessian-t1.npz")
    assert com.size == 20
    assert sorted(b.shape for b in blocks.values()) == [(5, 5)]
    assert _run.FORMAT in (out / "run.json").read_text()


def test_checkpoints_say_why_they_fail(tmp_path, monkeypatch):
    state = en.Stream(
        en.Ensemble.of(en.Net((2, 3, 2)).problem(), optax.sgd(0.1)), jax.random.key(0), 4
    ).start()
    checkpoints = _checkpoint.Checkpoints(tmp_path / "folder", "x")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(
        en.EnsembleError, match=r"No space left on device; there is none before it: make room"
    ):
        checkpoints.save(1, state)
    checkpoints.close()
