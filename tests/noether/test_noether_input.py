"""What the room refuses, by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

from eqtoolbox import Symmetry, groups, noether

PARAMS = {"v": jnp.ones((3, 4)), "u": jnp.ones((4, 2))}
SYM = Symmetry({"v": "_ h", "u": "h* _"}, {"h": groups.Monomial(4, 1)})


def stack(**sizes):
    return {name: jnp.ones((n, *PARAMS[name].shape)) for name, n in sizes.items()}


def update(samples):
    tx = noether.track_charges(optax.sgd(0.1), SYM, law=noether.Law(0.1))
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS, gradient_samples=samples)


def count(params=PARAMS, key=0):
    return noether.count_laws(SYM, lambda p, x: x @ p["v"] @ p["u"], params, jnp.ones((5, 3)), key=key)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: noether.noise_drift(SYM, stack(v=2, u=3)), ValueError, "leading axis of size"),
        (lambda: update(PARAMS), ValueError, "leading axis of size"),
        (
            lambda: noether.noise_drift(SYM, {"v": jnp.ones((2, 3, 5)), "u": jnp.ones((2, 4, 2))}),
            ValueError,
            "leaf 'v'",
        ),
        (lambda: noether.noise_drift(SYM, stack(v=1, u=1)), ValueError, "at least two gradients"),
        (lambda: noether.Law(0.1, momentum=2.0), ValueError, r"momentum must be below 1, got 2\.0"),
        (
            lambda: noether.Law(-1.0),
            ValueError,
            r"learning_rate must be a finite number, not negative, got -1\.0",
        ),
        (lambda: count(jax.eval_shape(lambda: PARAMS)), TypeError, "arrays are needed, got ShapeDtypeStruct"),
        (lambda: count(), TypeError, r"`key` must be a typed key, jax\.random\.key\(…\), got 0"),
        (lambda: noether.charge_moments(SYM, PARAMS, {"v": 1.0}), ValueError, "`variances` must be a prefix"),
        (
            lambda: noether.charge_moments(SYM, PARAMS, 1.0, {"u": 3.0}),
            ValueError,
            "`fourth_moments` must be a prefix",
        ),
        (
            lambda: noether.activation_integral("tanh", jnp.ones(3)),
            TypeError,
            "must be a function, got 'tanh'",
        ),
        (lambda: noether.charge_fn(3), TypeError, r"needs an eqtoolbox\.Symmetry, got 3"),
        (lambda: noether.metrics(3), ValueError, "must hold the charges of one tracker, got 0"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
