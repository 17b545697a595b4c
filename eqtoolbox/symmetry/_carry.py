"""How the state of an optimizer is carried along when its parameters are moved along an orbit."""

from __future__ import annotations

import functools
from typing import Any


@functools.singledispatch
def carry_state(state: Any, motion: Any, fresh: Any) -> Any:
    """The state of an optimizer after a move of its parameters, for states whose class is registered.

    Args:
      state: before the move.
      motion: an ``orbits.Motion``.
      fresh: the state of an optimizer that starts at the new parameters.

    Returns:
      The new state; ``NotImplemented`` for all other states.
    """
    del state, motion, fresh
    return NotImplemented
