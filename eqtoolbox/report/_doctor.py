"""What ``eqtoolbox doctor`` looks at."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eqtoolbox import zoo
from eqtoolbox.pages import device

_DATA = (zoo.digits, zoo.breast_cancer, zoo.diabetes, zoo.iris, zoo.wine)


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
      what: its name.
      found: its version, or what happened.
      good: whether it is as needed.
      needed: whether eqtoolbox works without it.
    """

    what: str
    found: str
    good: bool
    needed: bool = True


def examine() -> list[Finding]:
    """Looks at packages, devices, 64-bit arithmetic, bundled data, and what is optional."""
    parts = [_device(), *_idle_accelerators(), _float64(), *map(_data, _DATA), _local_data()]
    return [Finding("python", platform.python_version(), True), *_packages(), *parts, *_extras()]


def _requirements() -> Iterator[tuple[str, str, str | None]]:
    """Name, versions and extra of everything that the installed package requires."""
    for line in importlib.metadata.requires("eqtoolbox") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        found = re.match(r"\s*([\w.-]+)(?:\[.*?\])?\s*\(?([^)]*)", requirement)
        assert found is not None
        yield found[1], found[2].strip(), extra[1] if extra else None


def _packages() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    yield Finding("eqtoolbox", importlib.metadata.version("eqtoolbox"), True)
    for name, wanted, extra in _requirements():
        if extra is None:
            version = _version(name)
            good = version is not None and SpecifierSet(wanted).contains(version, prereleases=True)
            rule = "" if good else f", needs {wanted}"
            yield Finding(name, f"{version or 'missing'}{rule}", good)


def _extras() -> Iterator[Finding]:
    """The optional parts, and which of their packages are not installed."""
    missing: dict[str, list[str]] = {}
    for name, _, extra in _requirements():
        if extra is not None:
            missing.setdefault(extra, [])
            missing[extra] += [name] if _version(name) is None else []
    for extra, names in missing.items():
        found = f"{', '.join(names)} missing: pip install 'eqtoolbox[{extra}]'" if names else "installed"
        yield Finding(f"optional: {extra}", found, not names, needed=False)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _idle_accelerators() -> Iterator[Finding]:
    """Accelerators of the machine that JAX does not use."""
    try:
        used = {d.platform for d in jax.devices()}
    except Exception:  # JAX raises more than one kind; _device says it
        return
    for path, platform_name, extra in (("/dev/nvidia0", "gpu", "cuda"), ("/dev/accel0", "tpu", "tpu")):
        if os.path.exists(path) and platform_name not in used:
            text = f"{path} is there, but JAX does not use it: see 'pip install jax[{extra}…]' in the guide of JAX"
            yield Finding(f"optional: {platform_name}", text, False, needed=False)


def _device() -> Finding:
    try:
        total = float(jnp.sum(jnp.ones((8, 8)) @ jnp.ones((8, 8))))
        return Finding("device", device(), total == 512.0)
    except Exception as error:
        return Finding("device", f"{type(error).__name__}: {error}", False)


def _float64() -> Finding:
    try:
        with jax.enable_x64(True):
            x = jnp.asarray(1.0, "float64") + 2.0**-50
            good = x.dtype == jnp.float64 and float(x) != 1.0
    except Exception as error:
        return Finding("float64", f"{type(error).__name__}: {error}", False)
    state = "on" if jax.config.jax_enable_x64 else "off by default"  # pyright: ignore
    return Finding("float64", f"{'works' if good else 'does not work'}, {state}", good)


def _data(loader) -> Finding:
    name = f"data: {loader.__name__}"
    try:
        data = loader()
    except Exception as error:
        return Finding(name, f"{type(error).__name__}: {error}", False)
    return Finding(name, f"{len(data.train_x)} + {len(data.test_x)} examples", True)


def _local_data() -> Finding:
    folder = os.environ.get("EQTOOLBOX_DATA")
    if folder is None:
        return Finding("data: $EQTOOLBOX_DATA", "not set (only MNIST and CIFAR need it)", True)
    exists = os.path.isdir(folder)
    return Finding("data: $EQTOOLBOX_DATA", folder if exists else f"{folder}: no such folder", exists)
