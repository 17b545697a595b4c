"""Figures as inline SVG that follow the page: its text colour, its grid, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib draws with these, and the page replaces them by its own colours.
_ROLES = ("ink", "muted", "grid", "c0", "c1", "c2", "c3")
COLOURS = {role: f"#0000{i + 1:02x}" for i, role in enumerate(_ROLES)}
INK, MUTED, GRID, *SERIES = COLOURS.values()

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw(
    name: str,
    alt: str,
    painter: Callable[[Figure, Sequence[Axes]], None],
    *,
    columns: int = 1,
    height: float = 3.2,
) -> Markup:
    """Draws a figure as wide as the page, as an ``<svg>`` element.

    Args:
      name: unique in the page; it prefixes every id.
      alt: what is seen, for those who cannot.
      painter: given the figure and its axes, side by side. It uses the colours ``INK``, ``MUTED`` and ``SERIES``
        only, which the page replaces by its own.
      columns: how many axes.
      height: in inches; the page is 7.6 wide.

    Returns:
      The element: no external references, colours by CSS variables.
    """
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(7.6, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.06)  # pyright: ignore
        painter(figure, list(axes))
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _embed(buffer.getvalue(), name, alt)


def _embed(text: str, name: str, alt: str) -> Markup:
    """An SVG file as an element of the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    end = text.index(">")
    text = re.sub(r'\s(xmlns(:xlink)?|width|height|version)="[^"]*"', "", text[:end]) + text[end:]
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    for role, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{role})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1).strip())
