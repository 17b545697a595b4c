"""Theorem 1 for an equivariance in which nothing is linear, by inverse maps and by linear solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import identities

TOLERANCE = 1e-9


def flat(stack):
    """A stack as a matrix."""
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(stack)], axis=1)


IDENTITIES = {
    "EQ-T1-i": identities.first_order,
    "EQ-T1-ii": identities.second_order,
    "EQ-T1-iii": identities.quadratic,
}


def measure(n, eq, claims=tuple(IDENTITIES), directions=None):
    """The identities of the nonlinear model, in all directions unless told."""

    @jax.jit
    def run(params, lam):
        return {
            claim: IDENTITIES[claim](eq, n.model, n.output_loss, params, lam, directions=directions)
            for claim in claims
        }

    return jax.device_get(run(n.params, n.lam))


@pytest.mark.claim("EQ-T1-i", "EQ-T1-ii", "EQ-T1-iii", "EQ-D2")
@pytest.mark.parametrize("way", ["given", "solved"])
def test_all_three_hold_away_from_the_identity(nonlinear, way, x64, record_claim):
    for claim, result in measure(nonlinear, getattr(nonlinear, way)).items():
        assert result.residual.shape == (3,)
        assert result.residual.max() < TOLERANCE, (claim, result.residual)
        # No term is small: the check means something for each of them.
        sizes = {name: np.abs(flat(term)).max(1) for name, term in result.terms.items()}
        assert np.min(list(sizes.values())) > 1e-3 * np.max(list(sizes.values())), sizes
        solves = result.solve_residual
        assert (solves == 0).all() if way == "given" else (solves > 0).any() and solves.max() < TOLERANCE
        record_claim(claim, measured=float(result.residual.max()), expected="<= 1e-9")


@pytest.mark.claim("EQ-T1-ii", "EQ-D2")
def test_gmres_takes_over_where_the_matrix_is_too_large(nonlinear, x64, monkeypatch):
    monkeypatch.setattr("eqtoolbox.identities._solve.DENSE_LIMIT", 5)
    along = {"s": 1.0, "t": jnp.asarray([-1.0, 2.0])}
    (result,) = measure(nonlinear, nonlinear.solved, ("EQ-T1-ii",), along).values()
    assert 0 < result.solve_residual < 1e-12
    assert result.residual < TOLERANCE
