"""The Python blocks of a Markdown file, run as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import jax

BLOCK = re.compile(
    r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```\n"
    r"(?:\s*^(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code; ``output`` is the block of text right below it, None where there is none."""

    line: int
    code: str
    output: str | None


def blocks(path: Path) -> list[Block]:
    """The blocks of a file, in their order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            text.count("\n", 0, found.start()) + 2,
            textwrap.dedent(found["code"]),
            None if found["output"] is None else textwrap.dedent(found["output"]),
        )
        for found in BLOCK.finditer(text)
    ]


def run(path: Path, block: Block, names: dict[str, Any]) -> str:
    """Runs a block with these global names, compares its output where the page shows it, and returns it."""
    out = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.code, str(path), "exec")
    with contextlib.redirect_stdout(out), jax.numpy_rank_promotion("allow"):  # as a user has it
        exec(code, names)
    if block.output is not None:
        assert out.getvalue() == block.output, (
            f"{path.name}, line {block.line}: the page shows another output"
        )
    return out.getvalue()
