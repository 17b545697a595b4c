"""Activation functions of the zoo, by name.

The names matter to a symmetry: an activation decides which group a hidden layer carries.
"""

from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax import Array

Activation = Callable[[Array], Array]


def radial(z: Array) -> Array:
    r"""Radial activation :math:`\sigma(z) = z / \sqrt{1 + |z|^2}` of vectors on the last axis.

    It is not pointwise; it commutes with every orthogonal matrix, :math:`\sigma(gz) = g\,\sigma(z)` for
    :math:`g \in O(n)`, and it is smooth at the origin.

    Args:
      z: Array of shape ``(..., n)``.

    Returns:
      Array of shape ``(..., n)`` and of the dtype of ``z``.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 1.2.6.
    """
    return z * jax.lax.rsqrt(1 + jnp.sum(jnp.square(z), axis=-1, keepdims=True))


def relu2(z: Array) -> Array:
    """Squared ReLU, ``max(z, 0)**2``: positively homogeneous of degree two."""
    return jnp.square(jax.nn.relu(z))


def _identity(z: Array) -> Array:
    return z


_ACTIVATIONS: MappingProxyType[str, Activation] = MappingProxyType(
    {
        "identity": _identity,
        "linear": _identity,
        "relu": jax.nn.relu,
        "leaky_relu": jax.nn.leaky_relu,
        "relu2": relu2,
        "square": jnp.square,
        "tanh": jnp.tanh,
        "sin": jnp.sin,
        "softsign": jax.nn.soft_sign,
        "hard_tanh": jax.nn.hard_tanh,
        "gelu": jax.nn.gelu,
        "silu": jax.nn.silu,
        "sigmoid": jax.nn.sigmoid,
        "radial": radial,
    }
)


def activations() -> MappingProxyType[str, Activation]:
    """All activations of the zoo.

    The group of one hidden layer of an MLP with biases follows from the name:

    ==================================== ==============================================
    names                                group
    ==================================== ==============================================
    identity, linear                     GL(n)
    radial                               O(n)
    tanh, sin, softsign, hard_tanh       B(n), signed permutations (odd functions)
    relu, leaky_relu                     S(n) with positive scalings of degree 1
    relu2                                S(n) with positive scalings of degree 2
    square                               S(n) with non-zero scalings of degree 2
    gelu, silu, sigmoid                  S(n)
    ==================================== ==============================================

    Returns:
      A read-only mapping from name to function; each function preserves shape and dtype.
    """
    return _ACTIVATIONS


def activation(name: str) -> Activation:
    """The activation called ``name``.

    Raises:
      ValueError: If there is none of that name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {sorted(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]


def require_positive(**sizes: int) -> None:
    """Checks the sizes a module was built with.

    Raises:
      ValueError: If one is not a positive integer; names it.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {size!r}")


def require_widths(name: str, widths: tuple[int, ...], least: int = 1) -> None:
    """Checks a tuple of widths.

    Raises:
      ValueError: If it has fewer than ``least`` entries or one is not a positive integer.
    """
    if len(widths) < least:
        raise ValueError(f"`{name}` must have at least {least} entries, got {widths!r}")
    require_positive(**{f"{name}[{i}]": width for i, width in enumerate(widths)})
