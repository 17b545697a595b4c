"""The claims ledger: which statement of the papers is checked by which test, and with what number.

`tests/claims.toml` lists the claims. A test names those it checks, `@pytest.mark.claim("EQ-T1-ii")`, and may
record what it measured, `record_claim("EQ-T1-ii", measured=residual, expected="<= 1e-9")`. An id that is not
in the list stops the run. `pytest --claims` prints the ledger after the run, `pytest --claims=static` prints
which claims have a test without running any, `--claims-json=FILE` also writes the ledger to a file.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

import pytest

DEFAULT_LEDGER = Path(__file__).resolve().parents[1] / "claims.toml"
FIELDS = {"source", "statement", "refuted", "editorial"}
CLAIMED = "claim_ids"
MEASURED = "claim_measured"
UNRUN = "claims_unrun"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One entry of the ledger file.

    Attributes:
        id: what tests name, for example `EQ-T1-ii`.
        source: the paper.
        statement: the claim in one line.
        refuted: what is false in the statement and what holds instead; empty when the statement stands.
        editorial: true for a remark that no test can check (a missing setting, a wrong reference).
    """

    id: str
    source: str
    statement: str
    refuted: str = ""
    editorial: bool = False


def load(path: Path) -> dict[str, Claim]:
    """Reads the ledger file, and refuses one with unknown, missing or ill-typed fields."""
    claims = {}
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: claim {name} is not a table, got {entry!r}")
        unknown = set(entry) - FIELDS
        if unknown:
            raise ValueError(
                f"{path}: claim {name} has unknown fields {sorted(unknown)}; known are {sorted(FIELDS)}"
            )
        for field in ("source", "statement"):
            text = entry.get(field)
            if not isinstance(text, str) or not text.strip() or "\n" in text:
                raise ValueError(f"{path}: claim {name} needs a one-line `{field}`, got {text!r}")
        claims[name] = Claim(id=name, **entry)
    return claims


class Ledger:
    """What the tests of one run said about the claims."""

    def __init__(self, claims: Mapping[str, Claim]):
        self.claims = claims
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.tested: set[str] = set()  # has a test, run or not
        self.measured: dict[str, list[tuple[str, str]]] = {}

    def add_report(self, report: pytest.TestReport) -> None:
        """Takes in one phase of one test; the properties come across from xdist's workers."""
        for name, value in report.user_properties:
            if name == CLAIMED:
                self.tested.update(value)
                if report.failed:
                    self.failed.update(value)
                elif report.passed and report.when == "call":
                    self.passed.update(value)
            elif name == MEASURED and report.when == "call":
                claim, *numbers = value
                self.measured.setdefault(claim, []).append(tuple(numbers))

    def status(self, claim: Claim, *, static: bool) -> str:
        """One of verified, refuted, failed, not run, open, editorial; `static` counts a test as passed."""
        if claim.id in self.failed:
            return "failed"
        if claim.id in (self.tested if static else self.passed):
            return "refuted" if claim.refuted else "verified"
        if claim.id in self.tested:
            return "not run"
        return "editorial" if claim.editorial else "open"

    def rows(self, *, static: bool) -> list[dict]:
        """The ledger as plain data, in the order of the file."""
        return [
            {
                **dataclasses.asdict(claim),
                "status": self.status(claim, static=static),
                "measured": [{"measured": m, "expected": e} for m, e in self.measured.get(claim.id, [])],
            }
            for claim in self.claims.values()
        ]


