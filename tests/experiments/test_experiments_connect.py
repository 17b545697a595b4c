"""The experiments on curves, minima and alignment, as small as they go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox.experiments import (
    ExperimentError,
    alignment,
    curvature_generalisation,
    expected_distance,
    minima_connectivity,
    run_experiment,
)
from eqtoolbox.orbits import curve_curvature


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def unexpected(found):
    return [(f.statement, f.measured) for f in found.findings if not f.as_anticipated]


@pytest.mark.claim("DC-X3.2", "DC-E0.10", "DC-T5.7")
def test_expected_distance(tmp_path):
    found = outcome(expected_distance, tmp_path, points=41)
    assert unexpected(found) == []
    # The published ranges: the parabola ends far above 2/π, the circle just below it.
    assert found.result["parabola"]["shown"][0, -1] > 0.77
    assert 0.59 < found.result["circle"]["shown"][0, -1] < 2 / np.pi


@pytest.mark.claim("DB-F3.1", "DB-F3.2", "DB-F3.3a", "DB-F3.3b", "DB-EA10")
def test_minima_connectivity(tmp_path):
    found = outcome(minima_connectivity, tmp_path, nets=20, largest=30, curves=2, steps=300)
    assert unexpected(found) == []
    assert np.all(found.result["bound"]["size"] >= found.result["bound"]["change"])
    assert np.any(found.result["bound"]["change"] > 0.05 * found.result["bound"]["size"])


def test_the_curvature_of_the_printed_curve(x64):
    """The closed form against nested differentiation of the curve through the first layer."""
    rng = np.random.default_rng(0)
    shapes = {"Dense_0": (6, 4), "Dense_1": (4, 3), "Dense_2": (3, 2)}
    params = {name: {"kernel": jnp.asarray(rng.standard_normal(s))} for name, s in shapes.items()}
    x, key = jnp.asarray(rng.standard_normal((6, 5))), jax.random.key(0)
    found = curvature_generalisation.batch_curvature(params, x, 1, jax.random.clone(key))
    m = jax.random.uniform(jax.random.split(key, 1)[0], (4, 4))
    m = m / jnp.linalg.norm(m)
    v, u, back = params["Dense_0"]["kernel"].T, params["Dense_1"]["kernel"].T, jnp.linalg.pinv(x)

    def gamma(t):
        power = jnp.eye(4) + t * m + t**2 / 2 * m @ m
        y = power @ jax.nn.leaky_relu(v @ x, 0.1)
        return u @ jnp.linalg.inv(power), jnp.where(y > 0, y, 10 * y) @ back

    assert np.isclose(found, curve_curvature(gamma), rtol=1e-9)


def test_published_data_from_local_files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "fashion"
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = np.array([2051, count, 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([2049, count], ">i4").tobytes() + labels.tobytes()
        )
    monkeypatch.setenv("EQTOOLBOX_DATA", str(tmp_path))
    data = curvature_generalisation._data("fashion")
    assert data.train_x.shape == (40, 28, 28, 1)
    assert 0 <= data.train_x.min() <= data.train_x.max() <= 1
    with pytest.raises(ExperimentError, match="'digits', 'mnist'"):
        curvature_generalisation._data("svhn")


@pytest.mark.slow
@pytest.mark.claim("DC-X3.1")
def test_correlations_with_generalisation(tmp_path, record_claim):
    found = outcome(curvature_generalisation, tmp_path)
    assert unexpected(found) == []
    result = found.result
    r = {
        k: curvature_generalisation.correlation(result[k], result["validation"])
        for k in ("sphere", "scaling")
    }
    assert r["sphere"][0] > 3 * r["sphere"][1]
    assert abs(r["scaling"][0]) < 2 * r["scaling"][1]
    record_claim("DC-X3.1", measured=r["scaling"][0], expected="−.05 to −.23; within noise of 0")


@pytest.mark.slow
def test_alignment_of_trained_networks(tmp_path):
    changes = {"networks": ("mlp",), "widths": (24,), "seeds": 2, "steps": 300, "points": 11}
    found = outcome(alignment, tmp_path, **changes)
    assert unexpected(found) == []
    distance = found.result["mlp"]["distance"]
    assert np.all(distance[1] < distance[0])
    assert np.all(distance[2] < distance[1])
    heights = alignment.heights(found.result["mlp"]["losses"])
    assert np.all(heights[1:] < heights[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "width"), [("cnn", 8), ("transformer", 16)])
def test_alignment_of_other_networks(tmp_path, name, width):
    found = outcome(alignment, tmp_path, networks=(name,), widths=(width,), seeds=2, steps=300, points=11)
    distance = found.result[name]["distance"]
    assert np.all(distance[2] <= distance[1])
    assert found.result[name]["change"] < 1e-4 * found.result[name]["size"]
