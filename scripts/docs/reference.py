"""Pages of the API reference: one for each public module, made from its ``__all__``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types

#: Modules with public names that have no ``__all__``: everything they define without an underscore.
FLAT = ("problem", "testing")


def public_modules() -> dict[str, list[str]]:
    """The public names of every public module of the package, by the module's name."""
    import eqtoolbox

    names = {"eqtoolbox": sorted(eqtoolbox.__all__)}
    for info in pkgutil.walk_packages(eqtoolbox.__path__, "eqtoolbox."):
        if info.ispkg and "._" not in info.name:
            exported = getattr(importlib.import_module(info.name), "__all__", None)
            if exported:
                names[info.name] = list(exported)
    for short in FLAT:
        module = importlib.import_module(f"eqtoolbox.{short}")
        names[module.__name__] = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
    return dict(sorted(names.items()))


def page_name(module: str) -> str:
    """The page of a module, relative to the folder of pages."""
    short = module.removeprefix("eqtoolbox.").replace(".", "-")
    return "api/index.md" if module == "eqtoolbox" else f"api/{short}.md"


def summary(value: object) -> str:
    """The first line of a docstring, as the cell of a table; empty for constants."""
    if isinstance(value, (type, types.FunctionType, types.ModuleType)) or callable(value):
        text = inspect.getdoc(value) or ""
        return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return ""


def page(module: str, names: list[str]) -> str:
    """The Markdown of a module's page."""
    return front_page(names) if module == "eqtoolbox" else room_page(module, names)


def room_page(module: str, names: list[str]) -> str:
    home = importlib.import_module(module)
    own, others = [], []
    for name in names:
        origin = getattr(getattr(home, name), "__module__", module) or module
        (own if origin.startswith(module) or not origin.startswith("eqtoolbox") else others).append(name)
    lines = [f"# `{module}`", "", f"::: {module}", *options(show_root_heading=False, members=False), ""]
    lines += ["| name | |", "|---|---|"]
    lines += [f"| [`{name}`][{module}.{name}] | {summary(getattr(home, name))} |" for name in own]
    lines += [
        f"| [`{name}`][{getattr(home, name).__module__.split('._')[0]}.{name}] | {summary(getattr(home, name))} |"
        for name in others
    ]
    for name in own:
        lines += ["", f"::: {module}.{name}"]
    return "\n".join(lines) + "\n"


def front_page(names: list[str]) -> str:
    """The page of the top level: where each name comes from."""
    import eqtoolbox

    rooms = [name for name in names if isinstance(getattr(eqtoolbox, name), types.ModuleType)]
    lines = [
        "# API reference",
        "",
        "One page for each room, made from its `__all__` and its docstrings. `import eqtoolbox as eqt` has these "
        "names at the top:",
        "",
        "| name | |",
        "|---|---|",
    ]
    for name in names:
        if name not in rooms:
            value = getattr(eqtoolbox, name)
            lines.append(f"| [`eqt.{name}`][{value.__module__.split('._')[0]}.{name}] | {summary(value)} |")
    lines += [
        "",
        "and these rooms, imported at their first use; `report`, `experiments` and `pages` by their full names:",
        "",
    ]
    lines += ["| room | |", "|---|---|"]
    for module in public_modules():
        if module != "eqtoolbox":
            text = summary(importlib.import_module(module))
            lines.append(f"| [`{module}`]({page_name(module).removeprefix('api/')}) | {text} |")
    return "\n".join(lines) + "\n"


def options(**values) -> list[str]:
    lines = ["    options:"]
    return lines + [f"      {key}: {str(value).lower()}" for key, value in values.items()]
