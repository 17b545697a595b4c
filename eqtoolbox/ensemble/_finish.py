"""What a run leaves: summary.json, statistics.npz, factors, figure.png and report.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from markupsafe import Markup

from eqtoolbox.ensemble._ensemble import Sums
from eqtoolbox.ensemble._errors import EnsembleError
from eqtoolbox.ensemble._factors import save_factors
from eqtoolbox.ensemble._law import ENOUGH, Law, constant
from eqtoolbox.ensemble._stream import State, Stream
from eqtoolbox.ensemble._study import Study
from eqtoolbox.linalg import moments_estimate
from eqtoolbox.pages import (
    INK,
    MUTED,
    SERIES,
    Entry,
    figure,
    house_style,
    new_figure,
    paragraph,
    plain,
    render_page,
    save_tree,
    show_matrix,
    table,
    to_png,
    to_svg,
    write_bytes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrices = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]  # time -> what -> raw, projected


def finish(study: Study, stream: Stream, state: State, record: dict[str, Any], out: Path) -> None:
    """Writes everything, by process 0.

    Raises:
      EnsembleError: it cannot be written; the checkpoints are as they were.
    """
    total = stream.total(state)
    if jax.process_index():
        return
    total, state = jax.device_get(total), jax.device_get(state)
    matrices: Matrices = {time: study.matrices(sums) for time, sums in total.items()}
    laws = study.laws(stream, state, total)
    summary = _summary(study, stream, state, record, total, laws)
    try:
        _write_factors(study, total, out)
        save_tree(out / "statistics.npz", _statistics(total, matrices, laws))
        write_bytes(
            out / "summary.json", (json.dumps(plain(summary), indent=1, ensure_ascii=False) + "\n").encode()
        )
        with house_style():
            drawn = paint(study, matrices, laws) if matrices[str(study.config.times[0])] else None
            if drawn is not None:
                write_bytes(out / "figure.png", to_png(drawn))
            page = _page(study, summary, None if drawn is None else to_svg(drawn, "ensemble", CAPTION))
        write_bytes(out / "report.html", page.encode())
    except OSError as error:
        raise EnsembleError(
            f"the report cannot be written to {out}: {error}; the checkpoints are safe: make room, and the same "
            "command writes it"
        ) from error


def _write_factors(study: Study, total: Sums, out: Path) -> None:
    for time, sums in total.items():
        for name, estimate in study.factor_estimates(sums).items():
            save_factors(
                out / f"{name}-t{time}.npz",
                study.com,
                estimate.value,
                steps=int(time),
                models=int(estimate.samples),
                problem=study.problem.name,
                standard_errors=[
                    [c.name, np.asarray(estimate.standard_error[c.name])] for c in study.com.components
                ],
            )


def _statistics(total: Sums, matrices: Matrices, laws: dict[str, Law]) -> dict[str, Any]:
    """Means and standard errors by leaf path, the matrices and the laws."""
    found: dict[str, Any] = {"laws": {k: law._asdict() for k, law in laws.items()}}
    for time, sums in total.items():
        own: dict[str, Any] = {}
        for name, moments in sums.items():
            if name in ("flat", "squares"):
                continue
            estimate = moments_estimate(moments)
            pairs = jax.tree_util.tree_leaves_with_path(estimate.value)
            errors = jax.tree.leaves(estimate.standard_error)
            own[name] = [
                [jax.tree_util.keystr(p, simple=True, separator="."), np.asarray(v), np.asarray(e)]
                for (p, v), e in zip(pairs, errors, strict=True)
            ]
        own["matrices"] = {k: {"raw": raw, "projection": kept} for k, (raw, kept) in matrices[time].items()}
        found[f"t{time}"] = own
    return found


def _summary(
    study: Study, stream: Stream, state: State, record: dict[str, Any], total: Sums, laws: dict[str, Law]
) -> dict[str, Any]:
    return {
        "format": "eqtoolbox-ensemble-summary",
        "problem": study.problem.name,
        "models": stream.models,
        "left_out": int(state.left_out),
        "parameters": study.com.size,
        "free_numbers": study.com.num_factors,
        "run": {k: record[k] for k in ("identity", "chunk", "layout", "batch_size", "device", "processes")},
        "loss": {
            time: [float(x) for x in moments_estimate(sums["loss"])[:2]] for time, sums in total.items()
        },
        "laws": {
            name: {
                **law._asdict(),
                "largest_deviation_in_standard_errors": constant(law),
                "sizes_compared": int(np.sum(law.samples >= ENOUGH)),
            }
            for name, law in laws.items()
        },
    }


# The figure.

CAPTION = (
    "Averages over the ensemble before and after training, the projection on the commutant, and n times the squared "
    "distance of a mean over n models from the commutant, with its prediction from single models. Blue is positive, "
    "orange negative; entries are drawn as square roots."
)


def paint(study: Study, matrices: Matrices, laws: dict[str, Law]) -> Figure:
    """A row for the covariance and one for the Hessian: before, after, the projection, the law."""
    times = [str(t) for t in study.config.times]
    kinds = list(matrices[times[0]])
    figure, axes = new_figure(len(times) + 2, len(kinds), height=2.1 * len(kinds) + 0.5)
    names, sizes = zip(*study.parts, strict=True)
    for row, kind in enumerate(kinds):
        ax = axes[row * (len(times) + 2) : (row + 1) * (len(times) + 2)]
        pictures = [matrices[t][kind][0] for t in times] + [matrices[times[-1]][kind][1]]
        titles = [f"t = {t}" for t in times] + ["projection"]
        for a, picture, title in zip(ax, pictures, titles, strict=False):
            show_matrix(a, picture, names, sizes)
            a.set_title(title if row == 0 else "", fontsize=8)
        ax[0].set_ylabel(kind, color=INK, fontsize=8)
        ax[-1].set_title("n‖M̂ − PM̂‖² / predicted" if row == 0 else "", fontsize=7)
        _draw_laws(ax[-1], [(t, laws[f"{kind} {t}"]) for t in times if f"{kind} {t}" in laws])
        if row == len(kinds) - 1:
            ax[-1].set_xlabel("models n", fontsize=8)
    return figure


def _draw_laws(ax: Axes, laws: Sequence[tuple[str, Law]]) -> None:
    for i, (time, law) in enumerate(laws):
        kept = law.samples > 1
        scale = law.outside_predicted
        ax.errorbar(
            law.models[kept] * (1 + 0.06 * i),
            law.outside[kept] / scale,
            law.errors[kept] / scale,
            fmt="o",
            ms=3,
            lw=1.0,
            color=SERIES[i],
            label=f"t = {time}",
        )
    ax.axhline(1, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.tick_params(labelsize=7)
    if laws:
        ax.legend(fontsize=6, loc="upper left")


def _page(study: Study, summary: dict[str, Any], svg: Markup | None) -> str:
    """report.html: one file without external resources."""
    rows = [(time, value, error) for time, (value, error) in summary["loss"].items()]
    title = f"Ensemble of {summary['models']} models: {summary['problem']}"
    top = [
        paragraph(
            f"{summary['parameters']} parameters; an operator that commutes with the symmetry has "
            f"{summary['free_numbers']} free numbers. {summary['left_out']} models were left out because a number of "
            f"theirs was not finite. On {summary['run']['device']}, {summary['run']['processes']} process(es)."
        ),
        Markup('<div class="scroll"><pre>{}</pre></div>').format(str(study.com)),
    ]
    losses = table(("steps", "mean loss", "standard error"), rows, narrow=True)
    sections = [(Entry("loss", "Loss"), [losses])]
    if svg is not None:
        sections.append((Entry("curvature", "Curvature"), [figure(svg, CAPTION)]))
    if summary["laws"]:
        laws = [
            (
                name,
                law["saving"],
                law["saving_error"],
                law["saving_predicted"],
                law["largest_deviation_in_standard_errors"],
            )
            for name, law in summary["laws"].items()
        ]
        head = (
            "matrix, steps",
            "models saved by projecting (times)",
            "±",
            "predicted",
            "n‖M̂ − PM̂‖² off its prediction (standard errors)",
        )
        sections.append((Entry("laws", "What projecting saves"), [table(head, laws)]))
    contents = [entry for entry, _ in sections]
    template = Path(__file__).with_name("report.html")
    return render_page(template, contents, title=title, top=top, sections=sections)
