"""Exports, and agreement with the permutation specs that were written by hand and published."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from rebasin_models import PUBLISHED

from eqtoolbox import Symmetry, groups, infer_symmetry, inference

#: Positive scalings that the published specs leave out: one per hidden unit, channel of a convolution or of the
#: residual stream; with the running statistics acted on, one more for each channel of a batch normalisation.
SCALINGS = {
    "mlp": 8 + 7 + 6,
    "vgg16": 2 * 4 + 2 * 8 + 3 * 16 + 6 * 32 + 2 * 32,
    "resnet20": (3 + 1) * (4 + 8 + 16),
    "resnet50": (4 + 16 + 32 + 64 + 128)
    + 2 * (3 * 4 + 4 * 8 + 6 * 16 + 3 * 32)
    + 4
    + 2 * (3 * 4 + 4 * 8 + 6 * 16 + 3 * 32)
    + (4 * 16 + 5 * 32 + 7 * 64 + 4 * 128),
}


def places(axes_to_perm):
    """The sets of (leaf, axis) that are permuted together."""
    found = {}
    for path, spaces in axes_to_perm.items():
        for i, space in enumerate(spaces):
            if space is not None:
                found.setdefault(space, set()).add((path, i))
    return sorted(map(sorted, found.values()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_permutations_are_those_of_the_published_specs(name):
    module, shape, published = PUBLISHED[name]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    sym = infer_symmetry(lambda v, x: module.apply(v, x), variables, x)
    spec = inference.permutation_spec(sym, variables)
    own = {
        path.removeprefix("params/"): spaces
        for path, spaces in spec.axes_to_perm.items()
        if path.startswith("params/")
    }
    assert own.keys() == published.keys()
    assert places(own) == places(published)
    assert sym.dimension == SCALINGS[name]


def test_axis_integers_of_a_published_example():
    """The example of universal neural functionals, with the input and output fixed as they are here."""
    params = {
        "Dense_0": {"kernel": jnp.ones((7, 5)), "bias": jnp.ones(5)},
        "Dense_1": {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)},
    }

    def apply(p, x):
        h = jax.nn.relu(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None])
        return h @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"][None]

    sym = infer_symmetry(apply, params, jnp.ones((4, 7)))
    found = inference.axis_integers(sym, params)
    (h,) = found["Dense_0"]["bias"]
    (classes,) = found["Dense_1"]["bias"]
    (inputs, also) = found["Dense_0"]["kernel"]
    assert also == h == 0
    assert found["Dense_1"]["kernel"] == (h, classes)
    assert len({inputs, h, classes}) == 3
    assert jax.tree.structure(params) == jax.tree.structure(found, is_leaf=lambda x: isinstance(x, tuple))


def test_labels_as_a_tree():
    params = {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2)), "w": jnp.ones(2)}
    sym = infer_symmetry(lambda p, x: jnp.tanh(x @ p["u"]) @ p["v"] + p["w"][None], params, jnp.ones((5, 3)))
    labels = inference.axis_labels(sym, params)
    assert Symmetry({k: v for k, v in labels.items() if v != "..."}, sym.groups) == sym
    assert labels["w"] == "..."


def test_matrix_groups_and_heads_count_as_the_permutations_they_contain():
    sym = Symmetry(
        {"q": "_ heads k", "o": "heads k* _", "s": "r", "f": "p"},
        {
            ("heads", "k"): groups.Wreath(groups.GeneralLinear(3), groups.Permutation(2)),
            "r": groups.PositiveScaling(5),
            "p": groups.Stabiliser(groups.Orthogonal(4)),
        },
    )
    params = {"q": jnp.ones((6, 2, 3)), "o": jnp.ones((2, 3, 6)), "s": jnp.ones(5), "f": jnp.ones(4)}
    assert inference.permutation_spec(sym, params).axes_to_perm == {
        "q": (None, "heads", "k"),
        "o": ("heads", "k", None),
        "s": (None,),
        "f": ("p",),
    }


def test_a_permutation_of_part_of_an_axis_is_refused_or_left_out():
    sym = Symmetry(
        {"a": "h", "b": "(h + 2)", "c": "(2 h)", "d": "k"},
        {"h": groups.Permutation(3), "k": groups.Permutation(4)},
    )
    params = {"a": jnp.ones(3), "b": jnp.ones(5), "c": jnp.ones(6), "d": jnp.ones(4)}
    with pytest.raises(
        ValueError, match="the permutation of 'h' acts on a part or a factor of leaf 'c', axis 0"
    ):
        inference.permutation_spec(sym, params)
    spec = inference.permutation_spec(sym, params, partial=True)
    assert spec.perm_to_axes == {"k": [("d", 0)]}
    with pytest.raises(TypeError, match=r"an export needs an eqtoolbox\.Symmetry"):
        inference.axis_labels(3, params)
