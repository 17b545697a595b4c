"""A small network, and every constraint by name on it."""

import jax.numpy as jnp
import numpy as np

from eqtoolbox import Symmetry, groups, mirror

PATHS = {"l0/kernel": (3, 4), "l0/bias": (4,), "l1/kernel": (4, 2), "twin/kernel": (3, 4)}


def network(seed=0, dtype=None):
    """Parameters of a network of four hidden units, and a second kernel of the shape of the first."""
    rng = np.random.default_rng(seed)
    leaf = {path: jnp.asarray(rng.normal(size=shape), dtype or float) for path, shape in PATHS.items()}
    return {
        "l0": {"kernel": leaf["l0/kernel"], "bias": leaf["l0/bias"]},
        "l1": {"kernel": leaf["l1/kernel"]},
        "twin": {"kernel": leaf["twin/kernel"]},
    }


def apply(params, x):
    h = jnp.maximum(x @ params["l0"]["kernel"] + params["l0"]["bias"][None], 0)
    return h @ params["l1"]["kernel"] + (x @ params["twin"]["kernel"])[:, :2]


def symmetry(group=None):
    """The exchanges and scalings of the hidden units."""
    axes = {"l0/kernel": "_ h", "l0/bias": "h", "l1/kernel": "h* _"}
    return Symmetry(axes, {"h": group or groups.Monomial(4, scales=1)})


def halves():
    """Oᵀθ = (θ_0 − θ_1)/√2 of two rows of a kernel, of which neither O nor P is diagonal."""
    return mirror.from_map(lambda p: (p["l0"]["kernel"][0] - p["l0"]["kernel"][1]) / jnp.sqrt(2.0))


def constraints(imbalance=0.1):
    """Every constraint, by name."""
    sym, more = symmetry(), {"imbalance": imbalance}
    return {
        "sparse": mirror.sparse(**more),
        "sparse kernels": mirror.sparse("*/kernel", **more),
        "group_sparse units": mirror.group_sparse(sym, **more),
        "group_sparse columns": mirror.group_sparse(-1, **more),
        "low_rank": mirror.low_rank("l?/kernel", **more),
        "tied": mirror.tied([("l0/kernel", "twin/kernel")], **more),
        "merged": mirror.merged(sym, "h", [(0, 2), (3, 1)], **more),
        "linear mirror": mirror.linear(halves(), **more),
        "linear functions": mirror.linear(lambda p: {"first": p["l1"]["kernel"][0]}, **more),
    }


def penalties(params):
    """The penalty on θ that decay of the factors amounts to, by the textbook."""
    p = {path: np.asarray(x, np.float64) for path, x in zip(PATHS, _leaves(params), strict=True)}
    k0, b, k1, twin = p.values()
    unit = np.concatenate([k0, b[None], k1.T])
    pairs = unit[:, [0, 3]] - unit[:, [2, 1]]
    nuclear = sum(np.linalg.svd(k, compute_uv=False).sum() for k in (k0, k1))
    columns = sum(np.linalg.norm(k, axis=0).sum() for k in (k0, k1, twin))
    return {
        "sparse": 2 * sum(np.abs(x).sum() for x in p.values()),
        "sparse kernels": 2 * sum(np.abs(x).sum() for x in (k0, k1, twin)),
        "group_sparse units": 2 * np.linalg.norm(unit, axis=0).sum(),
        "group_sparse columns": 2 * columns,
        "low_rank": 2 * nuclear,
        "tied": np.sqrt(2) * np.abs(k0 - twin).sum(),
        "merged": np.sqrt(2) * np.linalg.norm(pairs, axis=0).sum(),
        "linear mirror": np.sqrt(2) * np.abs(k0[0] - k0[1]).sum(),
        "linear functions": 2 * np.abs(k1[0]).sum(),
    }


def _leaves(params):
    return [params["l0"]["kernel"], params["l0"]["bias"], params["l1"]["kernel"], params["twin"]["kernel"]]
