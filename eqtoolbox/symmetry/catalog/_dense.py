"""Networks of dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eqtoolbox.groups import GeneralLinear, Group, Monomial
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._activations import ActivationRule, activation_rule
from eqtoolbox.symmetry.catalog._leaves import Leaves, check_names
from eqtoolbox.symmetry.catalog._records import Groups

Activations = str | ActivationRule | Sequence[str | ActivationRule]


def mlp(
    params: Any,
    layers: Sequence[str],
    activation: Activations = "relu",
    group: Callable[[int], Group] | None = None,
    *,
    prefix: str = "",
    space: str = "h",
) -> Symmetry:
    r"""The symmetry of a multilayer perceptron :math:`h_l = \sigma_l(h_{l-1} W_l + b_l)`, with or without biases.

    Hidden layer l carries the group of its activation (``activation_rules``): kernels are (in, out), so that
    the columns of ``W_l`` and the entries of ``b_l`` move with g and the rows of ``W_{l+1}`` with the inverse
    transpose of ρ(g). Inputs and outputs stay fixed.

    Args:
      params: the parameters (or their shapes) with leaves ``{layer}/kernel`` (in, out) and, where there is
        one, ``{layer}/bias`` (out,).
      layers: paths of the layers in the order of the data.
      activation: name or rule; one for all hidden layers, or a sequence with one for each.
      group: makes the group for a number of units in place of the activation's own, such as
        ``groups.Permutation``: a subgroup of it that understands the same exponents.
      prefix: path under which the layers are, as in "params/encoder".
      space: the hidden spaces are called by this and a number: h1, h2, ….

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: a layer is missing, shapes do not chain, or an activation is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from eqtoolbox.symmetry import catalog
      >>> shapes = {"Dense_0": {"kernel": jnp.zeros((4, 7))}, "Dense_1": {"kernel": jnp.zeros((7, 3))}}
      >>> print(catalog.mlp(shapes, ["Dense_0", "Dense_1"], "relu2"))
      symmetry of dimension 7
      space  group      size  dim  acts on
      h1     S(7)⋉R₊^7  7     7    Dense_0/kernel[1], Dense_1/kernel[0]^-2

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), sec. 1.2 (S1-S5, S8) and (A.9). The Z_2^n of Example 1.2.5
      acts on hidden units, Z_2^h (DA-E2).
    """
    leaves = Leaves(params, prefix)
    for layer in check_names("layers", layers, 2):
        leaves.shape(f"{layer}/kernel", 2)
    return leaves.symmetry(chain(leaves, tuple(layers), activation, group, space))


def chain(
    leaves: Leaves,
    layers: tuple[str, ...],
    activation: Activations,
    group: Callable[[int], Group] | None,
    space: str,
) -> Groups:
    """Labels layers that follow each other, dense or convolutional; returns the groups of hidden spaces.

    The last two axes of a kernel are (in, out). A dense layer after a convolution reads the flattened
    (height, width, channel).
    """
    rules = _rules(activation, len(layers) - 1)
    groups: Groups = {}
    read, units, was_conv = "_", 0, False
    for i, layer in enumerate(layers):
        shape = leaves.shape(f"{layer}/kernel")
        if len(shape) < 2:
            raise ValueError(f"leaf {leaves.full(layer + '/kernel')!r} must be (…, in, out), got {shape}")
        if was_conv and len(shape) == 2 and shape[0] != units:
            read = f"(_ {read})"
        last = i == len(layers) - 1
        name = f"{space}{i + 1}"
        write = "_" if last else f"{name}{rules[i].writer}"
        leaves.label(f"{layer}/kernel", f"{'... ' if len(shape) > 2 else ''}{read} {write}")
        leaves.label_if(f"{layer}/bias", write)
        if not last:
            units = shape[-1]
            groups[name] = (group or rules[i].group)(units)
            read, was_conv = f"{name}{rules[i].reader}", len(shape) > 2
    return groups


def _rules(activation: Activations, count: int) -> list[ActivationRule]:
    if isinstance(activation, (str, ActivationRule)):
        return [activation_rule(activation)] * count
    rules = [activation_rule(a) for a in activation]
    if len(rules) != count:
        raise ValueError(
            f"`activation` must be one, or one for each of {count} hidden layers, got {len(rules)}"
        )
    return rules


def lora(
    params: Any,
    layers: Sequence[str],
    activation: Activations = "gelu",
    *,
    base_moves: bool = True,
    prefix: str = "",
    space: str = "h",
    rank_space: str = "r",
) -> Symmetry:
    r"""The symmetry of dense layers with low-rank adapters, :math:`y = x W + b + x A B`.

    Every adapter carries GL(r): :math:`A \to A g^T,\ B \to g^{-T} B`. Hidden layers carry the group of their
    activation on W, b, A and B together, if the base may move with them.

    Args:
      params: the parameters with ``{layer}/lora_a`` (in, r), ``{layer}/lora_b`` (r, out) and, with
        ``base_moves``, ``{layer}/kernel`` (in, out) and perhaps ``{layer}/bias`` (out,).
      layers: paths of the layers in the order of the data.
      activation: as for ``mlp``.
      base_moves: False for a frozen base: then only the adapters' own GL(r) is left.
      prefix: path under which the layers are.
      space: the hidden spaces are called by this and a number from 1.
      rank_space: the adapters' spaces are called by this and a number from 1.

    Returns:
      The symmetry, checked against the shapes. A trainable base can absorb A B altogether: that additive
      redundancy is no linear action on axes and not part of it.

    Raises:
      ValueError: as for ``mlp``.

    Reference:
      Zhao (2026), Example 1.2.13 (S12); Hu et al., "LoRA" (2021), equation 3.
    """
    leaves = Leaves(params, prefix)
    layers = check_names("layers", layers, 1)
    rules = _rules(activation, len(layers) - 1)
    groups: Groups = {}
    read = "_"
    for i, layer in enumerate(layers):
        rank = f"{rank_space}{i + 1}"
        groups[rank] = GeneralLinear(leaves.shape(f"{layer}/lora_a", 2)[1])
        write = "_"
        if base_moves and i < len(layers) - 1:
            name = f"{space}{i + 1}"
            write = f"{name}{rules[i].writer}"
            groups[name] = rules[i].group(leaves.shape(f"{layer}/kernel", 2)[1])
        leaves.label(f"{layer}/lora_a", f"{read} {rank}")
        leaves.label(f"{layer}/lora_b", f"{rank}* {write}")
        if base_moves:
            leaves.label(f"{layer}/kernel", f"{read} {write}")
            leaves.label_if(f"{layer}/bias", write)
        read = f"{space}{i + 1}{rules[i].reader}" if write != "_" else "_"
    return leaves.symmetry(groups)


def swiglu(
    params: Any,
    gate: str = "gate",
    linear: str = "linear",
    out: str = "out",
    *,
    prefix: str = "",
    space: str = "h",
) -> Symmetry:
    r"""The symmetry of a gated layer :math:`(\sigma(x W_g) \odot x W_l)\, W_o`, σ pointwise.

    Units are permuted, and every unit has a non-zero scaling of its linear branch that its reader undoes:
    S(n) ⋉ R*^n. The gate branch is permuted only.

    Args:
      params: the parameters with kernels (in, out) and perhaps biases.
      gate: path of the layer in the activation.
      linear: path of the other factor.
      out: path of the layer that reads the product.
      prefix: path under which the layers are.
      space: the name of the space of units.

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: a layer is missing or shapes do not fit.
    """
    leaves = Leaves(params, prefix)
    units = leaves.shape(f"{gate}/kernel", 2)[1]
    for layer, exponent in ((gate, "^0"), (linear, "")):
        leaves.label(f"{layer}/kernel", f"_ {space}{exponent}")
        leaves.label_if(f"{layer}/bias", f"{space}{exponent}")
    leaves.label(f"{out}/kernel", f"{space}* _")
    return leaves.symmetry({space: Monomial(units, scales=1, signs=1)})
