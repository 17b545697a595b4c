"""Makes compiling cheaper, which is what most of the suite's time goes into. Nothing that is checked changes.

- What a run has compiled is kept in a temporary directory that its workers share, because they compile the same
  small programs. To keep it between runs, name the directory yourself: JAX_COMPILATION_CACHE_DIR=.cache/jax.
- Programs are lowered in one MLIR context, renewed now and then; JAX makes one for each, at 6 ms, which is
  half of what tracing and lowering a small program take.
"""

from __future__ import annotations

import itertools
import os
import tempfile

import jax
import pytest

#: After how many programs a context is renewed, because it keeps the types and locations of all of them.
RENEWED = 256

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": "0",
    "jax_persistent_cache_min_entry_size_bytes": "-1",
}


def share_contexts(lowering) -> None:
    """Lets ``lowering``, JAX's module of that, make a new context for every ``RENEWED`` programs only."""
    make, programs, kept = lowering.make_ir_context, itertools.count(), []

    def shared():
        if next(programs) % RENEWED == 0:
            kept[:] = [make()]
        return kept[0]

    lowering.make_ir_context = shared


def pytest_configure(config: pytest.Config) -> None:
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="eqtoolbox-compiled-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    for name, value in SETTINGS.items():
        value = os.environ.setdefault(name.upper(), value)
        jax.config.update(name, float(value) if "secs" in name else int(value))
    try:
        from jax._src.interpreters import mlir
    except ImportError:  # not public: without it the suite is only slower
        return
    if hasattr(mlir, "make_ir_context"):
        share_contexts(mlir)
