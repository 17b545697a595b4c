"""`inference.check`: it sees a wrong symmetry, one that is too small, and counts what is of another kind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Symmetry, groups, infer_symmetry, inference
from eqtoolbox.symmetry import catalog

#: Orbit dimension, affine redundancies and nullity of the Jacobian. What is left is of yet another kind: for the
#: normalisation what its gain and its null direction make redundant, for maxout a shift w common to the two pieces of
#: each unit with w V = 0, V the kernel of shape (6, 3) after it: 4 · 3.
COUNTS = {
    "deep_linear": (76, 0, 76),
    "deep_linear_bias": (83, 6, 89),
    "softmax_classifier": (0, 7, 7),
    "dense_norm_dense": (7, 15, 41),
    "maxout": (6, 6, 24),
}
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", COUNTS)
def test_orbits_and_flat_directions_of_the_catalogue(name, x64):
    (model,) = catalog.models(name)
    sym = infer_symmetry(model.apply, model.params, model.inputs, verify=False)
    report = inference.check(sym, model.apply, model.params, model.inputs, key=KEY)
    assert (report.orbit_dimension, report.affine, report.nullity) == COUNTS[name]
    assert report.unexplained == report.nullity - report.orbit_dimension - report.affine
    assert report.gap > 1e3
    assert report.sound
    assert report.max_error < 1e-12
    assert report.maximal, report.missing
    assert len(report.errors) > 1


def layer(f):
    return lambda p, x: f(x @ p["a"]) @ p["b"]


def small(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return (
        {"a": jnp.asarray(rng.normal(size=(4, 5)), dtype), "b": jnp.asarray(rng.normal(size=(5, 3)), dtype)},
        jnp.asarray(rng.normal(size=(6, 4)), dtype),
    )


@pytest.mark.parametrize(
    ("f", "group", "what"),
    [
        (jnp.tanh, groups.Permutation(5), "a sign of one unit on a[1], b[0]"),
        (jax.nn.relu, groups.Permutation(5), "3 generators that mix the units on a[1], b[0]"),
        (lambda h: h, groups.Orthogonal(5), "6 generators that mix the units on a[1], b[0]"),
    ],
)
def test_a_group_that_is_too_small_is_seen(f, group, what, monkeypatch):
    """A rule that asks for too much; or labels of a smaller group written by hand."""
    params, x = small()
    if f is jnp.tanh:
        monkeypatch.setitem(inference.rules(), "tanh", inference.rules()["exp"])
    report = inference.check(Symmetry({"a": "_ h", "b": "h* _"}, {"h": group}), layer(f), params, x, key=KEY)
    assert report.sound
    assert not report.maximal
    assert what in report.missing
    assert f"missing: {what}" in str(report)


def test_a_group_that_is_too_large_is_seen_in_every_shape():
    params, x = small()
    sym = Symmetry({"a": "_ h", "b": "h* _"}, {"h": groups.Monomial(5, 1)})
    report = inference.check(sym, layer(jnp.tanh), params, x, key=KEY)
    assert not report.sound
    assert len(report.errors) == 2
    assert min(report.errors.values()) > 1e-2


def test_a_symmetry_of_one_shape_alone_is_seen():
    """With six rows the sum of signs vanishes; with five it does not."""

    def apply(p, x):
        signs = (-1.0) ** jnp.arange(x.shape[0])
        return jnp.tanh(x @ p["a"]) @ p["b"] + jnp.sum(signs) * jnp.sum(p["b"])

    params, x = small()
    sym = Symmetry({"a": "_ h", "b": "h _"}, {"h": groups.SignFlip(5)})
    errors = inference.check(sym, apply, params, x, key=KEY).errors
    assert errors["the shapes given"] < 1e-12
    assert errors["5 instead of 6 on axis 0"] > 1e-2


def test_leaves_that_the_outputs_do_not_see_are_named():
    params, x = small()
    params["c"] = jnp.ones(4)
    apply = layer(jnp.tanh)
    report = inference.check(infer_symmetry(apply, params, x), apply, params, x, key=KEY)
    assert report.unseen == ("c",)
    assert report.unexplained == 0 if report.orbit_dimension else report.nullity == 4
    assert report.maximal


def test_a_large_model_is_only_checked_by_random_elements():
    params, x = small()
    sym = infer_symmetry(layer(jnp.tanh), params, x)
    report = inference.check(sym, layer(jnp.tanh), params, x, key=KEY, max_parameters=34)
    assert (report.parameters, report.nullity, report.orbit_dimension, report.maximal) == (
        35,
        None,
        None,
        None,
    )
    assert report.sound
    assert "35 parameters are too many" in str(report)


def test_bad_input_is_refused():
    params, x = small()
    sym = infer_symmetry(layer(jnp.tanh), params, x)
    with pytest.raises(TypeError, match="a check needs arrays, got ShapeDtypeStruct"):
        inference.check(sym, layer(jnp.tanh), params, jax.ShapeDtypeStruct((6, 4), jnp.float32), key=KEY)
    with pytest.raises(TypeError, match=r"the check of a symmetry needs an eqtoolbox\.Symmetry"):
        inference.check("tanh", layer(jnp.tanh), params, x, key=KEY)
    with pytest.raises(ValueError, match="`samples` must be at least 1, got 0"):
        inference.check(sym, layer(jnp.tanh), params, x, key=KEY, samples=0)
    with pytest.raises(TypeError, match=r"`max_parameters` must be an integer, got 2\.5"):
        inference.check(sym, layer(jnp.tanh), params, x, key=KEY, max_parameters=2.5)
    with pytest.raises(ValueError, match="label"):
        inference.check(sym, layer(jnp.tanh), {"a": params["a"]}, x, key=KEY)
