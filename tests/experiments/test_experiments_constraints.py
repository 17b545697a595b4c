"""The experiments on constraints and plasticity, as small as they go; slow ones at their quick size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eqtoolbox import mirror, zoo
from eqtoolbox.experiments import (
    ExperimentError,
    _residual,
    neuron_blocks,
    open_store,
    plasticity_loss,
    run_experiment,
    sparse_digits,
    sparse_resnet,
)


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def unexpected(found):
    return [f"{f.statement}: {f.measured}" for f in found.findings if not f.as_anticipated]


@pytest.mark.claim("MS-F4")
def test_plasticity_in_small(tmp_path, record_claim):
    """Products die and noise revives them; a bias is seen by decay only."""
    settings = {
        "size": 20,
        "examples": 40,
        "tasks": 3,
        "steps": 3000,
        "rate": 0.03,
        "decay": 0.03,
        "seeds": 1,
    }
    found = outcome(plasticity_loss, tmp_path, **settings)
    end = {k: {n: r["dead"][0, -1] for n, r in found.result[k].items()} for k in ("none", "decay")}
    for kind in end:
        assert end[kind][plasticity_loss.VANILLA] == end[kind][plasticity_loss.NOISE] == 0
        assert end[kind][plasticity_loss.PRODUCT] > 0.1
    assert end["none"][plasticity_loss.BIAS] > 0.1
    assert end["decay"][plasticity_loss.BIAS] == 0
    record_claim(
        "MS-F4",
        measured=float(end["none"][plasticity_loss.BIAS]),
        expected="0 behind a random bias, as printed",
    )


def test_sparse_digits_in_small(tmp_path):
    """Both ways remove as many weights, and what was removed stays so; arrays shrink and outputs stay."""
    found = outcome(sparse_digits, tmp_path, splits=2, hidden=12, steps=80).result
    own, other, units = (
        found[n] for n in (sparse_digits.DCS, sparse_digits.MAGNITUDE, sparse_digits.NEURONS)
    )
    for one in (own, other):
        np.testing.assert_allclose(one["removed"], 0.9, atol=1 / 900)
        assert one["removed"].min() >= 0.9
    assert units["moved"].max() < 1e-4
    np.testing.assert_array_equal(units["units"], 6)
    np.testing.assert_array_equal(units["parameters"], 6 * 75 + 10)
    assert found[sparse_digits.DENSE]["accuracy"].min() > 50


def test_paired_differences():
    mean, error = sparse_digits.paired(np.array([3.0, 5.0, 4.0]), np.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose((mean, error), (3.0, 1 / np.sqrt(3)))
    assert sparse_digits.interval(np.array([3.0, 5.0, 4.0]), np.ones(3)) == "95 % interval 0.52 to 5.48"


def test_resnet18_has_its_parameters():
    """11 173 962, as every ResNet18 for CIFAR-10 has; and dcs the memory that it says."""
    shapes = jax.eval_shape(_residual.ResidualNet().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    params = shapes["params"]
    assert entries(params) == 11_173_962
    # What dcs keeps, in copies of the parameters: w, u and the state of the optimizer for both.
    units = mirror.group_sparse(-1)
    for inner, constraint, copies in (
        (optax.sgd(0.1, momentum=0.9), mirror.sparse(), 4),
        (optax.adam(0.1), mirror.sparse(), 6),
        (optax.sgd(0.1, momentum=0.9), units, 2),
        (optax.adam(0.1), units, 3),
    ):
        state = jax.eval_shape(mirror.dcs(inner, constraint, 1e-4).init, params)
        assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
        np.testing.assert_allclose(entries(state) / entries(params), copies, atol=2e-3)


def test_crops():
    """Each image is one of the 162 that cropping and flipping makes of it."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 5, 2)))
    made = np.asarray(_residual.cropped(jax.random.key(0), x))
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    corners = [(i, j) for i in range(9) for j in range(9)]
    for image, whole in zip(made, padded, strict=True):
        parts = [whole[i : i + 5, j : j + 5] for i, j in corners]
        assert any((image == p).all() or (image == p[:, ::-1]).all() for p in parts)
    assert len({image.tobytes() for image in made}) == 6


