"""The claims ledger and the room times, run on small suites of their own."""

import json

import eqt_claims
import pytest
from eqt_rooms import room

LEDGER = """
[A-1]
source = "first"
statement = "one is one"
["A-1.2"]
source = "first"
statement = "two is three"
refuted = "two is two"
[A-3]
source = "first"
statement = "the cover is green"
editorial = true
[B-1]
source = "second"
statement = "water is wet"
[B-2]
source = "second"
statement = "five is four"
"""

TESTS = """
import pytest

@pytest.mark.claim("A-1")
def test_one(record_claim):
    record_claim("A-1", measured=1.23456e-12, expected="<= 1e-9")

@pytest.mark.claim("A-1", "A-1.2")
def test_two():
    assert 2 != 3

@pytest.mark.slow
@pytest.mark.claim("B-1")
def test_slow():
    pass
"""

FAILING = """
@pytest.mark.claim("B-2")
def test_right():
    pass

@pytest.mark.claim("B-2")
def test_wrong():
    assert 5 == 4
"""

INI = f"""
[pytest]
addopts = -m 'not slow'
markers =
  claim
  slow
pythonpath = {eqt_claims.DEFAULT_LEDGER.parent / "plugins"}
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Runs a test file in a project with the ledger above; `workers` spreads it with xdist."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(INI)
    pytester.makeconftest("pytest_plugins = ['eqt_claims', 'eqt_rooms']")
    pytester.makefile(".toml", claims=LEDGER)

    def run(tests, *args, workers=0):
        folder = pytester.mkdir("tests") / "groups"
        folder.mkdir()
        (folder / "test_it.py").write_text("import pytest\n" + tests)
        args = ("--claims-file=claims.toml", "--claims-json=out.json", *args)
        if workers:
            return pytester.runpytest_subprocess("-pxdist.plugin", f"-n{workers}", *args)
        return pytester.runpytest_inprocess(*args)

    return run


def statuses(pytester):
    rows = json.loads((pytester.path / "out.json").read_text())
    return {row["id"]: row["status"] for row in rows}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_ledger_tells_the_statuses_apart(suite, pytester, workers):
    result = suite(TESTS + FAILING, "--claims", workers=workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes()["passed"] == 3
    assert statuses(pytester) == {
        "A-1": "verified",
        "A-1.2": "refuted",
        "A-3": "editorial",
        "B-1": "not run",
        "B-2": "failed",
    }
    result.stdout.fnmatch_lines(
        [
            "first: 1 editorial, 1 refuted, 1 verified",
            "*A-1 * verified *one is one*",
            "*measured 1.23e-12 (expected <= 1e-9)*",
            "*A-1.2 * refuted *two is three*",
            "*false as printed: two is two*",
            "second: 1 failed, 1 not run",
            "*minutes per room*",
            "* min * 4 tests  groups",
            "* min * 4 tests  in all",
        ]
    )


def test_a_claim_without_a_test_is_open(suite, pytester):
    suite("def test_a():\n    pass\n")
    assert set(statuses(pytester).values()) == {"open", "editorial"}


@pytest.mark.parametrize("body", ["pytest.skip('no')", "pytest.xfail('known')"])
def test_a_skipped_test_verifies_nothing(suite, pytester, body):
    suite(f"@pytest.mark.claim('B-1')\ndef test_b():\n    {body}\n")
    assert statuses(pytester)["B-1"] == "not run"


@pytest.mark.parametrize("steps", ["raise RuntimeError\n    yield", "yield\n    raise RuntimeError"])
def test_an_error_in_a_fixture_fails_the_claim(suite, pytester, steps):
    suite(
        f"@pytest.fixture\ndef broken():\n    {steps}\n"
        "@pytest.mark.claim('B-1')\ndef test_b(broken):\n    pass\n"
    )
    assert statuses(pytester)["B-1"] == "failed"


def test_static_runs_nothing_and_counts_slow_tests(suite, pytester):
    result = suite(TESTS + FAILING, "--claims=static")
    assert result.ret == pytest.ExitCode.OK
    assert statuses(pytester) == {
        "A-1": "verified",
        "A-1.2": "refuted",
        "A-3": "editorial",
        "B-1": "verified",
        "B-2": "verified",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unknown_id_stops_the_run(suite, workers):
    result = suite("@pytest.mark.claim('A-2')\ndef test_a():\n    pass\n", workers=workers)
    assert result.ret != pytest.ExitCode.OK
    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(
        ["tests/groups/test_it.py::test_a: unknown claim 'A-2'; *claims.toml lists the ids"]
    )


@pytest.mark.parametrize("mark", ["claim", "claim()", "claim(id='A-1')"])
def test_a_marker_needs_ids(suite, mark):
    result = suite(f"@pytest.mark.{mark}\ndef test_a():\n    pass\n")
    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["*test_a: mark.claim takes one or more ids*"])


def test_recording_a_claim_that_the_test_does_not_name_is_an_error(suite):
    result = suite(
        "@pytest.mark.claim('A-1')\ndef test_a(record_claim):\n    record_claim('B-1', measured=1)\n"
    )
    assert result.parseoutcomes() == {"failed": 1}
    assert "records 'B-1' but its claim markers name ['A-1']" in result.stdout.str()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[A]\nsource = 's'\n", "claim A needs a one-line `statement`, got None"),
        ("[A]\nsource = ''\nstatement = 'x'\n", "claim A needs a one-line `source`"),
        ('[A]\nsource = "s"\nstatement = "x\\ny"\n', "claim A needs a one-line `statement`"),
        ("[A]\nsource = 's'\nstatement = 'x'\nproof = 'y'\n", "unknown fields ['proof']"),
        ("A = 1\n", "claim A is not a table"),
        ("[A\n", "cannot be read"),
    ],
)
def test_a_bad_ledger_is_a_usage_error(suite, pytester, text, message):
    pytester.makefile(".toml", claims=text)
    result = suite("def test_a():\n    pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_the_ledger_of_the_project_is_complete():
    claims = eqt_claims.load(eqt_claims.DEFAULT_LEDGER)
    assert {claim.source for claim in claims.values()} == {
        "equivariance",
        "dissertation",
        "mirror",
        "global curvature",
    }
    for prefix, last in [("DA-T", 32), ("DA-E", 27), ("DA-X", 9), ("DA-S", 17), ("DB-EA", 10), ("DB-EB", 15)]:
        assert {f"{prefix}{n}" for n in range(1, last + 1)} <= set(claims)
    assert not [claim.id for claim in claims.values() if claim.editorial and claim.refuted]


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/groups/test_groups_axioms.py::test_x[a/b]", "groups"),
        ("tests/groups/deep/test_x.py::Test::test_y", "groups"),
        ("tests/test_x.py::test_y", "."),
    ],
)
def test_room_of_a_test(nodeid, name):
    assert room(nodeid) == name
