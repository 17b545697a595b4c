"""What every test shares: eight CPU devices, strict JAX settings, a hypothesis profile, two fixtures.

Most of the time goes into compilation, see `eqt_quick`. When running the same tests again and again, keep what was
compiled: JAX_COMPILATION_CACHE_DIR=.cache/jax.
"""

import os

import hypothesis
import jax
import pytest

pytest_plugins = ["pytester", "eqt_claims", "eqt_quick", "eqt_rooms"]

# Tests compile far more than they compute: the lowest level halves the time of the suite, and so does the older
# code generator of fusions, where there still is one (an unknown flag ends the process).
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags).strip()

# Before the first use of a device. Eight virtual devices are for correctness, not for speed.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
# A key is good for one draw; a test that wants the same draw twice says so with `jax.random.clone(key)`.
jax.config.update("jax_debug_key_reuse", True)

hypothesis.settings.register_profile(
    "eqtoolbox",
    deadline=None,
    print_blob=True,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("eqtoolbox")


@pytest.fixture
def x64():
    """Turns on float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    """A typed key for one test."""
    return jax.random.key(0)
