"""Operators with prescribed spectra, and a small model with a dense Hessian."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtoolbox.linalg as la


def _symmetric(spectrum, seed=0):
    """A dense symmetric float64 matrix with the given eigenvalues and random eigenvectors."""
    spectrum = np.asarray(spectrum, np.float64)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(spectrum.size, spectrum.size)))
    return (q * spectrum) @ q.T


def _space(p, dtype=jnp.float32):
    """A tree of three leaves (a matrix, a vector, a scalar) with p entries."""
    return {"w": jnp.zeros((2, 3), dtype), "b": [jnp.zeros(p - 7, dtype), jnp.zeros((), dtype)]}


def _as_matvec(matrix, like):
    """The tree operator of a dense matrix in ravel order."""

    def matvec(v):
        flat = la.ravel_stack(jax.tree.map(lambda x: x[None], v))[0]
        return la.unravel_stack(jnp.matmul(matrix.astype(flat.dtype), flat, precision="highest"), like)

    return matvec


@pytest.fixture(scope="session")
def dense():
    """Namespace: ``symmetric(spectrum, seed)``, ``space(p, dtype)``, ``as_matvec(matrix, like)``."""
    return types.SimpleNamespace(symmetric=_symmetric, space=_space, as_matvec=_as_matvec)


@pytest.fixture
def mlp():
    """A function of dtype: parameters, model(params), output_loss, batch_loss and batch of a 3-5-4 tanh MLP."""

    def make(dtype=jnp.float32):
        rng = np.random.default_rng(7)
        normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
        params = {"in": {"kernel": normal(3, 5), "bias": normal(5)}, "out": normal(5, 4)}
        x = normal(6, 3)
        y = jnp.asarray(rng.integers(0, 4, 6))

        def apply(params, x):
            return jnp.tanh(x @ params["in"]["kernel"] + params["in"]["bias"][None]) @ params["out"]

        def cross_entropy(logits, y):
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

        return types.SimpleNamespace(
            params=params,
            batch={"x": x, "y": y},
            apply=apply,
            model=lambda params: apply(params, x),
            output_loss=lambda logits: cross_entropy(logits, y),
            batch_loss=lambda params, batch: cross_entropy(apply(params, batch["x"]), batch["y"]),
        )

    return make
