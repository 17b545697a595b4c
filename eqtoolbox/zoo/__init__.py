"""Small Flax models and data sources shared by reports, experiments, notebooks and tests."""

from eqtoolbox.zoo._activations import activations
from eqtoolbox.zoo._conv import CNN, ResNet
from eqtoolbox.zoo._mlp import MLP, LoRADense, LoRAMLP, SwiGLU
from eqtoolbox.zoo._registry import Example, build, models, perturb
from eqtoolbox.zoo._rms import RMSNet
from eqtoolbox.zoo._rnn import RNN
from eqtoolbox.zoo._transformer import Attention, FusedQKVAttention, Transformer

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "Attention",
    "Example",
    "FusedQKVAttention",
    "LoRADense",
    "LoRAMLP",
    "RMSNet",
    "ResNet",
    "SwiGLU",
    "Transformer",
    "activations",
    "build",
    "models",
    "perturb",
]
