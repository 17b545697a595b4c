"""Homogeneous models: f(e^λ θ) = e^{mλ} f(θ), and what follows for the gradient, the Hessian and sharpness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities._first_order import first_order
from eqtoolbox.identities._identity import Identity, relative
from eqtoolbox.identities._position import evaluate
from eqtoolbox.identities._quadratic import quadratic
from eqtoolbox.identities._second_order import second_order
from eqtoolbox.linalg import (
    broadcast_prefix,
    check_like,
    check_number,
    name_leaf,
    stack_vdot,
    tree_norm,
    tree_vdot,
)
from eqtoolbox.symmetry import Equivariance

Tree = Any


def homogeneous(degree: float, weights: Tree | None = None) -> Equivariance:
    """The equivariance of an m-homogeneous model: H = e^λ θ, G = e^{mλ} y, with λ one number.

    A network of m layers without biases and with ReLU between them is m-homogeneous for positive factors only,
    f(cθ) = c^m f(θ) for c > 0 (the paper prints: for all real c); hence the parametrisation c = e^λ, with the
    identity at λ = 0.

    >>> import jax.numpy as jnp
    >>> homogeneous(3).act({"w": jnp.ones(2)}, jnp.log(2.0))["w"].tolist()
    [2.0, 2.0]

    Args:
      degree: m; any real number.
      weights: a pytree prefix of the parameters with a number w for each leaf or subtree that is scaled by
        e^{wλ}: 0 for one that stays, 2 for a bias of the second layer. None for 1 everywhere.

    Returns:
      An ``Equivariance`` with its inverses and the identity 0.

    Raises:
      TypeError: the degree or a weight is no real number.
      ValueError: where it acts, the weights are no prefix of the parameters.

    Reference:
      Yang & Ziyin, sections 4.2 and 5.1.
    """
    check_number(degree, "`degree`")
    for path, weight in jax.tree.leaves_with_path(weights):
        check_number(weight, f"leaf `{name_leaf(path)}` of `weights`")

    def scale(params: Tree, lam: Array) -> Tree:
        if weights is None:
            return jax.tree.map(lambda x: x * jnp.exp(lam).astype(x.dtype), params)
        factors = broadcast_prefix(weights, params, "weights")
        return jax.tree.map(lambda x, w: x * jnp.exp(w * lam).astype(x.dtype), params, factors)

    def scale_output(outputs: Tree, lam: Array) -> Tree:
        return jax.tree.map(lambda y: y * jnp.exp(degree * lam).astype(y.dtype), outputs)

    return Equivariance(
        act=scale,
        act_output=scale_output,
        act_inverse=lambda params, lam: scale(params, -lam),
        output_inverse=lambda outputs, lam: scale_output(outputs, -lam),
        identity=0.0,
    )


class Homogeneity(NamedTuple):
    """The three identities of a homogeneous model.

    Attributes:
      euler: ⟨∇L, θ⟩ = m ⟨∇ℓ, f⟩.
      hvp: ∇²L θ = J_fᵀ (m ∇²ℓ f + (m - 1) ∇ℓ), a pytree like the parameters; for one output with ℓ' ≠ 0 it is
        (m y ℓ''/ℓ' + m - 1) ∇L.
      quadratic: ⟨θ, ∇²L θ⟩ = m² ∇²ℓ[f, f] + m (m - 1) ⟨∇ℓ, f⟩.
    """

    euler: Identity
    hvp: Identity
    quadratic: Identity


def homogeneity(
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    degree: float,
    weights: Tree | None = None,
) -> Homogeneity:
    """The identities of an m-homogeneous model, for any number of outputs (EQ-4.2, EQ-5.1a).

    With one output the middle one is equation (3) and the last one equation (4). With several, samples or
    classes, ∇²Lθ is in general not parallel to the gradient, and equation (3) has to be read as in
    ``Homogeneity``. Nothing needs ℓ' ≠ 0. With ``weights`` w, θ is to be read as the pytree wθ.

    Args:
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ.
      degree: m.
      weights: as for ``homogeneous``.

    Returns:
      The three identities, with both sides, terms and residuals.

    Raises:
      TypeError: a leaf does not hold real numbers.

    Reference:
      Yang & Ziyin, section 4.2, equations (3) and (4).
    """
    eq = homogeneous(degree, weights)
    along = jnp.float32(1)
    return Homogeneity(
        first_order(eq, model, output_loss, params, directions=along),
        second_order(eq, model, output_loss, params, directions=along),
        quadratic(eq, model, output_loss, params, directions=along),
    )


def radial_hvp(
    model: Callable[[Tree], Tree], output_loss: Callable[[Tree], Array], params: Tree, degree: float
) -> Tree:
    """∇²L(θ) θ = J_fᵀ (m ∇²ℓ f + (m - 1) ∇ℓ) of an m-homogeneous model, by one backward pass.

    It is the gradient of the loss with another covector at the outputs, which makes it half as dear as a
    Hessian-vector product.

    Args:
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ.
      degree: m.

    Returns:
      A pytree like ``params``.

    Reference:
      Yang & Ziyin, equation (3), for any number of outputs.
    """
    outputs, vjp = jax.vjp(model, params)
    slope, curved = jax.jvp(jax.grad(output_loss), (outputs,), (outputs,))
    return vjp(jax.tree.map(lambda c, r: degree * c + (degree - 1) * r, curved, slope))[0]


def sharpness_bound(
    model: Callable[[Tree], Tree], output_loss: Callable[[Tree], Array], params: Tree, degree: float
) -> Array:
    """A lower bound on the largest Hessian eigenvalue of an m-homogeneous model, from its outputs (EQ-5.1c).

    K ≥ ⟨θ, ∇²L θ⟩ / ‖θ‖² = (m² ∇²ℓ[f, f] + m (m - 1) ⟨∇ℓ, f⟩) / ‖θ‖²: one forward pass.

    >>> import jax.numpy as jnp
    >>> float(sharpness_bound(lambda p: p[0] * p[1], lambda y: y**2 / 2, jnp.array([1.0, 1.0]), 2))
    3.0

    Args:
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ, not zero.
      degree: m.

    Returns:
      A scalar, in at least float32.

    Reference:
      Yang & Ziyin, section 5.1, "Sharpness lower bound", for any number of outputs.
    """
    outputs = model(params)
    slope, curved = jax.jvp(jax.grad(output_loss), (outputs,), (outputs,))
    form = degree**2 * tree_vdot(curved, outputs) + degree * (degree - 1) * tree_vdot(slope, outputs)
    return form / tree_vdot(params, params)


class Alignment(NamedTuple):
    """How the gradient lies among the eigenvectors of the Hessian.

    Attributes:
      gradient: ⟨∇L, u_k⟩, shape (k,).
      predicted: α λ_k ⟨θ, u_k⟩.
      alpha: α = ⟨∇L, ∇²Lθ⟩ / ‖∇²Lθ‖², which is (m y ℓ''/ℓ' + m - 1)⁻¹ for one output; 0 where ∇²Lθ = 0.
      cosine: of the angle between ∇L and ∇²Lθ; ±1 exactly where the corollary applies, 0 where ∇²Lθ = 0.
      residual: |gradient - predicted| / ‖∇L‖, shape (k,).
      curvature_residual: |λ_k ⟨θ, u_k⟩ - ⟨J_fᵀ(m ∇²ℓ f + (m - 1) ∇ℓ), u_k⟩| over the norm of that vector: it
        vanishes for every homogeneous model.
    """

    gradient: Array
    predicted: Array
    alpha: Array
    cosine: Array
    residual: Array
    curvature_residual: Array


def alignment(
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    degree: float,
    eigenvalues: Array,
    eigenvectors: Tree,
) -> Alignment:
    """Corollary 1: the gradient of a homogeneous model along the eigenvectors of its Hessian (EQ-5.1b).

    For one output and m y ℓ'' + (m - 1) ℓ' ≠ 0, ⟨∇L, u_k⟩ = α λ_k ⟨θ, u_k⟩. Where that number vanishes while
    ∇L does not, no α exists and the gradient may lie outside the column space of the Hessian (the printed
    proof takes this case for trivial): f = θ², ℓ = (y - t)²/2 at θ² = t/3 has ∇²L = 0 and ∇L ≠ 0. With several
    outputs what holds always is λ_k ⟨θ, u_k⟩ = ⟨J_fᵀ(m ∇²ℓ f + (m - 1) ∇ℓ), u_k⟩.

    Args:
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ.
      degree: m.
      eigenvalues: λ_k of ∇²L(θ), shape (k,); see ``linalg.top_eigenpairs``.
      eigenvectors: u_k of unit length, a pytree like ``params`` with a leading axis of length k.

    Returns:
      An ``Alignment``.

    Raises:
      TypeError: the degree is no real number.
      ValueError: the eigenvalues are not k numbers, or the eigenvectors not k trees like the parameters.

    Reference:
      Yang & Ziyin, Corollary 1 and its proof A.2.
    """
    check_number(degree, "`degree`")
    at = evaluate(model, output_loss, params)
    rows = jnp.shape(eigenvalues)[0] if jnp.ndim(eigenvalues) == 1 else None
    if rows is None:
        raise ValueError(f"`eigenvalues` must have shape (k,), got {jnp.shape(eigenvalues)}")
    stack = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), at.params)
    check_like(eigenvectors, stack, "eigenvectors", "params, with a leading axis as long as eigenvalues")
    radial = radial_hvp(model, output_loss, at.params, degree)
    length, slope = tree_norm(radial), tree_norm(at.gradient)
    cosine = relative(tree_vdot(at.gradient, radial), length * slope)
    alpha = relative(cosine * slope, length)
    gradient = stack_vdot(eigenvectors, at.gradient)
    turned = jnp.asarray(eigenvalues) * stack_vdot(eigenvectors, at.params)
    return Alignment(
        gradient,
        alpha * turned,
        alpha,
        cosine,
        relative(jnp.abs(gradient - alpha * turned), slope),
        relative(jnp.abs(turned - stack_vdot(eigenvectors, radial)), length),
    )
