"""The page of notebooks: title, what it shows and a badge of each script in colabs/."""

from __future__ import annotations

from pathlib import Path

PLACE = "{{ notebooks }}"
COLAB = "https://colab.research.google.com/github/eqtoolbox/eqtoolbox/blob/main/colabs"


def render(markdown: str, root: Path) -> str:
    """The page with the list in its place."""
    blocks = [one(path) for path in sorted((root / "colabs").glob("*.py"))]
    return markdown.replace(PLACE, "\n".join(blocks))


def one(path: Path) -> str:
    """A notebook: heading and first paragraph of its first cell, and a link."""
    cell = path.read_text(encoding="utf-8").split("# %% [markdown]\n", 1)[1].split("\n\n", 1)[0]
    text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in cell.splitlines())
    title, *paragraphs = [part.replace("\n", " ") for part in text.split("\n\n")]
    prose = next(part for part in paragraphs if "colab-badge" not in part)
    button = f"[Open in Colab]({COLAB}/{path.stem}.ipynb){{ .md-button }} `colabs/{path.name}`"
    return f"## {title.removeprefix('# ')}\n\n{prose}\n\n{button}\n"
