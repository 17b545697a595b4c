"""Computing with numbers at any time, also where the caller is being traced or lowered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eqtoolbox.linalg import float64


def concretely(f: Callable[..., Any], *args: Any) -> Any:
    """``f(*args)`` in 64-bit mode, in a thread of its own: traces and settings of the caller do not reach it.

    What a mirror is depends on shapes and static elements alone, so that it can be worked out while a function that
    uses it is compiled. (``jax.ensure_compile_time_eval`` does not cover the time in which a function is lowered.)
    """

    def run() -> Any:
        with float64():
            return f(*args)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
