"""Functions made to mislead the analysis: what it finds is exact, and what is not a symmetry is not found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import ENDS, OPERATIONS, Recipe
from soundness import judge

from eqtoolbox import infer_symmetry, inference

N = 6


def act(f):
    """A hidden layer with an activation."""
    return lambda p, x: f(x @ p["A"]) @ p["B"]


#: name -> (function, groups as text)
FUNCTIONS = {
    "linear": (act(lambda h: h), ["GL(6)"]),
    "tanh": (act(jnp.tanh), ["B(6)"]),
    "hard_tanh": (act(jax.nn.hard_tanh), ["B(6)"]),
    "clip": (act(lambda h: jnp.clip(h, -2, 2)), ["B(6)"]),
    "clip to unlike bounds": (act(lambda h: jnp.clip(h, -1, 2)), ["S(6)"]),
    "minimum of a maximum": (act(lambda h: jnp.minimum(jnp.maximum(h, -1), 2.0)), ["S(6)"]),
    "relu": (act(jax.nn.relu), ["S(6)⋉R₊^6"]),
    "leaky selection": (act(lambda h: jnp.where(h > 0, h, -0.1 * h)), ["S(6)⋉R₊^6"]),
    "selection at 1": (act(lambda h: jnp.where(h > 1, h, 0)), ["S(6)"]),
    "cube": (act(lambda h: h**3), ["S(6)⋉R*^6"]),
    "absolute value": (act(jnp.abs), ["S(6)⋉(R₊×Z₂)^6"]),
    "sign": (act(jnp.sign), ["S(6)⋉(R₊×Z₂)^6"]),
    "own gate": (act(lambda h: h * jnp.tanh(h)), ["B(6)"]),
    "elu": (act(jax.nn.elu), ["S(6)"]),
    "rounded": (act(lambda h: h.astype(jnp.int32).astype(h.dtype)), ["S(6)"]),
    "shifted": (act(lambda h: h + 1), ["O(6) fixing 1"]),
    "centred": (act(lambda h: h - jnp.mean(h, -1, keepdims=True)), ["O(6) fixing 1"]),
    "unit length": (act(lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True)), ["O(6)"]),
    "softmax": (act(jax.nn.softmax), ["S(6)"]),
    "masked": (act(lambda h: h * jnp.arange(1.0, 1 + N)[None]), ["R*^6"]),
    "masked in absolute value": (act(lambda h: jnp.abs(h * jnp.arange(1.0, 1 + N)[None])), ["(R₊×Z₂)^6"]),
    "cumulated": (act(lambda h: jnp.cumsum(h, -1)), []),
    "reversed": (act(lambda h: h[:, ::-1]), []),
    "sorted": (act(lambda h: jnp.sort(h, -1)), []),
    "transformed": (act(lambda h: jnp.abs(jnp.fft.fft(h))), []),
    "rolled": (act(lambda h: jnp.roll(h, 1, -1)), ["GL(5)"]),
    "padded and cut": (act(lambda h: jnp.pad(h, ((0, 0), (1, 1)))[:, 1:7]), ["GL(6)"]),
    "padded and cut aside": (act(lambda h: jnp.pad(h, ((0, 0), (1, 1)))[:, 0:6]), ["GL(5)"]),
    "reshaped across": (act(lambda h: h.reshape(-1, 2, 3).reshape(-1, 3, 2).reshape(-1, 6)), []),
    "multiplied by ones": (
        act(lambda h: h @ jnp.ones((N, 3)) @ jnp.ones((3, N))),
        ["O(6) fixing 1", "O(6) fixing 1^3"],
    ),
    "twice the same": (lambda p, x: jnp.tanh(x @ p["A"]) @ p["A"].T, ["B(6)"]),
    "one space twice": (lambda p, x: (x @ p["A"]) @ (p["B"] @ p["B"].T) @ p["B"], ["O(6)"]),
    "looped": (act(lambda h: jax.lax.fori_loop(0, 3, lambda _, c: jnp.tanh(c), h)), ["B(6)"]),
    "scanned relu": (
        act(lambda h: jax.lax.scan(lambda c, _: (jax.nn.relu(c), c), h, None, length=3)[1].sum(0)),
        ["S(6)⋉R₊^6"],
    ),
    "branched": (
        lambda p, x: jax.lax.cond(jnp.sum(x) > 0, jnp.tanh, lambda h: h, x @ p["A"]) @ p["B"],
        ["B(6)"],
    ),
    "trace of squares": (
        lambda p, x: jnp.einsum("bi,bi->b", x @ p["A"], x @ p["A"]) @ jnp.ones((5, 2)),
        ["O(6)"],
    ),
    "fourth powers": (lambda p, x: jnp.sum((x @ p["A"]) ** 4, -1), ["B(6)"]),
    "squares of squares": (lambda p, x: jnp.sum(((x @ p["A"]) ** 2) ** 2, -1), ["B(6)"]),
    "lookup": (lambda p, x: jnp.tanh(p["A"][jnp.array([0, 1, 2, 1])]) @ p["B"], ["B(6)"]),
    "gradient in the input": (
        lambda p, x: jax.grad(lambda y: jnp.sum(jnp.exp(y @ p["A"]) @ p["B"]))(x),
        ["S(6)", "O(3) fixing 1"],
    ),
}


def parameters(dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return {
        "A": jnp.asarray(rng.normal(size=(4, N)), dtype),
        "B": jnp.asarray(rng.normal(size=(N, 3)), dtype),
    }


def inputs(dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), dtype)


def change(sym, f, params, x):
    """The largest relative change of the outputs under three random elements."""

    @quick_jit
    def both(keys):
        moved = jax.vmap(lambda k: f(sym.act(sym.sample(k), params), x))(keys)
        return f(params, x), moved

    outputs, moved = both(jax.random.split(jax.random.key(0), 3))
    return float(jnp.abs(moved - outputs[None]).max() / jnp.maximum(jnp.abs(outputs).max(), 1e-30))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_group_is_exact(name, x64):
    f, expected = FUNCTIONS[name]
    sym = infer_symmetry(f, parameters(), inputs(), verify=False)
    # A parameter that the function does not read may be anything: its groups say nothing of the function.
    unread = (
        {"B"}
        if name in ("trace of squares", "fourth powers", "squares of squares", "twice the same")
        else set()
    )
    kept = [
        str(group)
        for key, group in sym.groups.items()
        if {path for path, text in sym.axes.items() if any(s in text for s in np.atleast_1d(key))} - unread
    ]
    for group in expected:
        assert group in kept, kept
        kept.remove(group)
    assert not kept
    if sym.factors:
        assert change(sym, f, parameters(), inputs()) <= 1e-12


@st.composite
def recipes(draw):
    """Chains and diamonds of random operations, some of which break what others keep."""
    numbers = st.integers(0, 7)
    step = st.tuples(st.sampled_from(sorted(OPERATIONS)), numbers, numbers)
    steps = draw(st.lists(step, min_size=1, max_size=6))
    return Recipe(tuple(steps), draw(st.sampled_from(sorted(ENDS))))


@settings(max_examples=100)
@given(recipes(), st.integers(0, 3))
def test_random_programs_do_not_change_under_what_is_inferred(recipe, seed):
    """More of them, at random: scripts/fuzz_inference.py."""
    with jax.enable_x64(True):
        verdict = judge(recipe, seed)
    assert verdict.sound, verdict


@pytest.mark.parametrize(
    "recipe",
    [
        # Axes that cannot be cut alike, where scalings once stayed.
        Recipe((("part", 1, 0), ("heads softmax", 2, 1)), "tied"),
        Recipe((("part", 1, 0), ("attend", 2, 1)), "tied"),
        # A space on a part of an axis, of which no other may depend.
        Recipe((("members", 1, 1), ("roll", 2, 0)), "tied"),
        # Sums of equal entries, which are not equal.
        Recipe((("weights", 1, 1), ("cumulate", 2, 2)), "logits"),
        # A group for each unit of a space that a kernel has on two axes.
        Recipe((("convolve", 1, 1), ("tanh", 2, 3), ("grouped", 3, 4)), "sum"),
    ],
)
def test_programs_that_once_were_judged_wrongly(recipe, x64):
    assert judge(recipe).sound


# The interface.


def test_frozen_leaves_do_not_move():
    f, _ = FUNCTIONS["tanh"]
    shapes = jax.eval_shape(lambda: (parameters(jnp.float32), inputs(jnp.float32)))
    assert not infer_symmetry(f, *shapes, frozen=["A"]).factors
    with pytest.raises(ValueError, match=r"the pattern 'C\*' of `frozen` matches none of the leaves A, B"):
        infer_symmetry(f, *shapes, frozen=["C*"])
    with pytest.raises(TypeError, match="`frozen` must be a sequence of patterns, got the string 'A'"):
        infer_symmetry(f, *shapes, frozen="A")


def test_an_unknown_operation_pins_or_raises():
    f, _ = FUNCTIONS["transformed"]
    params, x = parameters(jnp.float32), inputs(jnp.float32)
    sym = infer_symmetry(f, params, x)
    assert not sym.factors
    assert [name for name, _ in inference.explain(sym).unknown] == ["fft"]
    assert "unknown operation fft" in str(inference.explain(sym))
    with pytest.raises(ValueError, match=r"operations without a rule: fft.*register_rule"):
        infer_symmetry(f, params, x, strict=True)


def test_the_self_check_refuses_what_a_wrong_rule_lets_through(monkeypatch):
    monkeypatch.setitem(inference.rules(), "exp", lambda analysis, equation, values: values)
    with pytest.raises(RuntimeError, match="the inferred symmetry changes the outputs by"):
        infer_symmetry(act(jnp.exp), parameters(jnp.float32), inputs(jnp.float32))


def test_a_rule_from_outside_is_used(monkeypatch):
    params, x = parameters(jnp.float32), inputs(jnp.float32)
    f = act(lambda h: jax.lax.rem(h, 2.0 * jnp.ones_like(h)))
    assert [str(g) for g in infer_symmetry(f, params, x).groups.values()] == ["S(6)"]
    monkeypatch.setitem(inference.rules(), "rem", inference.rules()["rem"])

    @inference.register_rule("rem")
    def odd(analysis, equation, values):
        return inference.rules()["tanh"](analysis, equation, values[:1])

    assert [str(g) for g in infer_symmetry(f, params, x).groups.values()] == ["B(6)"]


@pytest.mark.parametrize(("names", "rule"), [((), len), ((3,), len), (("fft",), 3)])
def test_a_rule_needs_names_and_a_function(names, rule):
    before = dict(inference.rules())
    with pytest.raises(TypeError, match=r"needs the names|the rule of fft must be a function"):
        inference.register_rule(*names)(rule)
    assert inference.rules() == before
