"""Prints how many claims of each paper have a test, as a Markdown table; checks or writes the README's copy.

    python scripts/claims.py
    python scripts/claims.py --check README.md
    python scripts/claims.py --write README.md

No test is run: a claim counts as verified, or as refuted where the ledger says so, when a test names it.
Whether these tests pass is what `pytest --claims` reports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
STATUSES = {
    "verified": "verified by a test",
    "refuted": "refuted by a test",
    "open": "open",
    "editorial": "not testable",
}


def ledger() -> list[dict]:
    """Collects all tests, slow ones too, and returns the rows that the claims plugin writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "claims.json"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "", "--claims=static", f"--claims-json={out}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise SystemExit(f"collecting the tests failed:\n{run.stdout}{run.stderr}")
        return json.loads(out.read_text(encoding="utf-8"))


def table(rows: list[dict]) -> str:
    """One line a paper: the number of claims in each status."""
    counts: dict[str, Counter] = {}
    for row in rows:
        counts.setdefault(row["source"], Counter())[row["status"]] += 1
    counts["all"] = sum(counts.values(), Counter())
    lines = ["| source | " + " | ".join(STATUSES.values()) + " |", "|---" + "|---:" * len(STATUSES) + "|"]
    lines += [
        f"| {source} | " + " | ".join(str(n[s]) for s in STATUSES) + " |" for source, n in counts.items()
    ]
    return "\n".join(lines)


def replace_block(text: str, block: str) -> str:
    """Puts `block` between the markers of `text`."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"expected one {BEGIN} followed by one {END}")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", metavar="FILE", type=Path, help="fail if the table in FILE is stale")
    action.add_argument("--write", metavar="FILE", type=Path, help="put the table into FILE")
    args = parser.parse_args(argv)
    block = table(ledger())
    path = args.check or args.write
    if path is None:
        print(block)
        return 0
    old = path.read_text(encoding="utf-8")
    new = replace_block(old, block)
    if args.write:
        path.write_text(new, encoding="utf-8")
    elif new != old:
        fix = f"python scripts/claims.py --write {path}"
        print(f"{path}: the claims table is stale, run `{fix}`; it should be\n{block}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
