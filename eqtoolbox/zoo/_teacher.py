"""Synthetic regression: Gaussian inputs of a prescribed spectrum, targets from a random teacher network."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.zoo._activations import require_positive, require_widths
from eqtoolbox.zoo._dataset import Dataset, float_dtype
from eqtoolbox.zoo._mlp import MLP

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TeacherStudent:
    """A teacher-student problem: a pytree, the module being static.

    Attributes:
      dataset: Inputs ``(n, d_0)`` and the teacher's outputs ``(n, d_L)``.
      module: The network of both, an ``MLP`` without biases.
      teacher: The teacher's parameters.
      student: The student's parameters, drawn independently from the same distribution.
    """

    dataset: Dataset
    module: MLP = field(metadata={"static": True})
    teacher: PyTree
    student: PyTree


def random_weights(key: Array, widths: tuple[int, ...], dtype: Any = jnp.float32) -> PyTree:
    r"""Weights of an ``MLP`` without biases, independent :math:`N(0, 1 / d_{l-1})`.

    Args:
      key: Typed random key.
      widths: The widths :math:`(d_0, \dots, d_L)`.
      dtype: Floating-point dtype.

    Returns:
      ``{"Dense_0": {"kernel": (d_0, d_1)}, ...}``.
    """
    keys = jax.random.split(key, len(widths) - 1)
    return {
        f"Dense_{i}": {
            "kernel": jax.random.normal(k, (fan_in, fan_out), dtype) / jnp.sqrt(fan_in).astype(dtype)
        }
        for i, (k, fan_in, fan_out) in enumerate(zip(keys, widths[:-1], widths[1:], strict=True))
    }


def teacher_student(
    key: Array,
    widths: tuple[int, ...] = (100, 70, 40),
    activation: str = "tanh",
    *,
    train: int = 5000,
    test: int = 5000,
    decades: float = 5.0,
    dtype: Any = jnp.float32,
) -> TeacherStudent:
    r"""A teacher-student regression with badly conditioned inputs.

    Inputs are :math:`x \sim N(0, Q D Q^\top)` with Q Haar-distributed on O(d_0) and D holding d_0 eigenvalues
    from 1 to :math:`10^{-\mathrm{decades}}`, equally spaced in the logarithm. Targets are the outputs of an
    MLP without biases whose weights are :math:`N(0, 1/d_{l-1})`. Nothing is standardised. Works under
    ``vmap``.

    Args:
      key: Typed random key.
      widths: The widths :math:`(d_0, \dots, d_L)` of teacher and student.
      activation: Name of the activation, see ``activations``.
      train: Number of training examples.
      test: Number of test examples.
      decades: How many powers of ten the input eigenvalues span.
      dtype: Floating-point dtype.

    Returns:
      The data set, the module, and the parameters of teacher and student.

    Raises:
      ValueError: If there are fewer than two widths, a size is not positive, or there is no such activation.

    Reference:
      Bernacchia, "Global curvature for second-order optimization of neural networks", figures 5 and 6.
    """
    require_widths("widths", tuple(widths), least=2)
    require_positive(train=train, test=test)
    dtype = float_dtype(dtype)
    module = MLP(tuple(widths[1:]), activation, use_bias=False)
    basis_key, input_key, teacher_key, student_key = jax.random.split(key, 4)
    scales = jnp.logspace(0.0, -decades / 2, widths[0], dtype=dtype)
    basis = jax.random.orthogonal(basis_key, widths[0], dtype=dtype)
    x = (jax.random.normal(input_key, (train + test, widths[0]), dtype) * scales[None]) @ basis.T
    teacher = random_weights(teacher_key, widths, dtype)
    y = jnp.asarray(module.apply({"params": teacher}, x))
    dataset = Dataset(
        x[:train],
        y[:train],
        x[train:],
        y[train:],
        name="teacher_student",
        num_classes=None,
        description=(
            f"Synthetic: {train} training and {test} test inputs from a Gaussian whose covariance has "
            f"{widths[0]} eigenvalues from 1 to 1e-{decades:g} in a random basis; targets from a random "
            f"{activation} network of widths {tuple(widths)} without biases. Not standardised."
        ),
    )
    return TeacherStudent(dataset, module, teacher, random_weights(student_key, widths, dtype))
