"""Checks for your own tests: is it a group action, is the model invariant, is the optimizer equivariant?

Each function raises an ``AssertionError`` that says by how much and where the check fails, and returns the error
it measured. A check of float32 arrays is repeated in float64, where a true symmetry's error shrinks with the
rounding and a near miss does not.

>>> import jax, jax.numpy as jnp
>>> from eqtoolbox import Symmetry, groups, testing
>>> params = {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}
>>> sym = Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.GeneralLinear(4)})
>>> x = jnp.ones((5, 3))
>>> error = testing.assert_invariant(sym, lambda p, x: x @ p["u"] @ p["v"], params, x, key=jax.random.key(0))
>>> error < 1e-5
True
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.linalg import coarsest_dtype, to_float64
from eqtoolbox.symmetry import Equivariance, Symmetry, check_symmetry

Params = Any

#: Relative tolerance by the coarsest floating dtype of the parameters.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
#: What a check that passed in a coarser dtype must reach in float64.
FLOAT64_TOLERANCE = 1e-9


class Discrepancy(NamedTuple):
    """How far two pytrees are apart.

    Attributes:
      error: max |a - b| over all leaves, relative to max |b| over all leaves.
      leaf: the path of the leaf with the largest error.
      index: of that entry in the leaf.
    """

    error: float
    leaf: str
    index: tuple[int, ...]

    def __str__(self) -> str:
        place = f"{self.leaf or 'the array'}{list(self.index)}"
        return f"relative error {self.error:.2e} at {place}"


def discrepancy(actual: Any, expected: Any) -> Discrepancy:
    """Measures how far ``actual`` is from ``expected``; NaN counts as infinitely far.

    Args:
      actual: a pytree of arrays.
      expected: a pytree of the same structure and shapes.

    Returns:
      The largest difference, and where it is.

    Raises:
      ValueError: the two differ in structure or shapes.
    """
    pairs, treedef = jax.tree_util.tree_flatten_with_path(expected)
    leaves, other = jax.tree.flatten(actual)
    if treedef != other:
        raise ValueError(f"cannot compare pytrees of different structure: {other} and {treedef}")
    worst, scale = Discrepancy(0.0, "", ()), 0.0
    for (path, b), a in zip(pairs, leaves, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(f"leaf {name!r}: cannot compare shapes {jnp.shape(a)} and {jnp.shape(b)}")
        x, y = _host(a), _host(b)
        if not x.size:
            continue
        finite = np.isfinite(x) & np.isfinite(y)
        with np.errstate(invalid="ignore"):
            gap = np.where(finite | (x == y), np.abs(np.where(x == y, 0, x - y)), np.inf)
        where = np.unravel_index(np.argmax(gap), gap.shape)
        scale = max(scale, float(np.abs(np.where(np.isfinite(y), y, 0)).max()))
        if gap[where] > worst.error:
            worst = Discrepancy(float(gap[where]), name, tuple(int(i) for i in where))
    return worst._replace(error=worst.error / scale if scale else worst.error)


def invariance_errors(
    sym: Symmetry, apply: Callable[..., Any], params: Params, *inputs: Any, key: Array, samples: int = 5
) -> dict[str, Discrepancy]:
    """The largest change of ``apply(params, *inputs)`` under random elements, in all and space by space.

    Args:
      sym: the symmetry.
      apply: a function of the parameters and inputs, returning a pytree of arrays.
      params: the parameters θ.
      *inputs: further arguments of ``apply``.
      key: a typed key.
      samples: random elements drawn for each entry.

    Returns:
      The worst discrepancy under elements of the whole symmetry, keyed ``""``, and under elements of each
      factor alone, keyed by its spaces.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: ``samples`` is less than 1.
    """
    check_symmetry(sym, "the check of invariance")
    _check_samples(samples)

    @jax.jit
    def outputs(params, inputs, g):
        return apply(sym.act(g, params), *inputs)

    expected = jax.jit(lambda p, i: apply(p, *i))(params, inputs)
    identity = sym.identity()
    worst: dict[str, Discrepancy] = {}
    for k in jax.random.split(jax.random.clone(key), samples):
        g = sym.sample(k)
        alone = {f.key: {**identity, f.key: g[f.key]} for f in sym.factors}
        for part, element in {"": g, **alone}.items():
            found = discrepancy(outputs(params, inputs, element), expected)
            if part not in worst or found.error > worst[part].error:
                worst[part] = found
    return worst


def assert_invariant(
    sym: Symmetry,
    apply: Callable[..., Any],
    params: Params,
    *inputs: Any,
    key: Array,
    samples: int = 5,
    rtol: float | None = None,
    float64: bool = True,
) -> float:
    """Asserts that f(g θ) = f(θ) for random group elements g.

    Args:
      sym: the symmetry.
      apply: a function ``apply(params, *inputs)`` returning a pytree of arrays.
      params: the parameters θ.
      *inputs: data, labels, …; passed on unchanged.
      key: a typed key.
      samples: the number of random elements.
      rtol: largest change allowed, relative to the largest output; by dtype (``TOLERANCES``) when None.
      float64: repeat a check of coarser parameters in float64 (``apply`` must follow the dtype it is given).

    Returns:
      The largest relative change seen.

    Raises:
      AssertionError: the outputs change; says by how much, where, and under which spaces.
    """

    def measure(params: Params, inputs: Any) -> dict[str, Discrepancy]:
        return invariance_errors(sym, apply, params, *inputs, key=key, samples=samples)

    def failure(part: str, found: str, errors: dict[str, Discrepancy]) -> str:
        return f"not invariant: the outputs change by {found}, under random elements.\n{_by_space(errors)}"

    return _judge(measure, params, inputs, rtol, float64, failure)


def assert_group_action(
    sym: Symmetry,
    params: Params,
    *,
    key: Array,
    samples: int = 3,
    rtol: float | None = None,
    float64: bool = True,
) -> float:
    """Asserts the axioms of an action: unit, composition, inverse, membership, and ∂act(exp(tξ)) = generator.

    Args:
      sym: the symmetry.
      params: the parameters θ.
      key: a typed key.
      samples: the number of random pairs of elements.
      rtol: largest error allowed, relative to the largest parameter; by dtype when None.
      float64: repeat a check of coarser parameters in float64.

    Returns:
      The largest relative error seen.

    Raises:
      AssertionError: an axiom fails; names it, and says by how much and where.
    """

    def measure(params: Params, _: Any) -> dict[str, Discrepancy]:
        return _action_errors(sym, params, key, samples)

    def failure(axiom: str, found: str, errors: dict[str, Discrepancy]) -> str:
        return f"not a group action: {axiom} fails with {found}"

    return _judge(measure, params, (), rtol, float64, failure)


def _action_errors(sym: Symmetry, params: Params, key: Array, samples: int) -> dict[str, Discrepancy]:
    check_symmetry(sym, "the check of a group action")
    _check_samples(samples)
    act, compose, inverse = jax.jit(sym.act), jax.jit(sym.compose), jax.jit(sym.inverse)
    errors: dict[str, Discrepancy] = {}

    def note(axiom: str, actual: Any, expected: Any) -> None:
        found = discrepancy(actual, expected)
        if axiom not in errors or found.error > errors[axiom].error:
            errors[axiom] = found

    note("act(identity, θ) = θ", act(sym.identity(), params), params)
    for k in jax.random.split(jax.random.clone(key), samples):
        ka, kb, kx = jax.random.split(k, 3)
        a, b = sym.sample(ka), sym.sample(kb)
        moved = act(b, params)
        note("act(compose(a, b), θ) = act(a, act(b, θ))", act(compose(a, b), params), act(a, moved))
        note("act(inverse(a), act(a, θ)) = θ", act(inverse(b), moved), params)
        inside = sym.contains(a) & sym.contains(compose(a, b)) & sym.contains(inverse(a))
        note("samples, products and inverses are members", (~inside).astype(jnp.float32), jnp.zeros(()))
        if not sym.is_discrete:
            xi = sym.sample_algebra(kx)
            _, slope = jax.jvp(
                lambda t, xi=xi: sym.act(sym.exp(jax.tree.map(lambda v: t * v, xi)), params), (0.0,), (1.0,)
            )
            note("d/dt act(exp(t ξ), θ) = generator(ξ, θ)", sym.generator(xi, params), slope)
    return errors


def assert_equivariant(
    eq: Equivariance,
    model: Callable[[Params], Any],
    params: Params,
    lam: Any,
    *,
    rtol: float | None = None,
    float64: bool = True,
) -> float:
    """Asserts f(H(θ, λ)) = G(f(θ), λ) (Definition 1 of Yang & Ziyin), and that given inverses undo H and G.

    Args:
      eq: the equivariance.
      model: θ -> outputs, data closed over (it must follow the dtype of θ).
      params: the parameters θ.
      lam: λ.
      rtol: largest error allowed, relative to the largest output; by dtype when None.
      float64: repeat a check of coarser parameters in float64.

    Returns:
      The largest relative error seen.

    Raises:
      AssertionError: says which of the equations fails, by how much and where.
    """

    def measure(params: Params, lam: Any) -> dict[str, Discrepancy]:
        moved, outputs = eq.act(params, lam), model(params)
        errors = {"f(H(θ, λ)) = G(f(θ), λ)": discrepancy(model(moved), eq.act_output(outputs, lam))}
        if eq.act_inverse is not None:
            errors["H⁻¹(H(θ, λ), λ) = θ"] = discrepancy(eq.act_inverse(moved, lam), params)
        if eq.output_inverse is not None:
            back = eq.output_inverse(eq.act_output(outputs, lam), lam)
            errors["G⁻¹(G(y, λ), λ) = y"] = discrepancy(back, outputs)
        return errors

    def failure(equation: str, found: str, errors: dict[str, Discrepancy]) -> str:
        return f"not equivariant: {equation} fails with {found}"

    return _judge(measure, params, lam, rtol, float64, failure)


def optimizer_equivariance_error(
    sym: Symmetry,
    optimizer: optax.GradientTransformation,
    params: Params,
    *,
    key: Array,
    loss: Callable[[Params], Array] | None = None,
    steps: int = 5,
) -> Discrepancy:
    """How far training from g θ is from g applied to training from θ, for a random element g.

    Args:
      sym: the symmetry.
      optimizer: any optax transformation that yields updates to add.
      params: the initial parameters θ.
      key: a typed key.
      loss: an invariant function of the parameters; None for random gradients, moved as an invariant loss
        would move them.
      steps: optimizer steps.

    Returns:
      The discrepancy after the last step.

    Raises:
      TypeError: ``sym`` is no symmetry, or ``optimizer`` no optax transformation.
      ValueError: ``steps`` is less than 1.
    """
    check_symmetry(sym, "the check of an optimizer")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"the check of an optimizer needs an optax transformation, got {optimizer!r}")
    if steps < 1:
        raise ValueError(f"the check of an optimizer needs at least one step, got steps={steps}")
    optimizer = optax.with_extra_args_support(optimizer)
    element_key, gradient_key = jax.random.split(jax.random.clone(key))
    g = sym.sample(element_key)

    def draw(k: Array) -> Params:
        return optax.tree.random_like(k, params, jax.random.normal)

    slopes = jax.vmap(draw)(jax.random.split(gradient_key, steps))

    def train(start: Params, slopes: Params) -> Params:
        def step(carry, slope):
            current, state = carry
            fn = (lambda p: optax.tree.vdot(slope, p)) if loss is None else loss
            value, gradient = jax.value_and_grad(fn)(current)
            extras = accepted_extras(optimizer, value=value, grad=gradient, value_fn=fn)
            updates, state = optimizer.update(gradient, state, current, **extras)
            return (optax.apply_updates(current, updates), state), None

        (end, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), slopes)
        return end

    @jax.jit
    def both(g: Any, params: Params, slopes: Params) -> tuple[Params, Params]:
        moved = jax.vmap(sym.act_dual, (None, 0))(g, slopes)
        return train(sym.act(g, params), moved), sym.act(g, train(params, slopes))

    moved_end, end_moved = both(g, params, slopes)
    return discrepancy(moved_end, end_moved)


def assert_optimizer_equivariant(
    sym: Symmetry,
    optimizer: optax.GradientTransformation,
    params: Params,
    *,
    key: Array,
    loss: Callable[[Params], Array] | None = None,
    steps: int = 5,
    rtol: float | None = None,
    float64: bool = True,
) -> float:
    """Asserts that an optimizer commutes with the symmetry: training g θ gives g applied to training θ.

    An optimizer equivariant under a group keeps an invariant distribution of models invariant (Theorem 2.2 of
    Bernacchia, GC-T2.2): gradient descent and momentum are under orthogonal groups, Adam only under permutations
    and sign flips.

    Args:
      sym: the symmetry; a compact one, for most optimizers.
      optimizer: any optax transformation that yields updates to add.
      params: the initial parameters θ.
      key: a typed key.
      loss: an invariant function of the parameters; None for random gradients.
      steps: optimizer steps.
      rtol: largest error allowed, relative to the largest parameter; by dtype when None.
      float64: repeat a check of coarser parameters in float64.

    Returns:
      The largest relative error seen.

    Raises:
      AssertionError: says by how much and where the two runs differ.
    """

    def measure(params: Params, _: Any) -> dict[str, Discrepancy]:
        found = optimizer_equivariance_error(sym, optimizer, params, key=key, loss=loss, steps=steps)
        return {"": found}

    def failure(part: str, found: str, errors: dict[str, Discrepancy]) -> str:
        return f"the optimizer is not equivariant: after {steps} steps the two runs differ by {found}"

    return _judge(measure, params, (), rtol, float64, failure)


def accepted_extras(optimizer: optax.GradientTransformationExtraArgs, **extras: Any) -> dict[str, Any]:
    """Those of ``extras`` that ``optimizer.update`` takes: some optimizers refuse keywords they do not know."""
    parameters = inspect.signature(optimizer.update).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return extras
    return {name: value for name, value in extras.items() if name in parameters}


def _host(x: Any) -> np.ndarray:
    """A leaf as float64 or complex NumPy array; keys by their data, the tangents of integers as zeros."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    elif dtype == jax.dtypes.float0:
        return np.zeros(np.shape(x))
    array = np.asarray(x)
    return array if np.issubdtype(array.dtype, np.complexfloating) else array.astype(np.float64)


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"a check needs at least one random element, got samples={samples}")


