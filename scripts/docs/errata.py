"""The errata page: what is refuted in tests/claims.toml, and the tests that show it."""

from __future__ import annotations

import ast
import html
import tomllib
from pathlib import Path

PAPERS = {
    "equivariance": "Yang & Ziyin, An Equivariance Toolbox for Learning Dynamics (2025)",
    "dissertation": "Zhao, Symmetry in Neural Networks (2026)",
    "mirror": "Ziyin, Symmetry Induces Structure and Constraint of Learning (2024)",
    "global curvature": "Bernacchia, Global curvature for second-order optimization of neural networks (2025)",
}
PLACE = "{{ errata }}"
COUNT = "{{ errata count }}"


def claimed(tests: Path) -> dict[str, list[str]]:
    """The tests that name each claim, ``tests/room/test_x.py::test_name``, without importing them."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        where = path.relative_to(tests.parent).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        marks = {id(node): node for node in ast.walk(tree) if is_mark(node)}
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for node in (n for mark in function.decorator_list for n in ast.walk(mark)):
                    if marks.pop(id(node), None) is not None:
                        note(found, node, f"{where}::{function.name}")
        for node in marks.values():
            note(found, node, where)
    return found


def is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "claim"


def note(found: dict[str, list[str]], mark: ast.Call, test: str) -> None:
    for argument in mark.args:
        if isinstance(argument, ast.Constant) and test not in found.setdefault(argument.value, []):
            found[argument.value].append(test)


def render(markdown: str, root: Path) -> str:
    """The page with the list in its place."""
    claims = tomllib.loads((root / "tests/claims.toml").read_text(encoding="utf-8"))
    refuted = {name: entry for name, entry in claims.items() if entry.get("refuted")}
    unknown = {entry["source"] for entry in refuted.values()} - set(PAPERS)
    if unknown:
        raise ValueError(f"errata: the papers {sorted(unknown)} have no title in {__file__}")
    tests = claimed(root / "tests")
    lines = []
    for source, title in PAPERS.items():
        members = {name: entry for name, entry in refuted.items() if entry["source"] == source}
        lines += [f"## {title} {{: #{source.replace(' ', '-')} }}", "", f"{len(members)} entries.", ""]
        for name, entry in members.items():
            lines += [one(name, entry, tests.get(name, [])), ""]
    shown = sum(name in tests for name in refuted)
    count = f"{len(refuted)} statements, {shown} of them with a test that shows it"
    return markdown.replace(COUNT, count).replace(PLACE, "\n".join(lines))


def one(name: str, entry: dict, tests: list[str]) -> str:
    if tests:
        shown = ", ".join(f"<code>{html.escape(test)}</code>" for test in tests)
    elif entry.get("editorial"):
        shown = "nothing that a test can check"
    else:
        shown = "no test yet"
    identifier = name.lower()
    return (
        f'<div class="erratum" id="{identifier}">'
        f'<p class="id"><a href="#{identifier}">{html.escape(name)}</a></p>'
        f'<p><span class="key">printed</span> {html.escape(entry["statement"])}</p>'
        f'<p><span class="key">in fact</span> {html.escape(entry["refuted"])}</p>'
        f'<p class="shown"><span class="key">shown by</span> {shown}</p></div>'
    )
