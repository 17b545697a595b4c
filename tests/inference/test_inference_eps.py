"""What is broken only by the small constants of normalisations, apart from the exact group."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from eqtoolbox import groups, infer_symmetry, inference
from eqtoolbox.symmetry import catalog


def normalised(eps, floor=False):
    """Features divided by their length, kept from zero by a constant."""

    def apply(p, x):
        h = x @ p["a"]
        square = jnp.sum(h**2, -1, keepdims=True)
        return h * jax.lax.rsqrt(jnp.maximum(square, eps) if floor else square + eps) @ p["b"]

    return apply


def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (3, 4), (4, 2), (5, 3)
    a, b, x = (jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, shapes, strict=True))
    return {"a": a, "b": b}, x


@pytest.mark.parametrize("floor", [False, True])
def test_the_scale_of_what_is_normalised_is_broken_by_eps_alone(floor, x64):
    params, x = arrays()
    found = inference.infer_up_to_eps(normalised(1e-6, floor), params, x)
    assert [str(g) for g in found.symmetry.groups.values()] == ["O(4)", "R₊"]
    assert found.symmetry.axes["a"].endswith("| t1")
    assert [str(g) for g in found.exact.groups.values()] == ["O(4)"]
    assert [(round(n, 9), place.split()[0]) for place, n in found.neglected] == [
        (1e-6, "max" if floor else "add")
    ]
    assert infer_symmetry(normalised(1e-6, floor), params, x) == found.exact
    assert "broken only by constants" in str(found)


def test_the_error_is_that_of_the_constant(x64):
    """Proportional to ε: what is found is exact where ε is zero."""
    params, x = arrays()
    coarse, fine = (inference.infer_up_to_eps(normalised(eps), params, x).error for eps in (1e-4, 1e-8))
    assert 1e-7 < coarse < 1e-2
    assert coarse / fine == pytest.approx(1e4, rel=0.02)


def test_constants_that_are_no_eps_are_kept():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    found = inference.infer_up_to_eps(normalised(1e-2), params, jnp.ones((5, 3)))
    assert found.symmetry == found.exact
    assert not found.neglected
    assert inference.infer_up_to_eps(normalised(1e-2), params, jnp.ones((5, 3)), largest=0.1).neglected


@pytest.mark.parametrize(
    ("name", "more"), [("dense_norm_dense", 1), ("resnet_batch", 20), ("transformer", 1)]
)
def test_normalised_models(name, more, x64):
    """A layer normalisation does not see one scale for all, a batch normalisation none of each channel."""
    (model,) = catalog.models(name)
    shapes = jax.eval_shape(lambda: (model.params, model.inputs))
    found = inference.infer_up_to_eps(model.apply, *shapes)
    assert found.error is None
    assert found.symmetry.dimension == found.exact.dimension + more


def test_whole_leaves_on_request(x64):
    """Each of two kernels whose features have unit length may be scaled."""
    (model,) = catalog.models("unit_queries")
    plain = infer_symmetry(model.apply, model.params, model.inputs)
    more = infer_symmetry(model.apply, model.params, model.inputs, whole_leaves=True)
    assert more.dimension == plain.dimension + 2
    assert sum(isinstance(g, groups.Scaling) for g in more.groups.values()) == 2
    report = inference.check(more, model.apply, model.params, model.inputs, key=jax.random.key(0))
    assert report.sound
    assert report.unexplained == 0


def test_bad_input_is_refused():
    params, x = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}, jnp.ones((5, 3))
    with pytest.raises(ValueError, match=r"`largest` must be positive, got 0\.0"):
        inference.infer_up_to_eps(normalised(1e-6), params, x, largest=0.0)
    with pytest.raises(TypeError, match="`largest` must be a real number, got 'small'"):
        inference.infer_up_to_eps(normalised(1e-6), params, x, largest="small")
    with pytest.raises(ValueError, match=r"the pattern 'c\*' of `frozen` matches none"):
        inference.infer_up_to_eps(normalised(1e-6), params, x, frozen=["c*"])
