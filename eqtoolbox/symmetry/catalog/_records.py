"""What the catalogue holds: a symmetry together with a function it leaves unchanged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import Group
from eqtoolbox.symmetry._symmetry import Symmetry

Params = Any
Inputs = Any
Function = Callable[[Params, Inputs], Any]
Groups = dict[str | tuple[str, ...], Group]


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the catalogue of architectures.

    Attributes:
      id: "S1" … "S14", as in the dissertation's chapter 1.
      name: unique among the rows: the id and a word, as in "S3/relu2".
      reference: where the symmetry is stated, and what is misprinted there.
      symmetry: the symmetry.
      apply: ``apply(params, inputs)`` is what is invariant.
      params: parameters at a generic point.
      inputs: a batch, as ``draw`` makes it.
      kind: whether ``apply`` is the network's output, a loss, or a mean over the data.
      network: the network's own output, sample by sample; it is ``apply`` for the kind "network" and changes
        under the symmetry for the others.
      orbit_dimension: the dimension of the orbit at a generic point.
      draw: ``draw(key, batch)`` makes inputs; whatever the symmetry is tied to stays (the mean in S14).
      wrong: pairs of a description and a similar symmetry that ``apply`` does not have.
    """

    id: str
    name: str
    reference: str
    symmetry: Symmetry
    apply: Function
    params: Params
    inputs: Inputs
    kind: Literal["network", "loss", "distribution"]
    network: Function
    orbit_dimension: int
    draw: Callable[[Array, int], Inputs]
    wrong: tuple[tuple[str, Symmetry], ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A model whose symmetry is known, with what to expect of it.

    Attributes:
      name: unique among the models.
      group: the group in words.
      symmetry: the symmetry.
      apply: ``apply(params, inputs)``, invariant.
      params: parameters at a generic point; with running statistics, ``{"params": ..., "batch_stats": ...}``.
      inputs: a batch, as ``draw`` makes it.
      orbit_dimension: the dimension of the orbit at a generic point.
      draw: ``draw(key, batch)`` makes inputs.
      wrong: pairs of a description and a similar symmetry that the model does not have.
    """

    name: str
    group: str
    symmetry: Symmetry
    apply: Function
    params: Params
    inputs: Inputs
    orbit_dimension: int
    draw: Callable[[Array, int], Inputs]
    wrong: tuple[tuple[str, Symmetry], ...] = ()


class Parts(NamedTuple):
    """What the maker of a row or model returns; the fields are those of ``Row``.

    ``draw`` takes a NumPy generator and a batch size. ``network`` is ``apply`` where it is None.
    """

    symmetry: Symmetry
    apply: Function
    params: Params
    draw: Callable[[np.random.Generator, int], Inputs]
    wrong: tuple[tuple[str, Symmetry], ...] = ()
    kind: Literal["network", "loss", "distribution"] = "network"
    network: Function | None = None


@dataclass(frozen=True)
class Recipe:
    """How to make a row or a model.

    Attributes:
      name: a word, unique in its table.
      text: the reference of a row, the group of a model.
      orbit_dimension: of the orbit at a generic point.
      make: makes the parts from a NumPy generator.
      id: of a row.
    """

    name: str
    text: str
    orbit_dimension: int
    make: Callable[[np.random.Generator], Parts]
    id: str = ""

    @property
    def full_name(self) -> str:
        """The name in the table: that of a row begins with its id."""
        return f"{self.id}/{self.name}" if self.id else self.name

    def row(self, key: Array, batch: int) -> Row:
        """The row at a generic point."""
        parts, draw, inputs = self._parts(key, batch)
        return Row(
            id=self.id,
            name=self.full_name,
            reference=self.text,
            symmetry=parts.symmetry,
            apply=parts.apply,
            params=parts.params,
            inputs=inputs,
            kind=parts.kind,
            network=parts.network or parts.apply,
            orbit_dimension=self.orbit_dimension,
            draw=draw,
            wrong=parts.wrong,
        )

    def model(self, key: Array, batch: int) -> Model:
        """The model at a generic point."""
        parts, draw, inputs = self._parts(key, batch)
        return Model(
            name=self.name,
            group=self.text,
            symmetry=parts.symmetry,
            apply=parts.apply,
            params=parts.params,
            inputs=inputs,
            orbit_dimension=self.orbit_dimension,
            draw=draw,
            wrong=parts.wrong,
        )

    def _parts(self, key: Array, batch: int):
        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        parts = self.make(np.random.default_rng([*seed, 0]))

        def draw(key: Array, batch: int) -> Inputs:
            return parts.draw(np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel()), batch)

        return parts, draw, parts.draw(np.random.default_rng([*seed, 1]), batch)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Normal numbers of the default float."""
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.result_type(float))


def vectors(*shape: int) -> Callable[[np.random.Generator, int], Array]:
    """Draws batches of normal arrays of a shape."""
    return lambda rng, batch: normal(rng, batch, *shape)


def kernel(rng: np.random.Generator, *shape: int) -> Array:
    """A kernel whose outputs are of the size of its inputs: variance 1/(product of all but the last axis)."""
    return normal(rng, *shape, scale=math.prod(shape[:-1]) ** -0.5)


def dense(rng: np.random.Generator, *widths: int, bias: bool = True) -> dict[str, dict[str, Array]]:
    """Layers ``Dense_0``, ``Dense_1``, … of the given widths at a generic point."""
    layers = {}
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        layers[f"Dense_{i}"] = {"kernel": kernel(rng, n, m)}
        if bias:
            layers[f"Dense_{i}"]["bias"] = normal(rng, m, scale=0.3)
    return layers


def affine(layer: dict[str, Array], x: Array) -> Array:
    """X W + b, or x W."""
    y = x @ layer["kernel"]
    return add(y, layer["bias"]) if "bias" in layer else y


def add(x: Array, vector: Array) -> Array:
    """Adds a vector along the last axis."""
    return x + jnp.broadcast_to(vector, x.shape)


def times(x: Array, vector: Array) -> Array:
    """Multiplies by a vector along the last axis."""
    return x * jnp.broadcast_to(vector, x.shape)


def feed_forward(*activations: Callable[[Array], Array]) -> Function:
    """The multilayer perceptron on ``Dense_0``, ``Dense_1``, … with these activations in between."""

    def apply(params: Params, x: Array) -> Array:
        for i, sigma in enumerate(activations):
            x = sigma(affine(params[f"Dense_{i}"], x))
        return affine(params[f"Dense_{len(activations)}"], x)

    return apply
