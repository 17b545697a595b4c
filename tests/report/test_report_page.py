"""The pages in a headless Chromium: of a report, and of the experiments."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import toy_experiment as toy
from browser import chromium

from eqtoolbox import cli
from eqtoolbox.pages import style_sheet

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def addresses(made, tmp_path_factory):
    """A report of the bundled model, and the page of two small experiments."""
    out = tmp_path_factory.mktemp("pages")
    experiments = {
        "toy": toy.EXPERIMENT,
        "toy-two": replace(
            toy.EXPERIMENT, name="toy-two", title="Second", claims=lambda r: toy.claims(r)[::-1]
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in ("_experiment", "_command"):
            where = sys.modules[f"eqtoolbox.experiments.{module}"]
            patch.setattr(where, "all_experiments", lambda: experiments)
        assert cli.main(["reproduce", "--all", "--out", str(out)]) == 0
    return {"report": made.out / "report.html", "experiments": out / "index.html"}


class Opened(NamedTuple):
    page: object
    problems: list
    requests: list


@pytest.fixture
def visit(browser, addresses):
    """Opens a page in a context of its own, without a network; keeps what goes wrong in it."""
    contexts = []

    def open_page(name: str = "report", *, width: int = 1280, **options) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        problems, requests = [], []
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(addresses[name].as_uri())
        return Opened(page, problems, requests)

    yield open_page
    for context in contexts:
        context.close()


LINKS = """() => {
  const bad = [];
  for (const a of document.querySelectorAll("a[href], use")) {
    const target = a.getAttribute("href");
    if (!target.startsWith("#") || !document.getElementById(decodeURIComponent(target.slice(1)))) bad.push(target);
  }
  return bad;
}"""

# Unnamed landmarks, headings that skip a level, buttons and figures without a name, ids used twice.
STRUCTURE = """() => {
  const bad = [];
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((h) => Number(h.tagName[1]));
  if (levels.filter((l) => l === 1).length !== 1) bad.push("h1");
  levels.forEach((l, i) => { if (l > (levels[i - 1] ?? 0) + 1) bad.push(`h${l} after h${levels[i - 1]}`); });
  if (document.querySelectorAll("main").length !== 1) bad.push("main");
  if (!document.querySelector("nav").getAttribute("aria-label")) bad.push("nav");
  for (const b of document.querySelectorAll("button"))
    if (!(b.getAttribute("aria-label") ?? b.textContent).trim()) bad.push("a button without a name");
  for (const s of document.querySelectorAll("figure svg"))
    if (s.getAttribute("role") !== "img" || (s.getAttribute("aria-label") ?? "").length < 10) bad.push("svg");
  for (const s of document.querySelectorAll("main section"))
    if (!document.getElementById(s.getAttribute("aria-labelledby"))) bad.push(`section ${s.id}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) bad.push("ids");
  return bad;
}"""

# What reaches beyond the right edge, unless something around it scrolls.
TOO_WIDE = """() => {
  const scrolls = (e) => e && (getComputedStyle(e).overflowX === "auto" || scrolls(e.parentElement));
  const wide = [...document.querySelectorAll("body *")].filter((e) => e.getClientRects().length
    && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement) && !e.closest("svg"));
  return [document.documentElement.scrollWidth - innerWidth, wide.map((e) => e.outerHTML.slice(0, 120))];
}"""


@pytest.mark.parametrize("name", ["report", "experiments"])
def test_a_page_is_whole(visit, name):
    page, problems, requests = visit(name, color_scheme="dark")
    assert page.evaluate(LINKS) == []
    assert page.evaluate(STRUCTURE) == []
    assert page.locator("nav li").count() == page.locator("main section").count()
    # Each contents line leads to its section.
    for link in page.locator("nav a").all()[:2]:
        link.click()
        assert page.evaluate("location.hash") == link.get_attribute("href")
    # On paper: light whatever the screen, no controls, nothing cut off at the side of the paper.
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("button.enlarge").first.is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(map(int, re.findall(r"\d+", background))) > 200
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF-")
    assert paper.count(b"/Type /Page\n") >= 2 or len(paper) > 20_000
    assert problems == []
    assert requests == [page.url.partition("#")[0]]


@pytest.mark.parametrize("name", ["report", "experiments"])
def test_a_phone_needs_no_sideways_scrolling(visit, name):
    page = visit(name, width=390, has_touch=True).page
    assert page.evaluate(TOO_WIDE) == [0, []]
    assert not page.locator("nav ol").is_visible()
    page.locator("nav summary").tap()
    assert page.locator("nav ol").is_visible()
    assert page.evaluate(TOO_WIDE) == [0, []]
    # Tables that are wider scroll by themselves, by keys too.
    reachable = (
        "(e) => e.scrollWidth <= e.clientWidth + 1 || (e.tabIndex === 0 && e.getAttribute('aria-label'))"
    )
    boxes = page.locator(".scroll").all()
    assert boxes
    assert all(box.evaluate(reachable) for box in boxes)


def test_the_contents_follow(visit):
    page = visit().page
    current = page.locator("nav a[aria-current]")
    for id in ("identities", "setup", "symmetries"):
        page.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", id)
        page.wait_for_function(
            "id => document.querySelector('nav a[aria-current]')?.getAttribute('href') === '#' + id", arg=id
        )
        assert current.count() == 1
        assert current.is_visible()


def test_tables_sort_by_number_and_by_text(visit):
    page = visit().page
    table = page.locator("#gradient table, #charges table").first
    heading = table.locator("th").nth(1)
    rows = lambda: table.locator("tbody tr").all_inner_texts()  # noqa: E731
    before = rows()
    read: Callable[[str], float] = lambda text: (  # noqa: E731
        float(text.split()[0].replace("×10", "e").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    )
    values = lambda: [read(t) for t in table.locator("tbody td:nth-child(2)").all_inner_texts()]  # noqa: E731
    assert len(before) >= 2
    for order, direction in (("ascending", 1), ("descending", -1)):
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == order
        assert values() == sorted(values(), key=lambda v: direction * v)
        assert sorted(rows()) == sorted(before)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert rows() == before
    first = table.locator("th").first
    for _ in range(2):
        first.locator("button").click()
    names = table.locator("tbody td:first-child").all_inner_texts()
    assert names == sorted(names, key=str.lower, reverse=True)


def test_a_figure_enlarges_and_escape_closes_it(visit):
    page, problems, _ = visit()
    figure, viewer = page.locator("#gradient figure"), page.locator("dialog.viewer")
    size = "e => [e.clientWidth, e.clientHeight]"
    drawn = figure.locator("svg").evaluate(size)
    button = figure.locator("button.enlarge")
    button.focus()
    page.keyboard.press("Enter")
    assert viewer.is_visible()
    assert viewer.locator("#viewer-caption").inner_text() == figure.locator("figcaption").inner_text()
    shown = viewer.locator("svg")
    fitted = shown.evaluate(size)[0]
    assert fitted > 1.2 * drawn[0]
    page.keyboard.press("+")
    viewer.get_by_label("Larger").click()
    assert shown.evaluate(size)[0] == pytest.approx(2.25 * fitted, rel=0.01)
    assert viewer.locator("output").inner_text() == "225 %"
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert figure.locator("svg").evaluate(size) == drawn
    assert button.evaluate("e => e === document.activeElement")
    # By the mouse, and a second time.
    figure.locator("svg").click()
    viewer.get_by_role("button", name="Close").click()
    assert not viewer.is_visible()
    assert figure.locator("svg").count() == 1
    assert problems == []


def test_light_and_dark(visit):
    page = visit(color_scheme="dark").page
    look = lambda: page.evaluate(  # noqa: E731
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('figure text, "
        "figure path, figure use')).fill, getComputedStyle(document.body).color]"
    )
    dark = look()
    button = page.locator("button.theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    light = look()
    assert light[0] != dark[0]
    assert light[2] != dark[2]
    page.reload()
    assert look() == light
    button.click()
    assert look() == dark
    button.click()
    assert button.inner_text() == "Theme: auto"
    page.emulate_media(color_scheme="light")
    assert look() == light


def test_keys_alone_reach_the_text(visit):
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_without_scripts_all_is_there(visit):
    page = visit(java_script_enabled=False).page
    assert page.locator("nav ol").is_visible()
    assert page.locator("figure svg").first.is_visible()
    assert page.locator("button:visible").count() == 0


def test_text_has_contrast():
    """WCAG 2.2: 4.5 for text, on the paper and on panels, light and dark."""
    found = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style_sheet())
    pairs = {name: colours for name, *colours in found}

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "muted", "good", "bad", "c0", "c1", "c2", "c3"):
        for under in ("paper", "panel"):
            for i, theme in enumerate(("light", "dark")):
                assert contrast(pairs[text][i], pairs[under][i]) >= 4.5, (text, under, theme)
