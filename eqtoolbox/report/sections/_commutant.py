"""The structure that the symmetry gives to curvature averaged over initialisations."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from markupsafe import Markup

from eqtoolbox.curvature import Commutant
from eqtoolbox.linalg import ravel_stack
from eqtoolbox.pages import INK, SERIES, draw, figure, number, paragraph, table
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._section import Check, Number, Section, SectionResult

#: Initialisations, at most, and entries of all their gradients and blocks together, at most.
MODELS, ENTRIES = 256, 2**26
#: Fixed axes larger than this are taken as diagonal.
DIAGONAL_ABOVE = 256
#: Components shown in the table.
ROWS = 12


class Measured(NamedTuple):
    """What an ensemble of initialisations gave.

    Attributes:
      blocks: of the mean of ggᵀ, projected on the commutant.
      squares: ‖g‖² of every model, shape (n,).
      raw: ⟨g_i g_iᵀ, g_j g_jᵀ⟩ for all pairs, shape (n, n).
      kept: the same for the projections.
    """

    blocks: dict[str, Array]
    squares: Array
    raw: Array
    kept: Array


def run(context: Context) -> SectionResult:
    """Finds the blocks, and compares them with the gradients of an ensemble of initialisations."""
    try:
        com = Commutant(context.symmetry, context.params, diagonal_above=DIAGONAL_ABOVE)
    except (TypeError, ValueError) as error:
        return SectionResult(
            [paragraph(f"The blocks of this model were not computed: {error}.")], data={"factors": None}
        )
    entries = com.size + sum(c.entries for c in com.components)
    models = int(np.clip(ENTRIES // entries, 8, MODELS))
    grads = gradients(context, models)
    found = jax.device_get(jax.jit(lambda g: measure(com, g))(grads))
    mean_square = float(np.mean(found.squares, dtype=np.float64))
    if not np.isfinite(mean_square) or mean_square == 0:
        return SectionResult(
            [paragraph("At random initialisations the gradient is zero, or not finite.")],
            data={"factors": None},
        )
    share, error = explained(found)
    spectrum = jax.device_get(com.spectrum(found.blocks))
    trace = float(np.sum(spectrum.values.astype(np.float64) * spectrum.multiplicities))
    gap = abs(trace / mean_square - 1)
    data = {
        "factors": com.num_factors,
        "parameters": com.size,
        "models": models,
        "components": [_row(c) for c in com.components],
        "share": share,
        "share_error": error,
        "trace_error": gap,
        "values": spectrum.values,
        "multiplicities": spectrum.multiplicities,
        "component_of_value": spectrum.components,
    }
    checks = [
        Check(
            "The eigenvalues of the blocks, with multiplicities, sum to the mean of ‖∇L‖² over initialisations "
            "(relative difference)",
            gap,
            1e-4,
        )
    ]
    dense = com.size * (com.size + 1) // 2
    numbers = [
        Number("Free numbers of global curvature", com.num_factors, f"instead of {number(float(dense))}")
    ]
    return SectionResult(_html(com, data), numbers, checks, data)


def gradients(context: Context, models: int) -> Params:
    """The gradient on the fixed sample at some initialisations, stacked."""
    problem = context.problem
    keys = jax.random.split(context.key("commutant"), models)

    def one(key: Array) -> Params:
        return jax.grad(problem.batch_loss)(problem.init(key), context.examples)

    try:
        return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=8))(keys)
    except TypeError:  # an ``init`` that cannot be traced
        gradient = jax.jit(jax.grad(problem.batch_loss))
        found = [gradient(problem.init(key), context.examples) for key in keys]
        return jax.tree.map(lambda *x: jnp.stack(x), *found)


def measure(com: Commutant, grads: Params) -> Measured:
    """The blocks of a stack of gradients, and the inner products of their squares before and after projection."""
    flat = ravel_stack(grads).astype(jnp.float32)
    products = jnp.matmul(flat, flat.T, precision="highest")
    grams = jax.vmap(com.gram)(grads)
    kept = jnp.zeros_like(products)
    for c in com.components:
        rows = grams[c.name].reshape(len(flat), -1).astype(jnp.float32)
        kept += c.dimension * jnp.matmul(rows, rows.T, precision="highest")
    blocks = jax.tree.map(lambda b: jnp.mean(b, 0), grams)
    return Measured(blocks, jnp.diagonal(products), products**2, kept)


def explained(found: Measured) -> tuple[float, float]:
    """The share of ‖E ggᵀ‖² that the commutant holds, and its standard error.

    Both squared norms are means over pairs of different models, which the noise of a small ensemble does not
    bias; the standard error is by leaving out one model at a time.
    """
    raw, kept = (np.asarray(x, np.float64) for x in (found.raw, found.kept))
    raw, kept = (x - np.diag(np.diag(x)) for x in (raw, kept))
    n = len(raw)
    without = np.array([(kept.sum() - 2 * kept[i].sum()) / (raw.sum() - 2 * raw[i].sum()) for i in range(n)])
    return float(kept.sum() / raw.sum()), float(
        np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    )


def _row(c: Any) -> dict[str, Any]:
    return {
        "name": c.name,
        "copies": c.multiplicity,
        "blocks": int(np.prod(c.family)),
        "dimension": c.dimension,
        "leaves": sorted({m.path for m in c.members}),
    }


def _html(com: Commutant, data: dict[str, Any]) -> list[Markup]:
    rows = [
        [r["name"], r["copies"], r["dimension"], r["blocks"], ", ".join(r["leaves"])]
        for r in data["components"][:ROWS]
    ]
    more = len(data["components"]) - len(rows)
    rest = f" {more} more are in the JSON." if more else ""
    compact = "" if com.symmetry.is_discrete else " Continuous groups act by rotations, their compact part."
    share, error = number(data["share"]), number(data["share_error"])
    return [
        paragraph(
            "Over initialisations whose distribution the symmetry leaves alone, the gradient covariance, the mean "
            "Hessian, Fisher and Gauss-Newton matrices commute with it, at the start and after training. So each of "
            f"them is {data['factors']} free numbers for {data['parameters']} parameters: one small symmetric matrix "
            f"for each irreducible, as large as it has copies, repeated as often as it has dimensions.{compact}"
        ),
        table(["irreducible", "copies", "dimension", "matrices", "leaves"], rows),
        paragraph(
            f"What should be seen: E[∇L ∇Lᵀ] over {data['models']} initialisations inside the commutant, share 1 of "
            f"its squared norm. Measured: {share} ± {error}. Less says that the initialiser is not invariant, as "
            "truncated normals are not under rotations.",
            "see",
        ),
        figure(
            _picture(data),
            "Eigenvalues of E[∇L ∇Lᵀ], projected on the commutant, from the gradients of "
            f"{data['models']} initialisations on a fixed sample; a plateau is an eigenvalue that repeats.{rest}",
        ),
    ]


def _picture(data: dict[str, Any]) -> Markup:
    def paint(fig: Any, axes: Any) -> None:
        (ax,) = axes
        values, counts = np.asarray(data["values"], float), np.asarray(data["multiplicities"])
        start = np.cumsum(counts) - counts
        top = values.max()
        shown = values > 1e-9 * top
        names = [r["name"] for r in data["components"]]
        for i, name in enumerate(names):
            own = shown & (np.asarray(data["component_of_value"]) == i)
            if own.any():
                colour = SERIES[i] if i < len(SERIES) else INK
                label = name if i < len(SERIES) else None
                ax.hlines(
                    values[own],
                    start[own] + 0.5,
                    (start + counts)[own] + 0.5,
                    color=colour,
                    lw=2.2,
                    label=label,
                )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("number of the eigenvalue")
        ax.set_ylabel("eigenvalue")
        ax.minorticks_off()
        fig.legend(loc="outside lower center", ncols=4, labelcolor=INK)

    return draw(
        "commutant",
        "Eigenvalues of the projected gradient covariance, with multiplicities.",
        paint,
        height=3.0,
    )


SECTION = Section("commutant", "The structure of global curvature", 29, run)
