"""The audit against dimensions known by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtoolbox as eqt
from eqtoolbox import discovery


def attention(params, x):
    """One head, residual, linear feed-forward; no norm, no activation: x of shape (batch, tokens, 2)."""
    q, k, v = (x @ params[name] for name in ("Q", "K", "V"))
    scores = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / jnp.sqrt(2.0))
    return (x + scores @ v) @ params["F1"] @ params["F2"]


SHAPES = {"Q": (2, 2), "K": (2, 2), "V": (2, 2), "F1": (2, 4), "F2": (4, 2)}


@pytest.mark.claim("DC-T6.16", "DC-E0.4")
def test_the_tiny_transformer(record_claim):
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}
    known = eqt.Symmetry(
        {"Q": "_ k", "K": "_ k*", "F1": "_ f", "F2": "f* _"},
        {"k": eqt.groups.GeneralLinear(2), "f": eqt.groups.GeneralLinear(4)},
    )
    x, y = (jnp.asarray(rng.normal(size=(8, 2, 2))) for _ in range(2))
    family = discovery.axis_family(params, known)
    found = discovery.audit(attention, params, x, known=known, key=jax.random.key(0), family=family)
    # 28 parameters, not 32: a printed order Z W2 W1 does not even multiply
    assert found.parameters == 28
    # functional rank 12; the fibre has dimension 16: GL(2) has 4, GL(4) 16 − 4 (rank 2 < 4 leaves a stabiliser)
    assert found.parameters - found.level_set == 12
    assert (found.orbit, found.unexplained, found.new) == (16, 0, 0)
    assert found.certified, str(found)
    with pytest.raises(TypeError, match="dot_general"):
        jnp.zeros((16, 2)) @ params["F2"] @ params["F1"]

    def loss(outputs, targets):
        return jnp.mean((outputs - targets) ** 2)

    directions = discovery.null_space(
        discovery.translation_family(params),
        attention,
        params,
        x,
        y,
        key=jax.random.key(1),
        output_loss=loss,
        definition="data_dependent_loss",
        spread=0.0,
    )
    assert int(directions.rank.rank) == 8
    assert directions.dimension == 20
    record_claim("DC-T6.16", measured=28 - found.level_set, expected="12")


def test_what_is_missing_is_found():
    """A linear net whose labels say scalings only: GL has more, and the audit says how much."""
    rng = np.random.default_rng(0)
    params = {"u": jnp.asarray(rng.normal(size=(3, 2))), "v": jnp.asarray(rng.normal(size=(2, 2)))}
    known = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.Monomial(2, scales=1)})
    found = discovery.audit(
        lambda p, x: x @ p["u"] @ p["v"], params, jnp.ones((4, 3)), known=known, key=jax.random.key(0)
    )
    assert (found.level_set, found.orbit, found.unexplained) == (4, 2, 2)
    assert (found.found.dimension, found.new, found.novelty.unseen, found.novelty.off_orbit) == (4, 2, 0, 2)
    assert "2 unexplained" in str(found)


def test_a_pixel_that_is_never_lit():
    """Symmetries of the data alone: the weights of an input that is always 0."""
    rng = np.random.default_rng(0)
    params = {"u": jnp.asarray(rng.normal(size=(3, 2))), "v": jnp.asarray(rng.normal(size=(2, 1)))}
    x = jnp.asarray(rng.normal(size=(6, 3)).astype(np.float32)).at[:, 1].set(0)
    family = discovery.axis_family(params, kind="diagonal")
    find = lambda d: discovery.null_space(  # noqa: E731
        family, lambda p, x: jnp.tanh(x @ p["u"]) @ p["v"], params, x, key=jax.random.key(0), definition=d
    )
    assert find("functional").dimension == 0
    found = find("data_dependent")
    assert found.dimension == 1
    assert found.describe(0) == "+1 · u axis 0 unit 1 scaled"
