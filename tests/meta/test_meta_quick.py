"""What makes the suite quicker: one MLIR context for many programs, and a folder of compiled ones."""

import os
from pathlib import Path
from types import SimpleNamespace

import jax
from eqt_quick import RENEWED, share_contexts


def test_a_context_is_renewed_now_and_then():
    lowering = SimpleNamespace(make_ir_context=object)
    share_contexts(lowering)
    made = [lowering.make_ir_context() for _ in range(2 * RENEWED + 1)]
    assert len(set(map(id, made))) == 3
    assert made[0] is made[RENEWED - 1] is not made[RENEWED] is made[2 * RENEWED - 1] is not made[-1]


def test_what_is_compiled_is_kept_for_the_other_workers():
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert jax.config.jax_compilation_cache_dir == str(folder)
    jax.jit(lambda x: 3 * x + 4321.5)(jax.numpy.arange(7.0)).block_until_ready()
    assert any(folder.iterdir())
