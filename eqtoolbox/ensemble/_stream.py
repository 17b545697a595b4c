"""`Stream`: an ensemble in chunks of models, merged pairwise in an order that nothing but their number decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eqtoolbox.ensemble._ensemble import Ensemble, Sums
from eqtoolbox.linalg import (
    Estimate,
    Moments,
    check_integer,
    moments_estimate,
    moments_init,
    moments_merge,
    moments_psum,
    moments_update,
)

#: The axis of a mesh over which models are spread; any other axis spreads the examples.
MODELS = "models"
#: Number of chunks into which an ensemble is cut where nothing else is said, at least.
CHUNKS = 128
#: Largest number of models of a chunk where nothing else is said.
LARGEST_CHUNK = 4096

#: Sums of a sub-ensemble -> numbers whose mean over sub-ensembles of each size is wanted.
Functional = Callable[[Sums], Any]


class State(NamedTuple):
    """Where a stream is: all that a checkpoint holds, and the same on every device.

    Attributes:
      chunks: chunks that are done, c.
      levels: moments of sub-ensembles with a leading axis: level l holds one of 2^l chunks where bit l of c is 1.
      records: moments of each functional over the sub-ensembles of 2^l chunks, with the same leading axis.
      left_out: models left out because a statistic of theirs was not finite.
    """

    chunks: Array
    levels: Sums
    records: dict[str, Moments]
    left_out: Array


def default_chunk(models: int) -> int:
    """The models of a chunk: a power of 2, about a 128th of all; more where that would be less than 64."""
    size = 1
    while 2 * size <= LARGEST_CHUNK and (2 * size * CHUNKS <= models or 16 * size <= min(models, 16 * 32)):
        size *= 2
    return size


class Stream:
    """The programs that a run needs, compiled once.

    A chunk is spread over the devices of the mesh, each takes its models in batches, and the moments are merged by
    Chan's formula, over the batches first, then over the devices by psum. Chunks are merged as a binary counter
    does: pairs, pairs of pairs, and so on. So rounding errors grow with the logarithm of the number of chunks, the
    same chunks give the same bits however often a run was stopped, and the functionals see disjoint
    sub-ensembles of every size.

    Attributes:
      ensemble: what is run.
      models: their number.
      chunk: models of a chunk.
      batch_size: models taken together on one device.
      layout: of a batch, see ``LAYOUTS``.
      mesh: with an axis "models", and perhaps others over which the examples are spread.
      functionals: by name.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        key: Array,
        models: int,
        *,
        chunk: int | None = None,
        batch_size: int = 64,
        layout: str = "last",
        mesh: Mesh | None = None,
        functionals: Mapping[str, Functional] | None = None,
    ):
        """Plans a run; nothing is compiled yet.

        Args:
          ensemble: what is run.
          key: of the ensemble.
          models: their number.
          chunk: models of a chunk; ``default_chunk(models)`` when None.
          batch_size: models taken together on one device.
          layout: of a batch.
          mesh: with an axis "models"; all devices along it when None.
          functionals: of the moments of a sub-ensemble.

        Raises:
          ValueError: a number is not positive, the mesh has no axis "models", or examples cannot be split.
        """
        self.ensemble, self.key = ensemble, key
        self.models = check_integer(models, "models", 1)
        self.chunk = default_chunk(models) if chunk is None else check_integer(chunk, "chunk", 1)
        self.mesh = device_mesh() if mesh is None else mesh
        if MODELS not in self.mesh.axis_names:
            raise ValueError(f"`mesh` must have an axis {MODELS!r}, got {self.mesh.axis_names}")
        self.share = -(-self.chunk // self.mesh.shape[MODELS])
        self.batch_size = min(check_integer(batch_size, "batch_size", 1), self.share)
        self.layout = layout
        self.functionals = dict(functionals or {})
        self.chunks = -(-self.models // self.chunk)
        self.depth = self.chunks.bit_length() + 1
        self.data = self._spread_data()
        self._whole = NamedSharding(self.mesh, PartitionSpec())
        spread = jax.tree.map(lambda x: x.sharding, self.data)
        self._run_chunk = jax.jit(
            self._chunk_program, in_shardings=(self._whole, self._whole, spread), out_shardings=self._whole
        )
        self._place = jax.jit(self._place_program, donate_argnums=(0,), out_shardings=self._whole)
        self._total = jax.jit(self._total_program, out_shardings=self._whole)
        self._carry = jax.jit(self._carry_program, donate_argnums=(0, 1), out_shardings=self._whole)

    def _spread_data(self) -> Any:
        others = tuple(a for a in self.mesh.axis_names if a != MODELS)
        parts = 1
        for axis in others:
            parts *= self.mesh.shape[axis]
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.ensemble.data):
            if parts > 1 and (jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] % parts):
                raise ValueError(
                    f"the mesh has {parts} parts for the examples: their number must be a multiple of it, got the "
                    f"shape {jnp.shape(leaf)} of {jax.tree_util.keystr(path, simple=True, separator='/')!r}"
                )
        spec = PartitionSpec(others) if parts > 1 else PartitionSpec()
        return jax.device_put(self.ensemble.data, NamedSharding(self.mesh, spec))

    # Steps.

    def start(self) -> State:
        """The state before the first chunk."""

        def make() -> State:
            empty = self.ensemble.empty()

            def stacked(x: Array) -> Array:
                return jnp.zeros((self.depth, *x.shape), x.dtype)

            records = {name: moments_init(jax.eval_shape(f, empty)) for name, f in self.functionals.items()}
            return State(
                jnp.int32(0),
                jax.tree.map(stacked, empty),
                jax.tree.map(stacked, records),
                jnp.int32(0),
            )

        return jax.jit(make, out_shardings=self._whole)()

    def advance(self, state: State, done: int) -> State:
        """The state after one more chunk; the old one is used up.

        Args:
          state: after ``done`` chunks.
          done: as ``state.chunks``, known to the host.
        """
        first = done * self.chunk
        stop = min(first + self.chunk, self.models)
        carry, left_out = self._run_chunk(self.key, jnp.array([first, stop], jnp.int32), self.data)
        complete, level = stop - first == self.chunk, 0
        while done >> level & 1:
            state, carry = self._carry(state, carry, level, complete)
            level += 1
        return self._place(state, carry, left_out, level, complete)

    def finished(self, done: int) -> bool:
        """Whether that many chunks are all."""
        return done >= self.chunks

    def total(self, state: State) -> Sums:
        """The moments of all models so far: the levels merged, the largest first."""
        return self._total(state)

    def scaling(self, state: State) -> dict[str, list[tuple[int, Estimate]]]:
        """For each functional pairs (models of a sub-ensemble, mean over the disjoint ones)."""
        found = {}
        for name, record in jax.device_get(state.records).items():
            levels = [_level(record, level) for level in range(self.depth)]
            found[name] = [
                (self.chunk * 2**i, jax.device_get(moments_estimate(m)))
                for i, m in enumerate(levels)
                if m.count
            ]
        return found

    # Programs.

    def _chunk_program(self, key: Array, bounds: Array, data: Any) -> tuple[Sums, Array]:
        run = jax.shard_map(
            self._device_program,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec()),
            out_specs=PartitionSpec(),
            axis_names={MODELS},
            check_vma=False,
        )
        return run(key, bounds, data)

    def _device_program(self, key: Array, bounds: Array, data: Any) -> tuple[Sums, Array]:
        first = bounds[0] + lax.axis_index(MODELS).astype(jnp.int32) * self.share
        stop = jnp.minimum(bounds[1], first + self.share)
        batches = -(-self.share // self.batch_size)

        def add(carry: tuple[Sums, Array], i: Array) -> tuple[tuple[Sums, Array], None]:
            sums, left_out = carry
            numbers = first + i * self.batch_size + jnp.arange(self.batch_size, dtype=jnp.int32)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
            samples = self.ensemble.batch(keys, data, self.layout)
            here, good = numbers < stop, _finite(samples)
            sums = self.ensemble.add(sums, samples, here & good)
            return (sums, left_out + jnp.sum(here & ~good, dtype=jnp.int32)), None

        start = (self.ensemble.empty(), jnp.int32(0))
        (sums, left_out), _ = lax.scan(add, start, jnp.arange(batches, dtype=jnp.int32))
        merged = jax.tree.map(lambda m: moments_psum(m, MODELS), sums, is_leaf=_is_moments)
        return merged, lax.psum(left_out, MODELS)

    def _place_program(
        self, state: State, carry: Sums, left_out: Array, level: Array, complete: Array
    ) -> State:
        levels = jax.tree.map(lambda all_, x: all_.at[level].set(x), state.levels, carry)
        records = self._record(state.records, carry, level, complete)
        return State(state.chunks + 1, levels, records, state.left_out + left_out)

    def _carry_program(self, state: State, carry: Sums, level: Array, complete: Array) -> tuple[State, Sums]:
        records = self._record(state.records, carry, level, complete)
        merged = _merge(_level(state.levels, level), carry)
        levels = jax.tree.map(lambda x: x.at[level].set(jnp.zeros_like(x[0])), state.levels)
        return state._replace(levels=levels, records=records), merged

    def _total_program(self, state: State) -> Sums:
        total = _level(state.levels, self.depth - 1)
        for level in reversed(range(self.depth - 1)):
            total = _merge(total, _level(state.levels, level))
        return total

    def _record(
        self, records: dict[str, Moments], sums: Sums, level: Array, complete: Array
    ) -> dict[str, Moments]:
        new = {}
        for name, function in self.functionals.items():
            before = _level(records[name], level)
            after = moments_update(before, function(sums))
            new[name] = jax.tree.map(
                lambda all_, a, b: all_.at[level].set(jnp.where(complete, b, a)), records[name], before, after
            )
        return new


def device_mesh(data: int = 1) -> Mesh:
    """All devices of all processes: an axis "models", and one "data" of the given length if it is not 1.

    Raises:
      ValueError: the number of devices is not a multiple of ``data``.
    """
    count = jax.device_count()
    if count % check_integer(data, "data", 1):
        raise ValueError(f"`data` must divide the number of devices, {count}, got {data}")
    kind = jax.sharding.AxisType.Auto
    if data == 1:
        return jax.make_mesh((count,), (MODELS,), axis_types=(kind,))
    return jax.make_mesh((count // data, data), (MODELS, "data"), axis_types=(kind, kind))


def _is_moments(x: Any) -> bool:
    return isinstance(x, Moments)


def _merge(a: Sums, b: Sums) -> Sums:
    return jax.tree.map(moments_merge, a, b, is_leaf=_is_moments)


def _level(tree: Any, level: Any) -> Any:
    return jax.tree.map(lambda x: x[level], tree)


def _finite(samples: Any) -> Array:
    """Whether all numbers of each model are finite."""
    return jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(x.reshape(len(x), -1)), 1) for x in jax.tree.leaves(samples)]), 0
    )
