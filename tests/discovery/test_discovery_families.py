"""Each family against a count by hand, leaves and dtypes that are not the usual ones, and what is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtoolbox as eqt
from eqtoolbox import discovery
from eqtoolbox.discovery import null_space
from eqtoolbox.symmetry import DataDependentAction, batch_cocycle

LINEAR = {"u": np.ones((3, 4), np.float32), "v": np.ones((4, 2), np.float32)}
GL = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.GeneralLinear(4)})


def key(seed=0):
    return jax.random.key(seed)


def linear(p, x):
    return x @ p["u"] @ p["v"]


def radial(p, x):
    z = x @ p["u"]
    return z / (1 + jnp.sum(z * z, -1, keepdims=True)) @ p["v"]


def test_affine_generators():
    """a + b reads a sum: ξ_b = −ξ_a for any affine ξ_a on four numbers, 2 · 5 of them."""
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    family = discovery.affine_family(params)
    assert family.dimension == 20
    assert [family.label(a) for a in (1, 16, 19)] == ["a[0] moves by a[1]", "a[0] moves", "b[1] moves"]
    found = null_space(family, lambda p, x: x * (p["a"] + p["b"])[None], params, jnp.ones((4, 2)), key=key())
    assert (found.dimension, found.trivial, found.ambiguous) == (10, 0, False)
    assert discovery.affine_family(params, ["a"]).dimension == 6


def test_features_of_the_data():
    """x·θ on one datum: ξ = C x with xᵀCx = 0, so that C is skew; on other data it is no symmetry."""
    params, x = {"w": jnp.ones(3)}, jnp.ones((1, 3))
    family = discovery.feature_family(params, lambda p, x: x[0], x)
    assert (family.dimension, family.depends_on_data) == (9, True)
    assert family.label(5) == "w[1] moves by feature 2"
    find = lambda d: null_space(family, lambda p, x: x @ p["w"], params, x, key=key(), definition=d)  # noqa: E731
    found = find("data_dependent")
    assert found.dimension == 3
    matrices = found.vectors.reshape(-1, 3, 3)
    np.testing.assert_allclose(matrices, -matrices.transpose(0, 2, 1), atol=1e-12)
    assert find("functional").dimension == 0
    with pytest.raises(ValueError, match="does not fit the parameters and the data"):
        discovery.lie_algebra(found, params, key=key())  # without the data that it depends on


def test_the_generators_of_a_data_dependent_action():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 1))}
    action = DataDependentAction.mlp(params, ["a", "b"], batch_cocycle(jnp.tanh))
    family = discovery.action_family(action, params)
    assert (family.dimension, family.depends_on_data) == (4, True)
    apply = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
    found = null_space(family, apply, params, jnp.ones((2, 2)), key=key(), definition="data_dependent")
    assert (found.dimension, found.trivial) == (4, 0)
    with pytest.raises(TypeError, match=r"needs a symmetry\.DataDependentAction"):
        discovery.action_family(GL, params)


def test_matrices_of_low_rank_and_skew_ones():
    x = jnp.ones((4, 3))
    low = discovery.axis_family(LINEAR, GL, rank=2, key=key())
    assert low.dimension == 8
    assert "of rank 2" in low.name
    found = null_space(low, linear, LINEAR, x, key=key())
    new = discovery.novelty(found, GL, LINEAR, key=key(1))
    assert (found.dimension, new.new, new.unseen) == (4, 0, 12)
    every = null_space(
        GL, linear, LINEAR, x, key=key()
    )  # nothing but symmetries: no gap inside of the spectrum
    assert (every.dimension, every.ambiguous, every.gap > 1e9) == (16, False, True)
    skew = discovery.axis_family(LINEAR, GL, kind="skew")
    assert skew.dimension == 12
    assert skew.label(0) == "u axis 1 units 0, 1 rotated"
    assert null_space(skew, radial, LINEAR, x, key=key()).dimension == 6


def test_the_default_family_is_the_largest_that_fits():
    dimensions = [discovery.default_family(LINEAR, key=key(), most=n).dimension for n in (400, 60, 20, 8)]
    # gl(20); 9 + 16 + 16 + 4 matrix entries; 3 + 4 + 4 + 2 units; one unit of each of the four axes
    assert dimensions == [400, 45, 13, 4]
    with pytest.raises(ValueError, match="`most` must be at least 1"):
        discovery.default_family(LINEAR, key=key(), most=0)


def test_leaves_that_are_not_real_are_left_alone():
    """A step counter and a mask among the parameters."""
    params = {**LINEAR, "on": jnp.ones(3, bool), "step": jnp.int32(7)}
    plain = lambda p, x: linear(p, x * p["on"][None])  # noqa: E731
    for family in (
        discovery.axis_family(params, kind="diagonal"),
        discovery.axis_family({**LINEAR, "step": 7}, kind="diagonal"),
    ):
        assert family.dimension == 13
    family = discovery.axis_family(params, kind="diagonal")
    found = null_space(family, plain, params, jnp.ones((4, 3)), key=key())
    assert (found.dimension, found.trivial) == (4, 2)
    moved = found.field(np.ones(4), params)
    assert (int(moved["step"]), moved["on"].any()) == (0, False)
    algebra = discovery.lie_algebra(found, params, key=key())
    assert algebra.is_abelian
    assert algebra.residual < 1e-12
    new = discovery.novelty(found, GL, params, key=key())
    assert (new.new, new.unseen) == (0, 12)
    report = discovery.audit(
        plain, params, jnp.ones((4, 3)), known=GL, key=key(), family=family, dense_limit=10
    )
    assert report.parameters == 20
    assert report.level_set is None
    assert "20 parameters are more than dense_limit = 10; it would take 0.0 GiB" in str(report)
    with pytest.raises(ValueError, match="no leaf of real numbers"):
        discovery.linear_family({"step": jnp.int32(7)})


def test_parameters_in_bfloat16():
    """Computed in float64, so that nothing is lost; a network that casts to bfloat16 has no gap to see."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), LINEAR)
    family = discovery.axis_family(params, kind="diagonal")
    found = null_space(family, linear, params, jnp.ones((4, 3), jnp.bfloat16), key=key())
    assert (found.dimension, found.gap > 1e9) == (4, True)
    moved = found.field(np.ones(4, np.float32), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(moved)} == {jnp.dtype(jnp.bfloat16)}


