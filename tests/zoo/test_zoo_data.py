"""Bundled and synthetic data: splits, scaling, batches inside compiled loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import zoo
from eqtoolbox.zoo import _dataset

BUNDLED = {
    # name: (loader, inputs, targets, classes, examples)
    "digits": (zoo.digits, (64,), (), 10, 1797),
    "breast_cancer": (zoo.breast_cancer, (30,), (), 2, 569),
    "wine": (zoo.wine, (13,), (), 3, 178),
    "iris": (zoo.iris, (4,), (), 3, 150),
    "diabetes": (zoo.diabetes, (10,), (1,), None, 442),
}


@pytest.mark.parametrize("name", list(BUNDLED))
def test_bundled_data_sets(name):
    load, inputs, targets, classes, size = BUNDLED[name]
    data = load()
    n_test = round(0.2 * size)
    assert (data.name, data.num_classes) == (name, classes)
    assert data.train_x.shape == (size - n_test, *inputs)
    assert data.test_x.shape == (n_test, *inputs)
    assert data.train_y.shape == (size - n_test, *targets)
    assert data.test_y.shape == (n_test, *targets)
    assert data.train_x.dtype == data.test_x.dtype == jnp.float32
    x, y = (np.asarray(a) for a in data.train)
    axis = None if name == "digits" else 0
    np.testing.assert_allclose(x.mean(axis), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis), 1, atol=1e-5)
    if classes is None:
        assert data.train_y.dtype == jnp.float32
        np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-5)
    else:
        assert data.train_y.dtype == data.test_y.dtype == jnp.int32
        assert set(y.tolist()) == set(np.asarray(data.test_y).tolist()) == set(range(classes))
    assert "scikit-learn" in data.description
    assert f"{size - n_test} training and {n_test} test" in data.description


def test_every_example_is_in_one_part_with_its_own_label():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    data = zoo.digits(test_fraction=0.3, seed=4)
    parts = np.concatenate([data.train_x, data.test_x])
    # One mean and one deviation for all pixels: undo it by two pixels of known value.
    pixels = np.round((parts - parts.min()) / (parts.max() - parts.min()) * 16)
    labels = np.concatenate([data.train_y, data.test_y])
    rows = sorted(map(tuple, np.column_stack([pixels, labels]).astype(int).tolist()))
    assert rows == sorted(map(tuple, np.column_stack([x, y]).astype(int).tolist()))


def test_splits_are_deterministic_disjoint_and_follow_the_seed():
    train, test = _dataset.split_indices(100, 0.25, seed=0)
    again = _dataset.split_indices(100, 0.25, seed=0)
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(test, again[1])
    assert sorted([*train, *test]) == list(range(100))
    assert (len(train), len(test)) == (75, 25)
    assert set(test) != set(_dataset.split_indices(100, 0.25, seed=1)[1])
    # The stream of PCG64 is part of NumPy's promise: these numbers must never change.
    np.testing.assert_array_equal(
        np.concatenate(_dataset.split_indices(8, 0.25, seed=0)), [1, 6, 0, 7, 4, 5, 3, 2]
    )
    assert [len(part) for part in _dataset.split_indices(3, 0.01, seed=0)] == [2, 1]
    assert [len(part) for part in _dataset.split_indices(3, 0.99, seed=0)] == [1, 2]
    np.testing.assert_array_equal(zoo.iris(seed=3).test_x, zoo.iris(seed=3).test_x)
    assert not np.array_equal(zoo.iris(seed=3).test_x, zoo.iris(seed=4).test_x)


def test_scaling_uses_the_training_part_only():
    train = np.array([[1.0, 5.0], [3.0, 5.0]])
    scaled, other = _dataset.standardise(train, np.array([[5.0, 7.0]]))
    np.testing.assert_array_equal(scaled, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(other, [[3, 2]])


def test_images_and_dtypes(x64):
    flat, image = zoo.digits(dtype=jnp.float64), zoo.digits(image=True, dtype=jnp.float64)
    assert flat.train_x.dtype == jnp.float64
    np.testing.assert_array_equal(flat.train_x.reshape(-1, 8, 8, 1), image.train_x)
    np.testing.assert_allclose(np.asarray(flat.train_x).std(), 1, rtol=1e-12)
    assert zoo.diabetes(dtype=jnp.bfloat16).train_y.dtype == jnp.bfloat16


def test_a_data_set_is_a_pytree_of_its_arrays():
    data = zoo.iris()
    assert len(jax.tree.leaves(data)) == 4
    mean = jax.jit(lambda data: data.train_x.mean() + 0 * data.num_classes)(data)
    np.testing.assert_allclose(mean, 0, atol=1e-6)
    halves = jax.tree.map(lambda leaf: leaf[:3], data)
    assert (halves.name, halves.test_y.shape) == ("iris", (3,))
    with pytest.raises(AttributeError):
        data.name = "other"


def test_batches_cover_an_epoch_and_change_with_it():
    steps = jax.jit(lambda key: zoo.batch_indices(key, 10, 3, epochs=4))(jax.random.key(0))
    epochs = np.asarray(steps).reshape(4, 9)
    assert steps.shape == (12, 3)
    for order in epochs:
        assert len(set(order.tolist())) == 9
        assert set(order.tolist()) <= set(range(10))
    assert len({tuple(order) for order in epochs.tolist()}) == 4
    assert len({*range(10)} - {*epochs.ravel().tolist()}) == 0


def test_batches_in_a_scan_and_in_a_vmap():
    data = {"x": jnp.arange(12.0).reshape(6, 2), "y": jnp.arange(6)}

    def total(key):
        stacked = zoo.batches(key, data, 2, epochs=3)
        direct = zoo.batch_indices(key, 6, 2, epochs=3)

        def step(carry, batch):
            both, indices = batch
            same = jnp.all(zoo.take(data, indices)["x"] == both["x"]) & jnp.all(
                both["x"][:, 0] == 2 * both["y"]
            )
            return carry + both["y"].sum(), same

        return jax.lax.scan(step, 0, (stacked, direct))

    with jax.debug_key_reuse(False):  # the same key on purpose: both ways must give the same batches
        sums, same = jax.jit(jax.vmap(total))(jax.random.split(jax.random.key(0), 2))
    np.testing.assert_array_equal(sums, [45, 45])
    assert same.shape == (2, 9)
    assert np.all(same)


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_teacher_student(activation, x64):
    def make(key):
        return zoo.teacher_student(
            key, (20, 7, 4), activation, train=4000, test=500, decades=5.0, dtype=jnp.float64
        )

    problem = jax.jit(make)(jax.random.key(0)) if activation == "linear" else make(jax.random.key(0))
    data = problem.dataset
    assert (data.train_x.shape, data.train_y.shape) == ((4000, 20), (4000, 4))
    assert (data.test_x.shape, data.test_y.shape) == ((500, 20), (500, 4))
    assert data.num_classes is None
    sample = np.asarray(data.train_x)
    eigenvalues = np.linalg.eigvalsh(sample.T @ sample / len(sample))[::-1]
    np.testing.assert_allclose(eigenvalues, np.logspace(0, -5, 20), rtol=0.2)
    # The basis is random: no coordinate axis is an eigenvector.
    assert np.abs(np.linalg.eigh(sample.T @ sample)[1]).max() < 0.95
    sigma = np.tanh if activation == "tanh" else np.asarray
    first, second = (np.asarray(problem.teacher[f"Dense_{i}"]["kernel"]) for i in range(2))
    np.testing.assert_allclose(data.test_y, sigma(np.asarray(data.test_x) @ first) @ second, atol=1e-12)
    np.testing.assert_allclose(first.std() * np.sqrt(20), 1, rtol=0.2)
    assert not np.allclose(problem.student["Dense_0"]["kernel"], first, atol=0.1)
    shapes = jax.tree.map(jnp.shape, problem.student)
    assert shapes == {"Dense_0": {"kernel": (20, 7)}, "Dense_1": {"kernel": (7, 4)}}
    assert jax.eval_shape(problem.module.apply, {"params": problem.student}, data.test_x).shape == (500, 4)


def test_bad_arguments_are_refused_with_the_value():
    key = jax.random.key(0)
    for message, call in {
        "`test_fraction` must be strictly between 0 and 1, got 1.0": lambda: zoo.iris(test_fraction=1.0),
        "`test_fraction` must be strictly between 0 and 1, got nan": lambda: zoo.iris(test_fraction=np.nan),
        "`dtype` must exist .* got float64": lambda: zoo.wine(dtype=jnp.float64),
        "`batch_size` must be between 1 and the number of examples 10, got 11": lambda: zoo.batch_indices(
            key, 10, 11
        ),
        "`batch_size` .* got 0": lambda: zoo.batch_indices(key, 10, 0),
        "`epochs` must be positive, got 0": lambda: zoo.batch_indices(key, 10, 2, epochs=0),
        "`data` must have one leading axis": lambda: zoo.batches(key, (jnp.ones(3), jnp.ones(4)), 2),
        "`data` must have one leading axis in": lambda: zoo.batches(key, jnp.ones(()), 2),
        "`widths` must have at least 2 entries": lambda: zoo.teacher_student(key, (3,)),
        "`train` must be a positive integer, got 0": lambda: zoo.teacher_student(key, (3, 2), train=0),
        "`activation` must be one of": lambda: zoo.teacher_student(key, (3, 2), "nope"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="`dtype` must be a floating-point dtype, got int32"):
        zoo.iris(dtype=jnp.int32)
