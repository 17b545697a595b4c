"""Curvature as matrix-vector products.

``hvp`` is one product; ``hvp_fn`` linearises the gradient once and gives the product with any number of
vectors.

>>> import jax, jax.numpy as jnp
>>> loss = lambda p: jnp.sum(p["w"] ** 4) / 12
>>> params = {"w": jnp.array([1.0, 2.0, 3.0])}
>>> hvp(loss, params, {"w": jnp.ones(3)})["w"].tolist()
[1.0, 4.0, 9.0]
>>> to_dense(hvp_fn(loss, params), params).diagonal().tolist()
[1.0, 4.0, 9.0]
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, PyTree

from eqtoolbox.linalg._checks import check_like, check_real
from eqtoolbox.linalg._chunks import map_chunks
from eqtoolbox.linalg._tree import ravel, tree_size, unravel_stack

MatVec = Callable[[PyTree], PyTree]


def as_tangent(v: PyTree, params: PyTree) -> PyTree:
    """``v`` in the dtypes of ``params`` (maybe abstract), after checking that it matches them."""
    check_like(v, params, "v", "params")
    check_real(v, "v")
    return jax.tree.map(lambda x, p: jnp.asarray(x).astype(jnp.result_type(p)), v, params)


def hvp(loss: Callable[[PyTree], Array], params: PyTree, v: PyTree) -> PyTree:
    """The Hessian-vector product ∇²L(θ) v, forward over reverse, at the cost of about two gradients.

    Args:
      loss: a scalar function of the parameters.
      params: θ, a pytree of real floating arrays.
      v: a pytree like ``params``; cast to its dtypes.

    Returns:
      A pytree with the shapes and dtypes of ``params``.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: naming the leaf, if ``v`` does not have the structure and shapes of ``params``.

    Reference: Pearlmutter, Fast exact multiplication by the Hessian (1994).
    """
    check_real(params, "params")
    return jax.jvp(jax.grad(loss), (params,), (as_tangent(v, params),))[1]


def hvp_fn(loss: Callable[[PyTree], Array], params: PyTree) -> MatVec:
    """The map v ↦ ∇²L(θ) v, with the gradient linearised once at θ and reused for every v.

    The linearisation keeps the intermediate values of one gradient in memory, in the returned function,
    which is a pytree (``jax.tree_util.Partial``): pass it to compiled functions as an argument, or make it
    inside them.

    Args:
      loss: a scalar function of the parameters.
      params: θ, a pytree of real floating arrays.

    Returns:
      A function of one vector; see :func:`hvp`.
    """
    check_real(params, "params")
    _, linear = jax.linearize(jax.grad(loss), params)
    space = jax.eval_shape(lambda p: p, params)
    return Partial(lambda linear, v: linear(as_tangent(v, space)), linear)


def ggn_fn(
    model: Callable[[PyTree], PyTree], output_loss: Callable[[PyTree], Array], params: PyTree
) -> MatVec:
    """The map v ↦ Jᵀ H_out J v of :func:`ggn_vp`, linearised once at θ; a pytree as in :func:`hvp_fn`."""
    check_real(params, "params")
    outputs, jacobian = jax.linearize(model, params)
    check_real(outputs, "model(params)")
    _, output_hessian = jax.linearize(jax.grad(output_loss), outputs)
    space = jax.eval_shape(lambda p: p, params)

    def product(jacobian, output_hessian, v):
        transpose = jax.linear_transpose(jacobian, space)
        return transpose(output_hessian(jacobian(as_tangent(v, space))))[0]

    return Partial(product, jacobian, output_hessian)


def ggn_vp(
    model: Callable[[PyTree], PyTree], output_loss: Callable[[PyTree], Array], params: PyTree, v: PyTree
) -> PyTree:
    """The product with the generalised Gauss-Newton matrix G = Jᵀ H_out J, exact for any output loss.

    J is the Jacobian of the model at θ and H_out the Hessian of the loss at the outputs, so ∇²L = G + Σ_k
    (∂L/∂f_k) ∇²f_k. G is positive semidefinite where the output loss is convex. When the output loss is the
    negative log-likelihood of an exponential family in its natural parameters, G is the Fisher information.

    Args:
      model: parameters to outputs (any pytree of real floating arrays).
      output_loss: outputs to a scalar.
      params: θ.
      v: a pytree like ``params``; cast to its dtypes.

    Returns:
      A pytree with the shapes and dtypes of ``params``.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: naming the leaf, if ``v`` does not have the structure and shapes of ``params``.

    Reference: Schraudolph, Fast curvature matrix-vector products for second-order gradient descent (2002).
    """
    return ggn_fn(model, output_loss, params)(v)


def to_dense(matvec: MatVec, like: PyTree, *, batch_size: int | None = None) -> Float[Array, "q p"]:
    """The matrix of a linear map, explicit: column j is the image of the j-th unit vector.

    Rows and columns are in the order of ``jax.flatten_util.ravel_pytree``. For small models and tests.

    Args:
      matvec: a linear map from trees like ``like`` to trees of any one structure.
      like: a tree (or ShapeDtypeStructs) of the domain, p entries.
      batch_size: how many columns to compute at a time; None for all.

    Returns:
      The q x p matrix, in at least float32.
    """
    check_real(like, "like")

    column = lambda e: ravel(matvec(unravel_stack(e, like)))  # noqa: E731
    return map_chunks(column, jnp.eye(tree_size(like)), batch_size).T


def flat_matvec(matvec: MatVec, like: PyTree) -> Callable[[Float[Array, " p"]], Float[Array, " p"]]:
    """``matvec`` on flat vectors in at least float32; it is handed trees in the dtypes of ``like``.

    Raises:
      ValueError: naming the leaf, if the image does not have the structure and shapes of ``like``.
    """
    abstract = jax.eval_shape(lambda t: t, like)

    def wrapped(v):
        image = matvec(unravel_stack(v, abstract))
        check_like(image, abstract, "matvec(v)", "like")
        return ravel(image).astype(v.dtype)

    return wrapped
