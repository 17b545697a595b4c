"""The charge of activations that scale each row by a function of its length."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from eqtoolbox.noether._initial import activation_integral


def row_radial_charge(profile: Callable[[Array], Array], incoming: Array, outgoing: Array) -> Array:
    """½‖U_:a‖² - ∫₀^‖V_a:‖ G/G' dr with G(r) = r h(r), for each hidden unit a of U g(V), g(V)_a = h(‖V_a:‖) V_a:.

    Conserved by gradient flow for every loss of U g(V), unit by unit and from any start: Proposition 2.7.1 states
    the sum over units, after spectral initialisation.

    Args:
      profile: h, acting entry by entry on lengths; G = r h(r) must be strictly monotonic.
      incoming: V, shape (h, n), a row for each unit.
      outgoing: U, shape (m, h).

    Returns:
      Shape (h,).

    Raises:
      ValueError: the shapes do not fit.

    Reference:
      Zhao (2026), Proposition 2.7.1.
    """
    if jnp.ndim(incoming) != 2 or jnp.ndim(outgoing) != 2 or incoming.shape[0] != outgoing.shape[1]:
        raise ValueError(
            f"`incoming` must be (h, n) and `outgoing` (m, h), got {jnp.shape(incoming)} and {jnp.shape(outgoing)}"
        )
    lengths = jnp.sqrt(jnp.sum(incoming**2, 1))
    return jnp.sum(outgoing**2, 0) / 2 - activation_integral(lambda r: r * profile(r), lengths)
