"""Flat directions that the symmetry promises, against the spectrum of the Hessian."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from markupsafe import Markup

from eqtoolbox.linalg import hvp_fn, rank_from_singular_values
from eqtoolbox.pages import INK, MUTED, SERIES, draw, figure, number, paragraph
from eqtoolbox.problem import Batch
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._spectrum import Spectra, spectra
from eqtoolbox.symmetry import generator_matrix

#: More directions of the orbit than this are not measured; random ones of them are.
DIRECTIONS = 256
CHUNK = 16
#: Singular values of the generators below this share of the largest count as zero.
RANK_NOISE = 1e-5
TITLES = {"start": "at initialisation", "end": "after training"}


def run(context: Context) -> SectionResult:
    """Measures the Hessian along the orbit, and counts eigenvalues by Lanczos quadrature."""
    if context.symmetry.is_discrete:
        text = "The group is discrete. Its orbits are isolated points: no flat directions are promised."
        return SectionResult([paragraph(text)], data={"promised": 0})
    seen, size = spectra(context), sum(x.size for x in jax.tree.leaves(context.params))
    points = {"start": context.params, "end": context.training.params}
    data: dict[str, Any] = {"parameters": size, "dimension": context.symmetry.dimension}
    for k, (name, params) in enumerate(points.items()):
        data[name] = _measure(context, params, seen, k)
    end = data["end"]
    data["promised"] = end["directions"]
    needed = end["directions"] / size
    checks = [
        Check(
            f"{end['directions']} of {size} eigenvalues are as small as the Hessian along the orbit (share that "
            "Lanczos quadrature has room for)",
            end["room"],
            needed,
            at_least=True,
        )
    ]
    note = f"of the sharpness, after training; {number(end['random'])} along random directions"
    numbers = [Number("Hessian along the orbit", float(np.mean(end["orbit"])), note)]
    return SectionResult(_html(context, data), numbers, checks, data)


def _tangents(context: Context, params: Params) -> np.ndarray:
    """An orthonormal basis of the orbit's tangent space, or of a random part of it; shape (q, parameters)."""
    sym = context.symmetry

    def build() -> Any:
        if sym.dimension <= DIRECTIONS:
            return jax.jit(lambda p: generator_matrix(sym, p))
        keys = jax.random.split(context.key("directions of the orbit"), DIRECTIONS)
        one = lambda key, p: ravel_pytree(sym.generator(sym.sample_algebra(key), p))[0]  # noqa: E731
        return jax.jit(lambda p: jax.lax.map(lambda key: one(key, p), keys, batch_size=CHUNK))

    rows = np.asarray(context.once("generators", build)(params), np.float64)
    _, values, basis = np.linalg.svd(rows, full_matrices=False)
    return basis[: int(rank_from_singular_values(values, shape=rows.shape, noise=RANK_NOISE).rank)]


