"""Griffe extension: docstrings as this package writes them become Markdown.

Doctest blocks outside an Examples section become code, tables ruled by ``===`` become tables, and a ``#:`` comment
above a constant or type alias is its docstring.
"""

from __future__ import annotations

import ast
import re

import griffe


class Docstrings(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        del kwargs
        for module in modules(pkg):
            add_missing(module)
            rewrite(module, module.lines)


def modules(module: griffe.Module):
    yield module
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            yield from modules(member)


def add_missing(module: griffe.Module) -> None:
    """Adds the names of assignments to a tuple, which Griffe passes over."""
    for node in ast.parse("\n".join(module.lines)).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            for target in node.targets[0].elts:
                if isinstance(target, ast.Name) and target.id not in module.members:
                    attribute = griffe.Attribute(target.id, lineno=node.lineno, endlineno=node.end_lineno)
                    module.set_member(target.id, attribute)


def rewrite(obj: griffe.Object, lines: list[str]) -> None:
    """Rewrites the docstrings of an object and of all that it defines."""
    if obj.docstring:
        obj.docstring.value = markdown(obj.docstring.value)
    elif obj.is_attribute and obj.lineno and (text := comment_above(lines, obj.lineno)):
        obj.docstring = griffe.Docstring(text, parent=obj, lineno=obj.lineno)
    for member in obj.members.values():
        if not (member.is_alias or member.is_module):
            rewrite(member, lines)


def comment_above(lines: list[str], line: int) -> str:
    """The ``#:`` lines that end right above the given line, counted from 1."""
    found = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#:"):
            break
        found.append(text.strip()[2:].strip())
    return "\n".join(reversed(found))


def markdown(text: str) -> str:
    """A docstring with its doctest blocks as code and its ruled tables as tables of Markdown."""
    text = re.sub(r":math:`([^`]*)`", r"\\(\1\\)", text)
    text = re.sub(r":(?:func|class|mod|meth|attr):`~?([^`]*)`", r"`\1`", text)
    out, lines = [], text.split("\n")
    i = 0
    while i < len(lines):
        if lines[i].startswith(">>>"):
            block = []
            while i < len(lines) and lines[i].strip():
                block.append(lines[i])
                i += 1
                if i + 1 < len(lines) and not lines[i].strip() and lines[i + 1].startswith(">>>"):
                    block.append("")
                    i += 1
            out += ["", "```pycon", *block, "```", ""]
        elif lines[i].strip() == ".. math::":
            block, i = [], i + 1
            while i < len(lines) and (not lines[i].strip() or lines[i].startswith("   ")):
                block.append(lines[i].strip())
                i += 1
            out += ["", rf"\[{' '.join(filter(None, block))}\]", ""]
        elif re.fullmatch(r"=+( +=+)+", lines[i]):
            end = [j for j in range(i + 1, len(lines)) if lines[j] == lines[i]][1]
            out += ["", *table(lines[i : end + 1]), ""]
            i = end + 1
        else:
            out.append(lines[i])
            i += 1
    return "\n".join(out)


def table(lines: list[str]) -> list[str]:
    """A table ruled by ``===`` in Markdown; a row without its first cell goes on with the row above."""
    starts = [m.start() for m in re.finditer(r"=+", lines[0])]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    rows: list[list[str]] = []
    for line in lines[1:-1]:
        if line == lines[0]:
            continue
        cells = [line[a:b].strip().replace("|", "\\|") for a, b in spans]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    head, *body = rows
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in body),
    ]
