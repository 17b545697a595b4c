"""Exact elimination against dense arithmetic, and piecewise linear functions against evaluation."""

from __future__ import annotations

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqtoolbox.inference._exact import in_span, parity_solutions, solutions
from eqtoolbox.inference._jaxpr import trace
from eqtoolbox.inference._piecewise import function_of, is_homogeneous, is_odd

COLUMNS = 6
MATRICES = st.lists(st.lists(st.integers(-2, 2), min_size=COLUMNS, max_size=COLUMNS), max_size=5)


@given(MATRICES, st.integers(1, COLUMNS))
def test_solutions_are_the_null_space_without_the_other_variables(rows, kept):
    forms = [{i: Fraction(v) for i, v in enumerate(row) if v} for row in rows]
    basis = solutions(forms, range(kept))
    dense = np.array(rows, float).reshape(-1, COLUMNS)
    _, s, vh = np.linalg.svd(dense, full_matrices=True) if len(dense) else (0, [], np.eye(COLUMNS))
    null = vh[int(np.sum(np.asarray(s) > 1e-9)) :]
    shown = null[:, :kept]
    rank = np.linalg.matrix_rank(shown, tol=1e-9) if shown.size else 0
    assert len(basis) == rank
    vectors = np.array([[float(b.get(i, 0)) for i in range(kept)] for b in basis]).reshape(-1, kept)
    assert np.linalg.matrix_rank(np.vstack([shown, vectors]), tol=1e-9) == rank
    assert all(in_span(b, basis) for b in basis)


@given(MATRICES, st.integers(1, COLUMNS))
def test_parity_solutions_are_those_found_by_trying_all(rows, kept):
    parities = [frozenset(i for i, v in enumerate(row) if v % 2) for row in rows]
    basis = parity_solutions(parities, range(kept))
    found = {frozenset()}
    for b in basis:
        found |= {f ^ b for f in found}
    tried = {
        frozenset(i for i in range(kept) if bits[i])
        for bits in itertools.product((0, 1), repeat=COLUMNS)
        if all(sum(bits[i] for i in p) % 2 == 0 for p in parities)
    }
    assert found == tried
    assert len(found) == 2 ** len(basis)


@pytest.mark.parametrize(
    ("f", "odd", "homogeneous"),
    [
        (jax.nn.hard_tanh, True, False),
        (jax.nn.relu, False, True),
        (jax.nn.leaky_relu, False, True),
        (jax.nn.relu6, False, False),
        (jax.nn.hard_sigmoid, False, False),
        (lambda x: jnp.clip(x, -3, 3), True, False),
        (lambda x: jnp.clip(x, -3, 4), False, False),
        (lambda x: jnp.maximum(x, -x), False, True),
        (lambda x: jnp.abs(x - 1) - jnp.abs(x + 1), True, False),
        (lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0.0), True, False),  # soft threshold
        (lambda x: jnp.where(x >= 1, 1.0, jnp.where(x <= -1, -1.0, 0.0)), True, False),
        (lambda x: jnp.where(x >= 1, 1.0, jnp.where(x < -1, -1.0, 0.0)), False, False),  # not at -1
        (lambda x: 3 * x / 2, True, True),
    ],
)
def test_piecewise_linear_functions_are_read_exactly(f, odd, homogeneous):
    program = trace(f, jax.ShapeDtypeStruct((1,), jnp.float32))
    found = function_of(program, [None])
    assert found is not None
    assert (is_odd(found), is_homogeneous(found)) == (odd, homogeneous)
    for x in (*found.breaks, *(Fraction(n, 7) for n in range(-40, 41, 3))):
        below = sum(b < x for b in found.breaks)
        slope, intercept = found.lines[2 * below + (x in found.breaks)]
        np.testing.assert_allclose(f(jnp.array([float(x)]))[0], float(slope * x + intercept), atol=1e-6)


def test_other_functions_are_not_read():
    for f in (jnp.tanh, lambda x: x * x, lambda x: 1 / x, lambda x: x @ jnp.ones(1)):
        assert function_of(trace(f, jax.ShapeDtypeStruct((1,), jnp.float32)), [None]) is None
