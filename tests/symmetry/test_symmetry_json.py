"""Saving to JSON and reading back."""

import json

import pytest
from group_strategies import GROUPS, groups
from hypothesis import given, settings
from symmetry_strategies import any_symmetry, symmetry_of, trees

from eqtoolbox import Symmetry
from eqtoolbox.groups import GeneralLinear, Monomial, Stabiliser


@settings(max_examples=25)
@given(trees())
def test_labels_of_every_form_survive(drawn):
    _, sym = drawn
    again = Symmetry.from_json(sym.to_json())
    assert again == sym
    assert hash(again) == hash(sym)
    assert again.to_json() == sym.to_json()


@settings(max_examples=25)
@given(any_symmetry(groups()))
def test_groups_of_every_kind_survive(sym):
    again = Symmetry.from_json(sym.to_json())
    assert again == sym
    assert str(again) == str(sym)


def test_each_kind_of_group_survives():
    for group in GROUPS:
        sym = symmetry_of(group)
        assert Symmetry.from_json(sym.to_json()) == sym, group


def test_the_text_is_for_people_too():
    sym = Symmetry({"a": {"kernel": "_ h{a:1,b:-1/2}"}}, {"h": Monomial(3, ("a", "b"), 1)})
    assert json.loads(sym.to_json()) == {
        "format": "eqtoolbox.symmetry/1",
        "axes": {"a/kernel": "_ h{a:1,b:-1/2}"},
        "groups": [
            {"spaces": ["h"], "group": {"class": "Monomial", "n": 3, "scales": ["a", "b"], "signs": ["a"]}}
        ],
    }


TEXT = Symmetry({"w": "h _"}, {"h": Stabiliser(GeneralLinear(2), (1.0, 2.0))}).to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected the format 'eqtoolbox.symmetry/1', got 'list'"),
        ("{}", "expected the format 'eqtoolbox.symmetry/1', got None"),
        (TEXT.replace("symmetry/1", "symmetry/9"), "got 'eqtoolbox.symmetry/9'"),
        (TEXT.replace('"axes"', '"axis"'), "needs axes and groups; KeyError: 'axes'"),
        (TEXT.replace("GeneralLinear", "GeneralLinea"), "there is no group of class 'GeneralLinea'"),
        (TEXT.replace("GeneralLinear", "Exponent"), "there is no group of class 'Exponent'"),
        (TEXT.replace('"n"', '"m"'), "needs axes and groups; TypeError"),
        (TEXT.replace('"n": 2', '"n": 0'), "GeneralLinear: the size must be a positive integer, got 0"),
        (TEXT.replace("h _", "h ("), "leaf 'w': label 'h [(]'"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Symmetry.from_json(text)
