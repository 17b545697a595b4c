"""`infer_symmetry`: the exact symmetry of any JAX function of parameters, read off its jaxpr."""

from __future__ import annotations

import fnmatch
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.inference import _rules_control, _rules_elementwise, _rules_linear, _rules_shape
from eqtoolbox.inference._analysis import RULES, Analysis, Value
from eqtoolbox.inference._explain import Explanation, explanation
from eqtoolbox.inference._jaxpr import trace
from eqtoolbox.inference._solve import build
from eqtoolbox.symmetry import Symmetry, check_symmetry, leaf_paths

#: More passes than any program should need: every pass but the last finds something new.
MAX_PASSES = 100
#: Relative change of the outputs that the self-check allows, by the coarsest floating dtype.
TOLERANCES = {"float64": 1e-8, "float32": 5e-3, "bfloat16": 0.5, "float16": 0.1}
#: The modules that declare the rules of primitives.
RULE_MODULES = (_rules_elementwise, _rules_shape, _rules_linear, _rules_control)

_FOUND: weakref.WeakKeyDictionary[Symmetry, Explanation] = weakref.WeakKeyDictionary()


def infer_symmetry(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    frozen: Sequence[str] = (),
    verify: bool = True,
    strict: bool = False,
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

    Returns:
      A ``Symmetry``; ``explain`` says why each space has its group.

    Raises:
      TypeError: ``frozen`` is one string.
      ValueError: a pattern matches no leaf, or with ``strict`` an operation has no rule.
      RuntimeError: the self-check failed, which is a mistake of this library.
    """
    if isinstance(frozen, str):
        raise TypeError(f"`frozen` must be a sequence of patterns, got the string {frozen!r}")
    paths = leaf_paths(params)
    still = {path for path in paths for pattern in frozen if fnmatch.fnmatchcase(path, pattern)}
    for pattern in frozen:
        if not fnmatch.filter(paths, pattern):
            raise ValueError(
                f"the pattern {pattern!r} of `frozen` matches none of the leaves {', '.join(paths)}"
            )
    analysis, values = _settled(apply, params, inputs, still)
    if strict and analysis.unknown:
        listed = ", ".join(f"{name} at {source}" for name, source in analysis.unknown.items())
        raise ValueError(f"operations without a rule: {listed}; declare one with register_rule")
    symmetry, spaces = build(analysis, values)
    _FOUND[symmetry] = explanation(symmetry, spaces, analysis, values)
    concrete = all(isinstance(x, (jax.Array, np.ndarray, float)) for x in jax.tree.leaves((params, inputs)))
    if verify and concrete and symmetry.factors:
        _verify(symmetry, apply, params, inputs)
    return symmetry


def explain(sym: Symmetry) -> Explanation:
    """Why each space of an inferred symmetry has its group, and what took a larger one away.

    >>> import jax, jax.numpy as jnp
    >>> params = {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
    >>> sym = infer_symmetry(lambda p, x: jnp.tanh(x @ p["u"]) @ p["v"], params, jnp.ones((5, 3)))
    >>> explain(sym).spaces[0].lost[0].split()[0]
    'tanh'

    Args:
      sym: what ``infer_symmetry`` returned.

    Returns:
      An ``Explanation``; print it.

    Raises:
      TypeError: it is no symmetry.
      ValueError: it was not inferred in this process.
    """
    check_symmetry(sym, "explain")
    if sym not in _FOUND:
        raise ValueError("this symmetry was not inferred in this process: call infer_symmetry first")
    return _FOUND[sym]


def _settled(
    apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...], frozen: set[str]
) -> tuple[Analysis, dict[str, Value]]:
    """The last pass over the program, which found no new space, merge, cut or pin."""
    program = trace(apply, params, *inputs)
    paths, leaves = leaf_paths(params), jax.tree.leaves(params)
    analysis = Analysis(RULES)
    for _ in range(MAX_PASSES):
        analysis.clear()
        values = {}
        for path, leaf in zip(paths, leaves, strict=True):
            analysis.reason = f"{path} is frozen"
            values[path] = analysis.leaf(path, tuple(jnp.shape(leaf)))
            analysis.note(values[path])
            if path in frozen or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                analysis.pin(values[path], analysis.reason)
        shapes = program.shapes[len(paths) :]
        data = [analysis.blank(tuple(shape), ("input", i), "an input") for i, shape in enumerate(shapes)]
        results = analysis.run(program, [*values.values(), *data])
        analysis.reason = "an output"
        for value in results:
            analysis.pin(value, "an output")
        if not analysis.spaces.changed:
            return analysis, values
    raise RuntimeError(f"the analysis did not settle in {MAX_PASSES} passes: please report the function")


def _verify(sym: Symmetry, apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> None:
    """Raises if random elements change the outputs at parameters near those given."""
    names = {str(jnp.result_type(x)) for x in jax.tree.leaves((params, inputs))}
    tolerance = max((t for name, t in TOLERANCES.items() if name in names), default=TOLERANCES["float32"])

    @jax.jit
    def change(key: jax.Array, params: Any) -> jax.Array:
        shaken, element = jax.random.split(key)
        keys = iter(jax.random.split(shaken, len(jax.tree.leaves(params))))
        near = jax.tree.map(lambda p: _shaken(next(keys), p), params)
        outputs = [apply(p, *inputs) for p in (near, sym.act(sym.sample(element), near))]
        pairs = zip(*(jax.tree.leaves(o) for o in outputs), strict=True)
        gaps = [_relative(a, b) for a, b in pairs if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
        return jnp.max(jnp.stack(gaps)) if gaps else jnp.zeros(())

    for seed in range(2):
        worst = float(change(jax.random.key(seed), params))
        if worst > tolerance:
            raise RuntimeError(
                f"the inferred symmetry changes the outputs by {worst:.1e}, more than {tolerance:.0e}: this is a "
                f"mistake of eqtoolbox, please report the function. What was inferred:\n{sym}"
            )


def _shaken(key: jax.Array, leaf: Any) -> jax.Array:
    """A point near the leaf, so that zeros and ones of an initialisation hide nothing."""
    x = jnp.asarray(leaf)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x * (1 + 0.1 * jax.random.normal(key, x.shape, x.dtype))


def _relative(a: jax.Array, b: jax.Array) -> jax.Array:
    finite = jnp.isfinite(a) & jnp.isfinite(b)
    size = jnp.max(jnp.where(finite, jnp.abs(a), 0), initial=1e-30)
    return jnp.max(jnp.where(finite, jnp.abs(a - b), 0), initial=0) / size