def lines(rows: Iterable[dict]) -> list[str]:
    """The ledger as text, one block a source."""
    by_source: dict[str, list[dict]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    text = []
    for source, members in by_source.items():
        counts = Counter(row["status"] for row in members)
        text.append(f"{source}: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
        width = max(len(row["id"]) for row in members)
        for row in members:
            text.append(f"  {row['id']:<{width}}  {row['status']:<9}  {row['statement']}")
            if row["refuted"]:
                text.append(f"  {'':<{width}}  {'':<9}  false as printed: {row['refuted']}")
            for number in row["measured"]:
                expected = f" (expected {number['expected']})" if number["expected"] else ""
                text.append(f"  {'':<{width}}  {'':<9}  measured {number['measured']}{expected}")
    return text


class ClaimsPlugin:
    """Checks the markers, attaches the ids to the reports and prints the ledger."""

    def __init__(self, config: pytest.Config):
        self.mode = config.getoption("claims")
        self.json = config.getoption("claims_json")
        self.path = Path(config.getoption("claims_file"))
        try:
            self.ledger = Ledger(load(self.path))
        except (OSError, ValueError, TypeError) as error:
            raise pytest.UsageError(f"the claims ledger cannot be read: {error}") from error

    def problems(self, item: pytest.Item) -> list[str]:
        """What is wrong with the claim markers of a test: no id, or an id that the ledger has not."""
        found = []
        for mark in item.iter_markers("claim"):
            if mark.kwargs or not mark.args:
                found.append(
                    f"{item.nodeid}: mark.claim takes one or more ids, got {mark.args} {mark.kwargs}"
                )
            unknown = [name for name in mark.args if name not in self.ledger.claims]
            found += [f"{item.nodeid}: unknown claim {name!r}; {self.path} lists the ids" for name in unknown]
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Turns a wrong marker into a collection error, which stops the run with and without xdist."""
        del collector
        report = yield
        problems = [
            text
            for node in report.result or ()
            if isinstance(node, pytest.Item)
            for text in self.problems(node)
        ]
        if problems:
            report.outcome, report.longrepr, report.result = "failed", "\n".join(problems), []
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        for item in items:
            ids = list(dict.fromkeys(name for mark in item.iter_markers("claim") for name in mark.args))
            if ids:
                item.user_properties.append((CLAIMED, ids))
                self.ledger.tested.update(ids)
        if self.mode == "static":
            config.hook.pytest_deselected(items=list(items))
            items.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ledger.add_report(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error) -> None:
        del error
        self.ledger.tested.update(getattr(node, "workeroutput", {}).get(UNRUN, ()))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[UNRUN] = sorted(self.ledger.tested)
        elif self.mode == "static" and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter, exitstatus: int) -> None:
        if exitstatus in (
            pytest.ExitCode.INTERRUPTED,
            pytest.ExitCode.INTERNAL_ERROR,
            pytest.ExitCode.USAGE_ERROR,
        ):
            return  # collection failed: a ledger would call claims open that have a test
        rows = self.ledger.rows(static=self.mode == "static")
        if self.json:
            Path(self.json).write_text(
                json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        if self.mode:
            terminalreporter.section(
                "claims" + (" (static: a test counts as passed)" if self.mode == "static" else "")
            )
            for line in lines(rows):
                terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("claims", "the ledger of the papers' claims")
    group.addoption(
        "--claims",
        nargs="?",
        const="run",
        choices=("run", "static"),
        help="print the claims ledger; 'static' lists which claims have a test, and runs none",
    )
    group.addoption("--claims-json", metavar="FILE", help="write the claims ledger to FILE as JSON")
    group.addoption(
        "--claims-file", metavar="FILE", default=str(DEFAULT_LEDGER), help="the ledger to check against"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ClaimsPlugin(config), "eqt-claims")


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) or hasattr(value, "dtype") else str(value)


@pytest.fixture
def record_claim(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Records a number for the ledger: `record_claim("EQ-T1-ii", measured=residual, expected="<= 1e-9")`."""
    claimed = dict(request.node.user_properties).get(CLAIMED, [])

    def record(claim: str, *, measured: object, expected: object = "") -> None:
        if claim not in claimed:
            raise ValueError(f"{request.node.nodeid} records {claim!r} but its claim markers name {claimed}")
        request.node.user_properties.append((MEASURED, [claim, _text(measured), _text(expected)]))

    return record
