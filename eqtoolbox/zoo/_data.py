"""Real data sets bundled with scikit-learn: no network, a fixed split, standardised inputs."""

from typing import Any

import jax.numpy as jnp

from eqtoolbox.zoo._dataset import Dataset, float_dtype, split_indices, standardise


def _bundled(
    name: str,
    loader: str,
    source: str,
    *,
    test_fraction: float,
    seed: int,
    dtype: Any,
    classes: int | None,
    axis: int | None = 0,
    shape: tuple[int, ...] | None = None,
) -> Dataset:
    """Loads, splits and standardises a data set of ``sklearn.datasets``."""
    from sklearn import datasets

    dtype = float_dtype(dtype)
    x, y = getattr(datasets, loader)(return_X_y=True)
    x = x.reshape(len(x), *(shape or x.shape[1:]))
    train, test = split_indices(len(x), test_fraction, seed)
    train_x, test_x = standardise(x[train], x[test], axis=axis)
    if classes is None:
        train_y, test_y = standardise(y[train, None], y[test, None])
        targets, target_dtype = "the target likewise", dtype
    else:
        train_y, test_y = y[train], y[test]
        targets, target_dtype = f"{classes} classes", jnp.int32
    what = "every feature" if axis == 0 else "all pixels together"
    return Dataset(
        jnp.asarray(train_x, dtype),
        jnp.asarray(train_y, target_dtype),
        jnp.asarray(test_x, dtype),
        jnp.asarray(test_y, target_dtype),
        name=name,
        num_classes=classes,
        description=(
            f"{source}, bundled with scikit-learn. {len(train)} training and {len(test)} test examples, "
            f"split with seed {seed}. Standardised by the mean and deviation of {what} over the training "
            f"examples; {targets}."
        ),
    )


def digits(
    *, image: bool = False, test_fraction: float = 0.2, seed: int = 0, dtype: Any = jnp.float32
) -> Dataset:
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels, 10 classes. It is not MNIST.

    Pixels are standardised by one mean and one deviation for all pixels of the training images.

    Args:
      image: Whether inputs have shape ``(8, 8, 1)`` instead of ``(64,)``.
      test_fraction: Share of test examples.
      seed: Seed of the split.
      dtype: Floating-point dtype of the inputs.

    Returns:
      The data set.

    Raises:
      ValueError: If ``test_fraction`` is not strictly between 0 and 1, or ``dtype`` needs 64-bit mode.

    Reference:
      Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (1998), test part.
    """
    return _bundled(
        "digits",
        "load_digits",
        "Optical recognition of handwritten digits (UCI), 1797 images of 8 x 8 pixels",
        test_fraction=test_fraction,
        seed=seed,
        dtype=dtype,
        classes=10,
        axis=None,
        shape=(8, 8, 1) if image else None,
    )


def breast_cancer(*, test_fraction: float = 0.2, seed: int = 0, dtype: Any = jnp.float32) -> Dataset:
    """Breast cancer Wisconsin (diagnostic): 569 examples, 30 standardised features, 2 classes.

    Args:
      test_fraction: Share of test examples.
      seed: Seed of the split.
      dtype: Floating-point dtype of the inputs.

    Returns:
      The data set.

    Raises:
      ValueError: If ``test_fraction`` is not strictly between 0 and 1, or ``dtype`` needs 64-bit mode.
    """
    source = "Breast cancer Wisconsin, diagnostic (UCI), 569 examples of 30 features"
    return _bundled(
        "breast_cancer",
        "load_breast_cancer",
        source,
        test_fraction=test_fraction,
        seed=seed,
        dtype=dtype,
        classes=2,
    )


def wine(*, test_fraction: float = 0.2, seed: int = 0, dtype: Any = jnp.float32) -> Dataset:
    """Wine recognition: 178 examples, 13 standardised features, 3 classes.

    Args:
      test_fraction: Share of test examples.
      seed: Seed of the split.
      dtype: Floating-point dtype of the inputs.

    Returns:
      The data set.

    Raises:
      ValueError: If ``test_fraction`` is not strictly between 0 and 1, or ``dtype`` needs 64-bit mode.
    """
    source = "Wine recognition (UCI), 178 examples of 13 features"
    return _bundled(
        "wine", "load_wine", source, test_fraction=test_fraction, seed=seed, dtype=dtype, classes=3
    )


def iris(*, test_fraction: float = 0.2, seed: int = 0, dtype: Any = jnp.float32) -> Dataset:
    """Iris: 150 examples, 4 standardised features, 3 classes.

    Args:
      test_fraction: Share of test examples.
      seed: Seed of the split.
      dtype: Floating-point dtype of the inputs.

    Returns:
      The data set.

    Raises:
      ValueError: If ``test_fraction`` is not strictly between 0 and 1, or ``dtype`` needs 64-bit mode.
    """
    source = "Iris (Fisher 1936), 150 examples of 4 features"
    return _bundled(
        "iris", "load_iris", source, test_fraction=test_fraction, seed=seed, dtype=dtype, classes=3
    )


def diabetes(*, test_fraction: float = 0.2, seed: int = 0, dtype: Any = jnp.float32) -> Dataset:
    """Diabetes progression, a regression: 442 examples, 10 features and one target, all standardised.

    Args:
      test_fraction: Share of test examples.
      seed: Seed of the split.
      dtype: Floating-point dtype of the inputs and targets.

    Returns:
      The data set; targets have shape ``(n, 1)``.

    Raises:
      ValueError: If ``test_fraction`` is not strictly between 0 and 1, or ``dtype`` needs 64-bit mode.

    Reference:
      Efron, Hastie, Johnstone and Tibshirani, "Least Angle Regression" (2004).
    """
    source = "Diabetes progression (Efron et al. 2004), 442 examples of 10 features"
    return _bundled(
        "diabetes",
        "load_diabetes",
        source,
        test_fraction=test_fraction,
        seed=seed,
        dtype=dtype,
        classes=None,
    )
