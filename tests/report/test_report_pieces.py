"""Small pieces: numbers, tables, figures, loading arrays, writing whole or not at all."""

import io
import os

import numpy as np
import pytest
from rich.console import Console

from eqtoolbox.pages import INK, draw, kept, number, paragraph, pretty, progress_bar, table
from eqtoolbox.report import ReportError, check_target, write
from eqtoolbox.report._load import load_npz


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.21e-7, "3.2×10⁻⁷"),
        (-3.21e-12, "-3.2×10⁻¹²"),
        (12, "12"),
        (0.0, "0"),
        (0.25, "0.25"),
        (96.123, "96.1"),
        (1.0e5, "1.0×10⁵"),
        (1000.0, "1000"),
        (-999.9, "-1000"),
        (2345.6, "2346"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (None, "–"),
        ("O(3)", "O(3)"),
        (np.float32(0.5), "0.5"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_texts_are_escaped_and_powers_raised():
    assert pretty("S(3)⋉R₊^32 <b>") == "S(3)⋉R₊<sup>32</sup> &lt;b&gt;"
    assert paragraph("a < b", "see") == '<p class="see">a &lt; b</p>'
    html = table(["<x>"], [["<y>", 1e-9]])
    assert '<th scope="col">&lt;x&gt;</th>' in html
    assert "<td>&lt;y&gt;</td>" in html
    assert '<td class="num">1.0×10⁻⁹</td>' in html


def test_kept_has_both_ends():
    assert kept(1).tolist() == [0]
    found = kept(10_000, 100)
    assert (found[0], found[-1], len(found)) == (0, 9_999, 100)


def test_two_figures_share_no_id():
    def paint(figure, axes):
        axes[0].plot([0, 1], [0, 1], color=INK)
        axes[0].set_title("a title")

    one, two = draw("one", "the first", paint), draw("two", 'the "second"', paint)
    assert one != two
    assert 'id="one-' in one
    assert 'id="one-' not in two
    assert "http" not in one
    assert "&#34;second&#34;" in two
    assert draw("one", "the first", paint) == one


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_arrays_are_read_in_jax_dtypes(tmp_path):
    path = save(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4), x_test=np.ones((1, 2)), y_test=[3])
    train, test = load_npz(path)
    assert (train.inputs.dtype, train.targets.dtype) == (np.float32, np.int32)
    assert train.inputs.shape == (4, 2)
    assert test.targets.tolist() == [3]
    train, test = load_npz(save(tmp_path / "b.npz", inputs=np.ones((4, 2), np.uint8)))
    assert train.inputs.dtype == np.uint8
    assert train.targets is None
    assert test is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": [1.0]}, "must have arrays x and y, or inputs and targets; it has z"),
        ({"x": [1.0], "y": [1.0], "xtest": [1.0]}, "has xtest, but only x, y, x_test, y_test are used"),
        ({"x": [1.0], "y_test": [1.0]}, "y_test without x_test"),
        ({"x": [1.0], "y": [1.0], "x_test": [1.0]}, "targets for only one of"),
        ({"x": ["a"]}, "x must be an array of real numbers, got dtype <U1"),
        ({"x": [1j]}, "got dtype complex128"),
        ({"x": [2**40]}, "do not fit int32"),
        ({"x": np.array([None])}, "cannot be read"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    with pytest.raises(ReportError, match=message):
        load_npz(save(tmp_path / "a.npz", **arrays))


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(ReportError, match="there is no file"):
        load_npz(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_text("x, y\n1, 2\n")
    with pytest.raises(ReportError, match="cannot be read as an"):
        load_npz(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.ones(3))
    with pytest.raises(ReportError, match="holds one array"):
        load_npz(tmp_path / "c.npy")


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_writing_replaces_its_own_files_only(tmp_path):
    out = tmp_path / "a" / "report"
    write({"x": "1", "y": "2"}, out)
    (out / "mine").write_text("keep")
    write({"x": "3", "y": "4"}, out)
    assert tree(tmp_path) == {"a/report/x": "3", "a/report/y": "4", "a/report/mine": "keep"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch, error, at):
    out = tmp_path / "report"
    write({"x": "old", "y": "old"}, out)
    moved, calls = os.replace, []

    def replace(*paths):
        calls.append(paths)
        if len(calls) == at + 1:
            raise error
        moved(*paths)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ReportError if error is OSError else error):
        write({"x": "new", "y": "new"}, out)
    assert tree(tmp_path) == {"report/x": "old", "report/y": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_an_interrupted_first_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write({"x": "new"}, tmp_path / "a" / "report")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # a dumb one shows no bars
    shown = io.StringIO()
    with progress_bar(Console(file=shown, force_terminal=terminal, width=80)) as progress:
        progress.describe("training")
        progress.expect(10)
        progress.advance(4)
    assert ("training" in shown.getvalue()) == terminal
    assert bool(shown.getvalue()) == terminal


def test_targets_are_checked_before_work(tmp_path):
    (tmp_path / "file").write_text("")
    check_target(tmp_path / "not" / "there" / "yet")
    assert not (tmp_path / "not").exists()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ReportError, match="is a file, not a folder"):
            check_target(out)
