"""The grammar of axis labels: what it reads, how it writes, what it refuses."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqtoolbox.groups import Exponent, Term
from eqtoolbox.symmetry import Atom, LeafLabel, parse_label


def one(space, exponent=1, size=None):
    return ((Atom(space, size, Exponent.of(exponent)),),)


FREE = ((Atom(None),),)

#: Text -> (axes, whole).
READINGS = {
    "": ((), ()),
    "_ hidden": ((FREE, one("hidden")), ()),
    "hidden* _": ((one("hidden", -1), FREE), ()),
    "h^-1/2 h^0 h^2": ((one("h", Fraction(-1, 2)), one("h", 0), one("h", 2)), ()),
    "h^-1": ((one("h", -1),), ()),
    "h{a:1, b:-2}": ((one("h", [Term("a", Fraction(1)), Term("b", Fraction(-2))]),), ()),
    "h{gain[layers]:1,gain[3]:-1/3}": (
        (one("h", [Term("gain", Fraction(1), "layers"), Term("gain", Fraction(-1, 3), 3)]),),
        (),
    ),
    "emb (heads dim*)": ((one("emb"), ((Atom("heads"), Atom("dim", None, Exponent.of(-1))),)), ()),
    "(a b + c^2 + 4)": (
        (((Atom("a"), Atom("b")), (Atom("c", None, Exponent.of(2)),), (Atom(None, 4),)),),
        (),
    ),
    "... h": ((None, one("h")), ()),
    "h ...": ((one("h"), None), ()),
    "_ 3 height=8": ((FREE, ((Atom(None, 3),),), one("height", size=8)), ()),
    "_ | t^-1 s": ((FREE,), (Atom("t", None, Exponent.of(-1)), Atom("s"))),
    "| t": ((), (Atom("t"),)),
    "(h)": ((one("h"),), ()),
}


@pytest.mark.parametrize("text", READINGS)
def test_a_label_is_read_as_documented(text):
    axes, whole = READINGS[text]
    assert parse_label(text) == LeafLabel(axes, whole)
    assert parse_label(f"  {text}  ") == LeafLabel(axes, whole)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("h^-1   _", "h* _"),
        ("(h) (_)", "h _"),
        ("h^1", "h"),
        ("h^4/2", "h^2"),
        ("h{ a : 2/4 }", "h{a:1/2}"),
        ("( a  b+c )|t", "(a b + c) | t"),
    ],
)
def test_str_gives_the_canonical_spelling(text, canonical):
    assert str(parse_label(text)) == canonical


NAMES = st.sampled_from(["h", "emb", "layer_2", "_x", "H", "größe"])
POWERS = st.fractions(-3, 3, max_denominator=4)
TERMS = st.lists(
    st.builds(Term, NAMES, POWERS, st.none() | NAMES | st.integers(0, 12)),
    min_size=1,
    max_size=3,
    unique_by=lambda t: (t.name, t.index),
)
EXPONENTS = st.builds(Exponent.of, POWERS) | st.builds(Exponent.of, TERMS)
SPACES = st.builds(Atom, NAMES, st.none() | st.integers(1, 99), EXPONENTS)
FIXED = st.builds(Atom, st.none(), st.none() | st.integers(1, 99))
SEGMENTS = st.lists(SPACES | FIXED, min_size=1, max_size=3).map(tuple)
AXES = st.lists(SEGMENTS, min_size=1, max_size=3).map(tuple)


@st.composite
def leaf_labels(draw):
    axes = draw(st.lists(AXES, max_size=3))
    if draw(st.booleans()):
        axes.insert(draw(st.integers(0, len(axes))), None)
    return LeafLabel(tuple(axes), tuple(draw(st.lists(SPACES, max_size=2))))


@settings(max_examples=80)
@given(leaf_labels())
def test_writing_and_reading_are_inverse(label):
    assert parse_label(str(label)) == label
    assert hash(parse_label(str(label))) == hash(label)


@pytest.mark.parametrize(
    ("text", "position", "rule"),
    [
        ("_ h-1", 2, "cannot be read"),
        ("h? _", 0, "cannot be read"),
        ("h* *", 3, "cannot be read"),
        ("h^ 2", 0, "cannot be read"),
        ("h^1/0 _", 0, "divides by zero"),
        ("_ h{a:3/0}", 2, "divides by zero"),
        ("a (b (c))", 5, "a parenthesis cannot stand inside another"),
        ("a | (b)", 4, "a parenthesis cannot stand inside another or after '|'"),
        ("a )", 2, "no product of spaces before this ')'"),
        ("()", 1, "no product of spaces before this ')'"),
        ("(a + )", 5, "no product of spaces before this ')'"),
        ("a + b", 2, "'+' joins products inside parentheses"),
        ("(+ b)", 1, "'+' joins products inside parentheses"),
        ("a | b | c", 6, "'|' stands once, after the axes"),
        ("(a | b)", 3, "'|' stands once, after the axes"),
        ("... a ...", 6, "'...' stands once, for whole axes"),
        ("(...)", 1, "'...' stands once, for whole axes"),
        ("a | ...", 4, "'...' stands once, for whole axes"),
        ("a | _", 4, "only spaces can act on the leaf as a whole"),
        ("a | 3", 4, "only spaces can act on the leaf as a whole"),
        ("a (b c", 6, "')' is missing"),
        ("a 0", 2, "a size must be positive"),
        ("a=0 b", 0, "a size must be positive"),
        ("a _*", 2, "'_' is a fixed axis: it has no size and no exponent"),
        ("_=3", 0, "'_' is a fixed axis: it has no size and no exponent"),
        ("_ h{}", 2, "cannot read the exponent ''"),
        ("h{a}", 0, "cannot read the exponent 'a', expected name:number"),
        ("h{a:1.5}", 0, "cannot read the exponent 'a:1.5', expected name:number"),
        ("h{a:1, a:2}", 0, "'a:2' gives a second exponent to one name"),
        ("h{g[0]:1, g[0]:2}", 0, "gives a second exponent to one name"),
    ],
)
def test_a_text_outside_the_grammar_is_refused_with_its_place(text, position, rule):
    with pytest.raises(ValueError, match="label ") as error:
        parse_label(text)
    message = str(error.value)
    assert rule in message
    assert repr(text) in message
    assert f"at position {position}: {text[position:]!r}" in message


def test_atoms_and_map_atoms_reach_every_atom():
    label = parse_label("a (b + c 2) ... | t")
    assert [a.space for a in label.atoms] == ["a", "b", "c", None, "t"]
    upper = label.map_atoms(lambda a: Atom(a.space and a.space.upper(), a.size, a.exponent))
    assert str(upper) == "A (B + C 2) ... | T"
