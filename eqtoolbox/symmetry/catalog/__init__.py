"""The catalogue: symmetries of known architectures, and functions that have them.

Builders turn a description and the shapes of parameters into a ``Symmetry``; they never guess the order of
layers from their names:

>>> import jax
>>> from eqtoolbox import zoo
>>> from eqtoolbox.symmetry import catalog
>>> module, params, inputs, apply = zoo.build("mlp", jax.random.key(0), activation="relu")
>>> catalog.mlp(params, ["Dense_0", "Dense_1", "Dense_2"], "relu")
Symmetry(6 leaves; h1: S(7)⋉R₊^7, h2: S(6)⋉R₊^6)

``rows()`` are the rows S1 to S14 of the dissertation's catalogue, ``models()`` whole models with the dimension
of their orbits.
"""

from eqtoolbox.symmetry.catalog._activations import (
    ActivationRule,
    activation_rule,
    activation_rules,
    homogeneous,
)
from eqtoolbox.symmetry.catalog._attention import attention, fused_attention
from eqtoolbox.symmetry.catalog._catalog import model_names, models, row_names, rows
from eqtoolbox.symmetry.catalog._conv import cnn, resnet
from eqtoolbox.symmetry.catalog._dense import lora, mlp, swiglu
from eqtoolbox.symmetry.catalog._records import Model, Row
from eqtoolbox.symmetry.catalog._recurrent import rnn
from eqtoolbox.symmetry.catalog._transformer import rms_net, transformer

__all__ = [
    "ActivationRule",
    "Model",
    "Row",
    "activation_rule",
    "activation_rules",
    "attention",
    "cnn",
    "fused_attention",
    "homogeneous",
    "lora",
    "mlp",
    "model_names",
    "models",
    "resnet",
    "rms_net",
    "rnn",
    "row_names",
    "rows",
    "swiglu",
    "transformer",
]
