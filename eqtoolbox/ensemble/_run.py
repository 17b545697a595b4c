"""A run: chunks until all models are done, with checkpoints, metrics and progress; then the report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from eqtoolbox.ensemble._checkpoint import Checkpoints
from eqtoolbox.ensemble._config import EnsembleConfig
from eqtoolbox.ensemble._ensemble import LAYOUTS
from eqtoolbox.ensemble._errors import EnsembleError, Stopped
from eqtoolbox.ensemble._finish import finish
from eqtoolbox.ensemble._net import Net
from eqtoolbox.ensemble._plan import choose_plan
from eqtoolbox.ensemble._stream import MODELS, State, Stream, default_chunk, device_mesh
from eqtoolbox.ensemble._study import Study
from eqtoolbox.linalg import moments_mean
from eqtoolbox.pages import SILENT, Progress, device, plain, versions, write_bytes
from eqtoolbox.problem import Problem

FORMAT = "eqtoolbox-ensemble"
#: Seconds after which a process that does not answer counts as dead.
HEARTBEAT = 20
#: Seconds between two lines of metrics.
EVERY = 2.0


def connect(config: EnsembleConfig) -> None:
    """Joins the other processes, if there are any, before the first use of a device.

    Raises:
      EnsembleError: they do not answer.
    """
    if config.coordinator is None and not config.distributed:
        return
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.num_processes,
            config.process_id,
            initialization_timeout=60,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except Exception as error:
        raise EnsembleError(f"the processes cannot be connected: {error}") from error
    if jax.process_index() == 0:
        # JAX ends a process itself when another one is gone, with its own message; this is what to do about it.
        note = "if one dies, the others end within a minute; start all of them again, and the run goes on"
        print(f"{jax.process_count()} processes: {note}", file=sys.stderr, flush=True)


def run_ensemble(
    config: EnsembleConfig, problem: Problem | None = None, *, progress: Progress = SILENT
) -> Path:
    """Runs one ensemble, or goes on with it.

    Args:
      config: with every option filled in, one of ``EnsembleConfig.runs()``.
      problem: the user's, with training examples; the bundled network when None.
      progress: told what is going on.

    Returns:
      The folder, with summary.json, factors, figure.png and report.html.

    Raises:
      EnsembleError: something given or found is wrong; what was there is left as it was.
      Stopped: by SIGTERM, after a checkpoint.
    """
    config.check()
    with jax.enable_x64(config.x64), _blamed():
        return _run(config, problem, progress)


def _run(config: EnsembleConfig, problem: Problem | None, progress: Progress) -> Path:
    net = None
    if problem is None:
        net = Net(
            tuple(config.widths or ()),
            config.activation or "tanh",
            bool(config.bias),
            int(config.examples or 0),
            float(config.decades or 0),
            config.data_seed,
        )
        problem = net.problem()
    if problem.train is None:
        raise EnsembleError(
            f"the problem {problem.name!r} has no training examples: give it some by with_data"
        )
    study = Study(config, problem, net)
    key = jax.random.key(config.seed)
    mesh = device_mesh(config.data_devices)
    out = config.out.absolute()
    record = _open_folder(out, config, study, key, mesh.shape[MODELS], progress)
    stream = Stream(
        study.ensemble,
        key,
        int(config.models or 0),
        chunk=record["chunk"],
        batch_size=record["batch_size"],
        layout=record["layout"],
        mesh=mesh,
        functionals=study.functionals,
    )
    checkpoints = Checkpoints(
        out / "checkpoints", json.dumps(record["identity"], sort_keys=True), config.keep
    )
    try:
        state = _resumed(stream, checkpoints)
        begin = int(state.chunks)
        progress.describe("compiling")
        state = _chunks(config, stream, state, checkpoints, out, progress)
        progress.describe("writing the report")
        if jax.process_index() == 0 and begin < stream.chunks:
            _log(out, {"event": "done", "models": stream.models, "left_out": int(state.left_out)})
        finish(study, stream, state, record, out)
    finally:
        checkpoints.close()
    return out


# The folder.


def _open_folder(
    out: Path, config: EnsembleConfig, study: Study, key: Any, devices: int, progress: Progress
) -> dict[str, Any]:
    """The record ``run.json`` of the run, made if the folder is new: by process 0, for all."""
    path, identity = out / "run.json", plain(config.identity())
    exists = _agreed([path.exists()])[0]
    if exists:
        record = _read(path)
        found = record["identity"]
        if found != identity:
            changes = [
                f"{name} is {identity.get(name)!r}, was {found.get(name)!r}"
                for name in sorted({*found, *identity})
                if found.get(name) != identity.get(name)
            ]
            raise EnsembleError(
                f"{out} is of another run ({'; '.join(changes)}): nothing was changed; give the options of that "
                "run to go on with it, or another --out"
            )
        return record
    if out.is_dir() and any(out.iterdir()):
        raise EnsembleError(f"{out} holds something else than a run: nothing was changed; give another --out")
    progress.describe("measuring layouts")
    chunk = config.chunk or default_chunk(int(config.models or 0))
    layouts = (config.layout,) if config.layout else LAYOUTS if config.data_devices == 1 else ("first",)
    plan = choose_plan(
        study.ensemble,
        key,
        most=-(-chunk // devices),
        limit=None if config.memory is None else int(config.memory * 1e9),
        layouts=layouts,
        batch_size=config.batch_size,
    )
    chosen = _agreed([LAYOUTS.index(plan.layout), plan.batch_size])
    record = {
        "format": FORMAT,
        "identity": identity,
        "chunk": chunk,
        "layout": LAYOUTS[chosen[0]],
        "batch_size": chosen[1],
        "parameters": study.com.size,
        "device": device(),
        "processes": jax.process_count(),
        "versions": versions(),
        "config": plain(dataclasses.asdict(config)),
    }
    if jax.process_index() == 0:
        try:
            write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise EnsembleError(f"--out {out} cannot be written: {error}") from error
    _together("the folder")
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or not isinstance(record["identity"], dict):
            raise ValueError("not the record of a run")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnsembleError(
            f"{path} is damaged or of something else ({error}): nothing was changed; give another --out"
        ) from error
    return record


def _resumed(stream: Stream, checkpoints: Checkpoints) -> State:
    state = stream.start()
    latest = checkpoints.latest()
    if latest is None:
        return state
    host = checkpoints.restore(latest, state)
    whole = NamedSharding(stream.mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, whole, lambda i, x=x: x[i]), host)


# The loop.


def _chunks(
    config: EnsembleConfig,
    stream: Stream,
    state: State,
    checkpoints: Checkpoints,
    out: Path,
    progress: Progress,
) -> State:
    done = begin = int(state.chunks)
    start = saved = logged = time.monotonic()
    progress.expect(stream.models)
    progress.advance(min(done * stream.chunk, stream.models))
    with _sigterm() as asked:
        while not stream.finished(done):
            state = stream.advance(state, done)
            jax.block_until_ready(state.chunks)
            done += 1
            now = time.monotonic()
            finished = stream.finished(done)
            save, stop = _agreed([now - saved >= config.checkpoint_every, asked.is_set()], any_process=True)
            if (save or stop or finished) and not (finished and not stop and done == begin):
                checkpoints.save(done, state)
                saved = time.monotonic()
            progress.advance(min(done * stream.chunk, stream.models) - (done - 1) * stream.chunk)
            if now - logged >= EVERY or finished or done == begin + 1:
                logged = now
                _report(stream, state, done, begin, now - start, out, progress)
            if stop and not finished:
                checkpoints.wait()
                models = min(done * stream.chunk, stream.models)
                raise Stopped(f"stopped after {models} of {stream.models} models, which are saved in {out}")
    checkpoints.wait()
    return state


def _report(
    stream: Stream, state: State, done: int, begin: int, seconds: float, out: Path, progress: Progress
) -> None:
    """One line of metrics, and what the progress says."""
    total = stream.total(state)
    models = min(done * stream.chunk, stream.models)
    rate = (models - begin * stream.chunk) / max(seconds, 1e-9)
    left = (stream.models - models) / rate
    if jax.process_index():
        return
    line = {
        "models": models,
        "seconds": round(seconds, 3),
        "models_per_second": rate,
        "seconds_left": round(left, 1),
        "left_out": int(state.left_out),
        "loss": {time_: float(moments_mean(sums["loss"])) for time_, sums in total.items()},
    }
    _log(out, line)
    progress.describe(f"{models} of {stream.models} models, {rate:.0f} a second, {left:.0f} s left")


def _log(out: Path, line: dict[str, Any]) -> None:
    """Appends a line to metrics.jsonl; a full disk is left to the checkpoints to report."""
    with contextlib.suppress(OSError), (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(line)) + "\n")


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, in the main thread."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


# Several processes.


def _agreed(numbers: list[Any], any_process: bool = False) -> list[int]:
    """Those of process 0, or the largest of all, on every process."""
    values = np.array([int(x) for x in numbers], np.int32)
    if jax.process_count() == 1:
        return values.tolist()
    if any_process:
        return np.max(multihost_utils.process_allgather(values), 0).tolist()
    return np.asarray(multihost_utils.broadcast_one_to_all(values)).tolist()


def _together(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def _blamed() -> Iterator[None]:
    """With several processes, an error of the runtime means that one of them is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        first = str(error).strip().splitlines()[0]
        raise EnsembleError(
            f"process {jax.process_index()} of {jax.process_count()}: another process died or cannot be reached "
            f"({first}); start all of them again, and the run goes on from its last checkpoint"
        ) from error


def leave(code: int) -> None:
    """Ends this process at once where others may be gone: an orderly end would wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
