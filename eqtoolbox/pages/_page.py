"""One frame for all pages: contents, theme, figures that enlarge, tables that sort, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

_HERE = Path(__file__).parent


class Entry(NamedTuple):
    """A line of a page's contents.

    Attributes:
      id: of the section.
      title: its heading.
      bad: what is wrong in it, in a few words; empty where nothing is.
    """

    id: str
    title: str
    bad: str = ""


def render_page(template: Path, contents: Sequence[Entry], **values: Any) -> str:
    """A page: one file without external resources, complete without scripts.

    Args:
      template: a Jinja file that extends ``page.html`` and fills its blocks ``title``, ``header`` and ``sections``.
      contents: the sections, in order.
      **values: what the template names.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    script = Markup((_HERE / "page.js").read_text(encoding="utf-8"))
    page = environment.get_template(template.name)
    return page.render(contents=contents, style=style_sheet(), script=script, **values) + "\n"


def style_sheet() -> Markup:
    """The CSS of a page."""
    return Markup((_HERE / "style.css").read_text(encoding="utf-8"))
