"""`Report`: what was found, and its three forms: a page, a JSON, a summary in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from eqtoolbox.pages import Entry, number, plain, pretty, render_page, table
from eqtoolbox.report._config import Config, flag
from eqtoolbox.report._section import Check, Number, Section, SectionResult

#: Name and version of the JSON's layout.
FORMAT, FORMAT_VERSION = "eqtoolbox-report", 1


class Finished(NamedTuple):
    """A section and what it found."""

    section: Section
    result: SectionResult
    seconds: float


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
      name: of the problem.
      config: the options, with every default filled in.
      sections: what each section found, in order.
      training: facts about the training run, see ``_run.training_facts``.
      data_description: where the data come from.
      versions: of Python and of the packages.
      device: what it ran on.
      created: date and time.
      seconds: how long it took.
    """

    name: str
    config: Config
    sections: tuple[Finished, ...]
    training: Mapping[str, Any]
    data_description: str
    versions: Mapping[str, str]
    device: str
    created: str
    seconds: float

    @property
    def checks(self) -> list[Check]:
        """The checks of all sections."""
        return [check for s in self.sections for check in s.result.checks]

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(not check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """The checks in one line."""
        count = len(self.checks)
        return f"{self.failed} of {count} checks failed" if self.failed else f"all {count} checks passed"

    @property
    def numbers(self) -> list[Number]:
        """The numbers of the summary."""
        facts = self.training
        loss = f"loss {number(facts['loss_start'])} → {number(facts['loss_end'])}"
        metric = facts["metric_test"] if facts["metric_test"] is not None else facts["metric_train"]
        where = "test" if facts["metric_test"] is not None else "training"
        first = (
            Number("Training", loss, f"{facts['steps']} steps on {facts['train_examples']} examples")
            if metric is None
            else Number(
                f"{facts['metric_name']}, {where} examples", metric, f"{loss} in {facts['steps']} steps"
            )
        )
        return [first, *(n for s in self.sections for n in s.result.numbers)]

    @property
    def setup(self) -> Markup:
        """The table of options."""
        rows = [[flag(k) if k != "model" else "model", str(v)] for k, v in self.options().items()]
        rows += [[k.replace("_", " "), v] for k, v in self.training.items() if v is not None]
        return table(["option or fact", "value"], rows, narrow=True)

    def options(self) -> dict[str, Any]:
        """The options that were used, as plain data."""
        return {k: plain(v) for k, v in asdict(self.config).items() if v is not None}

    def to_json(self) -> str:
        """Everything measured, as strict JSON: what is not finite is null."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "created": self.created,
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
            "device": self.device,
            "problem": {"name": self.name, "data": self.data_description},
            "config": self.options(),
            "training": self.training,
            "checks": {"count": len(self.checks), "failed": self.failed},
            "summary": [asdict(n) for n in self.numbers],
            "sections": {
                s.section.name: {
                    "title": s.section.title,
                    "seconds": round(s.seconds, 3),
                    "checks": [{**asdict(c), "passed": c.passed} for c in s.result.checks],
                    "data": s.result.data,
                }
                for s in self.sections
            },
        }
        return json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def to_html(self) -> str:
        """The page: one file without external resources."""
        contents = [Entry(s.section.name, s.section.title, _bad(s.result)) for s in self.sections]
        return render_page(
            Path(__file__).with_name("template.html"),
            [*contents, Entry("setup", "Setup")],
            report=self,
            number=number,
            pretty=pretty,
        )


def _bad(result: SectionResult) -> str:
    failed = sum(not check.passed for check in result.checks)
    return f"{failed} failed" if failed else ""
