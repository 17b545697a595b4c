"""Inferred symmetries of the models of the catalogue, against the labels written by hand."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit

from eqtoolbox import infer_symmetry, inference
from eqtoolbox.symmetry import catalog

#: The same group, written otherwise: R* as R₊ × Z₂, factors of a product in another order or one wreath further in.
WRITTEN_OTHERWISE = {
    "grouped_queries": {"(GL(5)×GL(5)×S(3))≀S(2)": "(GL(5)×S(3)×GL(5))≀S(2)"},
    "transformer": {"S(8)⋉(R*^5)^8": "S(8)⋉(R₊^5×Z₂^5)^8"},
    "transformer_tied": {"S(8)⋉(R*^4)^8": "S(8)⋉(R₊^4×Z₂^4)^8"},
    "transformer_scan": {
        "S(8)⋉(R*^6)^8": "S(8)⋉(R₊^6×Z₂^6)^8",
        "((GL(3)×GL(3))≀S(2))^3": "((GL(3)×GL(3))≀S(2)×S(10))^3",
        "S(10)^3": None,
    },
}
FROZEN = {"lora_frozen": ["*base*"]}


@pytest.mark.parametrize("name", catalog.model_names())
def test_the_groups_are_those_of_the_labels_written_by_hand(name, x64):
    (model,) = catalog.models(name)
    frozen = [p for p in FROZEN.get(name, []) if any("base" in path for path in model.symmetry.axes)]
    found = infer_symmetry(model.apply, model.params, model.inputs, frozen=frozen, verify=False)
    other = WRITTEN_OTHERWISE.get(name, {})
    expected = [other.get(str(g), str(g)) for g in model.symmetry.groups.values()]
    groups = sorted(str(g) for g in found.groups.values())
    if name == "lora_frozen" and not frozen:
        groups.remove("S(7)")  # the base moves along where it is not frozen
    assert groups == sorted(g for g in expected if g is not None)
    assert found.dimension == model.symmetry.dimension


@pytest.mark.parametrize(
    "name",
    ["transformer_scan", "fused_qkv", "resnet_group", "grouped_queries", "lstm", "maxout", "soft_experts"],
)
def test_outputs_do_not_change_under_random_elements(name, x64):
    """Also away from the parameters given, and at the models with the most involved labels."""
    (model,) = catalog.models(name)
    sym = infer_symmetry(model.apply, model.params, model.inputs, verify=False)

    @quick_jit
    def both(key, params):
        point = sym.act(sym.sample(key), params)
        pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, point)
        return point, jax.vmap(model.apply, (0, None))(pair, model.inputs)

    params = jax.tree.map(lambda p: np.asarray(p) * 1.1, model.params)
    point, (outputs, moved) = jax.device_get(both(jax.random.key(1), params))
    assert np.abs(outputs - moved).max() <= 1e-10 * max(1, np.abs(outputs).max())
    assert any(
        np.abs(a - b).max() > 1e-2 for a, b in zip(*map(jax.tree.leaves, (point, params)), strict=True)
    )


def test_shapes_are_enough_and_give_the_same():
    (model,) = catalog.models("transformer")
    shapes = jax.eval_shape(lambda: model.params), jax.eval_shape(lambda: model.inputs)
    assert infer_symmetry(model.apply, *shapes) == infer_symmetry(
        model.apply, model.params, model.inputs, verify=False
    )


def test_the_explanation_names_what_took_a_larger_group_away():
    """Group, operation, its line and the line that leads there."""
    (model,) = catalog.models("attention")
    text = str(inference.explain(infer_symmetry(model.apply, model.params, model.inputs, verify=False)))
    assert re.search(r"lost GL\(8\): reduce_sum normalization\.py:\d+ <- _transformer\.py:\d+", text)
    (model,) = catalog.models("mlp_relu")
    text = str(inference.explain(infer_symmetry(model.apply, model.params, model.inputs, verify=False)))
    assert re.search(r"lost GL\(7\): max in relu at _mlp\.py:\d+", text)
    assert re.search(r"lost signs: max in relu at _mlp\.py:\d+", text)
    (model,) = catalog.models("mlp_gelu")
    (first, _) = inference.explain(
        infer_symmetry(model.apply, model.params, model.inputs, verify=False)
    ).spaces
    assert [text.split(": ")[0] for text in first.lost] == ["O(7)", "scalings", "signs"]
    (model,) = catalog.models("deep_linear")
    found = inference.explain(infer_symmetry(model.apply, model.params, model.inputs, verify=False))
    assert (found.dimension, found.orbit_dimension) == (85, 76)
    assert str(found).startswith("group of dimension 85, orbits of dimension 76")
    (model,) = catalog.models("dense_norm_dense")
    sym = infer_symmetry(model.apply, model.params, model.inputs, verify=False)
    text = str(inference.explain(sym))
    assert "pinned" in text
    assert not inference.explain(sym).unknown
    with pytest.raises(ValueError, match="not inferred in this process"):
        inference.explain(model.symmetry.at("elsewhere"))
    with pytest.raises(TypeError, match=r"explain needs an eqtoolbox\.Symmetry"):
        inference.explain(3)
