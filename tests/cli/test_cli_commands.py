"""The command line: a user's own model, and everything that can be wrong with it."""

import importlib.metadata
import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import eqtoolbox.report
from eqtoolbox import cli

LINEN = """
import flax.linen as nn
import jax.numpy as jnp
import eqtoolbox as eqt

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(4, name="hidden")(x))
        return nn.Dense(2, name="out")(h)

def make():
    net = Net()
    axes = {"hidden": {"kernel": "_ h", "bias": "h"}, "out": {"kernel": "h _"}}
    return eqt.Problem(
        "my <net>",
        init=lambda key: net.init(key, jnp.zeros((1, 3)))["params"],
        apply=lambda params, x: net.apply({"params": params}, x),
        output_loss=lambda y, t: jnp.mean((y - t) ** 2),
        symmetry=eqt.Symmetry(axes, {"h": eqt.groups.SignedPermutation(4)}),
    )
"""

PLAIN = """
import jax, jax.numpy as jnp, numpy as np
import eqtoolbox as eqt

def init(key):
    k = jax.random.split(key)
    return {"u": jax.random.normal(k[0], (3, 4)), "v": jax.random.normal(k[1], (4, 2))}

def apply(p, x):
    return jax.nn.relu(x @ p["u"]) @ p["v"]

def problem(**changes):
    sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.Monomial(4, scales=1)})
    settings = dict(init=init, apply=apply, output_loss=lambda y, t: jnp.mean((y - t) ** 2), symmetry=sym)
    return eqt.Problem("plain", **(settings | changes))

def make():
    return problem()

number = 3
def wrong_type():
    return {"init": init}
def needs_argument(width):
    return problem()
def raises():
    raise RuntimeError("out of ideas")
def quits():
    raise SystemExit("goodbye")
def no_symmetry():
    return problem(symmetry=None, apply=lambda p, x: jnp.cumsum(x @ p["u"], -1) @ p["v"])
def misfit():
    return problem(symmetry=eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.Monomial(5, scales=1)}))
def not_a_symmetry():
    return problem(symmetry=eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.GeneralLinear(4)}))
def nearly_a_symmetry():
    return problem(apply=lambda p, x: apply(p, x) + 1e-6 * jnp.sum(p["u"] ** 2))
def nan_parameters():
    return problem(init=lambda key: init(key) | {"v": jnp.full((4, 2), jnp.nan)})
def integer_parameters():
    return problem(init=lambda key: init(key) | {"n": jnp.arange(3)})
def no_parameters():
    return problem(init=lambda key: {})
def nan_outputs():
    return problem(apply=lambda p, x: apply(p, x) * jnp.log(-jnp.ones(())))
def nan_gradient():
    return problem(output_loss=lambda y, t: jnp.sqrt(jnp.sum(0 * y)))
def not_traceable():
    return problem(apply=lambda p, x: np.asarray(x) @ np.asarray(p["u"]) @ np.asarray(p["v"]))
def loss_per_example():
    return problem(output_loss=lambda y, t: jnp.mean((y - t) ** 2, axis=1))
def metric_per_example():
    return problem(metric=lambda y, t: y)
def bad_data():
    return problem(train=(np.full((5, 3), np.nan, np.float32), np.zeros((5, 2), np.float32)))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with models, data, and an older report."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    (tmp_path / "linen_model.py").write_text(LINEN)
    (tmp_path / "plain.py").write_text(PLAIN)
    (tmp_path / "broken.py").write_text("import eqtoolbox as eqt\ndef make(:\n    pass\n")
    (tmp_path / "imports.py").write_text("x = 1\nimport no_such_module_anywhere\n")
    np.savez("good.npz", x=x, y=y, x_test=x[:5], y_test=y[:5])
    np.savez("narrow.npz", x=x[:, :2], y=y)
    np.savez("short.npz", x=x, y=y[:7])
    np.savez("targets.npz", x=x, y=y[:, :1].repeat(3, 1))
    np.savez("nan.npz", x=np.where(x > 2, np.nan, x), y=y)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("older")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    return tmp_path


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


def test_a_users_own_model(here, capsys):
    argv = ["report", "linen_model.py:make", "--data", "good.npz", "--steps", "9", "--models", "3"]
    assert cli.main(argv) == 0
    shown = capsys.readouterr()
    assert "Symmetry report: my <net>" in shown.out
    assert shown.err == ""
    html = (here / "report" / "report.html").read_text()
    assert "my &lt;net&gt;" in html
    assert "my <net>" not in html
    data = json.loads((here / "report" / "report.json").read_text())
    assert (here / "report" / "notes.txt").read_text() == "mine"
    assert data["config"]["model"] == "linen_model.py:make"
    assert data["training"]["train_examples"] == data["config"]["batch_size"] == 40
    assert data["training"]["test_examples"] == 5
    assert data["checks"]["failed"] == 0
    sections = {name: section["data"] for name, section in data["sections"].items()}
    # Signed permutations are discrete: no generators, no charges, one orbit.
    assert sections["symmetries"]["order"] == str(24 * 16)
    assert sections["symmetries"]["orbit_dimension"] == 0
    assert sections["gradient"]["orbit_part"] is None
    assert max(sections["gradient"]["moved_gradient_error"]["float64"]) < 1e-12
    assert min(sections["gradient"]["moved_gradient_error"]["wrong"]) > 0.01
    assert sections["identities"]["discrete"]
    assert max(sections["identities"]["end"]["second"]) < 1e-12
    assert sections["identities"]["end"]["wrong"] > 1e-3
    assert sections["flatness"] == {"promised": 0}
    # Of tanh units only the last layer is homogeneous.
    assert sections["sharpness"]["degree"] == 1
    assert sections["sharpness"]["weights"] == {
        "hidden/bias": 0,
        "hidden/kernel": 0,
        "out/bias": 1,
        "out/kernel": 1,
    }
    assert sections["charges"] == {
        "kinds": {"h": {"generators": 0, "charges": 0, "why": "none: it is discrete"}}
    }
    assert "whole" not in sections["orbit"]
    assert sections["orbit"]["compact"]["largest_separation_float64"] < 1e-12


def test_a_failed_check_is_written_and_the_exit_code_is_1(here, capsys, monkeypatch):
    """A section that fails its check in place of all."""
    from eqtoolbox.report import Check, Section, SectionResult, _run

    failing = Section("s", "S", 1, lambda context: SectionResult([], checks=[Check("No", 2.0, 1.0)]))
    monkeypatch.setattr(_run, "all_sections", lambda: (failing,))
    argv = ["report", "plain.py:make", "--data", "good.npz", "--steps", "2", "--models", "2"]
    assert cli.main(argv) == 1
    assert "✗ No: 2" in capsys.readouterr().out
    assert "1 of 1 checks failed" in (here / "report" / "report.html").read_text()


RAISED = PLAIN.splitlines().index('    raise RuntimeError("out of ideas")') + 1
WRONG = [
    (["nowhere.py:make"], "there is no file 'nowhere.py'"),
    (["plain.py"], "must be given as file.py:function, got 'plain.py'"),
    (["plain:make"], "must be given as file.py:function"),
    (["plain.py:nothing"], "has no function 'nothing'; it has "),
    (["plain.py:number"], "must be a function that returns an eqtoolbox.Problem, got 3"),
    (["plain.py:wrong_type"], "must return an eqtoolbox.Problem, got dict"),
    (["plain.py:needs_argument"], "TypeError: needs_argument() missing 1 required positional argument"),
    (["plain.py:raises"], f"(plain.py, line {RAISED}): RuntimeError: out of ideas"),
    (["plain.py:quits"], "SystemExit: goodbye"),
    (["broken.py:make"], "importing broken.py fails (broken.py, line 2): SyntaxError"),
    (["imports.py:make"], "(imports.py, line 2): ModuleNotFoundError: No module named 'no_such_module"),
    (["plain.py:make"], "comes without training examples: name an .npz file by --data"),
    (["plain.py:make", "--data", "none.npz"], "there is no file 'none.npz'"),
    (["plain.py:make", "--data", "plain.py"], "plain.py cannot be read as an .npz"),
    (["plain.py:make", "--data", "nan.npz"], "inputs has"),
    (["plain.py:bad_data"], "inputs has 15 entries that are NaN or infinite"),
    (["plain.py:make", "--data", "short.npz"], "targets has 7 examples, but 40"),
    (["plain.py:make", "--data", "narrow.npz"], "training inputs are (40, 2), parameters u (3, 4), v (4, 2)"),
    (["plain.py:make", "--data", "targets.npz"], "outputs are (40, 2), training targets (40, 3)"),
    (["plain.py:no_symmetry", "--data", "good.npz"], "no symmetry was found in the problem"),
    (["plain.py:misfit", "--data", "good.npz"], "problem.symmetry does not fit the parameters"),
    (["plain.py:not_a_symmetry", "--data", "good.npz"], "not a symmetry of apply: under random elements"),
    (["plain.py:nearly_a_symmetry", "--data", "good.npz"], "in float64, more than 1e-09"),
    (["plain.py:nan_parameters", "--data", "good.npz"], "init(key): v has 8 entries that are NaN"),
    (["plain.py:integer_parameters", "--data", "good.npz"], "n must be of real floating-point numbers"),
    (["plain.py:no_parameters", "--data", "good.npz"], "init(key) returns no arrays"),
    (["plain.py:nan_outputs", "--data", "good.npz"], "the outputs has 80 entries that are NaN"),
    (["plain.py:nan_gradient", "--data", "good.npz"], "the gradient of the loss has"),
    (
        ["plain.py:not_traceable", "--data", "good.npz"],
        "apply(params, inputs) fails on the training examples",
    ),
    (["plain.py:loss_per_example", "--data", "good.npz"], "must return one real number, got (40,)"),
    (["plain.py:metric_per_example", "--data", "good.npz"], "metric(outputs, targets) fails"),
    (["plain.py:make", "--data", "good.npz", "--batch-size", "41"], "but there are 40 training examples"),
    (["plain.py:make", "--data", "good.npz", "--activation", "relu"], "--activation is for the bundled MLP"),
    (["--data", "good.npz"], "needs a model"),
    (["--activation", "step"], "--activation must be one of"),
    (["--steps", "0"], "--steps must be at least 1, got 0"),
    (["--models", "1"], "--models must be at least 2, got 1"),
    (["--batch-size", "0"], "--batch-size must be at least 1"),
    (["--seed", "4294967296"], "--seed must be below 2³², got 4294967296"),
    (["--learning-rate", "nan"], "--learning-rate must be a positive number"),
    (["--out", "good.npz"], "is a file, not a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_what_is_wrong_is_said_and_nothing_is_written(here, capsys, arguments, message):
    before = contents(here)
    assert cli.main(["report", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("eqtoolbox: error: ")
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert contents(here) == before


def test_training_that_diverges(here, capsys):
    before = contents(here)
    argv = ["report", "plain.py:make", "--data", "good.npz", "--learning-rate", "1e6", "--steps", "30"]
    assert cli.main(argv) == 2
    assert "training diverges: the loss is not finite at step" in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(KeyboardInterrupt(), 130, "interrupted, nothing was written"), (RuntimeError("a bug"), 1, "Traceback")],
)
def test_interrupts_and_bugs(here, capsys, monkeypatch, error, code, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(eqtoolbox.report, "make_report", fail)
    before = contents(here)
    assert cli.main(["report"]) == code
    assert message in capsys.readouterr().err
    assert contents(here) == before


def test_help_and_wrong_usage(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("report", "compare", "reproduce", "ensemble", "doctor"):
        assert f"• {command}" in shown
    assert "Exit codes" not in shown
    for command in ("report", "compare", "reproduce", "ensemble", "doctor"):
        assert cli.main([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "Exit codes:" in shown
        assert "default: None" not in shown
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"eqtoolbox {importlib.metadata.version('eqtoolbox')}\n"
    assert cli.main(["report", "--help"]) == 0
    assert "--learning-rate" in capsys.readouterr().out
    assert cli.main([]) == 2
    assert cli.main(["rapport"]) == 2
    assert cli.main(["report", "--steps", "many"]) == 2


def test_doctor(capsys, monkeypatch):
    monkeypatch.delenv("EQTOOLBOX_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    version = importlib.metadata.version

    def without(name):
        if name in ("jupytext", "orbax-checkpoint"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.9.1" if name == "jax" else version(name)

    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("jax", "flax", "optax", "float64", "data: digits", "optional: notebooks", "all is well"):
        assert word in shown
    monkeypatch.setenv("EQTOOLBOX_DATA", "/no/such/folder")
    monkeypatch.setattr(importlib.metadata, "version", without)
    assert cli.main(["doctor"]) == 2
    shown = capsys.readouterr().out
    assert "broken: jax, orbax-checkpoint, data: $EQTOOLBOX_DATA" in shown
    assert "0.9.1, needs" in shown
    assert "missing, needs >=0.12" in shown
    # What is optional is named, and is no fault.
    assert re.search(r"jupytext.* missing: pip install 'eqtoolbox\[notebooks\]'", shown)
    assert "notebooks" not in shown.partition("broken")[2]


def test_without_a_device(here, capsys, monkeypatch):
    """As with JAX_PLATFORMS=cuda where there is no GPU: JAX raises one kind of error first, and another later."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("COLUMNS", "200")

    def refuse(*args):
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr("jax.devices", refuse)
    before = contents(here)
    for argv in (["report"], ["reproduce", "charge-drift"]):
        assert cli.main(argv) == 2
        assert "no device to run on with JAX_PLATFORMS=cuda: Unable" in capsys.readouterr().err
    assert cli.main(["doctor"]) == 2
    assert "broken: device" in capsys.readouterr().out
    assert contents(here) == before


def test_python_m_eqtoolbox():
    code = textwrap.dedent("""
        import runpy, sys
        sys.argv = ["eqtoolbox", "--help"]
        try:
            runpy.run_module("eqtoolbox", run_name="__main__")
        except SystemExit as stop:
            heavy = {"matplotlib", "sklearn", "jinja2", "scipy.optimize"} & set(sys.modules)
            sys.exit(f"imported {heavy}" if heavy else stop.code)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "report" in done.stdout
