"""`infer_symmetry`: the exact symmetry of any JAX function of parameters, read off its jaxpr."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.inference import _verify
from eqtoolbox.inference._explain import Explanation, explanation
from eqtoolbox.inference._passes import frozen_leaves, is_concrete, settled
from eqtoolbox.inference._solve import build
from eqtoolbox.symmetry import Symmetry, check_symmetry, leaf_paths, orbit_dimension

#: Largest cost, dimension² × parameters, at which the dimension of generic orbits is found.
ORBIT_LIMIT = 10**9

#: What is known of the symmetries in use, by identity: the explanation, and the shapes of the parameters.
_FOUND: dict[int, tuple[Explanation, Any]] = {}


def infer_symmetry(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    frozen: Sequence[str] = (),
    verify: bool = True,
    strict: bool = False,
    whole_leaves: bool = False,
) -> Symmetry:
    """The exact symmetry of ``apply(params, *inputs)`` in its parameters, for every value of parameters and inputs.

    Every axis of every array is followed through the program: which axes are the same space of units, whether a
    permutation, a scaling, a sign or a whole matrix of these units can pass an operation, and what has to undo it
    further on. The exponents of scalings solve a linear system over the rationals, those of signs one over F2, both
    exactly. Nothing is known of layers. An operation without a rule pins what it touches, so that the answer may be
    too small but never wrong.

    Found are the groups that act axis by axis: permutations, signs, positive scalings, O(n), O(n) fixing the ones
    vector, GL(n), one copy of them for each head, group of channels, expert, scanned layer or member of an ensemble,
    and scalings that involve a parameter that is a single number. Translations (the shift of a softmax), affine
    redundancies (a bias before a linear layer) and the folding of gains are not of this form and not included.

    >>> import jax, jax.numpy as jnp
    >>> params = {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
    >>> print(infer_symmetry(lambda p, x: jax.nn.relu(x @ p["u"]) @ p["v"], params, jnp.ones((5, 3))))
    symmetry of dimension 4
    space  group      size  dim  acts on
    h1     S(4)⋉R₊^4  4     4    u[1], v[0]*

    Args:
      apply: a pure function of the parameters and inputs, returning a pytree of arrays.
      params: a pytree of arrays or ``ShapeDtypeStruct``; every leaf is acted on (running statistics too).
      *inputs: arrays or ``ShapeDtypeStruct``; batch and sequence axes should be longer than 1, since the group
        is that of these shapes.
      frozen: glob patterns of leaves that must not move.
      verify: where arrays are given, check by random group elements that the outputs do not change.
      strict: raise for an operation without a rule, instead of pinning what it touches.
      whole_leaves: also the scalings of whole leaves that are no scalings unit by unit, such as that of a kernel
        whose features are divided by their length.

    Returns:
      A ``Symmetry``; ``explain`` says why each space has its group.

    Raises:
      TypeError: ``frozen`` is one string.
      ValueError: a pattern matches no leaf, or with ``strict`` an operation has no rule.
      RuntimeError: the self-check failed, which is a mistake of this library.
    """
    analysis, values = settled(apply, params, inputs, frozen_leaves(leaf_paths(params), frozen))
    if strict and analysis.unknown:
        listed = ", ".join(f"{name} at {source}" for name, source in analysis.unknown.items())
        raise ValueError(f"operations without a rule: {listed}; declare one with register_rule")
    symmetry, spaces = build(analysis, values, whole_leaves)
    remember(symmetry, params, explanation(symmetry, spaces, analysis, values))
    if verify and is_concrete(params, inputs) and symmetry.factors:
        _verify.verify(symmetry, apply, params, inputs)
    return symmetry


def explain(sym: Symmetry) -> Explanation:
    """Why each space of an inferred symmetry has its group, and what took a larger one away.

    >>> import jax, jax.numpy as jnp
    >>> params = {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
    >>> sym = infer_symmetry(lambda p, x: jnp.tanh(x @ p["u"]) @ p["v"], params, jnp.ones((5, 3)))
    >>> [text.split(" <")[0] for text in explain(sym).spaces[0].lost]
    ['O(4): tanh', 'scalings: tanh']

    Args:
      sym: what ``infer_symmetry`` returned.

    Returns:
      An ``Explanation``; print it.

    Raises:
      TypeError: it is no symmetry.
      ValueError: it was not inferred in this process.
    """
    check_symmetry(sym, "explain")
    found = explained(sym)
    if found is None:
        raise ValueError("this symmetry was not inferred in this process: call infer_symmetry first")
    return found


def explained(sym: Symmetry) -> Explanation | None:
    """The explanation of a symmetry that was inferred in this process, and is still in use."""
    if id(sym) not in _FOUND:
        return None
    found, shapes = _FOUND[id(sym)]
    if found.orbit_dimension is None:
        found = replace(found, orbit_dimension=_generic_orbit_dimension(sym, shapes))
        _FOUND[id(sym)] = found, shapes
    return found


def remember(sym: Symmetry, params: Any, found: Explanation) -> None:
    """Keeps the explanation of a symmetry, and the shapes of its parameters, for as long as it lives."""
    _FOUND[id(sym)] = found, jax.eval_shape(lambda p: p, params)
    weakref.finalize(sym, _FOUND.pop, id(sym), None)


def _generic_orbit_dimension(sym: Symmetry, shapes: Any) -> int | None:
    """The dimension of the orbits of random parameters; None where it costs too much."""
    size = sum(math.prod(s.shape) for s in jax.tree.leaves(shapes))
    if sym.dimension**2 * size > ORBIT_LIMIT:
        return None
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape)), shapes)
        found = orbit_dimension(sym, params)
    assert isinstance(found, int)
    return found