def entries(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def cifar_files(folder, records=8):
    """Files in the format of CIFAR-10, of noise."""
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = rng.integers(0, 256, (records, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())


def test_a_sparse_net_on_cifar_files(tmp_path):
    """The path of the full size: files read and checked, crops, both nets, a figure."""
    cifar_files(tmp_path)
    small = {"width": 2, "stages": (1,), "epochs": 2, "every": 1, "batch": 20, "factor_decay": 0.5}
    found = outcome(sparse_resnet, tmp_path, data="cifar10", root=str(tmp_path), **small)
    own = found.result[sparse_resnet.PRODUCT]
    assert own["accuracy"].shape == (2,)
    assert own["zeros"] == 0
    assert (found.folder / "figure.png").exists()
    with pytest.raises(ExperimentError, match=r"data_batch_1\.bin"):
        outcome(sparse_resnet, tmp_path, data="cifar10", root=str(tmp_path / "results"), **small)
    with pytest.raises(ExperimentError, match="'digits' or 'cifar10', got 'mnist'"):
        outcome(sparse_resnet, tmp_path, data="mnist", **small)


def test_a_stopped_run_goes_on(tmp_path):
    """To the same bits, and with the accuracies that were measured before."""
    data = _residual.images("digits", "")
    module, tx = _residual.ResidualNet(2, (1,)), optax.sgd(0.1, momentum=0.9)
    ends = []
    for name, epochs in (("stopped", (1, 2)), ("whole", (2,))):
        store = open_store(tmp_path, name, 1, "custom", sparse_resnet.Config())
        for n in epochs:
            net = _residual.Recipe(module, data, n, 1, 400).train(store, "net", tx)
        ends.append(net)
    jax.tree.map(np.testing.assert_array_equal, ends[0].params, ends[1].params)
    np.testing.assert_array_equal(ends[0].accuracy, ends[1].accuracy)
    assert len(ends[0].accuracy) == 2


def test_blocks_of_neurons_are_counted():
    """Copies are found before and after ReLU, and constant neurons are left out."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 3))
    values = np.concatenate([base, 2 * base[:, :1] + 1e-3, np.full((200, 2), 0.3)], 1)
    for what in (values, np.maximum(values, 0)):
        found = neuron_blocks.look(what, 0.95)
        assert found["largest"] == 2
        np.testing.assert_allclose((found["dead"], found["equal"]), (2 / 6, 2 / 4))
        np.testing.assert_allclose(found["matrix"][0, 3], 1, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.claim("MS-F3c")
def test_blocks_grow_with_decay(record_claim):
    """Of none to most of the live neurons of an MLP on the digits, before and after ReLU, at the same accuracy."""
    data, module, decays, steps = (
        zoo.digits(),
        zoo.MLP((64, 64, 10), "relu"),
        jnp.array([0.0, 1e-3, 5e-3]),
        6000,
    )
    (x, y), (test_x, test_y) = data.train, data.test

    def loss(p, x, y):
        logits = module.apply({"params": p}, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def trained(key, decay):
        start, order = jax.random.split(key)
        tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1, momentum=0.9))

        def step(carry, rows):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p, x[rows], y[rows]), state, p)
            return (optax.apply_updates(p, updates), state), None

        p = module.init(start, x[:1])["params"]
        rows = jax.random.randint(order, (steps, 128), 0, len(x))
        p = jax.lax.scan(step, (p, tx.init(p)), rows)[0][0]
        hidden = jax.nn.relu(test_x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None])
        before = hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"][None]
        return before, jnp.mean(module.apply({"params": p}, test_x).argmax(-1) == test_y)

    keys = jax.random.split(jax.random.key(0), 3)
    values, right = jax.jit(jax.vmap(jax.vmap(trained, (None, 0)), (0, None)))(keys, decays)
    shares = np.array(
        [
            [
                [neuron_blocks.look(f(np.asarray(v)), 0.9)["equal"] for f in (np.array, jax.nn.relu)]
                for v in seed
            ]
            for seed in values
        ]
    )
    assert shares[:, 0].max() <= 0.1
    assert shares[:, 2].min() >= 0.6
    assert np.all(np.diff(shares, axis=1) > 0.2)
    assert right.min() > 0.97
    record_claim(
        "MS-F3c", measured=float(shares[:, 2].min()), expected="most neurons at decay 5e-3, 0.1 without"
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.claim("MS-F3c", "MS-F4", "MS-F7", "MS-2.6")
@pytest.mark.parametrize("module", [neuron_blocks, plasticity_loss, sparse_digits, sparse_resnet])
def test_quick_size(module, tmp_path):
    found = outcome(module, tmp_path)
    assert unexpected(found) == []