def _judge(
    measure: Callable[[Params, Any], dict[str, Discrepancy]],
    params: Params,
    data: Any,
    rtol: float | None,
    float64: bool,
    failure: Callable[[str, str, dict[str, Discrepancy]], str],
) -> float:
    """The largest of the errors that ``measure(params, data)`` finds, if all of them are within tolerance.

    ``failure(what, "relative error …, more than …", errors)`` says what it means that one is not.

    Raises:
      AssertionError: an error is too large, or does not shrink in float64.
    """
    precision, errors = coarsest_dtype(params), measure(params, data)
    rtol = TOLERANCES[precision] if rtol is None else rtol
    for what, found in errors.items():
        if not found.error <= rtol:
            raise AssertionError(failure(what, f"{found}, more than {rtol:.0e}", errors))
    if float64 and precision != "float64":
        _recheck(measure, params, data, errors)
    return max(found.error for found in errors.values())


def _by_space(errors: dict[str, Discrepancy]) -> str:
    rows = [f"  {part}: {found}" for part, found in errors.items() if part]
    return "\n".join(["Each group alone:", *rows])


def _recheck(measure, params: Params, data: Any, coarse: dict[str, Discrepancy]) -> None:
    """Repeats a check in float64; fails if an error did not shrink with the rounding."""
    with jax.enable_x64(True):
        fine = measure(to_float64(params), to_float64(data))
    for what, found in fine.items():
        if not found.error <= FLOAT64_TOLERANCE:
            raise AssertionError(
                f"{what or 'the check'} passes in {coarsest_dtype(params)} with {coarse[what]}, but in float64 the "
                f"error does not shrink below {FLOAT64_TOLERANCE:.0e}: {found}. Either it holds only "
                "approximately, or the function casts to float32 inside (then pass float64=False)"
            )
