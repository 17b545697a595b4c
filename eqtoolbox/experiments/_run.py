"""Running an experiment: result, findings and figure, in a folder of their own."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding
from eqtoolbox.experiments._store import Store, open_store
from eqtoolbox.experiments._trees import load_tree
from eqtoolbox.pages import (
    SILENT,
    Progress,
    device,
    house_style,
    plain,
    save_tree,
    to_png,
    to_svg,
    versions,
    write_bytes,
)

#: Name and version of the layout of ``result.json``.
FORMAT, FORMAT_VERSION = "eqtoolbox-experiment", 1


@dataclass(frozen=True)
class Outcome:
    """A finished experiment.

    Attributes:
      experiment: which one.
      config: its configuration.
      folder: ``OUT/NAME/SIZE-HASH`` with result.npz, result.json and figure.png.
      result: as saved, with NumPy arrays.
      findings: what follows from it.
      facts: ``seconds`` (of all runs that it took), ``created``, ``device``, ``versions``.
      svg: the figure, for a page.
    """

    experiment: Experiment
    config: Any
    folder: Path
    result: Result
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]
    svg: str

    @property
    def as_anticipated(self) -> bool:
        """Whether every verdict is the right one."""
        return all(finding.as_anticipated for finding in self.findings)


def run_experiment(
    experiment: Experiment,
    config: Any = None,
    *,
    out: Path = Path("results"),
    force: bool = False,
    progress: Progress = SILENT,
) -> Outcome:
    """Runs an experiment, or goes on where an earlier run ended, and writes result.npz, result.json, figure.png.

    A finished result of the same configuration and version is read; findings and figure are made anew from it.

    Args:
      experiment: which one.
      config: its configuration; the quick one when None.
      out: the folder of all results.
      force: forgets earlier runs of this configuration.
      progress: told what is going on.

    Returns:
      The outcome.

    Raises:
      TypeError: the configuration is of another experiment, or the result cannot be saved.
      ValueError: a finding names a claim that the experiment does not.
      ExperimentError: the folder cannot be used.
    """
    config = experiment.quick if config is None else config
    if type(config) is not type(experiment.quick):
        raise TypeError(
            f"{experiment.name} is configured by {type(experiment.quick).__name__}, got {config!r}"
        )
    size = experiment.size_of(config)
    store = open_store(out, experiment.name, experiment.version, size, config, force=force, progress=progress)
    if not (store.folder / "result.npz").exists():
        progress.describe(experiment.name)
        _compute(experiment, config, store)
    result = load_tree(store.folder / "result.npz")
    record = json.loads((store.folder / "result.json").read_text(encoding="utf-8"))
    findings = tuple(experiment.claims(result))
    for finding in findings:
        if not set(finding.claims) <= set(experiment.claim_ids):
            raise ValueError(f"{experiment.name}: {finding.claims} are not among its {experiment.claim_ids}")
    with house_style():
        figure = experiment.plot(result)
        write_bytes(store.folder / "figure.png", to_png(figure))
        svg = to_svg(figure, experiment.name, experiment.caption)
    record["findings"] = [asdict(f) for f in findings]
    _write_json(store, record)
    facts = {key: record[key] for key in ("seconds", "created", "device", "versions")}
    return Outcome(experiment, config, store.folder, result, findings, facts, svg)


def _compute(experiment: Experiment, config: Any, store: Store) -> None:
    """Runs the experiment; result.npz is written last: it says that all is there."""
    begin = time.perf_counter()
    with jax.enable_x64(experiment.x64):
        result = experiment.run(config, store)
    if not isinstance(result, Mapping):
        raise TypeError(f"run of {experiment.name} must return a dict, got {type(result).__name__}")
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "title": experiment.title,
        "version": experiment.version,
        "size": experiment.size_of(config),
        "config": asdict(config),
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(time.perf_counter() - begin + store.seconds, 3),
        "device": device(),
        "versions": versions(),
    }
    _write_json(store, record)
    save_tree(store.folder / "result.npz", result)
    store.clear()


def _write_json(store: Store, record: Mapping[str, Any]) -> None:
    text = json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(store.folder / "result.json", text.encode())
