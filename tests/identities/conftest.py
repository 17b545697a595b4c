"""A nonlinear equivariance with every term of Theorem 1 different from zero."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqtoolbox import Equivariance


class Nonlinear(NamedTuple):
    """f = sinh⁻¹∘C∘sinh∘(rotation), H and G conjugates of matrices A(λ), K(λ) with C A = K C.

    Nothing in it is linear: not H in θ or λ, not G in y or λ, not the model, not the loss.
    """

    given: Equivariance  # with its inverse maps
    solved: Equivariance  # without
    model: object
    output_loss: object
    params: dict
    lam: dict

    def off(self, epsilon):
        """With inverse maps, but with G taken at (1 + ε) λ: an equivariance of the model only for ε = 0."""

        def at(lam):
            return jax.tree.map(lambda x: (1 + epsilon) * x, lam)

        eq = self.given
        return Equivariance(
            eq.act,
            lambda y, lam: eq.act_output(y, at(lam)),
            eq.act_inverse,
            lambda y, lam: eq.output_inverse(y, at(lam)),
        )


def make_nonlinear(shapes, outputs, seed=0):
    rng = np.random.default_rng(seed)
    params = {name: jnp.asarray(rng.normal(size=shape)) / 2 for name, shape in shapes.items()}
    flat, unravel = ravel_pytree(params)
    d, c = flat.size, outputs
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(d, d)))[0])
    down = rng.normal(size=(c, d)) / d**0.5
    up = np.linalg.pinv(down)
    rest = jnp.asarray(np.eye(d) - up @ down)
    down, up = jnp.asarray(down), jnp.asarray(up)
    low = [jnp.asarray(rng.normal(size=(c, c))) / 3 for _ in range(4)]
    high = [jnp.asarray(rng.normal(size=(d, d))) / (2 * d**0.5) for _ in range(4)]

    def matrix(parts, lam):
        s, t = lam["s"], lam["t"]
        a, b, e, f = parts
        return jnp.eye(len(a)) + s * a + jnp.sin(t[0]) * b + t[1] ** 2 * e + s * t[0] * t[1] * f

    def full(lam):
        return up @ matrix(low, lam) @ down + rest @ matrix(high, lam) @ rest

    def hidden(params):
        return jnp.sinh(turn @ ravel_pytree(params)[0])

    def act(params, lam):
        return unravel(turn.T @ jnp.arcsinh(full(lam) @ hidden(params)))

    def act_inverse(params, lam):
        return unravel(turn.T @ jnp.arcsinh(jnp.linalg.solve(full(lam), hidden(params))))

    def act_output(y, lam):
        return jnp.arcsinh(matrix(low, lam) @ jnp.sinh(y))

    def output_inverse(y, lam):
        return jnp.arcsinh(jnp.linalg.solve(matrix(low, lam), jnp.sinh(y)))

    target = jnp.asarray(rng.normal(size=c))

    def output_loss(y):
        return jnp.sum(jnp.cosh(y - target)) + y[0] * y[-1] ** 2

    return Nonlinear(
        Equivariance(act, act_output, act_inverse, output_inverse),
        Equivariance(act, act_output),
        lambda p: jnp.arcsinh(down @ hidden(p)),
        output_loss,
        params,
        {"s": jnp.asarray(0.3), "t": jnp.asarray([0.5, -0.7])},
    )


@pytest.fixture(scope="module")
def nonlinear():
    with jax.enable_x64(True):
        return make_nonlinear({"a": (3, 2), "b": (3,)}, 4)
