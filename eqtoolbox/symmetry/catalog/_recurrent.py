"""Recurrent cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eqtoolbox.groups import SignedPermutation
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._leaves import Leaves, check_names

# For each cell: the layers that write units carrying the sign of the state, and those of gates.
_CELLS = {
    "simple": (("i", "h"), ()),
    "lstm": (("ig", "hg"), ("ii", "if", "io", "hi", "hf", "ho")),
    "gru": (("in", "hn"), ("ir", "iz", "hr", "hz")),
}


def rnn(
    params: Any,
    cell: str,
    path: str = "cell",
    readers: Sequence[str] = ("readout",),
    *,
    prefix: str = "",
    space: str = "h",
) -> Symmetry:
    r"""The symmetry of a recurrent net with Flax's cells: signed permutations B(n) of the state.

    One space of units occurs twice on each recurrent kernel, ``"h h"``. The candidate is odd (tanh) and carries
    the sign of the state; gates are sigmoids: their kernels see the sign on the side of the state only,
    ``"h h^0"``, and their biases none. In an LSTM the memory has the sign of the state.

    Args:
      params: the parameters with kernels ``{path}/i*/kernel`` (in, n), ``{path}/h*/kernel`` (n, n), biases
        where there are any, and ``{reader}/kernel`` (n, out).
      cell: "simple" (tanh), "lstm" (``nn.LSTMCell``, ``nn.OptimizedLSTMCell``) or "gru" (``nn.GRUCell``).
      path: path of the cell.
      readers: paths of the layers that read the state.
      prefix: path under which the layers are.
      space: the name of the space of units.

    Returns:
      The symmetry, checked against the shapes. It holds for an initial state that is zero (or moves along).

    Raises:
      ValueError: the cell is unknown, a layer is missing, or shapes do not fit.
    """
    if cell not in _CELLS:
        raise ValueError(f"`cell` must be one of {sorted(_CELLS)}, got {cell!r}")
    leaves = Leaves(params, prefix)
    candidates, gates = _CELLS[cell]
    for layer in (*candidates, *gates):
        write = space if layer in candidates else f"{space}^0"
        read = space if layer[0] == "h" else "_"
        leaves.label(f"{path}/{layer}/kernel", f"{read} {write}")
        leaves.label_if(f"{path}/{layer}/bias", write)
    for reader in check_names("readers", readers, 1):
        leaves.label(f"{reader}/kernel", f"{space} _")
    units = leaves.shape(f"{path}/{candidates[0]}/kernel", 2)[1]
    return leaves.symmetry({space: SignedPermutation(units)})
