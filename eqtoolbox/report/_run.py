"""Making a report: load, check, train once, ask every section."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.pages import SILENT, Progress, device, versions
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._check import check_problem, find_symmetry, measure_invariance, require_invariance
from eqtoolbox.report._config import Config
from eqtoolbox.report._context import Context
from eqtoolbox.report._control import find_control
from eqtoolbox.report._errors import ReportError
from eqtoolbox.report._load import Source, load
from eqtoolbox.report._report import Finished, Report
from eqtoolbox.report._section import Section, all_sections
from eqtoolbox.report._train import Run, train

#: Examples that losses and gradients are evaluated on.
EXAMPLES = 512


def make_report(
    config: Config,
    problem: Problem | None = None,
    *,
    only: Sequence[Section] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Makes a report; nothing is written.

    Args:
      config: the options.
      problem: what to report on; what the options name when None.
      only: the sections; all when None.
      progress: told what is going on.

    Returns:
      The report.

    Raises:
      ReportError: an option, file, function, array or symmetry is wrong; the message says which.
    """
    began = time.perf_counter()
    progress = progress or SILENT
    config.check()
    progress.describe("loading")
    source = load(config) if problem is None else Source(problem, f"The training examples of {problem.name}.")
    if problem is None and config.model is None:
        config = replace(config, activation=config.activation or "relu")
    context = prepare(config, source, progress)
    chosen = all_sections() if only is None else tuple(only)
    progress.describe("training")
    probes = {s.name: probe for s in chosen if s.probe and (probe := s.probe(context)) is not None}
    run = train(
        context.problem,
        context.optimizer,
        context.params,
        context.data,
        context.indices,
        probes=probes,
        progress=progress,
    )
    _require_finite(run, config)
    context = replace(context, run=run)
    finished = []
    for section in chosen:
        progress.describe(section.title.lower())
        start = time.perf_counter()
        finished.append(Finished(section, section.run(context), time.perf_counter() - start))
    return Report(
        name=context.problem.name,
        config=context.config,
        sections=tuple(finished),
        training=training_facts(context),
        data_description=source.description,
        versions=versions(),
        device=device(),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seconds=time.perf_counter() - began,
    )


def prepare(config: Config, source: Source, progress: Progress) -> Context:
    """Checks the problem and its symmetry, and draws what the sections share.

    Raises:
      ReportError: as for ``make_report``.
    """
    problem = source.problem
    if problem.train is None:
        raise ReportError(f"the problem {problem.name!r} has no training examples")
    size = problem.train.size
    key = jax.random.key(config.seed)
    init_key, invariance_key, control_key, batch_key = jax.random.split(key, 4)
    progress.describe("checking the problem")
    params = check_problem(problem, config, init_key, source.file)
    if problem.symmetry is None:
        progress.describe("inferring the symmetry")
        problem = replace(problem, symmetry=find_symmetry(problem, params, source.file))
    assert problem.symmetry is not None
    invariance = measure_invariance(problem.symmetry, problem, params, invariance_key)
    require_invariance(invariance)
    progress.describe("finding a wrong symmetry")
    control = find_control(problem, params, invariance.dtype, control_key)
    config = replace(config, batch_size=config.batch_size or min(128, size))
    batch_size = config.batch_size
    assert batch_size is not None
    epochs = -(-config.steps // (size // batch_size))
    return Context(
        problem=problem,
        config=config,
        params=params,
        data=jax.tree.map(jnp.asarray, problem.train),
        examples=jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[:EXAMPLES]), problem.train),
        indices=zoo.batch_indices(batch_key, size, batch_size, epochs)[: config.steps],
        invariance=invariance,
        control=control,
        progress=progress,
    )


def training_facts(context: Context) -> dict[str, Any]:
    """Sizes, losses and metrics of the training run."""
    problem, run = context.problem, context.training

    @jax.jit
    def evaluate(params: Any, batch: Batch) -> tuple[Any, Array]:
        outputs = problem.apply(params, batch.inputs)
        return outputs, problem.output_loss(outputs, batch.targets)

    def measure(params: Any, batch: Batch | None) -> tuple[float | None, float | None]:
        if batch is None:
            return None, None
        outputs, loss = evaluate(params, batch)
        metric = None if problem.metric is None else float(problem.metric(outputs, batch.targets))
        return float(loss), metric

    start, _ = measure(context.params, context.data)
    end, metric_train = measure(run.params, context.data)
    loss_test, metric_test = measure(run.params, problem.test)
    name = getattr(problem.metric, "__name__", "metric").strip("_<>").replace("_", " ")
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(context.params)),
        "train_examples": context.data.size,
        "test_examples": 0 if problem.test is None else problem.test.size,
        "steps": len(run.loss),
        "loss_start": start,
        "loss_end": end,
        "loss_test": loss_test,
        "metric_name": None if problem.metric is None else name.capitalize(),
        "metric_train": metric_train,
        "metric_test": metric_test,
    }


def _require_finite(run: Run, config: Config) -> None:
    bad = np.flatnonzero(~np.isfinite(run.loss))
    if bad.size or not all(np.isfinite(np.asarray(x, np.float64)).all() for x in jax.tree.leaves(run.params)):
        step = int(bad[0]) if bad.size else len(run.loss)
        raise ReportError(
            f"training diverges: the loss is not finite at step {step} of gradient descent with "
            f"--learning-rate {config.learning_rate}; choose a smaller one"
        )
