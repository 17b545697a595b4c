"""What MkDocs runs while it builds the site: pages made from the package, pictures and formulas put into the page."""

from __future__ import annotations

import ast
import html
import logging
import re
import runpy
import sys
from pathlib import Path

import errata
import latex2mathml.converter
import notebooks
import reference
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[2]

log = logging.getLogger("mkdocs.hooks")

FETCHED = "https://unpkg.com/iframe-worker/shim"
README = re.compile(r'^<!-- readme: "(?P<heading>[^"]+)"(?: from "(?P<start>[^"]+)")? -->$', re.MULTILINE)
PICTURE = re.compile(
    r'<p>\s*<img alt="(?P<alt>[^"]*)" src="(?P<path>[^"]*pictures/(?P<name>[\w-]+)\.svg)"\s*/?>\s*</p>'
)
MATH = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[\[(])(?P<tex>.*?)\\[\])]</(?P=tag)>', re.DOTALL
)


def on_config(config):
    """Puts the pages of the API reference into the navigation."""
    sys.path.insert(0, str(ROOT))  # the package of this working tree, imported from here on
    for entry in config.nav:
        if entry.get("API reference") == "api":
            entry["API reference"] = [
                reference.page_name(m)
                if m == "eqtoolbox"
                else {m.removeprefix("eqtoolbox."): reference.page_name(m)}
                for m in reference.public_modules()
            ]
    return config


def on_files(files, *, config):
    """Adds the pages of the API reference."""
    for module, names in reference.public_modules().items():
        page = reference.page(module, names)
        files.append(File.generated(config, reference.page_name(module), content=page))
    return files


def on_page_markdown(markdown, *, page, **_):
    """Fills in what comes from the README, the changelog, the notebooks and the list of claims."""
    markdown = README.sub(lambda m: readme(m["heading"], m["start"]), markdown)
    if page.file.src_uri == "errata.md":
        markdown = errata.render(markdown, ROOT)
    if page.file.src_uri == "notebooks.md":
        markdown = notebooks.render(markdown, ROOT)
    if page.file.src_uri == "performance.md":
        markdown = markdown.replace("{{ benchmarks }}", benchmarks())
    if page.file.src_uri == "changelog.md":
        markdown = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return markdown


def on_page_content(content, *, page, config, **_):
    """Formulas as MathML, so that no script draws them; pictures inside the page, so that they take its colours."""
    warn_of_empty_entries(content, page.file.src_uri)
    content = MATH.sub(mathml, content)
    return PICTURE.sub(lambda m: picture(m, Path(config.docs_dir)), content)


def on_post_page(output, *, page, **_):
    """Search that needs no network, in place of the script that the theme would fetch."""
    return output.replace(FETCHED, get_relative_url("assets/search.js", page.url))


def on_post_template(output_content, *, template_name, **_):
    """The same on the page of what is not found, which is at the top."""
    return (
        output_content.replace(FETCHED, "/assets/search.js")
        if template_name == "404.html"
        else output_content
    )


def warn_of_empty_entries(content: str, page: str) -> None:
    """Warns, so that a strict build fails, of names of the reference that nothing is said about."""
    starts = list(re.finditer(r'<h\d id="([^"]+)" class="doc doc-heading"', content))
    for i, start in enumerate(starts):
        end = starts[i + 1].start() if i + 1 < len(starts) else len(content)
        entry = content[start.start() : end].partition("doc-contents")[2]
        if not re.sub(r"<[^>]*>|\s", "", entry.partition(">")[2]):
            log.warning("%s: nothing is said about %s", page, start[1])


def readme(heading: str, start: str | None) -> str:
    """A section of the README under its heading, or what follows the line that begins with ``start``."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    body, inside, fenced = "", False, False
    for line in lines:
        fenced ^= line.startswith("```")
        if not fenced and (title := re.fullmatch(r"#+ (.*)", line)):
            inside = title[1] == heading
        elif inside:
            body += line + "\n"
    if start:
        place = re.search(rf"^{re.escape(start)}", body, re.MULTILINE)
        body = body[place.start() :] if place else ""
    if not body.strip():
        raise PluginError(f"README.md has no section {heading!r} with a line that begins with {start!r}")
    return body.strip()


def benchmarks() -> str:
    """A table of the names that scripts/benchmark.py takes, each with the first line of its module."""
    rows = ["| name | what is compared |", "|---|---|"]
    for name in runpy.run_path(str(ROOT / "scripts" / "benchmark.py"))["names"]():
        tree = ast.parse((ROOT / "scripts" / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))
        text = (ast.get_docstring(tree) or "").split("\n")[0].replace("``", "`").replace("|", "\\|")
        rows.append(f"| `{name}` | {text} |")
    return "\n".join(rows)


def mathml(match: re.Match) -> str:
    display = "block" if match["open"] == "[" else "inline"
    return latex2mathml.converter.convert(html.unescape(match["tex"]).strip(), display=display)


def picture(match: re.Match, pages: Path) -> str:
    file = pages / "pictures" / f"{match['name']}.svg"
    if not file.is_file():
        return match[0]  # MkDocs has said that it is missing
    text = file.read_text(encoding="utf-8").replace('aria-label=""', f'aria-label="{match["alt"]}"', 1)
    return f"<figure>{text}<figcaption>{match['alt']}</figcaption></figure>"
