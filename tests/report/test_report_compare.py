"""report.json: its schema, its reader, and what differs between two of them."""

import copy
import errno
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from eqtoolbox import cli
from eqtoolbox.report import FORMAT_VERSION, compare, schema

CHECKS = [
    {"statement": "No part along the orbit, at any of 20 steps", "value": 1e-8, "bound": 1e-4},
    {"statement": "A wrong one is caught", "value": 2.0, "bound": 0.1, "at_least": True},
]


def report(**changes):
    """A small report as JSON."""
    checks = [
        {
            "at_least": False,
            **c,
            "passed": c["value"] >= 0.1 if c.get("at_least") else c["value"] <= c["bound"],
        }
        for c in changes.pop("checks", CHECKS)
    ]
    training = {
        "parameters": 10,
        "train_examples": 40,
        "test_examples": 0,
        "steps": 20,
        "loss_start": 2.0,
        "loss_end": 1.0,
        "loss_test": None,
        "metric_name": None,
        "metric_train": None,
        "metric_test": None,
    }
    content = {
        "format": "eqtoolbox-report",
        "format_version": 1,
        "created": "2026-01-02 03:04 UTC",
        "seconds": 1.5,
        "versions": {"python": "3.13.0", "eqtoolbox": "0.1.0", "jax": "0.10", "flax": "0.12", "optax": "0.2"},
        "device": "CPU",
        "problem": {"name": "toy", "data": "some"},
        "config": {
            "out": "report",
            "steps": 20,
            "batch_size": 8,
            "learning_rate": 0.1,
            "models": 2,
            "seed": 0,
        },
        "training": training,
        "checks": {"count": len(checks), "failed": sum(not c["passed"] for c in checks)},
        "summary": [
            {"label": "Training", "value": "loss 2 → 1", "note": ""},
            {"label": "Orbit", "value": 64, "note": ""},
        ],
        "sections": {
            "gradient": {
                "title": "G",
                "seconds": 0.5,
                "checks": checks,
                "data": {"curve": [3.0, 4.0], "rows": [{"a": 1.0}], "group": "O(3)"},
            }
        },
    }
    return content | changes


def changed(path, value):
    """The same with one entry replaced, or removed by ``del``."""
    content = copy.deepcopy(report())
    *parents, last = path.split("/")
    node = content
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]
    last = int(last) if isinstance(node, list) else last
    if value is del_:
        del node[last]
    else:
        node[last] = value
    return content


del_ = object()

VALIDATOR = jsonschema.Draft202012Validator(schema())


# --- the schema -------------------------------------------------------------------------------------


def test_a_real_report_is_valid_and_has_no_key_that_the_schema_does_not_describe(made):
    jsonschema.Draft202012Validator.check_schema(schema())
    VALIDATOR.validate(made.data)
    described = schema()["properties"]
    assert set(made.data) == set(described) == set(schema()["required"])
    for part in ("problem", "config", "training", "checks"):
        assert set(made.data[part]) <= set(described[part]["properties"])
    one = described["sections"]["additionalProperties"]
    for section in made.data["sections"].values():
        assert set(section) == set(one["properties"]) == set(one["required"])
    # A reader of this version accepts what a later release adds.
    VALIDATOR.validate(made.data | {"new": 1})


def test_the_version_is_that_of_the_schema():
    assert schema()["properties"]["format_version"] == {"const": FORMAT_VERSION}
    assert schema()["description"].startswith(f"Format version {FORMAT_VERSION}.")


def test_the_small_report_is_valid():
    VALIDATOR.validate(report())


@pytest.mark.parametrize("key", sorted(report()))
def test_a_missing_key_is_invalid(key):
    assert list(VALIDATOR.iter_errors(changed(key, del_)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "eqtoolbox-other"),
        ("format_version", 2),
        ("created", "yesterday"),
        ("seconds", -1),
        ("versions/jax", 10),
        ("versions/jax", del_),
        ("problem/name", None),
        ("config/steps", 0),
        ("config/steps", "20"),
        ("config/learning_rate", 0),
        ("config/seed", del_),
        ("training/loss_end", "small"),
        ("training/metric_test", del_),
        ("checks/failed", -1),
        ("summary/0/value", [1]),
        ("summary/0/label", del_),
        ("sections/gradient/data", del_),
        ("sections/gradient/checks/0/passed", 1),
        ("sections/gradient/checks/0/value", "1e-8"),
        ("sections/gradient/checks/0/bound", del_),
    ],
)
def test_a_changed_report_is_invalid(path, value):
    assert list(VALIDATOR.iter_errors(changed(path, value)))


# --- the comparison ---------------------------------------------------------------------------------


def test_a_report_does_not_differ_from_itself_in_time_or_place():
    later = report(created="2027-01-02 03:04 UTC", seconds=9.0)
    later["config"] = later["config"] | {"out": "elsewhere"}
    found = compare(report(), later)
    assert found.equal
    assert not found.worse
    assert [c.change for c in found.checks] == [0.0, 0.0]


