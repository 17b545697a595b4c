"""What a report was made with."""

from __future__ import annotations

import importlib.metadata
import platform

import jax

PACKAGES = (
    "eqtoolbox",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "tyro",
    "rich",
)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages; "missing" for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def device() -> str:
    """What JAX runs on."""
    devices = jax.devices()
    kind, backend = devices[0].device_kind, jax.default_backend()
    name = backend.upper() if kind.lower() == backend else f"{kind} ({backend})"
    return f"{len(devices)} × {name}" if len(devices) > 1 else name
