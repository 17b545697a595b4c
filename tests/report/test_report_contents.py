"""What a finished report says, and how its page and JSON are made."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from eqtoolbox.report import FORMAT, FORMAT_VERSION, all_sections

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects ids, references and resources; fails on elements that are not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references, self.resources, self.svgs = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self._element(tag, dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._element(tag, dict(attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _element(self, tag, attributes):
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "svg":
            self.svgs.append(attributes)
        assert tag != "script" or not attributes
        for name, value in attributes.items():
            if name in ("href", "xlink:href"):
                self.references.append(value)
            if name in ("src", "srcset", "data", "poster", "background"):
                self.resources.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")


@pytest.fixture(scope="module")
def page(made):
    parser = Page()
    parser.feed(made.html)
    assert not parser.open
    return parser


def test_both_files_are_written_and_nothing_else(made):
    assert made.code == 0
    assert sorted(p.name for p in made.out.iterdir()) == ["report.html", "report.json"]
    assert [p.name for p in made.out.parent.iterdir()] == ["report"]
    assert made.stderr == ""


def test_page_loads_nothing_from_outside(made, page):
    assert "http://" not in made.html
    assert "https://" not in made.html
    assert "@import" not in made.html
    assert "<link" not in made.html
    assert not page.resources
    assert all(reference.startswith("#") for reference in page.references)


def test_ids_are_unique_and_every_reference_has_its_target(page):
    assert len(set(page.ids)) == len(page.ids)
    assert {r[1:] for r in page.references} <= set(page.ids)


def test_figures_follow_the_page_and_say_what_they_show(made, page):
    assert len(page.svgs) == 6
    for svg in page.svgs:
        assert svg["role"] == "img"
        assert len(svg["aria-label"]) > 20
        assert re.fullmatch(r"0 0 [\d.]+ [\d.]+", svg.get("viewBox", svg.get("viewbox")))
    drawn = "".join(re.findall(r"<svg.*?</svg>", made.html, flags=re.DOTALL))
    assert "var(--ink)" in drawn
    assert "var(--c0)" in drawn
    # No colour that does not follow the theme: Matplotlib's own black and white included.
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()
    assert "color-scheme: light dark" in made.html


def test_page_and_summary_show_the_numbers_of_the_json(made):
    for number in made.data["summary"]:
        assert number["label"] in made.html
        assert number["label"].split()[0] in made.stdout
    for name, section in made.data["sections"].items():
        assert f'<section id="{name}" ' in made.html
        assert section["title"] in made.html
        for check in section["checks"]:
            assert check["statement"].split(" ")[0] in made.stdout
    count = made.data["checks"]["count"]
    assert f"all {count} checks passed" in made.html
    assert f"all {count} checks passed" in made.stdout
    assert str(made.out / "report.html") in made.stdout.replace("\n", "")


def test_json_has_its_format(made):
    data = made.data
    assert (data["format"], data["format_version"]) == (FORMAT, FORMAT_VERSION) == ("eqtoolbox-report", 1)
    assert set(data) == {
        "format",
        "format_version",
        "created",
        "seconds",
        "versions",
        "device",
        "problem",
        "config",
        "training",
        "checks",
        "summary",
        "sections",
    }
    assert {"python", "eqtoolbox", "jax", "jaxlib", "flax", "optax", "numpy"} <= set(data["versions"])
    assert data["config"]["steps"] == 32
    assert data["config"]["activation"] == "relu"
    assert data["config"]["batch_size"] == 64
    assert list(data["sections"]) == [s.name for s in all_sections()]
    for section in data["sections"].values():
        assert set(section) == {"title", "seconds", "checks", "data"}
        for check in section["checks"]:
            assert set(check) == {"statement", "value", "bound", "at_least", "passed"}
            good = check["value"] >= check["bound"] if check["at_least"] else check["value"] <= check["bound"]
            assert check["passed"] is good
    passed = [c["passed"] for s in data["sections"].values() for c in s["checks"]]
    assert data["checks"] == {"count": len(passed), "failed": passed.count(False)}
    assert passed.count(False) == 0
    assert len(passed) >= 10


def test_training_learns_the_digits(made):
    training = made.data["training"]
    assert training["parameters"] == 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10
    assert training["train_examples"] + training["test_examples"] == 1797
    assert training["loss_end"] < 0.9 * training["loss_start"]
    assert 0 <= training["metric_test"] <= 1


def test_symmetries_are_exact_and_the_wrong_one_is_not(made):
    data = made.data["sections"]["symmetries"]["data"]
    assert data["dimension"] == data["orbit_dimension"] == 64
    assert [f["spaces"] for f in data["factors"]] == [["h1"], ["h2"]]
    assert [f["orbit_dimension"] for f in data["factors"]] == [32, 32]
    assert data["invariance_error"]["all"]["error"] < 2e-6
    assert data["invariance_error_float64"]["all"]["error"] < 1e-14
    assert data["control"]["leaf_left_out"] == "Dense_0/kernel"
    assert data["control"]["invariance_error"] > 0.1


def test_gradient_has_no_part_along_the_orbit(made):
    data = made.data["sections"]["gradient"]["data"]
    part = data["orbit_part"]
    assert part["steps"] == list(range(32))
    assert max(part["training"]) == pytest.approx(part["largest"])
    assert part["largest"] < 1e-6
    assert len(part["float64"]) == len(data["snapshots"]) == 9
    assert max(part["float64"]) < 1e-14
    assert min(part["wrong"]) > 1e-3
    assert part["largest"] <= np.hypot(*part["largest_by_space"].values()) * (1 + 1e-6)
    assert max(data["moved_gradient_error"]["float64"]) < 1e-12
    assert min(data["moved_gradient_error"]["wrong"]) > 0.1


@pytest.mark.claim("EQ-T1-i", "EQ-T1-ii")
def test_identities_hold_before_and_after_training(made, record_claim):
    data = made.data["sections"]["identities"]["data"]
    assert data["dtype"] == "float64"
    assert data["directions"] == ["h1", "h2", "all together"]
    for point in ("start", "end"):
        assert max(data[point]["first"]) < 1e-12
        assert max(data[point]["second"]) < 1e-12
        assert data[point]["wrong"] > 1e-4
    record_claim("EQ-T1-ii", measured=max(data["end"]["second"]), expected="<= 1e-12")


def test_flat_directions_are_there(made):
    data = made.data["sections"]["flatness"]["data"]
    assert data["promised"] == data["dimension"] == 64
    for point in (data["start"], data["end"]):
        assert np.shape(point["orbit"]) == (64,)
        # Directions of the orbit are flatter than random ones, in a network that has hardly been trained.
        assert np.median(point["orbit"]) < 0.7 * point["random"]
        assert point["room"] >= point["share"] >= 64 / 3466
        assert np.sum(point["ritz_weights"], axis=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.claim("EQ-5.1c")
def test_sharpness_is_above_its_bound(made):
    data = made.data["sections"]["sharpness"]["data"]
    weights = {f"Dense_{i}/{leaf}": w for i in range(3) for leaf, w in (("kernel", 1), ("bias", i + 1))}
    assert (data["degree"], data["weights"]) == (3, weights)
    assert data["homogeneity_error"] < 1e-12
    assert data["steps"][-1] == 32
    assert (np.array(data["sharpness"]) > np.array(data["bound"])).all()
    assert max(data["bound"]) > 0
    assert data["sharpness"][0] == pytest.approx(
        made.data["sections"]["flatness"]["data"]["start"]["sharpness"]
    )


def test_charges_follow_their_laws(made):
    data = made.data["sections"]["charges"]["data"]
    assert {key: kind["charges"] for key, kind in data["kinds"].items()} == {"h1": 32, "h2": 32}
    for name in ("sgd", "momentum"):
        part = data[name]
        assert part["change"][-1] == pytest.approx(part["final"])
        assert part["change"] == pytest.approx(part["law"], rel=1e-2, abs=1e-6)
        assert part["error"] < 1e-5
        assert part["final"] > 100 * part["error"]
    assert data["adam"]["final"] > 3 * data["sgd"]["final"]
    assert "law" not in data["adam"]
    # The flow leaves out the mean gradient, and is of the size of the drift.
    assert 0.02 * data["sgd"]["final"] < data["sgd"]["noise"][-1] < 2 * data["sgd"]["final"]
    assert max(data[name]["residual"] for name in ("sgd", "momentum", "adam")) < 1e-6
    one = data["one_step"]
    assert one["sgd_slope"] == pytest.approx(2, abs=1e-4)
    assert one["adam_slope"] == pytest.approx(1, abs=0.05)
    assert max(one["sgd_relative_error"][4:]) < 1e-9


def test_compact_orbits_train_alike_and_scaled_ones_do_not(made):
    data = made.data["sections"]["orbit"]["data"]
    compact, whole = data["compact"], data["whole"]
    assert compact["groups"] == {"h1": "S(32)", "h2": "S(32)"}
    assert np.shape(compact["loss"]) == np.shape(whole["loss"]) == (len(data["steps"]), 3)
    assert data["steps"][-1] == 32
    assert compact["largest_separation"] < 1e-5
    assert compact["largest_separation_float64"] < 1e-13
    assert whole["separation_at_start"] < 1e-6
    assert whole["separation_float64"][0] < 1e-14
    assert whole["largest_separation"] > 0.01
    assert whole["largest_separation_float64"] == pytest.approx(whole["largest_separation"], rel=1e-2)
    # The separation is what it says: of the recorded curves.
    loss = np.asarray(whole["loss"])
    assert whole["separation"] == pytest.approx(np.ptp(loss, axis=1) / loss.mean(1), abs=1e-6)
    assert (loss[-1] < loss[0]).all()
    assert np.ptp(compact["gradient_norm_at_start"]) < 1e-5
    assert np.ptp(whole["gradient_norm_at_start"]) > 1e-2
    assert not whole["isometric"]


def test_the_structure_of_global_curvature(made):
    data = made.data["sections"]["commutant"]["data"]
    # S(32) on two layers: trivial 64 + 1 + 1 + 1 + 10 + 10, standard of h1 64 + 1 + 1, of h2 1 + 1 + 10, of both 1.
    copies = {r["name"]: (r["copies"], r["dimension"]) for r in data["components"]}
    assert sorted(copies.values()) == [(1, 31 * 31), (12, 31), (66, 31), (87, 1)]
    assert data["factors"] == sum(m * (m + 1) // 2 for m, _ in copies.values())
    assert sum(data["multiplicities"]) == data["parameters"] == 3466
    assert data["trace_error"] < 1e-5
    # The initialiser is invariant under permutations: the commutant holds everything but noise.
    assert abs(data["share"] - 1) < 4 * data["share_error"] < 0.4
