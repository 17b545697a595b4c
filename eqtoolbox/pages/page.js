// What a page does beyond being read: contents that follow, a switch of theme, tables sorted, figures enlarged.
// Without it all text, figures and tables are there.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Theme: as the system has it, light, dark.
  const themes = ["auto", "light", "dark"];
  const button = document.querySelector("button.theme");
  const theme = () => document.documentElement.dataset.theme ?? "auto";
  const label = () => { button.textContent = `Theme: ${theme()}`; };
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(theme()) + 1) % themes.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      if (next === "auto") localStorage.removeItem("eqtoolbox-theme");
      else localStorage.setItem("eqtoolbox-theme", next);
    } catch { /* no storage: the choice lasts as long as the page */ }
    label();
  });
  label();

  // Contents: beside the text where there is room, folded above it elsewhere; the section being read is marked.
  const nav = document.querySelector("nav");
  const details = nav.querySelector("details");
  const wide = matchMedia("(min-width: 1100px)");
  const fold = () => { details.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map(all("a", nav).map((a) => [decodeURIComponent(a.hash.slice(1)), a]));
  const sections = all("main section[id]").filter((s) => links.has(s.id));
  const follow = () => {
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const passed = sections.filter((s) => s.getBoundingClientRect().top <= innerHeight / 3);
    const current = atEnd && scrollY > 0 ? sections.at(-1) : passed.at(-1);
    for (const [id, link] of links) {
      if (id !== current?.id) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "location");
        const [top, bottom] = [link.offsetTop, link.offsetTop + link.offsetHeight];
        if (top < nav.scrollTop || bottom > nav.scrollTop + nav.clientHeight) nav.scrollTop = top - nav.clientHeight / 2;
      }
    }
  };
  let waiting = false;
  const soon = () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; follow(); });
    waiting = true;
  };
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", soon);
  follow();

  // Tables: a press on a heading sorts ascending, another descending, a third as it was. Numbers go before texts.
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const shape = /^([-−]?)(∞|\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?:×10(⁻?)([⁰¹²³⁴⁵⁶⁷⁸⁹]+))?(?=$|[\s%±,;(])/;
  const value = (cell) => {
    const text = cell?.textContent.trim() ?? "";
    const found = shape.exec(text);
    if (!found) return { text, empty: text === "" || text === "–" || text === "—" };
    const exponent = Number([...(found[4] ?? "")].map((d) => digits.indexOf(d)).join("")) * (found[3] ? -1 : 1);
    const size = found[2] === "∞" ? Infinity : Number(found[2]) * 10 ** exponent;
    return { number: found[1] ? -size : size, text };
  };
  const compare = (a, b, sign) => {
    const kind = (v) => (v.empty ? 2 : v.number === undefined ? 1 : 0);
    if (kind(a) !== kind(b)) return kind(a) - kind(b);
    if (kind(a) === 0) return a.number === b.number ? 0 : sign * (a.number < b.number ? -1 : 1);
    return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
  };
  for (const table of all("table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    if (rows.length < 2) continue;
    all("thead th", table).forEach((heading, column) => {
      if (!heading.textContent.trim()) return;
      const press = document.createElement("button");
      press.type = "button";
      press.title = "Sort by this column";
      press.append(...heading.childNodes);
      heading.append(press);
      press.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        const order = next === undefined ? "ascending" : next;
        if (order) heading.setAttribute("aria-sort", order);
        const keyed = rows.map((row) => [value(row.cells[column]), row]);
        const sign = order === "descending" ? -1 : 1;
        if (order) keyed.sort((a, b) => compare(a[0], b[0], sign));
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }

  // What is wider than the page can be scrolled by keys.
  const reach = () => {
    for (const box of all(".scroll")) {
      if (box.scrollWidth > box.clientWidth + 1) {
        const heading = box.closest("section")?.querySelector("h2")?.textContent.trim();
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", heading ? `Table in ${heading}` : "Table");
      } else for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  };
  addEventListener("resize", reach);
  reach();

  // Figures: moved into a dialog and back, because a copy would have the same ids.
  const viewer = document.querySelector("dialog.viewer");
  const stage = viewer.querySelector(".stage");
  const shown = viewer.querySelector("output");
  const caption = viewer.querySelector("#viewer-caption");
  let picture = null;
  let place = null;
  let scale = 1;
  const fit = () => {
    const box = picture.viewBox.baseVal;
    const style = getComputedStyle(stage);
    const across = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const down = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    return Math.min(across, (down * box.width) / box.height);
  };
  const resize = (factor) => {
    scale = factor;
    picture.style.width = `${fit() * scale}px`;
    shown.value = `${Math.round(100 * scale)} %`;
  };
  const open = (figure) => {
    picture = figure.querySelector("svg");
    place = document.createElement("div");
    place.style.height = `${picture.getBoundingClientRect().height}px`;
    picture.replaceWith(place);
    stage.replaceChildren(picture);
    caption.textContent = figure.querySelector("figcaption")?.textContent ?? picture.getAttribute("aria-label");
    viewer.showModal();
    resize(Math.min(3, Math.max(1, 760 / fit()))); // on a phone larger than what fits: it scrolls
    stage.focus();
  };
  viewer.addEventListener("close", () => {
    picture.style.removeProperty("width");
    place.replaceWith(picture);
  });
  const zoom = {
    in: () => resize(Math.min(8, scale * 1.5)),
    out: () => resize(Math.max(1, scale / 1.5)),
    fit: () => resize(1),
    close: () => viewer.close(),
  };
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
    zoom[event.target.closest("[data-zoom]")?.dataset.zoom]?.();
  });
  viewer.addEventListener("keydown", (event) => {
    const act = { "+": zoom.in, "=": zoom.in, "-": zoom.out, 0: zoom.fit }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  addEventListener("resize", () => { if (viewer.open) resize(scale); });
  for (const figure of all("main figure")) {
    const drawn = figure.querySelector("svg");
    if (!drawn) continue;
    const enlarge = document.createElement("button");
    enlarge.type = "button";
    enlarge.className = "enlarge";
    enlarge.textContent = "Enlarge";
    enlarge.setAttribute("aria-label", `Enlarge the figure: ${drawn.getAttribute("aria-label")}`);
    enlarge.addEventListener("click", () => open(figure));
    drawn.addEventListener("click", () => { if (!viewer.open) open(figure); });
    figure.prepend(enlarge);
  }
})();
