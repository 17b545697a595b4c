"""Fails when `import eqtoolbox` adds too much to `import jax, flax, optax`.

Each import runs in fresh interpreters, in turn, and the medians of their processor times are compared, so that
other work on the machine does not count. On failure the slowest modules that only eqtoolbox imports are listed.
"""

import argparse
import re
import statistics
import subprocess
import sys

BASE = "import jax, flax, optax"
FULL = BASE + "; import eqtoolbox"
TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def interpret(code: str, *options: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter."""
    return subprocess.run([sys.executable, *options, "-c", code], check=True, capture_output=True, text=True)


def added_seconds(runs: int) -> float:
    """Median time of the imports with eqtoolbox minus the median without."""
    times: dict[str, list[float]] = {BASE: [], FULL: []}
    for _ in range(1 + runs):
        for code, seconds in times.items():
            seconds.append(float(interpret(TIMED.format(code)).stdout))
    # The first round fills the file cache and writes byte code.
    return statistics.median(times[FULL][1:]) - statistics.median(times[BASE][1:])


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
    parser.add_argument("--budget", type=float, default=0.3, help="seconds that eqtoolbox may add")
    parser.add_argument("--runs", type=int, default=5, help="interpreters timed for each of the two imports")
    args = parser.parse_args(argv)
    seconds = added_seconds(args.runs)
    print(f"`{FULL}` takes {seconds:.3f} s of processor time more than `{BASE}` (budget {args.budget} s)")
    if seconds <= args.budget:
        return 0
    print("\n".join(["slowest modules that only eqtoolbox imports:", *offenders(20)]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
