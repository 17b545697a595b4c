"""Small Flax models and data sources shared by reports, experiments, notebooks and tests."""

from eqtoolbox.zoo._activations import activations
from eqtoolbox.zoo._cifar import cifar10, cifar100
from eqtoolbox.zoo._conv import CNN, ResidualBlock, ResNet
from eqtoolbox.zoo._data import breast_cancer, diabetes, digits, iris, wine
from eqtoolbox.zoo._dataset import Dataset, batch_indices, batches, take
from eqtoolbox.zoo._mlp import MLP, LoRADense, LoRAMLP, SwiGLU
from eqtoolbox.zoo._mnist import mnist, read_idx
from eqtoolbox.zoo._registry import Example, build, models, perturb
from eqtoolbox.zoo._rms import RMSNet
from eqtoolbox.zoo._rnn import RNN
from eqtoolbox.zoo._teacher import TeacherStudent, random_weights, teacher_student
from eqtoolbox.zoo._transformer import Attention, Block, FusedQKVAttention, Transformer

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "Attention",
    "Block",
    "Dataset",
    "Example",
    "FusedQKVAttention",
    "LoRADense",
    "LoRAMLP",
    "RMSNet",
    "ResNet",
    "ResidualBlock",
    "SwiGLU",
    "TeacherStudent",
    "Transformer",
    "activations",
    "batch_indices",
    "batches",
    "breast_cancer",
    "build",
    "cifar10",
    "cifar100",
    "diabetes",
    "digits",
    "iris",
    "mnist",
    "models",
    "perturb",
    "random_weights",
    "read_idx",
    "take",
    "teacher_student",
    "wine",
]
