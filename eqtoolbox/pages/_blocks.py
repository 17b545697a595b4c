"""The pieces a section's page is made of: paragraphs, figures, tables, numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

#: Letters from which on a cell of a table keeps a width to be read in, on phones too.
LONG = 48

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
        text = f"{value:.{digits + 1}g}"
        return text if "e" not in text else f"{value:.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def pretty(value: Any) -> Markup:
    """A number or text for the page, with powers raised: ``R₊^32`` as R₊³² would be."""
    return Markup(re.sub(r"\^(\d+)", r"<sup>\1</sup>", str(escape(number(value)))))


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


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, narrow: bool = False) -> Markup:
    """A table; numbers are formatted.

    Args:
      head: the headings of the columns.
      rows: one sequence of texts and numbers each; ``Markup`` is kept.
      narrow: only as wide as needed.
    """

    def cell(value: Any) -> Markup:
        content = value if isinstance(value, Markup) else pretty(value)
        kind = "num" if not isinstance(value, str) else "long" if len(value) > LONG else ""
        start = Markup('<td class="{}">').format(kind) if kind else Markup("<td>")
        return start + content + Markup("</td>")

    top = Markup("").join(Markup('<th scope="col">{}</th>').format(h) for h in head)
    body = Markup("").join(Markup("<tr>{}</tr>").format(Markup("").join(map(cell, row))) for row in rows)
    return Markup(
        '<div class="scroll"><table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format("narrow" if narrow else "wide", top, body)
