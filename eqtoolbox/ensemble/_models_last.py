"""`models_last`: a function of one model, for many at once along the last axis of every array.

``jax.vmap`` gives the models the leading axis, and products of matrices of five rows then cost more for their
set-up than for their arithmetic. With the models last every operation runs over them in contiguous memory, a
product of two small matrices that both differ between models is a sum of elementwise products, and one with a
matrix that they share (the data) is one large product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array, lax

#: Longest contraction that is written out, and length of the parts of a longer one.
UNROLL = 32
#: Largest number of entries of a product, for each model, whose contraction may be longer than that.
SMALL = 1024
#: Primitives that only call a program, and the parameters under which they hold it.
_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
)
_HELD = ("jaxpr", "call_jaxpr", "fun_jaxpr")
#: Primitives of entries: their parameters know no shape.
_ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type
    copy cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log
    log1p logistic lt max min mul ne neg nextafter not or pow rem round rsqrt select_n sign sin
    sinh sqrt square stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905
)
#: Primitives whose parameters name axes from the front, which the models on the last one leave as they are.
_AXES = frozenset(
    """
    argmax argmin concatenate cumlogsumexp cummax cummin cumprod cumsum reduce_and reduce_max
    reduce_min reduce_or reduce_prod reduce_sum rev squeeze
    """.split()  # noqa: SIM905
)


def models_last(function: Callable[..., Any], in_axes: Sequence[int | None]) -> Callable[..., Any]:
    """``jax.vmap(function, in_axes, out_axes=-1)`` by programs that keep the models last throughout.

    Args:
      function: of one model.
      in_axes: -1 for each argument whose leaves have models along their last axis, None for one that is shared.

    Returns:
      A function whose results have the models along the last axis of every leaf.
    """

    def batched(*arguments: Any) -> Any:
        leaves, treedef = jax.tree.flatten(arguments)
        mapped = jax.tree.leaves(
            [
                jax.tree.map(lambda _, a=axis: a is not None, x)
                for axis, x in zip(in_axes, arguments, strict=True)
            ]
        )
        models = next(x.shape[-1] for x, m in zip(leaves, mapped, strict=True) if m)
        one = [
            jax.ShapeDtypeStruct(x.shape[:-1] if m else jnp.shape(x), jnp.result_type(x))
            for x, m in zip(leaves, mapped, strict=True)
        ]
        closed, out = jax.make_jaxpr(lambda *a: function(*treedef.unflatten(a)), return_shape=True)(*one)
        values = [(x, m) for x, m in zip(leaves, mapped, strict=True)]
        results = _run(closed.jaxpr, closed.consts, values, models)
        whole = [x if m else _spread(x, models) for x, m in results]
        return jax.tree.unflatten(jax.tree.structure(out), whole)

    return batched


Value = tuple[Any, bool]  # an array, and whether it has models along its last axis


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value], models: int) -> list[Value]:
    known: dict[Any, Value] = {}

    def read(v: Any) -> Value:
        return (v.val, False) if isinstance(v, jex.Literal) else known[v]

    known.update(zip(jaxpr.constvars, ((c, False) for c in consts), strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        results = _equation(eqn, values, models)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, values: list[Value], models: int) -> list[Value]:
    arrays, mapped = [x for x, _ in values], [m for _, m in values]
    name = eqn.primitive.name
    if name in _CALLS:
        held = next(eqn.params[key] for key in _HELD if key in eqn.params)
        return _run(getattr(held, "jaxpr", held), getattr(held, "consts", ()), values, models)
    if not any(mapped):
        results = eqn.primitive.bind(*arrays, **eqn.params)
        return [(x, False) for x in (results if eqn.primitive.multiple_results else [results])]
    if name == "scan":
        return _scan(eqn, values, models)
    if name in _RULES:
        return [(_RULES[name](eqn, arrays, mapped, models), True)]
    if name in _ELEMENTWISE:
        shape = (*eqn.outvars[0].aval.shape, models)
        whole = [_widen(x, m, shape) for x, m in values]
        return [(eqn.primitive.bind(*whole, **eqn.params), True)]
    if name in _AXES:
        whole = [x if m else _spread(x, models) for x, m in values]
        return [(eqn.primitive.bind(*whole, **eqn.params), True)]
    in_axes = tuple(-1 if m else None for m in mapped)
    results = jax.vmap(lambda *a: eqn.primitive.bind(*a, **eqn.params), in_axes, -1)(*arrays)
    return [(x, True) for x in (results if eqn.primitive.multiple_results else [results])]


def _spread(x: Any, models: int) -> Array:
    """An array that all models share, once for each."""
    return jnp.broadcast_to(jnp.asarray(x)[..., None], (*jnp.shape(x), models))


def _widen(x: Any, mapped: bool, shape: tuple[int, ...]) -> Array:
    """An operand of an elementwise operation in the shape of its result; scalars may stand beside arrays."""
    x = jnp.asarray(x) if mapped else jnp.asarray(x)[..., None]
    return jnp.broadcast_to(x.reshape((1,) * (len(shape) - x.ndim) + x.shape), shape)


def _reshape(eqn: Any, arrays: list[Any], mapped: list[bool], models: int) -> Array:
    return jnp.reshape(arrays[0], (*eqn.outvars[0].aval.shape, models))


def _broadcast(eqn: Any, arrays: list[Any], mapped: list[bool], models: int) -> Array:
    shape = eqn.outvars[0].aval.shape
    return lax.broadcast_in_dim(
        arrays[0], (*shape, models), (*eqn.params["broadcast_dimensions"], len(shape))
    )


def _transpose(eqn: Any, arrays: list[Any], mapped: list[bool], models: int) -> Array:
    order = eqn.params["permutation"]
    return lax.transpose(arrays[0], (*order, len(order)))


def _dot(eqn: Any, arrays: list[Any], mapped: list[bool], models: int) -> Array:
    """A product of matrices: one large one where a factor is shared, a sum of products where both are small."""
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    options = {k: eqn.params[k] for k in ("precision", "preferred_element_type")}
    left, right = arrays
    if not mapped[0]:
        return lax.dot_general(left, right, eqn.params["dimension_numbers"], **options)
    if not mapped[1]:
        product = lax.dot_general(right, left, ((rc, lc), (rb, lb)), **options)
        b, m = len(lb), left.ndim - 1 - len(lb) - len(lc)
        n = right.ndim - len(rb) - len(rc)
        order = (*range(b), *range(b + n, b + n + m), *range(b, b + n), b + n + m)
        return lax.transpose(product, order)
    lf = [i for i in range(left.ndim - 1) if i not in (*lc, *lb)]
    rf = [i for i in range(right.ndim - 1) if i not in (*rc, *rb)]
    shape = eqn.outvars[0].aval.shape
    sizes = [math.prod(left.shape[i] for i in axes) for axes in (lb, lc, lf)]
    (b, k, m), n = sizes, math.prod(right.shape[i] for i in rf)
    if k > UNROLL and b * m * n > SMALL:
        numbers = (
            (tuple(lc), tuple(rc)),
            ((left.ndim - 1, *lb), (right.ndim - 1, *rb)),
        )
        return jnp.moveaxis(lax.dot_general(left, right, numbers, **options), 0, -1)
    dtype = eqn.outvars[0].aval.dtype
    left, right = lax.optimization_barrier((left, right))
    if k <= UNROLL:
        a = lax.transpose(left, (*lb, *lf, *lc, left.ndim - 1)).reshape(b, m, k, models).astype(dtype)
        c = lax.transpose(right, (*rb, *rc, *rf, right.ndim - 1)).reshape(b, k, n, models).astype(dtype)
        terms = (a[:, :, i, None] * c[:, None, i] for i in range(k))
        total = sum(terms, start=jnp.zeros((), dtype)) if not k else _sum(list(terms))
        return jnp.reshape(total, (*shape, models))
    a = lax.transpose(left, (*lc, *lb, *lf, left.ndim - 1)).reshape(k, b, m, 1, models).astype(dtype)
    c = lax.transpose(right, (*rc, *rb, *rf, right.ndim - 1)).reshape(k, b, 1, n, models).astype(dtype)
    return jnp.reshape(_contract(a, c), (*shape, models))


def _contract(a: Array, c: Array) -> Array:
    """Σ over the leading axis of a·c, in parts of contiguous memory: a reduction that runs over the models."""
    k = len(a)
    parts = next((r for r in range(UNROLL, 7, -1) if k % r == 0), 20)
    rows = k // parts
    pieces = [a[i * rows : (i + 1) * rows] * c[i * rows : (i + 1) * rows] for i in range(parts)]
    total = _rows(_sum(pieces))
    rest = [a[i] * c[i] for i in range(parts * rows, k)]
    return _sum([total, *rest])


def _rows(x: Array) -> Array:
    """The sum over the leading axis, in the same way."""
    if len(x) > UNROLL:
        return _contract(x, jnp.ones((len(x),) + (1,) * (x.ndim - 1), x.dtype))
    return _sum([x[i] for i in range(len(x))])


def _sum(terms: list[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _scan(eqn: Any, values: list[Value], models: int) -> list[Value]:
    """A loop; what it carries, reads and writes row by row has models along the last axis as well."""
    consts, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    body = eqn.params["jaxpr"]
    still, moving = values[:consts], values[consts : consts + carried]
    rows = values[consts + carried :]
    start = [x if m else _spread(x, models) for x, m in moving]

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        inside = [(x, m) for x, (_, m) in zip(xs, rows, strict=True)]
        arguments = [*still, *((c, True) for c in carry), *inside]
        results = _run(body.jaxpr, body.consts, arguments, models)
        whole = [x if m else _spread(x, models) for x, m in results]
        return whole[:carried], whole[carried:]

    options = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    carry, out = lax.scan(step, start, [x for x, _ in rows], **options)
    return [(x, True) for x in (*carry, *out)]


_RULES = {
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "dot_general": _dot,
}