def test_every_difference_is_found():
    after = report(
        checks=[
            {"statement": "No part along the orbit, at any of 30 steps", "value": 1e-3, "bound": 1e-4},
            CHECKS[1] | {"value": 4.0},
        ],
        device="TPU",
    )
    after["config"] = after["config"] | {"steps": 30, "activation": "tanh"}
    after["training"] = after["training"] | {"loss_end": 1.5, "loss_start": 2.001}
    after["summary"][1] = {"label": "Orbit", "value": 32, "note": ""}
    data = after["sections"]["gradient"]["data"]
    data |= {"curve": [3.0, 9.0], "rows": [{"a": 1.0}, {"a": 2.0}], "new": 1}
    found = compare(report(), after)
    assert {d.name: (d.before, d.after) for d in found.settings}["steps"] == (20, 30)
    assert {d.name for d in found.settings} == {"steps", "activation", "device"}
    moved = {d.name: d.change for d in found.summary if found.differs(d)}
    assert moved == {"training: loss end": 0.5, "Orbit": -0.5}
    one, two = found.checks
    assert (one.passed, one.worse, one.better) == ((True, False), True, False)
    assert one.change == pytest.approx(1e-3 / 1e-8 - 1)
    assert (two.passed, two.worse, two.change) == ((True, True), False, 1.0)
    assert {d.name: d.change for d in found.measured} == {
        "gradient/curve": 1.0,
        "gradient/rows": None,
        "gradient/new": None,
    }
    assert not found.equal
    back = compare(after, report())
    assert not back.worse
    assert back.checks[0].better


def test_a_check_that_is_gone_or_fails_anew_is_worse():
    gone = compare(report(), report(checks=CHECKS[:1]))
    assert [c.statement for c in gone.worse] == [CHECKS[1]["statement"]]
    failing = {"statement": "New", "value": 1.0, "bound": 0.5}
    assert [c.statement for c in compare(report(), report(checks=[*CHECKS, failing])).worse] == ["New"]
    assert not compare(report(checks=[failing]), report(checks=[failing])).worse
    assert not compare(report(checks=CHECKS[:1]), report()).worse


def test_numbers_that_are_not_finite_are_no_numbers():
    lost = changed("sections/gradient/data/curve", [3.0, None])
    (difference,) = compare(report(), lost).measured
    assert difference.change is None
    assert compare(lost, lost).equal


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Saves a report under a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def save(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return save


def test_compare_prints_what_differs(saved, capsys):
    saved("one/report.json", report())
    after = report(checks=[CHECKS[0] | {"value": 1e-3}, CHECKS[1]])
    after["config"] = after["config"] | {"seed": 7}
    b = saved('it\'s a "folder" [x]/my report.json', after)
    assert cli.main(["compare", "one", b]) == 1
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert 'it\'s a "folder" [x]/my report.json' in shown
    assert "✓ → ✗" in shown
    assert "seed 0 7" in shown
    assert "1.0×10⁻⁸ 1.0×10⁻³" in shown
    assert "checks: 1 worse, 0 better, 1 as before; 1 settings differ" in shown
    assert CHECKS[1]["statement"] not in shown
    assert cli.main(["compare", b, "one", "--all"]) == 0
    shown = capsys.readouterr().out
    assert CHECKS[1]["statement"] in shown
    assert "1 better" in shown


def test_compare_prints_json_and_is_strict(saved, capsys):
    a, b = saved("a.json", report()), saved("b.json", changed("training/loss_end", 1.005))
    assert cli.main(["compare", a, b, "--json", "--strict"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["format_version"], found["worse"]) == ("eqtoolbox-comparison", 1, 0)
    assert found["paths"] == [a, b]
    (loss,) = (d for d in found["summary"] if d["name"] == "training: loss end")
    assert (loss["before"], loss["after"], loss["differs"]) == (1.0, 1.005, False)
    assert loss["change"] == pytest.approx(0.005)
    assert cli.main(["compare", a, b, "--json", "--strict", "--tolerance", "0.001"]) == 1
    assert json.loads(capsys.readouterr().out)["equal"] is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file 'other.json'"),
        ("{", "other.json is not JSON"),
        ("[" * 100_000, "other.json is not JSON"),
        ("[]", "is not a report.json of eqtoolbox report: it names no format"),
        ({"format": "eqtoolbox-ensemble-summary"}, "its format is 'eqtoolbox-ensemble-summary'"),
        (
            changed("format_version", FORMAT_VERSION + 1),
            f"its format version is {FORMAT_VERSION + 1}, and this",
        ),
        (changed("format_version", "1"), "format_version must be a positive integer, got '1'"),
        (changed("training", del_), "is damaged: training is missing, or not of type dict"),
        (changed("sections/gradient", 3), "is damaged: sections/gradient must be an object"),
        (changed("sections/gradient/checks/1/passed", 1), "checks/1/passed is missing, or not of type bool"),
        (changed("summary/0/label", del_), "summary/0/label is missing"),
    ],
)
def test_compare_says_what_is_wrong_with_a_file(saved, capsys, content, message):
    a = saved("a.json", report())
    if content is not None:
        saved("other.json", content)
    for argv in (["compare", a, "other.json"], ["compare", "other.json", a]):
        assert cli.main(argv) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("eqtoolbox: error: ")
        assert message in shown.err
        assert shown.out == ""


def test_compare_says_what_is_wrong_with_folders_and_options(saved, tmp_path, capsys):
    a = saved("a.json", report())
    (tmp_path / "empty").mkdir()
    assert cli.main(["compare", a, "empty"]) == 2
    assert "there is no file 'empty/report.json'" in capsys.readouterr().err
    assert cli.main(["compare", a, a, "--tolerance", "nan"]) == 2
    assert "--tolerance must be at least 0, got nan" in capsys.readouterr().err
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    assert cli.main(["compare", a, "bytes.json"]) == 2
    assert "bytes.json is not JSON" in capsys.readouterr().err
    assert cli.main(["compare", a]) == 2


def test_compare_says_that_a_file_cannot_be_read(saved, capsys, monkeypatch):
    """Root may read everything, so the refusal is made up."""
    a = saved("a.json", report())

    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert cli.main(["compare", a, a]) == 2
    assert "a.json cannot be read: Permission denied" in capsys.readouterr().err
