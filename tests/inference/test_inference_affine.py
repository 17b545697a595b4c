"""Affine redundancies against the null space of the Jacobian, functions made to mislead, and random programs."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from eqtoolbox import infer_symmetry, inference, zoo
from eqtoolbox.inference import _affine_shift, affine_redundancies, fold_norms
from eqtoolbox.symmetry import catalog

N = 6


def nullity(apply, params, x):
    """The dimension of the null space of the derivative of all outputs in the parameters."""
    flat, unravel = ravel_pytree(params)
    rows = np.asarray(quick_jit(jax.jacrev(lambda v: apply(unravel(v), x).ravel()))(flat))
    s = np.linalg.svd(rows, compute_uv=False)
    assert rows.shape[0] >= rows.shape[1]
    small = int(np.sum(s < 1e-11 * s[0]))
    assert small == 0 or s[-small - 1] > 1e3 * s[-small]
    return small


#: name -> (rank of the tangents, with the orbit, with folded norms, null space; what is left is explained beside it)
TABLE = {
    "softmax_classifier": (7, 7, 7, 7),
    "deep_linear_bias": (13, 89, 89, 89),
    "lora": (42, 42, 42, 42),
    "transformer_rms": (12, 52, 52, 52),
    "transformer_no_gain": (92, 137, 137, 137),
    "transformer_tied": (153, 233, 233, 233),
    "transformer": (190, 278, 299, 299),
    # Five of the six dimensions of the centred stream are reached: 3 directions of the reader along the sixth, and
    # the scale of the stream, whose eps the bias takes up along the sixth.
    "dense_norm_dense": (15, 22, 37, 41),
    "dense_norm_dense_no_gain": (8, 23, 23, 27),
    "attention": (55, 99, 120, 128),  # what is written along the ones vector, and read by the head only: 8
    "rms_gain": (
        0,
        21,
        42,
        None,
    ),  # 72: 30 along dimensions of the stream that the first layer does not reach
    "maxout": (6, 12, 12, None),  # kernels that the narrower next layer does not see
    "weight_norm": (0, 6, 6, 6),
    "swiglu": (0, 7, 7, 7),
    "fused_qkv": (0, 36, 36, 36),
}
SLOW = ("transformer_rms", "transformer_no_gain", "transformer", "attention")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TABLE])
def test_the_count_is_that_of_the_null_space(name, x64):
    (model,) = catalog.models(name)
    affine, both, with_folds, null = TABLE[name]
    found = affine_redundancies(model.apply, model.params, model.inputs, verify=False)
    sym = infer_symmetry(model.apply, model.params, model.inputs, verify=False)
    folded = fold_norms(model.apply, model.params, model.inputs, verify=False)
    assert found.dimension(model.params) == affine
    assert found.dimension(model.params, sym) == both
    assert found.dimension(model.params, sym, *([folded] if folded.gains else [])) == with_folds
    if null is not None:
        batch = {"rms_gain": 120, "transformer_tied": 24}.get(name, 40)
        assert nullity(model.apply, model.params, model.draw(jax.random.key(5), batch)) == null


@pytest.mark.parametrize("name", ["resnet_batch", "transformer_scan", "nnx_attention"])
def test_the_tangents_of_larger_models(name, x64):
    (model,) = catalog.models(name)
    found = affine_redundancies(model.apply, model.params, model.inputs)  # checks itself
    assert (
        found.dimension(model.params)
        == {
            "resnet_batch": 40,  # mean and variance of 20 channels
            "transformer_scan": 227,
            "attention": 55,
            "nnx_attention": 47,
        }[name]
    )


# Small functions.


def norm(h, keep=0.0, scale=1.0):
    """A layer norm, or nearly one where not all of the mean is taken away."""
    h = h - (1 - keep) * jnp.mean(h, -1, keepdims=True)
    return scale * h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-3)


def rms(h):
    return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-3)


def hidden(p, x):
    return x @ p["A"] + p["a"][None]


def head(f):
    """A hidden layer, and an output layer read by a function."""
    return lambda p, x: f(jnp.tanh(hidden(p, x)) @ p["B"] + p["b"][None])


def body(f, bias=True):
    """A function between two layers."""
    return lambda p, x: f(hidden(p, x)) @ p["B"] + (p["b"][None] if bias else 0)


def attend(mask, value):
    """Attention with a bias of the keys, masked by a number."""

    def apply(p, x):
        q, k = x @ p["A"], x @ p["A2"] + p["a"][None]
        weights = jax.nn.softmax(jnp.where(mask, q @ k.T, value), -1)
        return weights @ (x @ p["C"] + p["c"][None]) @ p["D"] + p["b"][None]

    return apply


LOWER = np.tril(np.ones((5, 5), bool))
#: name -> (function, {leaf: directions})
FUNCTIONS = {
    "softmax": (head(jax.nn.softmax), {"B": N, "b": 1}),
    "log softmax": (head(jax.nn.log_softmax), {"B": N, "b": 1}),
    "cross-entropy": (head(lambda z: jax.nn.logsumexp(z, -1) - z[:, 0]), {"B": N, "b": 1}),
    "unshifted softmax": (
        head(lambda z: jnp.exp(z) / jnp.sum(jnp.exp(z), -1, keepdims=True)),
        {"B": N, "b": 1},
    ),
    "largest class": (head(lambda z: jnp.argmax(z, -1)), {"B": N, "b": 1}),
    "differences of logits": (head(lambda z: jnp.tanh(z[:, 1:] - z[:, :1])), {"B": N, "b": 1}),
    "softmax of pairs": (head(lambda z: jax.nn.softmax(z[:, :2])), {"B": N + N, "b": 1 + 1}),
    "sigmoid": (head(jax.nn.sigmoid), {}),
    "softmax of the batch": (head(lambda z: jax.nn.softmax(z, 0)), {"b": 3}),
    "softmax and logits": (head(lambda z: (jax.nn.softmax(z), z[0])), {}),
    "temperature": (head(lambda z: jax.nn.softmax(z / 0.7)), {"B": N, "b": 1}),
    "centred": (body(lambda h: jnp.tanh(h - jnp.mean(h, -1, keepdims=True))), {"A": 4, "a": 1}),
    "against the largest": (body(lambda h: jnp.tanh(h - jnp.max(h, -1, keepdims=True))), {"A": 4, "a": 1}),
    "layer norm": (body(norm), {"A": 4, "a": 1, "B": 3}),
    "layer norm without all of the mean": (body(lambda h: norm(h, 1e-6)), {}),
    "root mean square": (body(rms), {}),
    "group norm": (body(lambda h: norm(h.reshape(-1, 2, 3)).reshape(-1, N)), {"A": 8, "a": 2, "B": 6}),
    "residual under a norm": (
        lambda p, x: norm(hidden(p, x) + jnp.tanh(x @ p["A2"])) @ p["B"],
        {"A": 4, "a": 1, "B": 3},
    ),
    "linear": (body(lambda h: h), {"a": N}),
    "linear without bias": (body(lambda h: h, False), {}),
    "linear pair of readers": (lambda p, x: (body(lambda h: h)(p, x), hidden(p, x) @ p["D"]), {}),
    "tanh": (body(jnp.tanh), {}),
    "maxout": (body(lambda h: jnp.repeat(jnp.max(h.reshape(-1, 3, 2), -1), 2, -1)), {"a": 3}),
    "half of it linear": (body(lambda h: jnp.concatenate([jnp.tanh(h[:, :2]), h[:, 2:]], -1)), {"a": 4}),
    "masked attention": (attend(LOWER, -jnp.inf), {"a": N, "c": N}),
    "attention masked by the lowest float": (attend(LOWER, np.finfo(np.float64).min), {"a": N, "c": N}),
    "attention masked by -1000": (attend(LOWER, -1e3), {"c": N}),
    "table and positions": (
        lambda p, x: (
            jnp.tanh(p["E"][jnp.array([0, 2, 1, 2, 3])] + p["A"][jnp.array([0, 1, 2, 3, 0])]) @ p["B"]
        ),
        {"A": N},
    ),
    "table used twice": (
        lambda p, x: jnp.tanh(p["E"][jnp.array([0, 2, 1])] + p["A"][:3]) @ p["E"].T,
        {"A": N},  # its last row is not read
    ),
    "adapter": (
        lambda p, x: jnp.tanh(x @ p["A"] + 0.5 * (x @ p["U"]) @ p["V"]) @ p["B"],
        {"U": 8, "V": 2 * N},
    ),
    "adapter added to the kernel": (
        lambda p, x: jnp.tanh(x @ (p["A"] + p["U"] @ p["V"])) @ p["B"],
        {"U": 8, "V": 2 * N},
    ),
    "running statistics": (
        lambda p, x: (
            jnp.tanh(
                (x @ p["A"] - p["a"][None]) * (jax.lax.rsqrt(p["v"] + 1e-3) * p["g"])[None] + p["c"][None]
            )
            @ p["B"]
        ),
        {"a": N, "v": N},
    ),
    "scanned": (
        lambda p, x: (
            jax.lax.scan(lambda h, w: (h + jnp.tanh(norm(h) @ w) @ p["G"], None), x @ p["A"], p["W"])[0].sum(
                0
            )[None]
            @ p["D"]
        ),
        {"W": 3 * N},
    ),
    "unread": (lambda p, x: jnp.tanh(x @ p["A"]) + 0 * p["a"][None], {"a": N}),
    "sorted": (body(lambda h: jnp.tanh(jnp.sort(h, -1) - jnp.sort(h, -1)[:, :1])), {"A": 4, "a": 1}),
    "cumulated": (body(lambda h: jnp.cumsum(h, -1)), {}),
    "looped": (body(lambda h: jax.lax.while_loop(lambda c: c[0].sum() < 1, lambda c: c + 1, h)), {}),
}
SHAPES = {
    "A": (4, N), "A2": (4, N), "a": (N,), "B": (N, 3), "b": (3,), "C": (4, N), "c": (N,), "D": (N, 3), "E": (4, N),
    "U": (4, 2), "V": (2, N), "v": (N,), "g": (N,), "W": (3, N, N), "G": (N, N),
}  # fmt: skip


def parameters(f, x):
    """Those that a function reads."""
    rng = np.random.default_rng(0)
    every = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in SHAPES.items()}
    every["v"] = jnp.exp(every["v"])

    class Read(dict):
        def __getitem__(self, name):
            used.add(name)
            return every[name]

    used: set[str] = set()
    f(Read(), x)
    return {name: every[name] for name in every if name in used}


def inputs():
    return jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))


def check(f, found, params, x):
    """No derivative along any tangent, and no change under finite moves."""

    @quick_jit
    def derivatives(params, tangents):
        return jax.vmap(lambda t: jax.jvp(lambda p: f(p, x), (params,), (t,))[1])(tangents)

    rows = found.matrix(params)
    signs = np.random.default_rng(0).choice([-1, 1], rows.shape)
    unravel = jax.vmap(ravel_pytree(params)[1])
    others = jax.tree.leaves(derivatives(params, unravel(rows * signs)))
    for slope, other in zip(jax.tree.leaves(derivatives(params, unravel(rows))), others, strict=True):
        if slope.dtype != jax.dtypes.float0:
            assert_small(slope, other, 1e-10)
    moved = found.act(params, found.sample(jax.random.key(0)))
    for a, b in zip(*(jax.tree.leaves(quick_jit(f)(p, x)) for p in (params, moved)), strict=True):
        assert_small(jnp.where(jnp.isfinite(a), a - b, 0), a, 1e-8)


def assert_small(error, size, tolerance):
    """Where the function itself is finite: some random programs overflow."""
    finite = jnp.isfinite(size)
    scale = 1 + jnp.where(finite, jnp.abs(size), 0).max(initial=0)
    assert jnp.where(finite, jnp.abs(error), 0).max(initial=0) <= tolerance * scale


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_found_is_exact(name, x64):
    f, expected = FUNCTIONS[name]
    x = inputs()
    params = parameters(f, x)
    found = affine_redundancies(f, params, x, verify=False)
    counts: dict[str, int] = {}
    for item in found:
        counts[item.leaf] = counts.get(item.leaf, 0) + item.directions
    assert counts == expected, str(found)
    if found:
        check(f, found, params, x)


@st.composite
def programs(draw):
    """A chain of random operations on a hidden layer."""
    steps = draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5))
    out = draw(st.sampled_from(sorted(ENDS)))

    def apply(p, x):
        h = hidden(p, x)
        for step in steps:
            h = STEPS[step](h, p)
        return ENDS[out](h @ p["B"] + p["b"][None])

    return apply


STEPS = {
    "norm": lambda h, p: norm(h),
    "gained norm": lambda h, p: norm(h) * p["g"][None] + p["c"][None],
    "rms": lambda h, p: rms(h) * p["g"][None],
    "bias": lambda h, p: h + p["c"][None],
    "gain": lambda h, p: h * p["g"][None],
    "tanh": lambda h, p: jnp.tanh(h),
    "square": lambda h, p: h**2,
    "exponential": lambda h, p: jnp.exp(-jnp.abs(h)),
    "centre": lambda h, p: h - jnp.mean(h, -1, keepdims=True),
    "mix": lambda h, p: h @ p["G"],
    "residual": lambda h, p: h + jnp.tanh(norm(h) @ p["G"]) @ p["W"][0],
    "adapter": lambda h, p: h @ p["W"][1] + (h @ p["W"][0][:, :2]) @ p["V"],
    "softmax": lambda h, p: jax.nn.softmax(h),
    "attention": lambda h, p: h + jax.nn.softmax(h @ (h @ p["G"] + p["c"][None]).T) @ (h + p["c"][None]),
    "maximum": lambda h, p: jnp.maximum(h, h[:, ::-1]),
    "pairs": lambda h, p: jnp.repeat(jnp.max(h.reshape(-1, 3, 2), -1), 2, -1),
    "halves": lambda h, p: jnp.concatenate([h[:, 3:], jnp.tanh(h[:, :3])], -1),
    "differences": lambda h, p: h - h[:, :1],
    "gate": lambda h, p: h * jax.nn.sigmoid(h @ p["G"]),
    "selection": lambda h, p: jnp.where(h > h[:, :1], h, 2 * h - h[:, :1]),
    "table": lambda h, p: h + p["G"][jnp.array([0, 1, 1, 3, 2])],
    "transposed": lambda h, p: h @ p["W"][0].T,
    "scan": lambda h, p: jax.lax.scan(lambda c, w: (c + norm(c) @ w, None), h, p["W"])[0],
    "power": lambda h, p: jnp.sqrt(1 + h**2) / (2 + h**2),
}
ENDS = {
    "softmax": jax.nn.softmax,
    "log softmax": jax.nn.log_softmax,
    "logits": lambda z: z,
    "norm": norm,
    "cross-entropy": lambda z: jax.nn.logsumexp(z, -1) - z[:, 0],
}


def found_is_exact(f):
    with jax.enable_x64(True):
        x = inputs()
        params = parameters(f, x)
        found = affine_redundancies(f, params, x, verify=False)
        if found:
            check(f, found, params, x)


@settings(max_examples=4)
@given(programs())
def test_random_programs_do_not_change(f):
    found_is_exact(f)


@pytest.mark.slow
@settings(max_examples=25)
@given(programs())
def test_many_random_programs_do_not_change(f):
    found_is_exact(f)


# Folded norms.


def gained(between=lambda y: y, norm=norm):
    """A layer, a norm with gain and shift, a layer."""

    def apply(p, x):
        y = between(norm(hidden(p, x)) * p["g"][None] + p["c"][None])
        return jnp.tanh(y @ p["B"] + p["b"][None])

    return apply


def squared(p, x):
    """Two gains read by one kernel."""
    h = x @ p["A"]
    h = h + jnp.tanh((rms(h) * p["g"][None]) @ p["G"])
    return (h + jnp.tanh((rms(h) * p["c"][None]) @ p["G"])) @ p["B"]


#: name -> (function, gains that are folded, groups of the folded model)
FOLDS = {
    "layer norm": (gained(), {"g": ("c",)}, ["O(6) fixing 1"]),
    "root mean square": (gained(norm=rms), {"g": ("c",)}, ["O(6)"]),
    "read twice": (
        lambda p, x: (lambda y: jnp.tanh(y @ p["B"]) + y @ p["D"])(rms(x @ p["A"]) * p["g"][None]),
        {"g": ()},
        ["O(6)"],
    ),
    "read by something else": (
        lambda p, x: (lambda y: jnp.tanh(y @ p["B"]) + y[:, :3])(rms(x @ p["A"]) * p["g"][None]),
        {},
        None,
    ),
    "through a nonlinearity": (gained(between=jnp.tanh), {}, None),
    "a shift that nothing absorbs": (
        lambda p, x: jnp.tanh((norm(hidden(p, x)) * p["g"][None] + p["c"][None]) @ p["B"]),
        {},
        None,
    ),
    "two gains read by one kernel": (squared, {}, None),
}


@pytest.mark.parametrize("name", FOLDS)
def test_folding_is_exact(name, x64):
    f, gains, groups = FOLDS[name]
    x = inputs()
    params = parameters(f, x)
    folded = fold_norms(f, params, x)
    assert {gain.path: gain.shifts for gain in folded.gains} == gains, str(folded)
    if groups is None:
        return
    assert sorted(map(str, folded.symmetry.groups.values())) == sorted(groups)
    y = quick_jit(f)(params, x)
    at_one = folded.fold(params)
    assert all(bool(jnp.all(at_one[g] == 1)) for g in gains)
    assert all(bool(jnp.all(at_one[s] == 0)) for shifts in gains.values() for s in shifts)
    np.testing.assert_allclose(f(at_one, x), y, rtol=1e-11, atol=1e-12)
    back = folded.unfold(at_one, params)
    assert all(
        jnp.allclose(a, b, rtol=1e-11) for a, b in zip(*map(jax.tree.leaves, (back, params)), strict=True)
    )
    moved = folded.act(folded.symmetry.sample(jax.random.key(0)), params)
    assert jnp.abs(moved["A"] - params["A"]).max() > 0.01
    assert jnp.all(moved["g"] == params["g"])
    np.testing.assert_allclose(f(moved, x), y, rtol=1e-10, atol=1e-11)
    rows = jax.vmap(ravel_pytree(params)[1])(folded.matrix(params))
    slopes = jax.vmap(lambda t: jax.jvp(lambda p: f(p, x), (params,), (t,))[1])(rows)
    assert jnp.abs(slopes).max() <= 1e-12


def test_what_is_not_folded():
    """The last norm before a tied head; frozen gains and readers."""
    (model,) = catalog.models("transformer_rms")
    folded = fold_norms(model.apply, *jax.eval_shape(lambda: (model.params, model.inputs)))
    assert [gain.path for gain in folded.gains] == ["block_0/norm_0/scale", "block_0/norm_1/scale"]
    assert dict(folded.gains[1].readers) == {"block_0/dense_0/kernel": (0,)}
    f, _, _ = FOLDS["layer norm"]
    x = inputs().astype(jnp.float32)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), parameters(f, x))
    for still in ("g", "B", "b"):
        assert not fold_norms(f, params, x, frozen=[still], verify=False).gains
    folded = fold_norms(f, params, x, frozen=["A"])
    assert not folded.symmetry.groups
    assert str(folded).startswith("g folded into B\n")
    with pytest.raises(TypeError, match="a Symmetry or what fold_norms returns is needed, got int"):
        affine_redundancies(f, params, x, verify=False).dimension(params, 3)


# The interface.


def test_frozen_leaves_do_not_move(x64):
    f, x = FUNCTIONS["linear"][0], inputs()
    params = parameters(f, x)
    assert not affine_redundancies(f, params, x, frozen=["b"])  # no other leaf can absorb the shift
    assert not affine_redundancies(f, params, x, frozen=["a"])
    f = FUNCTIONS["softmax"][0]
    params = parameters(f, x)
    (only,) = affine_redundancies(f, params, x, frozen=["b"])
    assert only.moves == ("B",)
    with pytest.raises(
        ValueError, match=r"the pattern 'C\*' of `frozen` matches none of the leaves A, B, a, b"
    ):
        affine_redundancies(f, params, x, frozen=["C*"])


def test_shapes_are_enough_at_any_size():
    """The arrays of this model would fill 200 GB."""
    model = zoo.Transformer(vocab=50_000, d=4096, heads=32, head_dim=128, layers=2, ff=16384, length=2048)
    tokens = jax.ShapeDtypeStruct((2, 2048), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    found = affine_redundancies(lambda p, x: model.apply({"params": p}, x), params, tokens)
    counts = {(item.leaf, item.kind): item.directions for item in found}
    assert counts["embed/embedding", "killed shift"] == 50_000
    assert counts["block_1/dense_0/kernel", "norm null direction"] == 16384
    assert counts["norm/bias", "absorbed shift"] == 4096
    assert counts["block_0/attention/key/bias", "killed shift"] == 4096


def test_the_table_says_what_takes_the_shift_away(x64):
    f, x = FUNCTIONS["running statistics"][0], inputs()
    params = parameters(f, x)
    found = affine_redundancies(f, params, x)
    mean, var = found
    assert (mean.kind, mean.moves, mean.finite) == ("absorbed shift", ("a", "c"), True)
    assert (var.moves, var.finite) == (("g", "v"), False)
    assert re.search(
        r"absorbed shift\s+v\s+6\s+0\s+absorbed by g at mul \S+\.py:\d+; tangent only", str(found)
    )
    with pytest.raises(ValueError, match="the redundancy of 'v' is known as a tangent only"):
        var.act(params, jnp.ones(N))
    with pytest.raises(ValueError, match=r"of the shift of 'a' must have shape \(6,\), got \(5,\)"):
        mean.tangent(params, jnp.ones(5))
    with pytest.raises(
        ValueError, match=r"the leaf 'a' of shape \(6,\) is expected, got 'a' of shape \(5,\)"
    ):
        mean.tangent({**params, "a": jnp.ones(5)}, jnp.ones(N))
    with pytest.raises(ValueError, match="there must be 2 arrays of coefficients, got 1"):
        found.tangent(params, [jnp.ones(N)])
    assert dict(found.stopped)["A"].startswith("tanh")


def test_moves_compose_with_transformations():
    """Also in float32 and bfloat16, whose dtypes they keep."""
    f, x = FUNCTIONS["layer norm"][0], inputs().astype(jnp.float32)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), parameters(f, x))
    found = affine_redundancies(f, params, x)
    keys = jax.random.split(jax.random.key(0), 3)
    moved = jax.jit(jax.vmap(lambda k: found.act(params, found.sample(k))))(keys)
    outputs = jax.vmap(f, (0, None))(moved, x)
    np.testing.assert_allclose(outputs, jnp.broadcast_to(f(params, x), outputs.shape), atol=1e-4)
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    tangent = found.tangent(low, found.sample(jax.random.key(1)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tangent)} == {jnp.dtype(jnp.bfloat16)}
    assert found.dimension(params) == found.directions == 8


def test_a_wrong_rule_is_refused(monkeypatch, x64):
    f, x = FUNCTIONS["sigmoid"][0], inputs()
    params = parameters(f, x)
    real = _affine_shift.shifted
    wrong = lambda v, eqn, s: [{}] if eqn.name == "logistic" else real(v, eqn, s)  # noqa: E731
    monkeypatch.setattr("eqtoolbox.inference._affine_search.shifted", wrong)
    with pytest.raises(RuntimeError, match="the affine redundancies change the outputs by"):
        affine_redundancies(f, params, x)
    assert inference.AffineRedundancies(()).directions == 0
