"""The public checks: true symmetries pass, false and nearly true ones fail, and the message says how."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eqtoolbox import Equivariance, Symmetry, testing
from eqtoolbox.groups import Orthogonal, Permutation, PositiveScaling

X = np.random.default_rng(5).normal(size=(5, 3)).astype(np.float32)
LABELS = {"u": "_ h", "w": "h* k", "v": "k* _"}
SCALED = Symmetry(LABELS, {"h": PositiveScaling(4), "k": PositiveScaling(2)})


def params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"u": (3, 4), "w": (4, 2), "v": (2, 2)}
    return {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}


def relu_net(p, x):
    return {"logits": jax.nn.relu(jax.nn.relu(x @ p["u"]) @ p["w"]) @ p["v"]}


def key():
    return jax.random.key(0)


# The measure.


def test_discrepancy_is_relative_to_the_largest_entry_and_says_where():
    a = {"small": np.array([1.0, 2.0]), "large": np.array([[10.0, -20.0]])}
    b = {"small": np.array([1.0, 2.5]), "large": np.array([[10.0, -20.0]])}
    found = testing.discrepancy(b, a)
    assert found == (0.5 / 20, "small", (1,))
    assert str(found) == "relative error 2.50e-02 at small[1]"
    assert testing.discrepancy(a, a).error == 0
    assert str(testing.discrepancy(np.ones(2), np.zeros(2))) == "relative error 1.00e+00 at the array[0]"


def test_discrepancy_of_what_is_not_finite():
    inf, nan = np.array([1.0, np.inf]), np.array([1.0, np.nan])
    assert testing.discrepancy(inf, inf).error == 0
    for a, b in ((nan, nan), (nan, inf), (inf, -inf), (inf, np.ones(2)), (np.ones(2), nan)):
        assert testing.discrepancy(a, b) == (np.inf, "", (1,))


def test_discrepancy_of_keys_integers_and_empty_leaves():
    tree = {"key": key(), "n": jnp.int32(4), "empty": jnp.zeros((0, 2)), "z": jnp.asarray(1j)}
    assert testing.discrepancy(tree, tree).error == 0
    assert testing.discrepancy({**tree, "n": jnp.int32(5)}, tree).leaf == "n"


def test_discrepancy_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="pytrees of different structure"):
        testing.discrepancy({"a": 1}, {"b": 1})
    with pytest.raises(ValueError, match=r"leaf 'a': cannot compare shapes \(2,\) and \(3,\)"):
        testing.discrepancy({"a": jnp.ones(2)}, {"a": jnp.ones(3)})


# assert_invariant.


def test_a_symmetry_passes_in_float32_and_float64():
    k = key()
    coarse = testing.assert_invariant(SCALED, relu_net, params(), X, key=k)
    assert 0 < coarse < 1e-5
    assert (
        testing.assert_invariant(SCALED, relu_net, params(), X, key=k, samples=1) < 1e-5
    )  # the key may be used again
    with jax.enable_x64(True):
        fine = testing.assert_invariant(
            SCALED, relu_net, params(jnp.float64), X.astype(np.float64), key=key()
        )
    assert fine < 1e-13


def test_a_wrong_symmetry_fails_with_its_size_place_and_space():
    wrong = Symmetry({**LABELS, "v": "k _"}, SCALED.groups)
    with pytest.raises(AssertionError, match="not invariant") as error:
        testing.assert_invariant(wrong, relu_net, params(), X, key=key(), samples=2)
    text = str(error.value)
    first = re.search(r"change by relative error (\S+) at logits\[\d, \d\], more than 1e-04", text)
    assert first is not None
    assert float(first[1]) > 0.1
    sizes = dict(re.findall(r"  (\w): relative error (\S+) at", text.split("Each group alone:")[1]))
    assert float(sizes["h"]) < 1e-5 < 0.1 < float(sizes["k"])
    errors = testing.invariance_errors(wrong, relu_net, params(), X, key=key(), samples=1)
    assert list(errors) == ["", "h", "k"]


ONE = Symmetry({"u": "_ h"}, {"h": PositiveScaling(4)})


def normalised(p, x, eps):
    z = x @ p["u"]
    return (z - z.mean(0, keepdims=True)) / jnp.sqrt(z.var(0, keepdims=True) + eps)


@pytest.mark.parametrize(
    "near",
    [lambda p, x: normalised(p, x, 1e-5), lambda p, x: normalised(p, x, 0) + 1e-6 * p["u"][:1]],
    ids=["the eps of BatchNorm", "a perturbation of 1e-6"],
)
def test_a_near_miss_passes_float32_and_is_caught_in_float64(near):
    p = {"u": params()["u"]}
    assert testing.assert_invariant(ONE, near, p, X, key=key(), samples=2, float64=False) < 1e-4
    with pytest.raises(
        AssertionError, match=r"passes in float32 with .* does not shrink below 1e-09: relative"
    ):
        testing.assert_invariant(ONE, near, p, X, key=key(), samples=2)
    assert testing.assert_invariant(ONE, lambda p, x: normalised(p, x, 0), p, X, key=key(), samples=2) < 1e-4


def test_a_function_that_casts_to_float32_gets_the_explanation():
    def casting(p, x):
        return normalised({"u": p["u"].astype(jnp.float32)}, x.astype(jnp.float32), 0)

    p = {"u": params()["u"]}
    with pytest.raises(AssertionError, match=r"casts to float32 inside \(then pass float64=False\)"):
        testing.assert_invariant(ONE, casting, p, X, key=key(), samples=2)
    testing.assert_invariant(ONE, casting, p, X, key=key(), samples=2, float64=False)


def test_outputs_that_are_not_numbers_fail():
    with pytest.raises(AssertionError, match="relative error inf at the array"):
        testing.assert_invariant(ONE, lambda p, x: jnp.log(-(p["u"] ** 2)), params(), X, key=key(), samples=1)


def test_bfloat16_parameters_have_their_own_tolerance():
    p = {"u": params(jnp.bfloat16)["u"]}
    error = testing.assert_invariant(ONE, lambda p, x: normalised(p, x, 0), p, X, key=key(), samples=1)
    assert 1e-4 < error < testing.TOLERANCES["bfloat16"]
    with pytest.raises(AssertionError, match="more than 1e-06"):
        testing.assert_invariant(ONE, lambda p, x: normalised(p, x, 0), p, X, key=key(), samples=1, rtol=1e-6)


def test_a_check_needs_a_sample():
    with pytest.raises(ValueError, match="at least one random element, got samples=0"):
        testing.assert_invariant(ONE, normalised, params(), X, 0.0, key=key(), samples=0)
    with pytest.raises(ValueError, match="samples=0"):
        testing.assert_group_action(ONE, params(), key=key(), samples=0)


# assert_group_action.


def test_a_group_action_passes_beside_integers_and_keys():
    p = {**params(), "step": jnp.int32(3), "key": key()}
    assert testing.assert_group_action(SCALED, p, key=key(), samples=2) < 1e-5


class Reversed(Permutation):
    def compose(self, a, b):
        return a[b]


class NotInverted(Permutation):
    def inverse(self, g):
        return g


class Shifted(PositiveScaling):
    def identity(self, dtype=None):
        return 1.5 * super().identity(dtype)


class Slow(PositiveScaling):
    def tangent_slots(self, xi, x, slots):
        return 0.9 * super().tangent_slots(xi, x, slots)


class Outside(Permutation):
    def contains(self, g, tolerance=1e-5):
        return jnp.asarray(False)


class Nearly(PositiveScaling):
    def compose(self, a, b):
        return a * b * (1 + 1e-6)


@pytest.mark.parametrize(
    ("group", "axiom"),
    [
        (Reversed, "act(compose(a, b), θ) = act(a, act(b, θ))"),
        (NotInverted, "act(inverse(a), act(a, θ)) = θ"),
        (Shifted, "act(identity, θ) = θ"),
        (Slow, "d/dt act(exp(t ξ), θ) = generator(ξ, θ)"),
        (Outside, "samples, products and inverses are members"),
    ],
)
def test_a_broken_action_fails_by_name(group, axiom):
    sym = Symmetry({"u": "_ h"}, {"h": group(4)})
    with pytest.raises(
        AssertionError, match=re.escape(f"not a group action: {axiom} fails with relative error")
    ):
        testing.assert_group_action(sym, params(), key=key(), samples=2)


def test_a_nearly_right_action_is_caught_in_float64():
    sym = Symmetry({"u": "_ h"}, {"h": Nearly(4)})
    with pytest.raises(
        AssertionError, match=re.escape("act(compose(a, b), θ) = act(a, act(b, θ)) passes in float32")
    ):
        testing.assert_group_action(sym, params(), key=key(), samples=1)


# assert_equivariant.


def square(p):
    return jnp.asarray(X[:, :2], p.dtype) @ p**2


def stretch(p, lam):
    return p * jnp.exp(lam)


SQUARE = Equivariance(
    stretch,
    lambda y, lam: y * jnp.exp(2 * lam),
    lambda p, lam: p * jnp.exp(-lam),
    lambda y, lam: y * jnp.exp(-2 * lam),
    0.0,
)


def test_an_equivariance_passes():
    assert testing.assert_equivariant(SQUARE, square, params()["v"], jnp.float32(0.3)) < 1e-5


@pytest.mark.parametrize(
    ("field", "wrong", "equation"),
    [
        ("act_output", lambda y, lam: y * jnp.exp(lam), "f(H(θ, λ)) = G(f(θ), λ)"),
        ("act_inverse", lambda p, lam: p, "H⁻¹(H(θ, λ), λ) = θ"),
        ("output_inverse", lambda y, lam: y * jnp.nan, "G⁻¹(G(y, λ), λ) = y"),
    ],
)
def test_a_wrong_equivariance_fails_by_equation(field, wrong, equation):
    eq = Equivariance(**{**vars(SQUARE), field: wrong})
    with pytest.raises(
        AssertionError, match=re.escape(f"not equivariant: {equation} fails with relative error")
    ):
        testing.assert_equivariant(eq, square, params()["v"], jnp.float32(0.3))


def test_a_near_equivariance_is_caught_in_float64():
    near = Equivariance(stretch, lambda y, lam: y * jnp.exp(2.000001 * lam))
    with pytest.raises(AssertionError, match="does not shrink below"):
        testing.assert_equivariant(near, square, params()["v"], jnp.float32(0.3))


# assert_optimizer_equivariant.

ROTATED = Symmetry({"u": "_ h", "w": "h* _"}, {"h": Orthogonal(4)})


def two():
    return {k: params()[k] for k in ("u", "w")}


def test_gradient_descent_commutes_with_rotations_and_adam_does_not():
    loss = lambda p: jnp.mean((jnp.asarray(X, p["u"].dtype) @ p["u"] @ p["w"]) ** 2)  # noqa: E731
    error = testing.assert_optimizer_equivariant(ROTATED, optax.sgd(0.1), two(), key=key(), loss=loss)
    assert error < 1e-5
    with pytest.raises(
        AssertionError, match=r"not equivariant: after 5 steps the two runs differ by relative error"
    ):
        testing.assert_optimizer_equivariant(ROTATED, optax.adam(0.1), two(), key=key(), loss=loss)
    permuted = ROTATED.subgroup({"h": Permutation(4)})
    assert testing.assert_optimizer_equivariant(permuted, optax.adam(0.1), two(), key=key(), steps=3) < 1e-5


def test_a_nearly_equivariant_optimizer_is_caught_in_float64():
    def drift(updates, state, params=None):
        return jax.tree.map(lambda u: u + 1e-6, updates), state

    near = optax.chain(optax.sgd(0.1), optax.GradientTransformation(lambda p: (), drift))
    with pytest.raises(AssertionError, match="the check passes in float32"):
        testing.assert_optimizer_equivariant(ROTATED, near, two(), key=key())
