"""Builds the sdist and the wheel, looks into both, and uses the wheel in a virtual environment outside the checkout.

python scripts/check_release.py            installs the dependencies anew, as a user would: minutes
python scripts/check_release.py --borrow   takes them from the environment of this Python: seconds

Exit code 1 says that something is wrong, and what.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What an sdist has beside the package.
BESIDE = ("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "pyproject.toml", "tests/claims.toml")

SMOKE = """
import importlib.metadata, pathlib, sys
import jax, jax.numpy as jnp, optax
import flax.linen as nn
import eqtoolbox as eqt
from eqtoolbox import report

where = pathlib.Path(eqt.__file__).resolve()
assert where.is_relative_to(pathlib.Path(sys.prefix).resolve()), where
assert all(getattr(eqt, name) is not None for name in eqt.__all__)
assert importlib.metadata.version("eqtoolbox") == sys.argv[1]

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(8)(x)))

net, x = Net(), jax.random.normal(jax.random.key(0), (32, 3))
params = net.init(jax.random.key(1), x)["params"]
apply = lambda p, x: net.apply({"params": p}, x)
loss = lambda p: jnp.mean((apply(p, x) - x[:, :1]) ** 2)
tx = eqt.symo(1e-2, eqt.infer_symmetry(apply, params, x))
state, losses = tx.init(params), []

@jax.jit
def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

for _ in range(20):
    params, state, value = step(params, state)
    losses.append(float(value))
assert losses[-1] < 0.5 * losses[0], losses

made = report.make_report(report.Config(steps=4, models=2), only=report.all_sections()[:1])
assert made.failed == 0
assert report.schema()["properties"]["format_version"]["const"] == report.FORMAT_VERSION
report.write({"report.html": made.to_html(), "report.json": made.to_json()}, pathlib.Path("report"))
assert report.compare(*[report.load_report(pathlib.Path("report"))] * 2).equal
print(f"loss {losses[0]:.3g} -> {losses[-1]:.3g}, report of {len(made.to_html()) // 1024} KiB")
"""

# What a type checker has to accept, and what it has to refuse, with the types of the installed package.
TYPED = (
    "import eqtoolbox as eqt\n\nsym: eqt.Symmetry = eqt.Symmetry({}, {})\ngroup = eqt.groups.Permutation(3)\n"
)
REFUSED = (
    'eqt.groups.Permutation("three")',
    "number: int = eqt.Symmetry({}, {})",
    "eqt.no_such_name",
)


def run(*command: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """Runs a command; a failure ends the check with what it printed."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} fails:\n{done.stdout}{done.stderr}")
    return done


def require(good: object, message: str) -> None:
    """Ends the check with a message unless ``good``."""
    if not good:
        sys.exit(message)


def build(out: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=ROOT)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """The package whole in both, and nothing that is not under version control."""
    package = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "eqtoolbox").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    require({"eqtoolbox/py.typed", "eqtoolbox/report/schema.json"} <= package, "the checkout is not whole")
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if not re.match(r"eqtoolbox-[^/]+\.dist-info/", n)}
    require(inside == package, f"the wheel differs from eqtoolbox/ in {sorted(inside ^ package)}")
    with tarfile.open(sdist) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    missing = (package | set(BESIDE)) - names
    require(not missing, f"the sdist lacks {sorted(missing)}")
    known = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True
    )
    if known.returncode == 0:
        more = names - set(known.stdout.split("\n")) - {"PKG-INFO"}
        require(not more, f"the sdist has {sorted(more)}, which are not under version control")
    sizes = [path.stat().st_size >> 10 for path in (sdist, wheel)]
    print(f"sdist: {len(names)} files, {sizes[0]} KiB; wheel: {len(inside)} files, {sizes[1]} KiB")


def check_metadata(wheel: Path) -> str:
    """One version everywhere, and a citation file with what its format requires; returns the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = project["version"]
    require(wheel.name.startswith(f"eqtoolbox-{version}-py3-none-any"), f"the wheel is {wheel.name}")
    citation = dict(re.findall(r"^([a-z-]+): *(.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.M))
    lacks = {"cff-version", "message", "title", "authors"} - set(citation)
    require(not lacks, f"CITATION.cff lacks {sorted(lacks)}")
    require(
        citation.get("version") == version,
        f"CITATION.cff is of version {citation.get('version')}, not {version}",
    )
    require(
        citation.get("license") == project["license"], "CITATION.cff has another license than pyproject.toml"
    )
    changes = (ROOT / "CHANGELOG.md").read_text()
    require(
        re.search(rf"^## \[(Unreleased|{re.escape(version)})\]", changes, re.M), "CHANGELOG.md has no entry"
    )
    return version


def install(wheel: Path, folder: Path, borrow: bool) -> Path:
    """A virtual environment with the wheel; returns its folder of commands."""
    venv.create(folder, with_pip=True)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    python = commands / "python"
    run(python, "-m", "pip", "install", "--quiet", *(["--no-deps"] if borrow else []), wheel, cwd=folder)
    if borrow:  # only now: pip would find an eqtoolbox of this version there
        (site,) = folder.glob("lib/python*/site-packages")
        # A path is added, but no .pth file in it is run: an editable install of the checkout is not seen.
        (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return commands


def check_types(python: Path, folder: Path) -> None:
    """A type checker sees the types of the installed package, where there is one here."""
    try:
        import pyright  # noqa: F401
    except ImportError:
        print("types: not checked, pyright is not installed")
        return
    file = folder / "typed.py"
    file.write_text(TYPED + "".join(f"{line}\n" for line in REFUSED))
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(python), str(file)]
    found = subprocess.run(command, cwd=folder, text=True, capture_output=True).stdout
    first = TYPED.count("\n") + 1
    lines = {int(n) for n in re.findall(r"typed\.py:(\d+):\d+ - error", found)}
    wanted = set(range(first, first + len(REFUSED)))
    require(lines == wanted, f"pyright refuses lines {sorted(lines)} instead of {sorted(wanted)}:\n{found}")
    print(f"types: {len(REFUSED)} wrong lines refused, the right ones accepted")


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--borrow", action="store_true", help="dependencies of this Python's environment")
    borrow = parser.parse_args().borrow
    with tempfile.TemporaryDirectory(prefix="eqtoolbox release ") as name:  # with spaces, on purpose
        folder = Path(name)
        sdist, wheel = build(folder / "dist")
        check_contents(sdist, wheel)
        version = check_metadata(wheel)
        commands = install(wheel, folder / "environment", borrow)
        (folder / "elsewhere").mkdir()
        smoke = run(commands / "python", "-I", "-c", SMOKE, version, cwd=folder / "elsewhere")
        print(smoke.stdout, end="")
        shown = run(commands / "python", "-m", "eqtoolbox", "--version", cwd=folder / "elsewhere").stdout
        require(shown == f"eqtoolbox {version}\n", f"eqtoolbox --version says {shown!r}")
        shown = run(commands / "eqtoolbox", "doctor", cwd=folder / "elsewhere").stdout
        require("all is well" in shown, shown)
        check_types(commands / "python", folder / "elsewhere")
    print(f"eqtoolbox {version} can be released")


if __name__ == "__main__":
    main()
