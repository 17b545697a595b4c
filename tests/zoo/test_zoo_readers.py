"""Readers of MNIST and CIFAR on small files written here."""

import gzip
import hashlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eqtoolbox import zoo

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")


def idx_bytes(array):
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    header = struct.pack(f">HBB{array.ndim}I", 0, CODES[kind], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist_arrays(n_train=7, n_test=3, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        array
        for n in (n_train, n_test)
        for array in (rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8))
    )


def write_mnist(folder, arrays, mark="-", suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(STEMS, arrays, strict=True):
        data = idx_bytes(array)
        name = f"{stem}{mark}idx{array.ndim}-ubyte{suffix}"
        (folder / name).write_bytes(gzip.compress(data) if suffix else data)


def write_cifar10(folder, per_file=2):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    parts = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = rng.integers(0, 256, (per_file, 3073), np.uint8)
        rows[:, 0] = rng.integers(0, 10, per_file)
        (folder / name).write_bytes(rows.tobytes())
        parts[name] = rows
    return parts


def scaled(train, part):
    mean, std = (f(train / 255.0, axis=(0, 1, 2), keepdims=True) for f in (np.mean, np.std))
    return (part / 255.0 - mean) / std


@settings(max_examples=30)
@given(
    array=st.sampled_from(list(CODES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    compress=st.booleans(),
)
def test_idx_round_trip(tmp_path_factory, array, compress):
    path = tmp_path_factory.getbasetemp() / ("array.gz" if compress else "array")
    path.write_bytes(gzip.compress(idx_bytes(array), 1) if compress else idx_bytes(array))
    back = zoo.read_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    np.testing.assert_array_equal(back, array)


def test_idx_files_that_are_not_what_they_should_be(tmp_path):
    good = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4))
    packed = gzip.compress(good)
    bomb = gzip.compress(idx_bytes(np.zeros(3, np.uint8)) + bytes(1 << 24))
    huge = struct.pack(">HBB4I", 0, 0x0E, 4, *[2**32 - 1] * 4)
    for name, data, message in [
        ("empty", b"", "the magic number must have 4 bytes, got 0"),
        ("magic", b"\x01" + good[1:], "must begin with two zero bytes, got 0x0100"),
        ("code", good[:2] + b"\x07" + good[3:], "the dtype code must be one of .*, got 0x7"),
        ("ndim", good[:3] + b"\xff" + good[4:], "the number of dimensions must be at most 32, got 255"),
        ("header", good[:9], r"the header of 2 dimensions must have 8 bytes, got 5"),
        ("short", good[:-1], r"the data of shape \(3, 4\) must have 12 bytes, got 11"),
        ("long", good + b"\0", "the file must end with its data, got more bytes"),
        ("huge", huge, r"must have 27222589\d* bytes, got 0"),
        ("not.gz", good, "must be a complete gzip file, got BadGzipFile"),
        ("cut.gz", packed[:-9], "must be a complete gzip file, got EOFError"),
        ("bits.gz", packed[:12] + bytes([packed[12] ^ 0xFF]) + packed[13:], "must be a complete gzip file"),
        ("bomb.gz", bomb, "the file must end with its data"),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            zoo.read_idx(path)
        assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        zoo.read_idx(tmp_path / "nowhere")


def test_digest_is_of_the_bytes_on_disk(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(3, dtype=np.uint8))))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(zoo.read_idx(path, sha256=digest.upper()), [0, 1, 2])
    with pytest.raises(ValueError, match=f"sha256 must be {'0' * 64}, got {digest}"):
        zoo.read_idx(path, sha256="0" * 64)


