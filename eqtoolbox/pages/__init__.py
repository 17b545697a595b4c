"""What pages, figures, files and terminals are made of: one house style for the report and the experiments."""

from eqtoolbox.pages._blocks import figure, number, paragraph, pretty, table
from eqtoolbox.pages._figures import (
    GRID,
    INK,
    MUTED,
    SERIES,
    draw,
    house_style,
    new_figure,
    show_matrix,
    to_png,
    to_svg,
)
from eqtoolbox.pages._page import Entry, render_page, style_sheet
from eqtoolbox.pages._plain import plain
from eqtoolbox.pages._progress import SILENT, Progress, progress_bar, progress_lines
from eqtoolbox.pages._series import POINTS, kept
from eqtoolbox.pages._trees import DamagedError, load_tree, save_tree, write_bytes
from eqtoolbox.pages._versions import device, versions

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "POINTS",
    "SERIES",
    "SILENT",
    "DamagedError",
    "Entry",
    "Progress",
    "device",
    "draw",
    "figure",
    "house_style",
    "kept",
    "load_tree",
    "new_figure",
    "number",
    "paragraph",
    "plain",
    "pretty",
    "progress_bar",
    "progress_lines",
    "render_page",
    "save_tree",
    "show_matrix",
    "style_sheet",
    "table",
    "to_png",
    "to_svg",
    "versions",
    "write_bytes",
]
