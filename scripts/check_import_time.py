"""Fails when a first use of eqtoolbox adds too much to `import jax, flax, optax`.

Rooms are imported at their first use, so what is timed is the import and one `Symmetry`; all rooms together are printed
beside it. Each program runs in fresh interpreters, in turn, and the medians of their processor times are compared, as a
share of the time that jax, flax and optax need in the same run: a slow or busy machine changes both.
On failure the slowest modules that only eqtoolbox imports are listed.
"""

import argparse
import re
import statistics
import subprocess
import sys

BASE = "import jax, flax, optax"
FULL = BASE + "; import eqtoolbox; eqtoolbox.Symmetry"
ALL = BASE + "; from eqtoolbox import *"
TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def interpret(code: str, *options: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter."""
    return subprocess.run([sys.executable, *options, "-c", code], check=True, capture_output=True, text=True)


def seconds(runs: int) -> dict[str, float]:
    """The median time of each program."""
    times: dict[str, list[float]] = {BASE: [], FULL: [], ALL: []}
    for _ in range(1 + runs):
        for code, measured in times.items():
            measured.append(float(interpret(TIMED.format(code)).stdout))
    # The first round fills the file cache and writes byte code.
    return {code: statistics.median(measured[1:]) for code, measured in times.items()}


def own_seconds(code: str) -> dict[str, float]:
    """The time spent in each imported module itself, from `-X importtime`."""
    lines = re.findall(
        r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", interpret(code, "-X", "importtime").stderr
    )
    return {module: int(microseconds) / 1e6 for microseconds, module in lines}


def offenders(count: int) -> list[str]:
    """The slowest modules that only the import of eqtoolbox brings in."""
    base, full = own_seconds(BASE), own_seconds(FULL)
    extra = sorted(((s, m) for m, s in full.items() if m not in base), reverse=True)
    return [f"{seconds:8.3f} s  {module}" for seconds, module in extra[:count]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=0.25, help="share that eqtoolbox may add")
    parser.add_argument("--runs", type=int, default=5, help="interpreters timed for each program")
    args = parser.parse_args(argv)
    measured = seconds(args.runs)
    share, everything = (measured[code] / measured[BASE] - 1 for code in (FULL, ALL))
    print(f"`{BASE}` takes {measured[BASE]:.3f} s of processor time")
    print(
        f"`{FULL}` takes {share:.0%} more (budget {args.budget:.0%}), `from eqtoolbox import *` {everything:.0%}"
    )
    if share <= args.budget:
        return 0
    print("\n".join(["slowest modules that only eqtoolbox imports:", *offenders(20)]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
