"""Benchmarks as ratios inside one run: ``python scripts/benchmark.py actions``.

Each name is a module of ``scripts/benchmarks`` with a function ``bench() -> list[Row]``. A row compares two calls
that took turns in this process; the ratio means something on a noisy machine, the milliseconds do not. The exit
status is 1 when a ratio is above its bar. A module with options of its own, such as ``optimizers``, has a function
``arguments(parser)``, and ``bench(options)`` where it is named: ``python scripts/benchmark.py optimizers --help``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))


def names() -> list[str]:
    folder = pathlib.Path(__file__).parent / "benchmarks"
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "timing"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*names(), []], help="default: all of them")
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    named = {name: importlib.import_module(f"benchmarks.{name}") for name in names() if name in sys.argv[1:]}
    own = {name for name, module in named.items() if hasattr(module, "arguments")}
    for name in own:
        named[name].arguments(parser)
    options = parser.parse_args()

    import jax
    from rich.console import Console
    from rich.table import Table

    device = jax.devices()[0]
    console = Console()
    console.print(
        f"jax {jax.__version__} on {device.platform} ({device.device_kind}), {len(jax.devices())} device(s)"
    )
    failed, record = False, {}
    for name in options.names or names():
        module = importlib.import_module(f"benchmarks.{name}")
        rows = module.bench(options) if name in own else module.bench()
        if not rows:
            continue
        table = Table(title=name, title_justify="left")
        for column in ("", "ours", "reference", "unit", "ratio", "bar", "against"):
            table.add_column(column, justify="left" if column in ("", "against") else "right")
        for row in rows:
            factor = {"ms": 1e3, "MFLOP": 1e-6}[row.unit]
            bar = "" if row.bar is None else f"≤ {row.bar:g}"
            above = row.bar is not None and row.ratio > row.bar
            failed |= above
            ratio = f"[red]{row.ratio:.2f}[/]" if above else f"{row.ratio:.2f}"
            table.add_row(
                row.name,
                f"{row.ours * factor:.3f}",
                f"{row.reference * factor:.3f}",
                row.unit,
                ratio,
                bar,
                row.against,
            )
        console.print(table)
        record[name] = [{**row._asdict(), "ratio": row.ratio} for row in rows]
    if options.json:
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
