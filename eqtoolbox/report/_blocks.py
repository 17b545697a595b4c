"""The pieces a section's page is made of: paragraphs, figures, tables, numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from eqtoolbox.report._section import Number

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = 2) -> str:
    """A number as text: ``96.1``, ``3.2×10⁻⁷``; texts as they are.

    >>> number(3.21e-7), number(12), number(0.25), number(float("nan")), number("O(3)")
    ('3.2×10⁻⁷', '12', '0.25', '–', 'O(3)')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) or value is None:
        return "–" if value is None else str(value)
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.{digits + 1}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; ``text`` may be ``Markup``, otherwise it is escaped.

    Args:
      text: what it says.
      kind: ``"see"`` for what should be seen, ``"note"`` for small print, else nothing.
    """
    start = Markup('<p class="{}">').format(kind) if kind else Markup("<p>")
    return start + escape(text) + Markup("</p>")


def figure(drawing: Markup, caption: str) -> Markup:
    """A figure with its caption."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(drawing, caption)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Markup:
    """A table; numbers are formatted and set to the right.

    Args:
      head: the headings of the columns.
      rows: one sequence of texts and numbers each; ``Markup`` is kept.
      caption: above the table.
    """

    def cell(value: Any) -> Markup:
        numeric = not isinstance(value, str)
        start = Markup('<td class="num">') if numeric else Markup("<td>")
        return start + escape(number(value) if numeric else value) + Markup("</td>")

    top = Markup("").join(Markup("<th>{}</th>").format(h) for h in head)
    body = Markup("").join(
        Markup("<tr>") + Markup("").join(map(cell, row)) + Markup("</tr>") for row in rows
    )
    title = Markup("<caption>{}</caption>").format(caption) if caption else Markup("")
    return Markup('<div class="scroll"><table>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        title, top, body
    )


def plain(entry: Number) -> str:
    """The value of a summary number, as text."""
    return number(entry.value)
