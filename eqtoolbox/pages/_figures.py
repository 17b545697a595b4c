"""One style for all figures: PNG files as they are, and inline SVG that follows the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The colours of the light page, by role. Inline SVG has the page's variables in their place, ``var(--ink)``.
COLOURS = {
    "ink": "#1c1f24",
    "muted": "#5b6370",
    "grid": "#e3e4e0",
    "c0": "#2a63b8",
    "c1": "#107a61",
    "c2": "#bd4716",
    "c3": "#8a4fb0",
}
#: Text and the lines that matter most.
INK = COLOURS["ink"]
#: Ticks, frames and what is said beside.
MUTED = COLOURS["muted"]
#: Lines of a grid.
GRID = COLOURS["grid"]
#: The four colours of data, in the order of use.
SERIES = [COLOURS["c0"], COLOURS["c1"], COLOURS["c2"], COLOURS["c3"]]
PAPER = "#fdfdfb"
WIDTH = 7.6

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


@contextmanager
def house_style() -> Iterator[None]:
    """Inside, Matplotlib draws in the house style."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(columns: int = 1, rows: int = 1, *, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page; use it inside ``house_style()``.

    Args:
      columns: axes side by side.
      rows: axes below each other.
      height: in inches, of the whole; the width is 7.6.

    Returns:
      The figure and its axes, row by row. Paint with ``INK``, ``MUTED``, ``GRID`` and ``SERIES`` only: pages
      put their own colours in their place.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.06)  # pyright: ignore
    return figure, list(axes.flat)


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
      painter: given the figure and its axes, side by side; see ``new_figure`` for colours.
      columns: how many axes.
      height: in inches; the page is 7.6 wide.

    Returns:
      The element: no external references, colours by CSS variables.
    """
    with house_style():
        figure, axes = new_figure(columns, height=height)
        painter(figure, axes)
        return to_svg(figure, name, alt)


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as an ``<svg>`` element whose colours follow the page.

    Args:
      figure: painted with the colours of this module.
      name: unique in the page; it prefixes every id.
      alt: what is seen, for those who cannot.

    Returns:
      The element: no external references, the same for the same figure.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _embed(buffer.getvalue(), name, alt)


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file on the page's paper, 1520 pixels wide."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=200, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


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


def show_matrix(ax: Axes, matrix: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> None:
    """A symmetric matrix in two colours, stronger for larger entries (square roots), with its pieces marked.

    Args:
      ax: where.
      matrix: shape (p, p).
      names: of the pieces of its axes.
      sizes: their lengths.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    positive, negative = to_rgb(SERIES[0]), to_rgb(SERIES[2])
    colours = LinearSegmentedColormap.from_list(
        "sign", [(*negative, 1), (*negative, 0), (*positive, 0), (*positive, 1)]
    )
    scaled = np.sign(matrix) * np.sqrt(np.abs(matrix) / max(np.abs(matrix).max(), 1e-300))
    ax.imshow(scaled, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
    edges = np.cumsum([0, *sizes])
    for edge in edges[1:-1]:
        ax.axhline(edge - 0.5, color=MUTED, lw=0.4)
        ax.axvline(edge - 0.5, color=MUTED, lw=0.4)
    wide = [i for i, size in enumerate(sizes) if size > 5]
    ax.set_xticks([(edges[i] + edges[i + 1] - 1) / 2 for i in wide], [names[i] for i in wide], fontsize=7)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(True)
