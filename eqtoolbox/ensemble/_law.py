"""How the error of an averaged matrix falls with the number of models, raw and projected on the commutant.

Let M̂ be the mean over n models of a symmetric matrix X (g gᵀ or the Hessian) with E X = M in the commutant, and P
the projection on it. Then exactly, for every n,

    n E‖M̂ − P M̂‖² = E‖X − P X‖²,    n E‖M̂ − M‖² = E‖X‖² − ‖M‖²,    n E‖P M̂ − M‖² = E‖P X‖² − ‖M‖²,

so that the projected estimate needs fewer models for the same error by the quotient of the last two: for g gᵀ a ratio
of fourth moments. It is the ratio of the numbers of free entries only where the noise is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.curvature import Commutant
from eqtoolbox.ensemble._ensemble import Sums
from eqtoolbox.ensemble._statistics import second_moment
from eqtoolbox.linalg import Estimate, Moments, moments_mean, moments_variance

#: Sub-ensembles that a mean over them must have to be compared with anything.
ENOUGH = 8


class Law(NamedTuple):
    """What is measured over disjoint sub-ensembles, and what the moments of single models predict.

    Attributes:
      models: n of each size of sub-ensemble.
      samples: how many there are.
      outside: n · mean of ‖M̂ − P M̂‖², its standard error (NaN for one sample).
      errors: as said.
      outside_predicted: E‖X − P X‖².
      raw: n times the variance of M̂, summed over its entries.
      projected: the same of P M̂.
      saving: raw / projected of the smallest sub-ensembles: how many times fewer models the projection needs.
      saving_error: its standard error.
      saving_predicted: from the moments.
    """

    models: np.ndarray
    samples: np.ndarray
    outside: np.ndarray
    errors: np.ndarray
    outside_predicted: float
    raw: np.ndarray
    projected: np.ndarray
    saving: float
    saving_error: float
    saving_predicted: float


def functional(com: Commutant, matrix: Callable[[Sums], jax.Array]) -> Callable[[Sums], dict[str, Any]]:
    """What a stream has to record for ``law``.

    Args:
      com: the commutant.
      matrix: the mean M̂ of a sub-ensemble, from its moments.
    """

    def function(sums: Sums) -> dict[str, Any]:
        raw = matrix(sums)
        blocks = com.project(raw)
        return {"raw": raw, "blocks": blocks, "outside": jnp.sum((raw - com.to_dense(blocks)) ** 2)}

    return function


def law(com: Commutant, levels: list[tuple[int, Estimate]], noise: tuple[float, float]) -> Law:
    """The law of one matrix.

    Args:
      com: the commutant.
      levels: of the ``functional``, from ``Stream.scaling``.
      noise: E‖X‖² − ‖M‖² and E‖P X‖² − ‖M‖².

    Returns:
      The law.
    """
    raw_noise, kept_noise = noise
    rows = []
    dimensions = {c.name: c.dimension for c in com.components}
    for n, estimate in levels:
        k = int(estimate.samples)
        value, error = estimate.value, estimate.standard_error
        raw = n * k * float(np.sum(np.square(error["raw"], dtype=np.float64)))
        projected = (
            n
            * k
            * sum(
                dimensions[name] * float(np.sum(np.square(e, dtype=np.float64)))
                for name, e in error["blocks"].items()
            )
        )
        rows.append((n, k, n * float(value["outside"]), n * float(error["outside"]), raw, projected))
    models, samples, outside, errors, raw, projected = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    saving = float(raw[0] / projected[0])
    # The spread of the projected variance, with few effective directions, dominates; a χ² of as many degrees.
    spread = effective_directions(com, levels[0][1])
    return Law(
        models,
        samples,
        outside,
        errors,
        raw_noise - kept_noise,
        raw,
        projected,
        saving,
        saving * float(np.sqrt(2 / (max(samples[0] - 1, 1) * spread))),
        raw_noise / kept_noise,
    )


def effective_directions(com: Commutant, estimate: Estimate) -> float:
    """(Σ v)² / Σ v² of the variances v of the blocks' entries: the directions in which P M̂ fluctuates, at least."""
    parts = [
        (c.dimension * np.square(estimate.standard_error["blocks"][c.name], dtype=np.float64)).ravel()
        for c in com.components
    ]
    v = np.concatenate(parts)
    return float(v.sum() ** 2 / np.sum(v**2))


def gradient_noise(com: Commutant, sums: dict[str, Moments]) -> tuple[float, float]:
    """E‖g gᵀ‖² − ‖M‖² and E‖P g gᵀ‖² − ‖M‖² from fourth moments.

    Args:
      com: the commutant.
      sums: of the statistics "flat", "squares" and "factors".
    """
    kept = com.norm(moments_mean(sums["factors"])["gram"]) ** 2
    raw = jnp.sum(second_moment(sums["squares"])) - kept
    return float(raw), _block_noise(com, moments_variance(sums["factors"])["gram"])


def hessian_noise(com: Commutant, sums: dict[str, Moments]) -> tuple[float, float]:
    """E‖H − M‖² and E‖P H − M‖² from the variances of the entries.

    Args:
      com: the commutant.
      sums: of the statistic "hessian", with the whole matrix and its blocks.
    """
    variance = moments_variance(sums["hessian"])
    return float(jnp.sum(variance["matrix"])), _block_noise(com, variance["blocks"])


def _block_noise(com: Commutant, variances: dict[str, Any]) -> float:
    return float(sum(c.dimension * jnp.sum(variances[c.name]) for c in com.components))


def constant(found: Law) -> float:
    """The largest |n·outside − prediction| in standard errors, over sizes with ``ENOUGH`` sub-ensembles."""
    enough = found.samples >= ENOUGH
    return float(
        np.max(np.abs(found.outside - found.outside_predicted)[enough] / found.errors[enough], initial=0.0)
    )
