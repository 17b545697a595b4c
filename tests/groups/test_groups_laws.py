"""The laws every group obeys, checked in float64 against dense matrices of its action."""

import functools

import group_strategies as gs
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eqtoolbox.groups import Group

TOLERANCE = 1e-10
STEP = 1e-5  # of finite differences
TIMES = (1.0, -0.7, STEP, -STEP)
EVERY = pytest.mark.parametrize("group", gs.GROUPS, ids=str)
CONTINUOUS = pytest.mark.parametrize("group", [g for g in gs.GROUPS if g.dimension], ids=str)


@functools.cache
def laws(group: Group) -> dict:
    """Elements, algebra vectors and their matrices, as float64 NumPy arrays; one compilation per group.

    Elements of different origin go stacked through one vmapped call of each method: the graph stays small.
    """
    reps = gs.representations(group)
    slots = list(dict.fromkeys(rep.slots(group, dual=dual) for rep in reps for dual in (False, True)))
    shapes = {rep.slots(group, dual=dual): rep.shape(group) for rep in reps for dual in (True, False)}

    def compose(*pairs):
        left, right = (stack(side) for side in zip(*pairs, strict=True))
        product = gs.mapped(group.compose, left, right, count=len(pairs))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], product) for i in range(len(pairs))]

    def everything(samples, xi):
        a, b, c = samples
        e, inverse = group.identity(), group.inverse(a)
        ab, bc = compose((a, b), (b, c))
        ab_c, a_bc, ea, ae, left, right = compose(
            (ab, c), (a, bc), (e, a), (a, e), (a, inverse), (inverse, a)
        )
        found = {"associative": (ab_c, a_bc), "unit": (a, ea, ae), "inverse": (e, left, right)}
        elements = [a, b, ab, inverse, e]
        if group.dimension:
            curve = jax.vmap(lambda t: group.exp(jax.tree.map(lambda x: t * x, xi)))(jnp.array(TIMES))
            elements += [jax.tree.map(lambda leaf, i=i: leaf[i], curve) for i in range(len(TIMES))]
            found["log"] = (xi, group.log(elements[-len(TIMES)]))
            zero, unravel = jax.flatten_util.ravel_pytree(group.algebra_zero())
            found["xi"] = jax.flatten_util.ravel_pytree(xi)[0]
            found["basis"] = jax.vmap(
                lambda v: [gs.dense_tangent(group, unravel(v), s, shapes[s]) for s in slots]
            )(jnp.eye(zero.size))
        many, count = stack(elements), len(elements)
        found["contains"] = gs.mapped(group.contains, many, count=count)
        found["matrices"] = gs.mapped(
            lambda g: [gs.dense(group, g, s, shapes[s]) for s in slots], many, count=count
        )
        return found

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(3), 4)
        samples = [group.sample(k) for k in keys[:3]]
        xi = group.algebra_sample(keys[3])
        found = jax.tree.map(np.asarray, gs.quick_jit(everything)(samples, xi))
    for name in ("matrices", "basis"):
        found[name] = dict(zip(slots, found.get(name, ()), strict=False))
    return found


def stack(elements):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *elements)


def assert_near(first, *others):
    for other in others:
        np.testing.assert_allclose(gs.flat(other), gs.flat(first), rtol=TOLERANCE, atol=TOLERANCE)


@EVERY
def test_elements_form_a_group(group):
    found = laws(group)
    assert_near(*found["associative"])
    assert_near(*found["unit"])
    assert_near(*found["inverse"])
    assert np.all(found["contains"])


