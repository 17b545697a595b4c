"""`Symmetry`: construction, refusals, identity as an object, and its actions against dense algebra."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from symmetry_strategies import SPACES, dense_act, leaves, trees

from eqtoolbox import (
    Equivariance,
    Symmetry,
    groups,
    lie_derivative,
    orbit_dimension,
    sample_orbit,
    split,
    symmetrize,
    testing,
)
from eqtoolbox.groups import (
    Affine,
    GeneralLinear,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Product,
    Scaling,
    SignedPermutation,
    SignFlip,
    Translation,
    Trivial,
    Wreath,
)
from eqtoolbox.symmetry import elements, generator_matrix, parse_label

MLP = {"Dense_0": {"kernel": "_ h", "bias": "h"}, "Dense_1": {"kernel": "h* _", "bias": "_"}}


#: Compiled once for each symmetry and tree: quicker than many small operations, and a test of being static.
ACT, DUAL = jax.jit(Symmetry.act), jax.jit(Symmetry.act_dual)


def mlp_params(h=7, key=0):
    k = jax.random.split(jax.random.key(key), 4)
    return {
        "Dense_0": {"kernel": jax.random.normal(k[0], (3, h)), "bias": jax.random.normal(k[1], (h,))},
        "Dense_1": {"kernel": jax.random.normal(k[2], (h, 2)), "bias": jax.random.normal(k[3], (2,))},
    }


def close(actual, expected, tolerance=1e-10):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected
    )


# The example of the README, compiled.


def test_the_example_of_the_readme(x64):
    params = mlp_params()
    sym = Symmetry(MLP, {"h": GeneralLinear(7)})
    keys = jax.random.split(jax.random.key(2), 5)

    @jax.jit
    def example(params):
        g, k = sym.sample(jax.random.key(0)), sym.sample(jax.random.key(5))
        moved, xi = sym.act(g, params), sym.sample_algebra(jax.random.key(1))
        products = sym.act(sym.compose(g, k), params), sym.act(g, sym.act(k, params))
        many = jax.vmap(sym.act, (0, None))(jax.vmap(sym.sample)(keys), params)
        alone = sym.act(sym.sample(jax.random.clone(keys)[3]), params)
        bias = sym.generator(xi, params)["Dense_0"]["bias"]
        return g, moved, sym.act(sym.inverse(g), moved), products, xi, bias, sym.exp(xi), many, alone

    g, moved, back, products, xi, bias, exponential, many, alone = example(params)
    kernel = params["Dense_0"]["kernel"]
    close(moved["Dense_0"]["kernel"], np.einsum("ij,nj->ni", g["h"], kernel))
    close(moved["Dense_1"]["kernel"], np.linalg.inv(g["h"]).T @ params["Dense_1"]["kernel"])
    close(back, params)
    close(*products)
    close(bias, xi["h"] @ params["Dense_0"]["bias"])
    close(exponential["h"], scipy.linalg.expm(np.asarray(xi["h"])))
    close(jax.tree.map(lambda a: a[3], many), alone)


def test_a_permutation_reads_new_from_old():
    sym = Symmetry(MLP, {"h": Permutation(7)})
    params, p = mlp_params(), jnp.asarray([2, 0, 1, 3, 4, 6, 5])
    moved = sym.act({"h": p}, params)
    np.testing.assert_array_equal(moved["Dense_0"]["bias"], params["Dense_0"]["bias"][p])
    np.testing.assert_array_equal(moved["Dense_1"]["kernel"], params["Dense_1"]["kernel"][p])


# Actions against matrices.


def random_tree(tree, seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=leaf.shape) for path, leaf in tree.items()}


@settings(max_examples=15)
@given(trees(), st.integers(0, 10**6))
def test_act_and_act_dual_are_the_dense_action(drawn, seed):
    tree, sym = drawn
    with jax.enable_x64(True):
        params = random_tree(tree, seed)
        sym.check(params)

        @jax.jit
        def move(key, params):
            g = sym.sample(key)
            return g, sym.contains(g), sym.act(g, params), sym.act_dual(g, params)

        g, member, moved, dual = move(jax.random.key(seed), params)
        assert bool(member)
        for path, leaf in tree.items():
            np.testing.assert_allclose(moved[path], dense_act(leaf, g, params[path]), rtol=1e-9, atol=1e-11)
            expected = dense_act(leaf, g, params[path], dual=True)
            np.testing.assert_allclose(dual[path], expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=5)
@given(trees(max_leaves=2), st.integers(0, 10**6))
def test_generator_exp_log_and_pullback_agree(drawn, seed):
    """The generator is the derivative of the action of exp; log undoes exp; the pullback is the transpose."""
    tree, sym = drawn
    if sym.is_discrete:
        for refused in (sym.zero_algebra, lambda: sym.exp({}), lambda: sym.generator({}, {})):
            with pytest.raises(TypeError, match="discrete"):
                refused()
        return
    with jax.enable_x64(True):
        params, w = random_tree(tree, seed), random_tree(tree, seed + 1)

        @jax.jit
        def all_of(key, params, w):
            xi = sym.sample_algebra(key)

            def at(t):
                return sym.act(sym.exp(jax.tree.map(lambda a: t * a, xi)), params)

            slope = jax.tree.map(lambda a, b: (a - b) / 2e-4, at(1e-4), at(-1e-4))
            return xi, sym.generator(xi, params), slope, sym.log(sym.exp(xi)), sym.pullback(params, w)

        xi, v, slope, back, pulled = all_of(jax.random.key(seed), params, w)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), v, slope)
        close(back, xi, 1e-7)
        left = sum(np.vdot(w[path], v[path]) for path in tree)
        right = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(pulled), jax.tree.leaves(xi), strict=True))
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


@settings(max_examples=6)
@given(trees(max_leaves=2), st.integers(0, 10**6))
def test_elements_form_a_group_and_move_on_the_right_side(drawn, seed):
    tree, sym = drawn
    with jax.enable_x64(True):
        params = random_tree(tree, seed)
        a, b, c = (sym.sample(k) for k in jax.random.split(jax.random.key(seed), 3))
        ab = sym.compose(a, b)
        close(sym.act(ab, params), sym.act(a, sym.act(b, params)), 1e-9)
        close(sym.act_dual(ab, params), sym.act_dual(a, sym.act_dual(b, params)), 1e-9)
        close(sym.act(sym.compose(ab, c), params), sym.act(sym.compose(a, sym.compose(b, c)), params), 1e-9)
        close(sym.act(sym.compose(sym.inverse(a), a), params), params, 1e-9)
        close(sym.act(sym.identity(), params), params, 1e-12)


def test_heads_of_a_wreath_product_on_one_axis_and_on_several(x64):
    """The heads axis may stand in the same axis as dim, on its own, or with other factors between."""
    sym = Symmetry(
        {
            "fused": "emb (heads dim)",
            "apart": "emb heads dim*",
            "between": "(heads 2 dim) _",
            "only": "heads _",
            "swapped": "dim heads",
        },
        {("heads", "dim"): Wreath(GeneralLinear(4), SignedPermutation(3))},
    )
    shapes = {"fused": (2, 12), "apart": (2, 3, 4), "between": (24, 2), "only": (3, 2), "swapped": (4, 3)}
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=shape) for k, shape in shapes.items()}
    g = sym.sample(jax.random.key(0))["heads dim"]
    outer = np.diag(g.outer.sign[0].astype(float)) @ np.eye(3)[g.outer.perm]
    inner, dual = np.asarray(g.inner), np.linalg.inv(g.inner).swapaxes(1, 2)
    moved = ACT(sym, {"heads dim": g}, params)
    fused = np.einsum("gh,gij,nhj->ngi", outer, inner, params["fused"].reshape(2, 3, 4)).reshape(2, 12)
    close(moved["fused"], fused)
    close(moved["apart"], np.einsum("gh,gij,nhj->ngi", outer, dual, params["apart"]))
    between = np.einsum("gh,gij,hkjn->gkin", outer, inner, params["between"].reshape(3, 2, 4, 2))
    close(moved["between"], between.reshape(24, 2))
    close(moved["only"], outer @ params["only"])
    close(moved["swapped"], np.einsum("gh,gij,jh->ig", outer, inner, params["swapped"]))


def test_scalings_of_stacked_layers_are_indexed_by_their_axis(x64):
    """A residual permutation shared by scanned layers, each with its own gain."""
    sym = Symmetry(
        {
            "stack": "layers _ h{gain[layers]:1}",
            "turned": "h{gain[layers]:-2} layers",
            "last": "h{gain[2]:1/2}",
        },
        {"h": Monomial(4, scales=("gain[3]",))},
    )
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s) for k, s in {"stack": (3, 2, 4), "turned": (4, 3), "last": (4,)}.items()}
    g = sym.sample(jax.random.key(0))["h"]
    moved = ACT(sym, {"h": g}, params)
    close(moved["stack"], g.scale[:, None, :] * params["stack"][..., g.perm])
    close(moved["turned"], g.scale.T**-2.0 * params["turned"][g.perm])
    close(moved["last"], g.scale[2] ** 0.5 * params["last"][g.perm])
    with pytest.raises(ValueError, match=r"leaf 'stack' .*axis 'layers' has size 5, .* 3 "):
        sym.check({**params, "stack": np.ones((5, 2, 4))})


def test_translations_and_affine_groups_move_points_and_vectors(x64):
    sym = Symmetry(
        {"softmax": "in _", "w1": "_ h{linear:1}", "b1": "h", "w2": "h{homogeneous:-1} _"},
        {"in": Translation(5), "h": Affine(4)},
    )
    shapes = {"softmax": (5, 3), "w1": (2, 4), "b1": (4,), "w2": (5, 3)}
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s) for k, s in shapes.items()}
    g = sym.sample(jax.random.key(0))
    moved = ACT(sym, g, params)
    close(moved["softmax"], params["softmax"] + np.asarray(g["in"])[:, None])
    close(moved["b1"], g["h"].linear @ params["b1"] + g["h"].shift)
    x = rng.normal(size=(7, 2))

    def net(p):
        hidden = x @ np.asarray(p["w1"]) + np.asarray(p["b1"])
        return hidden @ np.asarray(p["w2"])[:-1] + np.asarray(p["w2"])[-1]

    close(net(moved), net(params))
    assert not sym.is_linear
    assert not sym.is_compact


# The object itself.


def test_equality_and_hash_do_not_depend_on_the_order_of_dicts():
    a = Symmetry({"x": {"u": "_ h", "v": "h* k"}}, {"h": GeneralLinear(3), "k": Permutation(2)})
    b = Symmetry({"x": {"v": "h^-1   (k)", "u": "_ h"}}, {"k": Permutation(2), "h": GeneralLinear(3)})
    c = Symmetry({"x/v": "h* k", "x/u": parse_label("_ h")}, {("k",): Permutation(2), "h": GeneralLinear(3)})
    assert a == b == c
    assert len({a, b, c}) == 1
    assert a != Symmetry({"x/v": "h* k", "x/u": "_ h"}, {"k": Permutation(2), "h": Orthogonal(3)})
    assert a != Symmetry({"x/v": "h* k", "x/u": "h _"}, {"k": Permutation(2), "h": GeneralLinear(3)})
    assert pickle.loads(pickle.dumps(a)) == a


def test_it_is_immutable():
    sym = Symmetry(MLP, {"h": GeneralLinear(7)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        sym.labels = ()


def test_it_is_static_under_jit_and_an_equal_one_does_not_retrace():
    count = 0

    @jax.jit
    def move(sym, g, params):
        nonlocal count
        count += 1
        return sym.act(g, params)

    params = mlp_params()
    for _ in range(2):
        sym = Symmetry(MLP, {"h": Permutation(7)})
        moved = move(sym, sym.sample(jax.random.key(0)), params)
    assert count == 1
    assert jax.tree.leaves(sym) == []
    np.testing.assert_array_equal(
        jax.jit(lambda g: sym.act(g, params))(sym.sample(jax.random.key(0)))["Dense_0"]["bias"],
        moved["Dense_0"]["bias"],
    )
    other = Symmetry(MLP, {"h": SignedPermutation(7)})
    move(other, other.identity(), params)
    assert count == 2


def test_tracing_two_hundred_leaves_takes_milliseconds():
    """Resolved labels are remembered: a second trace reads no label again."""
    axes = {f"{i:03}": "h _" if i % 2 else "_ h" for i in range(200)}
    sym = Symmetry(axes, {"h": Permutation(4)})
    params = {path: jax.ShapeDtypeStruct((4, 4), jnp.float32) for path in axes}
    g = sym.identity()
    jax.eval_shape(sym.act, g, params)
    plans = dict(sym._plans)
    jax.eval_shape(lambda g, p: sym.act(g, p), g, params)
    assert len(plans) == 200
    assert all(sym._plans[key] is plan for key, plan in plans.items())


def test_dimension_order_and_kind():
    sym = Symmetry({"a": "p z", "b": "p"}, {"p": Permutation(3), "z": SignFlip(2)})
    assert (sym.dimension, sym.order, sym.is_discrete, sym.is_compact, sym.is_linear) == (
        0,
        24,
        True,
        True,
        True,
    )
    sym = Symmetry({"a": "p z"}, {"p": Orthogonal(3), "z": PositiveScaling(2)})
    assert (sym.dimension, sym.order, sym.is_discrete, sym.is_compact) == (5, None, False, False)
    empty = Symmetry({"a": "_"}, {})
    assert (empty.dimension, empty.order, empty.identity()) == (0, 1, {})
    np.testing.assert_array_equal(empty.act({}, {"a": jnp.ones(2)})["a"], jnp.ones(2))


def test_printing_shows_the_spaces_and_where_they_act():
    sym = Symmetry(
        {"a": "_ h", "b": "... h* 3", "q": "_ (heads dim) | t^-2"},
        {"h": GeneralLinear(3), ("heads", "dim"): Wreath(Orthogonal(2), Permutation(3)), "t": Scaling(1)},
    )
    text = str(sym)
    assert text.splitlines()[0] == "symmetry of dimension 13"
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows[0] == ["h", "GL(3)", "3", "9", "a[1],", "b[-2]*"]
    assert rows[1] == ["heads", "O(2)≀S(3)", "3", "3", "q[1]"]
    assert rows[2] == ["dim", "″", "2", "q[1]"]
    assert rows[3] == ["t", "R₊", "1", "1", "q^-2"]
    assert repr(sym) == "Symmetry(3 leaves; h: GL(3), heads dim: O(2)≀S(3), t: R₊)"
    assert str(Symmetry({"a": "h"}, {"h": Permutation(4)})).startswith("symmetry with 24 elements\n")
    assert str(Symmetry({"a": "h"}, {"h": Permutation(4000)})).startswith(
        "symmetry with 1.8e+12673 elements\n"
    )
    assert str(Symmetry({"a": "h"}, {"h": Trivial(4)})).startswith("symmetry with 1 element\n")


def test_spaces_sort_by_number():
    sym = Symmetry({"a": "h10 h9 h1"}, {f"h{i}": Permutation(2) for i in (10, 1, 9)})
    assert [f.key for f in sym.factors] == ["h1", "h9", "h10"]


# Refusals at construction.

H = {"h": Permutation(3)}


@pytest.mark.parametrize(
    ("axes", "given_groups", "error", "message"),
    [
        ({"a": 3}, H, TypeError, "the label of 'a' must be a string, got 3"),
        ({"a": "h"}, Permutation(3), TypeError, "groups must be a dict"),
        ({"a": "h"}, {"h": 3}, TypeError, "the group of 'h' must be a group, got 3"),
        ({"a": "h*?"}, H, ValueError, r"leaf 'a': label 'h\*\?': cannot be read"),
        ({"a/b": "h", "a": {"b": "_"}}, H, ValueError, "leaf 'a/b' has two labels: '_' and 'h'"),
        ({"a": "_"}, H, ValueError, r"the space 'h' of S\(3\) is on no label"),
        ({"a": "h=4"}, H, ValueError, "leaf 'a' .* states the size 4, but the group of 'h' has 3"),
        ({"a": "h"}, {"h h2": Permutation(3)}, ValueError, "named by an identifier, got 'h h2'"),
        ({"a": "h"}, {("h", "k"): Permutation(3)}, ValueError, r"S\(3\) acts on 1 different spaces, got"),
        ({"a": "h"}, {("h", "h"): Wreath(Permutation(3), Permutation(2))}, ValueError, "2 different spaces"),
        ({"a": "h"}, {"h": H["h"], ("h",): SignFlip(3)}, ValueError, "'h' has two groups"),
        ({"a": "h^2"}, {"h": GeneralLinear(3)}, ValueError, r"leaf 'a' with label 'h\^2': GL\(3\) acts with"),
        ({"a": "h{c:1}"}, {"h": Monomial(3, 1)}, ValueError, "no scaling or sign named 'c'; it has: a"),
        ({"a": "h^1/2"}, {"h": SignFlip(3)}, ValueError, "the denominator must be odd"),
        ({"a": "h{g:1}"}, {"h": Monomial(3, ["g[2]"])}, ValueError, "name the axis that indexes them"),
        (
            {"a": "h{g[n]:1}"},
            {"h": Monomial(3, ["g[2]"])},
            ValueError,
            "indexed by the axis 'n', which is missing",
        ),
        (
            {"a": "n n h{g[n]:1}"},
            {"h": Monomial(3, ["g[2]"])},
            ValueError,
            "indexed by the axis 'n', which occurs several times",
        ),
        (
            {"a": "n h{g[n]:1}"},
            {"h": Monomial(3, ["g[2]"]), "n": Permutation(2)},
            ValueError,
            "the axis 'n' indexes scalings and must be fixed",
        ),
        (
            {"a": "dim", "b": "heads dim"},
            {("heads", "dim"): Wreath(Permutation(2), Permutation(3))},
            ValueError,
            "leaf 'a' .*dim depends on the space 'heads', which is missing",
        ),
        (
            {"a": "heads heads dim"},
            {("heads", "dim"): Wreath(Permutation(2), Permutation(3))},
            ValueError,
            "dim depends on the space 'heads', which occurs several times",
        ),
        (
            {"a": "t h"},
            {"t": Translation(2), "h": GeneralLinear(3)},
            ValueError,
            r"R\^2 on 't' adds the same vector along the axis of 'h', but GL\(3\) does not fix constant vectors",
        ),
        ({"a": "h h"}, {"h": Affine(3)}, ValueError, "the two do not commute"),
        (
            {"a": "h k"},
            {("h", "k"): Product(Affine(3), SignFlip(2))},
            ValueError,
            "the two do not commute",
        ),
    ],
)
def test_a_wrong_symmetry_is_refused(axes, given_groups, error, message):
    with pytest.raises(error, match=message):
        Symmetry(axes, given_groups)


@pytest.mark.parametrize(
    ("label", "given_groups"),
    [
        ("t h", {"t": Translation(2), "h": Permutation(3)}),
        ("t h^0", {"t": Translation(2), "h": Monomial(3, 1, 1)}),
        ("t h^2", {"t": Translation(2), "h": SignFlip(3)}),
        ("t h", {"t": Translation(2), "h": groups.Stabiliser(GeneralLinear(3))}),
        ("t h", {"t": Translation(2), "h": groups.Stabiliser(Orthogonal(3), (2.0, 2.0, 2.0))}),
        ("t t", {"t": Translation(2)}),
        ("t (heads dim)", {"t": Translation(2), ("heads", "dim"): Wreath(Permutation(2), Permutation(3))}),
    ],
)
def test_actions_that_fix_constants_may_stand_beside_a_translation(label, given_groups, x64):
    sym = Symmetry({"a": label}, given_groups)
    size = {"t h": (2, 3), "t h^0": (2, 3), "t h^2": (2, 3), "t t": (2, 2)}.get(label, (2, 6))
    params = {"a": np.random.default_rng(0).normal(size=size)}
    a, b = sym.sample(jax.random.key(0)), sym.sample(jax.random.key(1))
    close(sym.act(sym.compose(a, b), params), sym.act(a, sym.act(b, params)))


def test_a_still_space_may_be_shared_by_several_direct_powers():
    """Layers stacked by a scan: two groups in each layer, the layer axis is the still space of both."""
    sym = Symmetry(
        {"a": "layers _ h", "b": "layers h* k", "c": "layers k* _"},
        {
            ("layers", "h"): Wreath(GeneralLinear(3), Trivial(2)),
            ("layers", "k"): Wreath(PositiveScaling(4), Trivial(2)),
        },
    )
    params = {"a": jnp.ones((2, 5, 3)), "b": jnp.ones((2, 3, 4)), "c": jnp.ones((2, 4, 5))}
    g = sym.sample(jax.random.key(0))

    def net(p):
        return np.einsum("lih,lhk,lkj->lij", p["a"], p["b"], p["c"])

    close(net(ACT(sym, g, params)), net(params), 1e-5)
    with pytest.raises(ValueError, match="'layers' has two groups"):
        Symmetry(
            {"a": "layers _ h", "b": "layers k"},
            {
                ("layers", "h"): Wreath(GeneralLinear(3), Permutation(2)),
                ("layers", "k"): Wreath(PositiveScaling(4), Trivial(2)),
            },
        )


# Refusals at the call.


def test_a_stale_label_names_the_leaf_and_both_shapes():
    sym, g = Symmetry(MLP, {"h": Permutation(7)}), {"h": jnp.arange(7)}
    wide = mlp_params(h=8)
    for call in (lambda: sym.act(g, wide), lambda: sym.check(wide), lambda: sym.act_dual(g, wide)):
        with pytest.raises(
            ValueError, match=r"'Dense_0/bias' has shape \(8,\).*'h': axis 0 must have size 7"
        ):
            call()
    flat = mlp_params()
    flat["Dense_0"]["kernel"] = jnp.ones((2, 3, 7))
    with pytest.raises(
        ValueError, match=r"'Dense_0/kernel' has shape \(2, 3, 7\).*'_ h': the label has 2 axes"
    ):
        sym.act(g, flat)
    renamed = {"dense_0": mlp_params()["Dense_0"], "Dense_1": mlp_params()["Dense_1"]}
    with pytest.raises(ValueError, match=r"'Dense_0/bias' matches no leaf .* nearest leaf is 'dense_0/bias'"):
        sym.act(g, renamed)
    with pytest.raises(ValueError, match="the tree has no leaves"):
        sym.act(g, {})


@pytest.mark.parametrize(
    ("label", "shape", "rule"),
    [
        ("... h h", (3,), "the label needs at least 2 axes"),
        ("(h + _)", (2,), "axis 0 cannot be 3 [+] a multiple of 1"),
        ("(h 2 _)", (8,), "axis 0 cannot be 0 [+] a multiple of 6"),
        ("(h + 2)", (6,), "axis 0 must have size 5"),
        ("(_ h _)", (12,), "several fixed factors of unknown size: state them"),
        ("(h + _ + a)", (12,), "several fixed factors of unknown size: state them"),
    ],
)
def test_a_label_that_does_not_fit_says_why(label, shape, rule):
    sym = Symmetry({"w": label}, H)
    with pytest.raises(ValueError, match=rf"leaf 'w' has shape .*does not fit its label.*{rule}"):
        sym.act({"h": jnp.arange(3)}, {"w": jnp.ones(shape)})


def test_neighbouring_fixed_factors_need_no_size_and_index_axes_stay_apart():
    sym = Symmetry({"w": "(height width h)"}, H)
    np.testing.assert_array_equal(
        sym.act({"h": jnp.asarray([1, 0, 2])}, {"w": jnp.arange(12)})["w"].reshape(4, 3)[:, 0], [1, 4, 7, 10]
    )
    sym = Symmetry({"w": "(layers _) h{g[layers]:1}"}, {"h": Monomial(2, ["g[3]"])})
    with pytest.raises(ValueError, match="state them"):
        sym.act(sym.identity(), {"w": jnp.ones((6, 2))})


def test_named_fixed_axes_must_agree():
    sym = Symmetry({"a": "emb h", "b": "h emb"}, H)
    sym.check({"a": jnp.ones((5, 3)), "b": jnp.ones((3, 5))})
    with pytest.raises(ValueError, match="'emb' has size 5 on leaf 'a', but 4 on 'b'"):
        sym.check({"a": jnp.ones((5, 3)), "b": jnp.ones((3, 4))})


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ({}, r"has the keys \['h'\], got \[\]"),
        ({"h": jnp.eye(7), "k": 1}, r"has the keys \['h'\], got \['h', 'k'\]"),
        (jnp.eye(7), r"has the keys \['h'\], got ArrayImpl"),
        ({"h": jnp.eye(6)}, r"on 'h': GL\(7\): an element has shapes \(7, 7\), got \(6, 6\)"),
        ({"h": jnp.ones((5, 7, 7))}, r"got \(5, 7, 7\); use jax.vmap for many"),
        ({"h": (jnp.eye(7),)}, r"got \(\(7, 7\),\)"),
    ],
)
def test_an_element_of_another_symmetry_is_refused(element, message):
    sym = Symmetry(MLP, {"h": GeneralLinear(7)})
    params = mlp_params()
    for call in (
        lambda: sym.act(element, params),
        lambda: sym.act_dual(element, params),
        lambda: sym.inverse(element),
        lambda: sym.compose(element, sym.identity()),
        lambda: sym.compose(sym.identity(), element),
        lambda: sym.log(element),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_an_element_with_its_inverse_acts_without_a_solve(x64):
    sym, params = Symmetry(MLP, {"h": GeneralLinear(7)}), mlp_params()
    g = sym.sample(jax.random.key(0))
    pair = sym.with_inverse(g)
    close(sym.act(pair, params), sym.act(g, params))
    close(sym.act_dual(pair, params), sym.act_dual(g, params))
    close(sym.act(sym.inverse(pair), sym.act(pair, params)), params)
    assert "lu" in str(jax.make_jaxpr(sym.act)(g, params))
    assert "lu" not in str(jax.make_jaxpr(sym.act)(pair, params))
    with pytest.raises(ValueError, match=r"has the keys \['h'\], got \[\]"):
        sym.with_inverse({})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Equivariance.of("sym"), "Equivariance.of needs an eqtoolbox.Symmetry, got 'sym'"),
        (lambda: TWO.product(3), "a product needs an eqtoolbox.Symmetry, got 3"),
        (lambda: orbit_dimension(3, {}), "orbit_dimension needs an eqtoolbox.Symmetry"),
        (lambda: generator_matrix(3, {}), "generator_matrix needs"),
        (lambda: split(3, {}, {}), "split needs"),
        (lambda: symmetrize(3, len), "symmetrize needs"),
        (lambda: lie_derivative(3, len, {}, {}), "lie_derivative needs"),
        (lambda: sample_orbit(3, {}, 2, key=None), "sample_orbit needs"),
        (lambda: elements(3), "elements needs"),
        (lambda: testing.assert_invariant(3, len, {}, key=None), "the check of invariance needs"),
        (lambda: testing.assert_group_action(3, {}, key=None), "the check of a group action needs"),
        (
            lambda: testing.assert_optimizer_equivariant(3, None, {}, key=None),
            "the check of an optimizer needs",
        ),
        (
            lambda: testing.assert_optimizer_equivariant(TWO, 3, {}, key=None),
            "an optax transformation, got 3",
        ),
        (lambda: TWO.subgroup({"a": 3}), "the group of 'a' must be a group, got 3"),
        (lambda: TWO.at(3), "the prefix must be a path such as 'params/encoder', got 3"),
        (lambda: parse_label(3), "a label must be a string, got 3"),
        (
            lambda: Symmetry.from_rules({}, [("a",)], {}),
            r"a rule must be a pair \(pattern, label\) .* got \('a',\)",
        ),
        (
            lambda: TWO.act(TWO.identity(), {**dict.fromkeys(TWO_SHAPES, 1.0), "b1": "x"}),
            "leaf 'b1' must be an array",
        ),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_by_name(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_an_orbit_has_a_positive_number_of_samples(count):
    with pytest.raises(ValueError, match="`count` must be a positive integer"):
        sample_orbit(TWO, {}, count, key=jax.random.key(0))


def test_membership_is_a_question_not_an_error():
    sym = Symmetry(MLP, {"h": Orthogonal(7)})
    assert bool(sym.contains(sym.sample(jax.random.key(0))))
    assert not bool(sym.contains({"h": 1.01 * jnp.eye(7)}))
    assert not bool(sym.contains({"h": jnp.eye(6)}))
    assert not bool(jax.jit(sym.contains)({"h": jnp.full((7, 7), jnp.nan)}))


def test_a_wrong_algebra_vector_is_refused():
    sym = Symmetry({"a": "h k"}, {"h": GeneralLinear(3), "k": Permutation(2)})
    params = {"a": jnp.ones((3, 2))}
    for xi, message in (
        ({"k": jnp.zeros(0)}, r"has the keys \['h'\], got \['k'\]"),
        (jnp.zeros((3, 3)), r"has the keys \['h'\], got \['ArrayImpl'\]"),
        ({"h": jnp.zeros((2, 2))}, r"on 'h': GL\(3\): an algebra vector has shapes \(3, 3\), got \(2, 2\)"),
    ):
        for call in (sym.exp, lambda v: sym.generator(v, params)):
            with pytest.raises(ValueError, match=message):
                call(xi)


def test_factors_left_out_of_an_algebra_vector_count_as_zero():
    sym = Symmetry({"a": "h k"}, {"h": GeneralLinear(3), "k": PositiveScaling(2)})
    params, xi = {"a": jnp.ones((3, 2))}, sym.sample_algebra(jax.random.key(0))
    part = {"h": xi["h"]}
    np.testing.assert_array_equal(sym.exp(part)["k"], jnp.ones(2))
    np.testing.assert_array_equal(sym.generator(part, params)["a"], xi["h"] @ params["a"])
    np.testing.assert_array_equal(sym.generator({}, params)["a"], 0)


def test_a_gradient_must_have_the_leaves_of_the_parameters():
    sym, params = Symmetry(MLP, {"h": GeneralLinear(7)}), mlp_params()
    with pytest.raises(ValueError, match="the gradient must have the 4 leaves of the parameters, got 2"):
        sym.pullback(params, params["Dense_0"])
    wrong = mlp_params(h=6)
    with pytest.raises(ValueError, match=r"leaf 'Dense_0/bias' of the gradient must have shape \(7,\)"):
        sym.pullback(params, wrong)


def test_masked_leaves_are_refused_where_the_symmetry_needs_them_only():
    sym, params = Symmetry(MLP, {"h": Permutation(7)}), mlp_params()
    g = sym.sample(jax.random.key(0))
    params["Dense_1"]["bias"] = optax.MaskedNode()
    moved = sym.act(g, params)
    assert isinstance(moved["Dense_1"]["bias"], optax.MaskedNode)
    params["Dense_1"]["kernel"] = optax.MaskedNode()
    with pytest.raises(ValueError, match=r"leaf 'Dense_1/kernel' .*masked out \(optax.MaskedNode\)"):
        sym.act(g, params)


# Symmetries from symmetries.


def test_from_rules_labels_by_the_first_pattern_that_matches():
    params = {"a": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "b": {"kernel": jnp.ones((4, 2))}}
    rules = [("b/kernel", "h* _"), ("*/kernel", "_ h"), ("*/bias", "h")]
    sym = Symmetry.from_rules(params, rules, {"h": GeneralLinear(4)})
    assert sym.axes == {"a/bias": "h", "a/kernel": "_ h", "b/kernel": "h* _"}
    shapes = jax.eval_shape(lambda: params)
    assert Symmetry.from_rules(shapes, rules, {"h": GeneralLinear(4)}) == sym
    with pytest.raises(ValueError, match=r"the rule '\*/gain' matches none of the leaves a/bias, a/kernel"):
        Symmetry.from_rules(params, [*rules, ("*/gain", "h")], {"h": GeneralLinear(4)})
    with pytest.raises(ValueError, match=r"leaf 'a/bias' has shape \(4,\)"):
        Symmetry.from_rules(params, rules[1:], {"h": GeneralLinear(3)})


TWO = Symmetry(
    {"k1": "_ a", "b1": "a", "k2": "a* b", "k3": "b* _ | t", "k4": "| t*"},
    {"a": GeneralLinear(3), "b": PositiveScaling(5), "t": Scaling(1)},
)
TWO_SHAPES = {"k1": (2, 3), "b1": (3,), "k2": (3, 5), "k3": (5, 2), "k4": ()}


def test_restrict_fixes_the_other_spaces_and_product_joins_them_again(x64):
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s) for k, s in TWO_SHAPES.items()}
    part = TWO.restrict("a")
    assert part.groups == {"a": GeneralLinear(3)}
    assert part.axes == {"b1": "a", "k1": "_ a", "k2": "a* b=5", "k3": "b=5 _", "k4": ""}
    g = TWO.sample(jax.random.key(0))
    only = {**TWO.identity(), "a": g["a"]}
    close(part.act({"a": g["a"]}, params), TWO.act(only, params))
    assert part.product(TWO.restrict("b"), TWO.restrict("t")) == TWO
    assert TWO.restrict("b", "t").product(part) == TWO
    with pytest.raises(ValueError, match="there is no space 'c'; there are a, b, t"):
        TWO.restrict("c")


def test_restrict_keeps_the_spaces_of_one_group_together():
    sym = Symmetry(
        {"w": "emb (heads dim)"},
        {("heads", "dim"): Wreath(Orthogonal(2), Permutation(3)), "emb": Permutation(4)},
    )
    assert sym.restrict("dim").axes == {"w": "emb=4 (heads dim)"}
    affine = Symmetry({"b": "h", "w": "h{homogeneous:-1} k"}, {"h": Affine(3), "k": Permutation(2)})
    assert affine.restrict("k").axes == {"b": "h=3", "w": "4 k"}
    affine.restrict("k").check({"b": jnp.ones(3), "w": jnp.ones((4, 2))})


def test_product_refuses_two_groups_on_one_space_or_axis():
    a = Symmetry({"w": "h _"}, {"h": Permutation(3)})
    with pytest.raises(ValueError, match="both symmetries have a group on 'h'"):
        a.product(a)
    with pytest.raises(ValueError, match="leaf 'w' has two labels that disagree on an axis: 'h _' and 'k _'"):
        a.product(Symmetry({"w": "k _"}, {"k": SignFlip(3)}))
    with pytest.raises(ValueError, match="leaf 'w' has labels of different ranks"):
        a.product(Symmetry({"w": "_ _ k"}, {"k": SignFlip(3)}))
    with pytest.raises(ValueError, match="disagree on an axis: 'h emb' and '_ model'"):
        Symmetry({"w": "h emb"}, H).product(Symmetry({"w": "_ model", "v": "k"}, {"k": SignFlip(3)}))


def test_subgroup_and_compact_keep_the_labels(x64):
    small = TWO.subgroup({"a": Orthogonal(3)})
    assert small.groups["a"] == Orthogonal(3)
    assert small.axes == TWO.axes
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=s) for k, s in TWO_SHAPES.items()}
    g = small.sample(jax.random.key(0))
    close(small.act(g, params), TWO.act(g, params))
    compact = TWO.compact()
    assert compact.groups == {"a": Orthogonal(3), "b": Trivial(5), "t": Trivial(1)}
    assert compact.is_compact
    with pytest.raises(ValueError, match="no group acts on 'c'; there are 'a', 'b', 't'"):
        TWO.subgroup({"c": Orthogonal(3)})
    with pytest.raises(ValueError, match=r"O\(4\) acts on sizes \(4,\), but GL\(3\) on \(3,\)"):
        TWO.subgroup({"a": Orthogonal(4)})


def test_compact_drops_the_exponents_of_scalings():
    sym = Symmetry(
        {"a": "_ h{a:1}", "b": "h{a:-1,b:-2,s:1} _"}, {"h": Monomial(4, scales=("a", "b"), signs=("s",))}
    )
    assert sym.compact().axes == {"a": "_ h^0", "b": "h{s:1} _"}
    assert sym.compact().order == 384
    affine = Symmetry({"b": "h", "w": "h{homogeneous:-1} _"}, {"h": Affine(3)})
    with pytest.raises(ValueError, match=r"leaf 'w': .*homogeneous coordinates h{homogeneous:-1}"):
        affine.compact()


def test_at_moves_the_symmetry_to_a_larger_tree():
    sym = Symmetry(MLP, {"h": Permutation(7)})
    params, g = mlp_params(), sym.sample(jax.random.key(0))
    inside = sym.at("params/encoder").act(g, {"params": {"encoder": params, "head": jnp.ones(3)}})
    close(inside["params"]["encoder"], sym.act(g, params), 0)
    assert sym.at("") == sym
    bare = Symmetry("_ h", {"h": Permutation(3)})
    assert bare.at("w").axes == {"w": "_ h"}


@settings(max_examples=5)
@given(st.data())
def test_product_acts_as_both(data):
    tree = {"a": data.draw(leaves(("p", "g"))), "b": data.draw(leaves(("c", "m")))}
    with jax.enable_x64(True):
        parts = [
            Symmetry({path: str(leaf)}, {s: SPACES[s][0] for s in leaf.spaces}) for path, leaf in tree.items()
        ]
        both = parts[0].product(parts[1])
        params = random_tree(tree, 0)
        g = both.sample(jax.random.key(0))
        moved = params
        for sym in parts:
            moved = sym.act({f.key: g[f.key] for f in sym.factors}, moved)
        close(both.act(g, params), moved)


# Dtypes.


def test_low_precision_leaves_keep_their_dtype_and_are_rounded_once():
    """GL on two axes of a bfloat16 leaf: as accurate as float32 arithmetic and one rounding."""
    sym = Symmetry({"w": "h k*"}, {"h": GeneralLinear(16), "k": GeneralLinear(8)})
    g, xi = sym.sample(jax.random.key(0)), sym.sample_algebra(jax.random.key(3))
    wide = jax.random.normal(jax.random.key(1), (16, 8)).astype(jnp.bfloat16)
    for dtype, call in (
        (jnp.bfloat16, lambda p: sym.act(g, p)),
        (jnp.float16, lambda p: sym.act_dual(g, p)),
        (jnp.bfloat16, lambda p: sym.generator(xi, p)),
    ):
        leaf = wide.astype(dtype)
        narrow, exact = jax.jit(lambda w, f=call: (f({"w": w}), f({"w": w.astype(jnp.float32)})))(leaf)
        assert narrow["w"].dtype == dtype
        error = jnp.abs(narrow["w"].astype(jnp.float32) - exact["w"])
        assert float(jnp.max(error / (jnp.abs(exact["w"]) + 1e-4))) <= 0.51 * float(jnp.finfo(dtype).eps)


def test_algebra_of_low_precision_parameters_is_float32():
    sym = Symmetry({"w": "h _"}, {"h": GeneralLinear(3)})
    params = {"w": jnp.ones((3, 2), jnp.bfloat16)}
    assert sym.pullback(params, params)["h"].dtype == jnp.float32


def test_integers_can_be_moved_but_not_multiplied():
    params = {"w": jnp.arange(6).reshape(3, 2)}
    for group in (Permutation(3), SignFlip(3), SignedPermutation(3)):
        sym = Symmetry({"w": "h _"}, {"h": group})
        assert sym.act(sym.sample(jax.random.key(0)), params)["w"].dtype == params["w"].dtype
    permuted = Symmetry({"w": "h^0 _"}, {"h": Monomial(3, 1)})
    permuted.check(params)
    for group, name in (
        (GeneralLinear(3), r"GL\(3\)"),
        (PositiveScaling(3), r"R₊\^3"),
        (Monomial(3, 1), "S"),
    ):
        sym = Symmetry({"w": "h _"}, {"h": group})
        with pytest.raises(
            TypeError, match=f"leaf 'w' holds int32, but {name}.* multiplies it by real numbers"
        ):
            sym.act(sym.identity(), params)
        with pytest.raises(TypeError, match="leaf 'w' holds int32"):
            sym.check(params)


def test_integer_and_key_leaves_do_not_disturb_the_calculus():
    sym = Symmetry({"a": "_ h", "b": "h* _"}, {"h": GeneralLinear(4)})
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2)), "count": jnp.int32(3), "key": jax.random.key(0)}
    xi = sym.sample_algebra(jax.random.key(0))
    assert sym.act(sym.exp(xi), params)["count"] == 3
    assert sym.generator(xi, params)["count"] == 0
    gradient = {**jax.tree.map(jnp.ones_like, {"a": params["a"], "b": params["b"]}), "count": 0, "key": 0}
    both = sym.pullback(params, gradient)["h"]
    plain = sym.pullback({"a": params["a"], "b": params["b"]}, {"a": gradient["a"], "b": gradient["b"]})["h"]
    np.testing.assert_array_equal(both, plain)