@pytest.mark.parametrize(
    ("folder", "mark", "suffix"),
    [("", "-", ""), ("mnist", ".", ""), ("MNIST", "-", ".gz"), ("MNIST/raw", ".", ".gz")],
)
def test_mnist_is_found_under_its_usual_names(tmp_path, monkeypatch, folder, mark, suffix):
    arrays = mnist_arrays()
    write_mnist(tmp_path / folder, arrays, mark, suffix)
    monkeypatch.setenv("EQTOOLBOX_DATA", str(tmp_path))
    data = zoo.mnist()
    assert data.train_x.shape == (7, 28, 28, 1)
    assert (data.name, data.num_classes, data.train_x.dtype) == ("mnist", 10, jnp.float32)
    train, test = arrays[0][..., None], arrays[2][..., None]
    np.testing.assert_allclose(data.train_x, scaled(train, train), atol=1e-6)
    np.testing.assert_allclose(data.test_x, scaled(train, test), atol=1e-6)
    np.testing.assert_array_equal(data.train_y, arrays[1])
    np.testing.assert_array_equal(data.test_y, arrays[3])
    assert data.train_y.dtype == jnp.int32
    raw = zoo.mnist(tmp_path, standardise=False, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(raw.test_x, (test / 255).astype(jnp.bfloat16))
    assert "7 training and 3 test" in data.description


def test_keras_archive(tmp_path):
    x, y, x_test, y_test = mnist_arrays()
    path = tmp_path / "mnist.npz"
    write = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    np.savez_compressed(path, **write)
    write_mnist(tmp_path / "idx", (x, y, x_test, y_test))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    ours, idx = zoo.mnist(tmp_path, sha256={"mnist.npz": digest}), zoo.mnist(tmp_path / "idx")
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(idx), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="sha256 must be"):
        zoo.mnist(tmp_path, sha256={"mnist.npz": "0" * 64})
    with pytest.raises(
        ValueError, match=r"`sha256` must be for files that are read, \['mnist.npz'\], got \['mist"
    ):
        zoo.mnist(tmp_path, sha256={"mist.npz": digest})
    whole = path.read_bytes()
    for change, message in [
        (lambda: path.write_bytes(whole[:-30]), "must be an npz archive"),
        (lambda: path.write_bytes(b"\x80\x04N."), "must be an npz archive"),
        (lambda: path.write_bytes(whole[:300] + bytes(200) + whole[500:]), "must be a complete npz archive"),
        (lambda: np.savez(path, x_train=x), r"must hold the arrays .* got \['x_train'\]"),
        (
            lambda: np.savez(path, **write | {"x_test": np.array([{}])}),
            "archive of plain arrays, got ValueError",
        ),
        (lambda: np.savez(path, **write | {"x_test": x_test[:, 1:]}), r"uint8 of shape \(n, 28, 28\)"),
        (lambda: np.savez(path, **write | {"x_test": x_test / 255}), "images must be uint8 .* got float64"),
        (
            lambda: np.savez(path, **write | {"y_train": y[1:]}),
            r"integers of shape \(7,\).* got uint8 \(6,\)",
        ),
        (lambda: np.savez(path, **write | {"y_train": y + 0.5}), "labels must be integers .* got float64"),
        (
            lambda: np.savez(path, **write | {"y_train": y.astype(int) - 10}),
            r"labels must be in 0\.\.9, got -",
        ),
    ]:
        change()
        with pytest.raises(ValueError, match=message) as error:
            zoo.mnist(tmp_path)
        assert str(path) in str(error.value)


def test_mnist_files_that_do_not_fit_together(tmp_path):
    arrays = mnist_arrays()
    for i, wrong, name, message in [
        (1, arrays[1][1:], "train-labels", r"integers of shape \(7,\), one an image, got uint8 \(6,\)"),
        (0, arrays[0][:, :27], "train-images", r"\(n, 28, 28\) with n > 0, got uint8 \(7, 27, 28\)"),
        (2, arrays[2][:0], "t10k-images", r"with n > 0, got uint8 \(0, 28, 28\)"),
        (3, arrays[3] * 0 + 10, "t10k-labels", r"labels must be in 0\.\.9, got 10\.\.10"),
    ]:
        write_mnist(tmp_path, [wrong if i == j else array for j, array in enumerate(arrays)])
        with pytest.raises(ValueError, match=message) as error:
            zoo.mnist(tmp_path)
        assert str(tmp_path / name) in str(error.value)


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("EQTOOLBOX_DATA", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3-ubyte, .*pass `root` or set \$EQTOOLBOX_DATA"
    ):
        zoo.mnist()
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent to look in for data_batch_1\.bin"):
        zoo.cifar10(tmp_path / "absent")
    write_mnist(tmp_path, mnist_arrays())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of t10k-labels-idx1-ubyte, .*mnist\.npz in ") as error:
        zoo.mnist(tmp_path)
    assert str(tmp_path / "MNIST/raw") in str(error.value)
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of data_batch_3\.bin in .*cifar-10-batches-bin"):
        zoo.cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of train\.bin"):
        zoo.cifar100(tmp_path)


