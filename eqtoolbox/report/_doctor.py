"""What ``eqtoolbox doctor`` looks at."""

from __future__ import annotations

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eqtoolbox import zoo
from eqtoolbox.pages import device, versions

_DATA = (zoo.digits, zoo.breast_cancer, zoo.diabetes, zoo.iris, zoo.wine)


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
      what: its name.
      found: its version, or what happened.
      good: whether it is as needed.
    """

    what: str
    found: str
    good: bool


def examine() -> list[Finding]:
    """Looks at packages, devices, 64-bit arithmetic, bundled data and the folder of local data."""
    found = [Finding(name, version, version != "missing") for name, version in versions().items()]
    return [*found, _device(), _float64(), *map(_data, _DATA), _local_data()]


def _device() -> Finding:
    try:
        total = float(jnp.sum(jnp.ones((8, 8)) @ jnp.ones((8, 8))))
        return Finding("device", device(), total == 512.0)
    except Exception as error:
        return Finding("device", f"{type(error).__name__}: {error}", False)


def _float64() -> Finding:
    with jax.enable_x64(True):
        x = jnp.asarray(1.0, "float64") + 2.0**-50
        good = x.dtype == jnp.float64 and float(x) != 1.0
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
