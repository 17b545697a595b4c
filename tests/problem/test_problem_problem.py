"""`Problem` and `Batch`: what a user's `make()` returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Batch, Problem, Symmetry
from eqtoolbox.groups import Permutation

INPUTS, TARGETS = np.arange(14.0, dtype=np.float32).reshape(7, 2), np.arange(7)


def problem(**changes):
    fields = {
        "name": "toy",
        "init": lambda key: {"w": jax.random.normal(key, (2,))},
        "apply": lambda p, x: x @ p["w"],
        "output_loss": lambda y, t: jnp.mean((y - t) ** 2),
        "train": Batch(INPUTS, TARGETS),
    }
    return Problem(**{**fields, **changes})


def test_losses():
    toy, params = problem(), {"w": jnp.asarray([1.0, -1.0])}
    expected = np.mean((INPUTS @ [1, -1] - TARGETS) ** 2)
    np.testing.assert_allclose(jax.jit(toy.loss)(params), expected)
    half = Batch(INPUTS[:3], TARGETS[:3])
    np.testing.assert_allclose(
        toy.batch_loss(params, half), np.mean((INPUTS[:3] @ [1, -1] - TARGETS[:3]) ** 2)
    )
    np.testing.assert_allclose(toy.with_data(half).loss(params), toy.batch_loss(params, half))
    assert toy.train.size == 7
    with pytest.raises(ValueError, match="'toy' has no training examples: give it some by with_data"):
        problem(train=None).loss(params)


def test_batches_are_an_epoch_without_replacement():
    batches = list(problem().batches(jax.random.key(0), 3))
    assert [b.size for b in batches] == [3, 3]
    rows = np.concatenate([b.targets for b in batches])
    assert len(set(rows.tolist())) == 6
    for b in batches:
        np.testing.assert_array_equal(b.inputs, INPUTS[b.targets])
    other = np.concatenate([b.targets for b in problem().batches(jax.random.key(1), 3)])
    assert not np.array_equal(rows, other)


@pytest.mark.parametrize("size", [0, 8, -1])
def test_a_wrong_batch_size_is_refused_at_the_call(size):
    with pytest.raises(ValueError, match=f"'toy' has 7 training examples, got batch_size={size}"):
        problem().batches(jax.random.key(0), size)
    with pytest.raises(ValueError, match="has no training examples"):
        problem(train=None).batches(jax.random.key(0), 2)


def test_pairs_become_batches_and_inputs_may_be_trees():
    toy = problem(train=({"a": INPUTS, "b": INPUTS}, TARGETS), test=[INPUTS])
    assert isinstance(toy.train, Batch)
    assert isinstance(toy.test, Batch)
    assert toy.test.inputs is INPUTS
    assert toy.test.targets is None
    (batch,) = toy.batches(jax.random.key(0), 7)
    assert set(batch.inputs) == {"a", "b"}


NAN = INPUTS.copy()
NAN[2, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"init": 3}, TypeError, "Problem: init must be a function, got 3"),
        ({"apply": None}, TypeError, "Problem: apply must be a function"),
        ({"output_loss": "mse"}, TypeError, "Problem: output_loss must be a function, got 'mse'"),
        ({"symmetry": {"w": "_"}}, TypeError, "symmetry must be an eqtoolbox.Symmetry"),
        ({"train": INPUTS}, TypeError, r"'toy', train: must be a Batch or a pair \(inputs, targets\)"),
        ({"train": (1, 2, 3)}, TypeError, "must be a Batch or a pair"),
        ({"train": Batch((), TARGETS)}, ValueError, "train: the inputs hold no arrays"),
        (
            {"train": Batch(INPUTS, TARGETS[:3])},
            ValueError,
            "targets has 3 examples, but 7 were given before",
        ),
        ({"train": Batch(np.float32(1))}, ValueError, r"inputs must have examples .* got shape \(\)"),
        ({"train": Batch(np.zeros((0, 2)))}, ValueError, r"got shape \(0, 2\)"),
        (
            {"test": Batch(NAN, TARGETS)},
            ValueError,
            "'toy', test: inputs has 1 entries that are NaN or infinite",
        ),
        ({"train": Batch(jnp.asarray(NAN, jnp.bfloat16))}, ValueError, "1 entries that are NaN"),
        ({"train": Batch({"a": INPUTS, "b": NAN})}, ValueError, "inputs/b has 1 entries"),
    ],
)
def test_a_wrong_problem_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        problem(**changes)


def test_a_symmetry_may_be_given():
    sym = Symmetry({"w": "h"}, {"h": Permutation(2)})
    assert problem(symmetry=sym).symmetry == sym