@pytest.mark.claim("DC-E5.1")
@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path, folder):
    parts = write_cifar10(tmp_path / folder)
    data = zoo.cifar10(tmp_path)
    assert (data.train_x.shape, data.test_x.shape, data.num_classes) == ((10, 32, 32, 3), (2, 32, 32, 3), 10)
    # 32² x 3 numbers an image, not 32³ x 3
    assert data.train_x[0].size == 3072
    rows = np.concatenate([rows for name, rows in parts.items() if name.startswith("data")])
    np.testing.assert_array_equal(data.train_y, rows[:, 0])
    # Pixel (row 5, column 9) of the colour c is byte 1 + 1024 c + 32 * 5 + 9 of its record.
    raw = zoo.cifar10(tmp_path, standardise=False)
    assert raw.train_x[0].size == 32**2 * 3 != 32**3 * 3  # what a layer on all pixels reads
    np.testing.assert_allclose(raw.train_x[:, 5, 9], rows[:, [170, 1194, 2218]] / 255, atol=1e-6)
    train = np.round(np.asarray(raw.train_x, np.float64) * 255)
    np.testing.assert_allclose(data.train_x, scaled(train, train), atol=1e-5)
    np.testing.assert_allclose(np.asarray(data.train_x).std(axis=(0, 1, 2)), 1, rtol=1e-5)


def test_cifar10_files_that_are_not_what_they_should_be(tmp_path):
    parts = write_cifar10(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    whole = path.read_bytes()
    for data, message in [
        (whole[:-1], "the size must be a positive multiple of 3073 bytes, one record, got 6145"),
        (b"", "got 0"),
        (b"\x0a" + whole[1:], r"labels must be in 0\.\.9, got \d\.\.10"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            zoo.cifar10(tmp_path)
        assert str(path) in str(error.value)
    path.write_bytes(whole)
    digests = {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in parts.items()}
    assert zoo.cifar10(tmp_path, sha256=digests).train_x.shape == (10, 32, 32, 3)
    with pytest.raises(ValueError, match=r"data_batch_4\.bin: sha256 must be"):
        zoo.cifar10(tmp_path, sha256=digests | {"data_batch_4.bin": digests["data_batch_5.bin"]})
    with pytest.raises(ValueError, match=r"got \['data_batch_6.bin'\]"):
        zoo.cifar10(tmp_path, sha256={"data_batch_6.bin": "0"})


def test_cifar100(tmp_path):
    rows = np.random.default_rng(2).integers(0, 256, (5, 3074), np.uint8)
    rows[:, 0], rows[:, 1] = [0, 19, 3, 4, 5], [99, 0, 50, 3, 7]
    (tmp_path / "cifar-100-binary").mkdir()
    for name, part in {"train.bin": rows[:3], "test.bin": rows[3:]}.items():
        (tmp_path / "cifar-100-binary" / name).write_bytes(part.tobytes())
    fine, coarse = zoo.cifar100(tmp_path, standardise=False), zoo.cifar100(tmp_path, labels="coarse")
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    np.testing.assert_array_equal(fine.train_y, [99, 0, 50])
    np.testing.assert_array_equal(coarse.test_y, [4, 5])
    np.testing.assert_allclose(fine.test_x[:, 0, 1, 2], rows[3:, 2 + 2048 + 1] / 255, atol=1e-6)
    with pytest.raises(ValueError, match='`labels` must be "fine" or "coarse", got \'both\''):
        zoo.cifar100(tmp_path, labels="both")
    for column, value, message in [
        (0, 20, r"coarse labels must be in 0\.\.19"),
        (1, 100, r"fine labels must be in"),
    ]:
        wrong = rows.copy()
        wrong[4, column] = value
        (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(wrong[3:].tobytes())
        with pytest.raises(ValueError, match=message):
            zoo.cifar100(tmp_path)