def test_families_and_lifts_refuse():
    x = jnp.ones((4, 3))
    family = discovery.linear_family({"u": jnp.ones((2, 2))})
    for call in (
        lambda: null_space(family, linear, LINEAR, x, key=key()),
        lambda: null_space(GL, linear, {"u": jnp.ones((3, 5)), "v": jnp.ones((5, 2))}, x, key=key()),
    ):
        with pytest.raises(ValueError, match=r"does not fit|must have"):
            call()
    with pytest.raises(TypeError, match="must be a sequence of paths"):
        discovery.translation_family(LINEAR, "u")
    with pytest.raises(ValueError, match="return one vector"):
        discovery.feature_family(LINEAR, lambda p, x: x, x)
    with pytest.raises(ValueError, match="needs `data`"):
        discovery.feature_family(LINEAR, lambda p, x: x, None)
    with pytest.raises(ValueError, match="at least one family"):
        discovery.direct_sum()
    with pytest.raises(TypeError, match=r"direct_sum needs a discovery\.Family"):
        discovery.direct_sum("gl")
    with pytest.raises(ValueError, match="'full', 'diagonal' or 'skew'"):
        discovery.axis_family(LINEAR, kind="dense")
    with pytest.raises(ValueError, match="`units` or `rank`, not both"):
        discovery.axis_family(LINEAR, units=1, rank=1, key=key())
    with pytest.raises(ValueError, match="`rank` must be positive"):
        discovery.axis_family(LINEAR, rank=0, key=key())
    with pytest.raises(ValueError, match="no axis to act on"):
        discovery.axis_family({"a": jnp.ones(())})
    with pytest.raises(TypeError, match="discrete"):
        discovery.symmetry_family(eqt.Symmetry({"u": "_ h"}, {"h": eqt.groups.Permutation(4)}))
    good = discovery.axis_family(LINEAR, kind="diagonal")
    for options, message in (
        ({"spread": -1.0}, "`spread` must not be negative"),
        ({"equations": 0}, "`equations` must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            null_space(good, linear, LINEAR, x, key=key(), **options)
    with pytest.raises(ValueError, match="leading axis"):
        null_space(good, linear, LINEAR, jnp.float32(1.0), key=key())
    with pytest.raises(ValueError, match="NaN or infinite"):
        null_space(good, lambda p, x: jnp.sqrt(linear(p, x)), LINEAR, x, key=key())
    with pytest.raises(TypeError, match="audit needs an eqtoolbox"):
        discovery.audit(linear, LINEAR, x, known="gl", key=key())
    with pytest.raises(ValueError, match="up to 64 generators"):
        discovery.lie_algebra(SimpleNamespace(dimension=65), LINEAR, key=key())
    with pytest.raises(ValueError, match="leading axis"):
        discovery.symmetry_course(good, linear, {**LINEAR, "v": jnp.float32(1)}, x, key=key())
    with pytest.raises(ValueError, match="`units` must differ"):
        discovery.lift_wider(lambda g, p, x: p, {"u": 1}, [0, 0])
    with pytest.raises(ValueError, match="must not be empty"):
        discovery.lift_wider(lambda g, p, x: p, {"u": 1}, [])
    with pytest.raises(ValueError, match=r"among the 4 of leaf `u`, got \(0, 4\)"):
        discovery.lift_wider(lambda g, p, x: p, {"u": 1}, [0, 4])(None, LINEAR, x)
    with pytest.raises(ValueError, match="must add samples"):
        discovery.lift_smaller_batch(lambda g, p, x: p, lambda x: x, x)
    with pytest.raises(ValueError, match="must keep the samples"):
        discovery.lift_smaller_batch(lambda g, p, x: p, lambda x: jnp.zeros((9, 3)), x)


def test_learning_refuses():
    draw = lambda key: (jnp.ones(2), jnp.ones(2))  # noqa: E731
    losses = lambda p, x: jnp.sum(p * x)[None]  # noqa: E731
    for options, error, message in (
        ({"count": 0}, ValueError, "`count` must be at least 1"),
        ({"steps": 1.5}, TypeError, "`steps` must be an integer"),
        ({"batch": 0}, ValueError, "`batch` must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            discovery.learn(key(), losses, draw, **options)
    with pytest.raises(ValueError, match="`losses` must return a vector"):
        discovery.learn(key(), lambda p, x: jnp.sum(p), draw)
    with pytest.raises(TypeError, match="`draw` must return"):
        discovery.learn(key(), losses, lambda key: jnp.ones(2))
