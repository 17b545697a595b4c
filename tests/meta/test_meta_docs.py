"""The pages of the documentation: their code runs and prints what they show, and no room is without a page."""

import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import code_blocks
import pytest

import eqtoolbox

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "scripts" / "docs"
PAGES = sorted((DOCS / "pages").rglob("*.md"))
ROOMS = sorted(m.name for m in pkgutil.iter_modules(eqtoolbox.__path__) if m.ispkg)
#: Rooms without a page of their own, and why.
ELSEWHERE = {
    "zoo": "models and data, in every example",
    "pages": "figures and files, for the report and the experiments",
    "experiments": "on the page of the report",
}


@pytest.mark.parametrize("page", [p for p in PAGES if code_blocks.blocks(p)], ids=lambda p: p.stem)
def test_code_of_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}  # one page is one session
    for block in code_blocks.blocks(page):
        code_blocks.run(page, block, names)


def test_a_page_that_shows_another_output_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("=== tab\n\n    ```python\n    print(1 + 1)\n    ```\n\n    ```text\n    3\n    ```\n")
    (block,) = code_blocks.blocks(page)
    assert block == (4, "print(1 + 1)\n", "3\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 4"):
        code_blocks.run(page, block, {})
    assert code_blocks.run(page, block._replace(output="2\n"), {}) == "2\n"


def test_every_block_of_python_is_found():
    for page in PAGES:
        assert len(code_blocks.blocks(page)) == page.read_text(encoding="utf-8").count("```python"), page


def test_every_room_has_a_page():
    concepts = {page.stem for page in (DOCS / "pages" / "concepts").glob("*.md")} - {"index"}
    assert concepts == set(ROOMS) - set(ELSEWHERE)


def test_every_picture_is_shown_and_computed():
    reference = importlib.import_module("ast").parse((DOCS / "pictures.py").read_text(encoding="utf-8"))
    computed = {node.name for node in reference.body if getattr(node, "decorator_list", None)}
    stored = {path.stem for path in (DOCS / "pages" / "pictures").iterdir()}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert computed == stored == set(re.findall(r"pictures/([\w-]+)\.svg", text))


def test_what_is_included_is_there():
    markers = re.compile(r'<!-- readme: "([^"]+)"(?: from "([^"]+)")? -->')
    found = [m for page in PAGES for m in markers.findall(page.read_text(encoding="utf-8"))]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert found
    for heading, start in found:
        assert re.search(rf"^#+ {re.escape(heading)}$", readme, re.MULTILINE), heading
        assert f"\n{start}" in readme, start


def test_every_commands_first_word_is_a_command_of_the_tool():
    known = {"report", "reproduce", "ensemble", "compare", "doctor"}
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for command in re.findall(r"^eqtoolbox (\w+)", block, re.MULTILINE):
                assert command in known, (page, command)


def test_the_ledger_of_errata_names_known_papers():
    errata = importlib.import_module("docs.errata")
    claims = tomllib.loads((ROOT / "tests" / "claims.toml").read_text(encoding="utf-8"))
    refuted = [name for name, entry in claims.items() if entry.get("refuted")]
    page = errata.render("{{ errata count }}\n{{ errata }}", ROOT)
    assert {claims[name]["source"] for name in refuted} <= set(errata.PAPERS)
    assert page.count('class="erratum"') == len(refuted)
    assert "tests/identities/test_identities_corollaries.py::" in page
