"""All outcomes on one page: ``index.html``, one file without external resources."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from eqtoolbox.experiments._finding import Finding
from eqtoolbox.experiments._run import Outcome
from eqtoolbox.pages import Entry, device, figure, paragraph, pretty, render_page, table, versions

MARKS = {"verified": "✓", "refuted": "✗", "inconclusive": "?"}


def verdict_text(finding: Finding) -> str:
    """``✓ verified``, ``✗ refuted, as is known``, ``✗ refuted, not verified``."""
    text = f"{MARKS[finding.verdict]} {finding.verdict}"
    if not finding.as_anticipated:
        return f"{text}, not {finding.anticipated}"
    return text if finding.verdict == "verified" else f"{text}, as is known"


def index_page(outcomes: Sequence[Outcome], size: str) -> str:
    """The page.

    Args:
      outcomes: in order.
      size: "quick" or "full".
    """
    contents = [
        Entry(o.experiment.name, o.experiment.title, "" if o.as_anticipated else "not as expected")
        for o in outcomes
    ]
    return render_page(
        Path(__file__).with_name("index.html"),
        contents,
        size=size,
        outcomes=[(outcome, _blocks(outcome)) for outcome in outcomes],
        summary=_summary(outcomes),
        good=all(o.as_anticipated for o in outcomes),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions=versions(),
        device=device(),
    )


def _summary(outcomes: Sequence[Outcome]) -> Markup:
    rows = []
    for outcome in outcomes:
        name = outcome.experiment.name
        link = Markup('<a href="#{}">{}</a>').format(name, outcome.experiment.title)
        verdicts = ", ".join(
            f"{count} {verdict}"
            for verdict in MARKS
            if (count := sum(f.verdict == verdict for f in outcome.findings))
        )
        mark = "" if outcome.as_anticipated else "not as expected"
        rows.append([link, ", ".join(outcome.experiment.claim_ids), verdicts, mark, outcome.facts["seconds"]])
    return table(["experiment", "claims", "verdicts", "", "seconds"], rows)


def _blocks(outcome: Outcome) -> list[Markup]:
    experiment = outcome.experiment
    rows = []
    for f in outcome.findings:
        kind = "pass" if f.as_anticipated else "fail"
        verdict = Markup('<span class="{}">{}</span>').format(kind, verdict_text(f))
        rows.append([f.statement, ", ".join(f.claims), pretty(f.measured), f.expected, verdict])
    return [
        paragraph(experiment.text),
        figure(Markup(outcome.svg), experiment.caption),
        table(["finding", "claims", "measured", "expected", "verdict"], rows),
        paragraph(_facts(outcome), "note"),
    ]


def _facts(outcome: Outcome) -> Markup:
    settings = ", ".join(f"{k} = {v}" for k, v in vars(outcome.config).items())
    folder = Markup("<code>{}/{}</code>").format(outcome.experiment.name, outcome.folder.name)
    return Markup("{}. Results in {}, made {} on {} in {:.0f} s.").format(
        settings, folder, outcome.facts["created"], outcome.facts["device"], outcome.facts["seconds"]
    )