def _images(context: Context, params: Params, rows: np.ndarray) -> np.ndarray:
    """The Hessian on the fixed examples times vectors, shape (k, parameters)."""

    def build() -> Any:
        _, unravel = ravel_pytree(params)

        @jax.jit
        def images(params: Params, examples: Batch, rows: Array) -> Array:
            product = hvp_fn(lambda p: context.problem.batch_loss(p, examples), params)
            return jax.vmap(lambda row: ravel_pytree(product(unravel(row)))[0])(rows)

        return images

    images = context.once("hessian images", build)
    padded = np.zeros((-(-len(rows) // CHUNK) * CHUNK, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    found = [
        np.asarray(images(params, context.examples, part))
        for part in padded.reshape(-1, CHUNK, padded.shape[1])
    ]
    return np.concatenate([np.zeros((0, rows.shape[1])), *found])[: len(rows)]


def _measure(context: Context, params: Params, seen: Spectra, which: int) -> dict[str, Any]:
    """The singular values of the Hessian on the orbit's tangent space, in units of the sharpness."""
    basis = _tangents(context, params)
    found = _images(context, params, basis)
    noise = np.random.default_rng(context.config.seed).normal(size=(CHUNK, basis.shape[1]))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    random = float(np.mean(np.linalg.norm(_images(context, params, noise), axis=1)))
    values, weights = seen.values[which], seen.weights[which]
    scale = float(np.abs(values).max()) or 1.0
    orbit = np.sort(np.linalg.svd(found, compute_uv=False)) / scale
    size = orbit.max(initial=0.0)
    room = np.array([_room(v, w, size) for v, w in zip(values / scale, weights, strict=True)])
    sizes = np.abs(values) / scale
    return {
        "directions": len(basis),
        "sharpness": scale,
        "orbit": orbit,
        "random": random / scale,
        "share": float(np.sum(np.where(sizes <= size, weights, 0), axis=1).mean()),
        "room": float(room.mean() + 3 * room.std(ddof=1) / np.sqrt(len(room))),
        "ritz": sizes,
        "ritz_weights": weights,
    }


def _room(values: np.ndarray, weights: np.ndarray, size: float) -> float:
    """The most that the spectral measure behind a Gauss quadrature can have in [-size, size].

    By the separation theorem of Chebyshev, Markov and Stieltjes the measure of an interval is at most the weight of
    the nodes in it and of the next one on either side.
    """
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    low = max(int(np.searchsorted(values, -size, side="left")) - 1, 0)
    high = int(np.searchsorted(values, size, side="right")) + 1
    return float(np.sum(weights[low:high]))


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    end = data["end"]
    count, dimension = end["directions"], data["dimension"]
    part = (
        f" Of {dimension} generators, {DIRECTIONS} random combinations are measured."
        if count < dimension
        else ""
    )
    return [
        paragraph(
            "At a stationary point the Hessian vanishes along the orbit of a symmetry, ∇²L X = 0, so that it has at "
            "least as many zero eigenvalues as the orbit has dimensions. Elsewhere ∇²L X = −(∂X)ᵀ∇L: it is small where "
            f"the gradient is. If the Hessian is at most ε on these {count} directions, then at least {count} of its "
            f"{data['parameters']} eigenvalues lie within ±ε, wherever that is.{part}"
        ),
        paragraph(
            "What should be seen: along the orbit the Hessian is much smaller than its largest eigenvalue, and it "
            "shrinks as training reduces the gradient. Right: how the eigenvalues are spread, with ε marked, and the "
            "share that the symmetry promises (dashed). Lanczos tells apart large eigenvalues and leaves small ones "
            "together; the check below counts those that may be within ±ε.",
            "see",
        ),
        figure(
            _picture(data),
            "Left: the singular values of the Hessian on the tangent space of the orbit, sorted, over the largest "
            "|eigenvalue|; dotted: its mean size along random directions. Right: the share of |eigenvalues| up to a "
            f"size, by Lanczos quadrature with {len(end['ritz'])} random vectors on {context.examples.size} examples; "
            "dots: at ε.",
        ),
    ]


def _picture(data: dict[str, Any]) -> Markup:
    def paint(fig: Any, axes: Any) -> None:
        left, right = axes
        left.set_title("Hessian along the orbit")
        right.set_title("Eigenvalues by size")
        for name, colour in (("start", SERIES[0]), ("end", SERIES[2])):
            point = data[name]
            order = np.arange(1, len(point["orbit"]) + 1)
            left.plot(order, point["orbit"], "o-", ms=2.5, lw=1.0, color=colour, label=TITLES[name])
            left.axhline(point["random"], color=colour, lw=1.0, ls=(0, (1, 1.5)))
            sizes = np.sort(point["ritz"].ravel())
            shares = [
                np.sum(np.where(point["ritz"] <= x, point["ritz_weights"], 0), axis=1).mean() for x in sizes
            ]
            right.step(sizes, shares, where="post", color=colour, lw=1.2)
            right.plot(point["orbit"].max(initial=0.0), point["share"], "o", ms=5, color=colour)
        promised = data["promised"] / data["parameters"]
        right.axhline(promised, color=MUTED, lw=1.0, ls=(0, (4, 3)), label="promised share")
        left.set_yscale("log")
        left.set_xlabel("direction")
        left.set_ylabel("‖∇²L t‖ / largest |eigenvalue|")
        right.set_xscale("log")
        right.set_xlim(left=max(1e-7, right.get_xlim()[0]))
        right.set_ylim(0, 1.03)
        right.set_xlabel("|eigenvalue| / largest")
        right.set_ylabel("share not above")
        for ax in axes:
            ax.minorticks_off()
        handles, names = zip(
            *[pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)], strict=True
        )
        fig.legend(handles, names, loc="outside lower center", ncols=3, labelcolor=INK)

    alt = "The Hessian along directions of the orbit, and the distribution of its eigenvalues, on log scales."
    return draw("flatness", alt, paint, columns=2, height=3.4)


SECTION = Section("flatness", "Flat directions", 26, run)