@EVERY
def test_action_is_a_homomorphism(group):
    """matrix(compose(a, b)) = matrix(a) matrix(b): compose acts as a after b."""
    found = laws(group)["matrices"]
    assert len(found) >= len(group.sizes)
    for a, b, ab, inverse, e, *_ in found.values():
        np.testing.assert_allclose(ab, a @ b, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(inverse @ a, np.eye(len(a)), rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_array_equal(e, np.eye(len(a)))


@EVERY
def test_dual_is_the_inverse_transpose_of_the_linear_part(group):
    found = laws(group)["matrices"]
    for rep in gs.representations(group):
        matrix, dual = found[rep.slots(group)][0], found[rep.slots(group, dual=True)][0]
        expected = np.linalg.inv(matrix[:-1, :-1]).T
        np.testing.assert_allclose(dual[:-1, :-1], expected, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_array_equal(dual[:-1, -1], 0)
        if group.is_linear:
            np.testing.assert_array_equal(matrix[:-1, -1], 0)


@CONTINUOUS
def test_exp_is_the_one_parameter_subgroup_generated_by_the_tangent(group):
    """matrix(exp(t ξ)) = expm(t · tangent of ξ), with a tangent that is linear in ξ."""
    found = laws(group)
    assert np.all(found["contains"])
    for slots, matrices in found["matrices"].items():
        tangent = np.einsum("a,aij->ij", found["xi"], found["basis"][slots])
        *curve, plus, minus = matrices[-len(TIMES) :]
        for t, matrix in zip(TIMES, curve, strict=False):
            np.testing.assert_allclose(matrix, scipy.linalg.expm(t * tangent), rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose((plus - minus) / (2 * STEP), tangent, rtol=1e-7, atol=1e-7)


@CONTINUOUS
def test_log_inverts_exp(group):
    assert_near(*laws(group)["log"])


@CONTINUOUS
def test_algebra_has_the_dimension_of_the_group_and_is_closed_under_brackets(group):
    """The basis vectors act as independent matrices, whose commutators are combinations of them."""
    matrices = list(laws(group)["basis"].values())
    vectors = np.concatenate([m.reshape(len(m), -1) for m in matrices], axis=1)
    assert vectors.shape[0] == group.dimension
    singular = np.linalg.svd(vectors, compute_uv=False)
    assert singular[-1] > 1e-3 * singular[0]
    brackets = [np.einsum("aij,bjk->abik", m, m) for m in matrices]
    brackets = [(b - b.swapaxes(0, 1)).reshape(group.dimension**2, -1) for b in brackets]
    brackets = np.concatenate(brackets, axis=1)
    coefficients = np.linalg.lstsq(vectors.T, brackets.T, rcond=None)[0]
    np.testing.assert_allclose(vectors.T @ coefficients, brackets.T, atol=TOLERANCE)


@pytest.mark.parametrize("group", [g for g in gs.GROUPS if not g.dimension], ids=str)
def test_finite_groups_have_a_zero_algebra_and_no_logarithm(group):
    assert group.order is not None
    assert group.is_compact
    zero = group.algebra_zero()
    assert sum(x.size for x in jax.tree.leaves(zero)) == 0
    assert jax.tree.structure(group.algebra_sample(jax.random.key(0))) == jax.tree.structure(zero)
    assert_near(group.exp(zero), group.identity())
    with pytest.raises(TypeError, match="finite: its elements have no logarithm"):
        group.log(group.identity())
    x = jnp.ones(gs.representations(group)[-1].shape(group))
    rep = gs.representations(group)[-1]
    np.testing.assert_array_equal(group.tangent_slots(zero, x, rep.slots(group, offset=0)), 0)


def check_laws(group: Group) -> None:
    test_elements_form_a_group(group)
    test_action_is_a_homomorphism(group)
    test_dual_is_the_inverse_transpose_of_the_linear_part(group)
    if group.dimension:
        test_exp_is_the_one_parameter_subgroup_generated_by_the_tangent(group)
        test_log_inverts_exp(group)
        test_algebra_has_the_dimension_of_the_group_and_is_closed_under_brackets(group)


@hypothesis.settings(max_examples=4)
@hypothesis.given(gs.groups(max_size=2, max_total=8))
def test_laws_of_random_groups(group):
    """The same for nested products and wreath products that nobody chose."""
    check_laws(group)


@pytest.mark.slow
@hypothesis.settings(max_examples=25)
@hypothesis.given(gs.groups())
def test_laws_of_many_random_groups(group):
    check_laws(group)
