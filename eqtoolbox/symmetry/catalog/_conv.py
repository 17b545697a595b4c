"""Convolutional networks: kernels are (…, in, out), images channel-last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eqtoolbox.groups import Group, Monomial, Wreath
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._dense import Activations, chain
from eqtoolbox.symmetry.catalog._leaves import Leaves, check_names


def cnn(
    params: Any,
    layers: Sequence[str],
    activation: Activations = "relu",
    *,
    prefix: str = "",
    space: str = "h",
) -> Symmetry:
    """The symmetry of convolutions and dense layers one after the other.

    Channels and units carry the group of their activation, as in ``mlp``. A dense layer after a convolution
    reads either pooled channels or the flattened (height, width, channel), row-major: ``"(_ h2*) h3"``.

    Average pooling commutes with all of these groups. Max pooling does with permutations and positive
    scalings, not with signs or matrices: say "pointwise" for an odd activation that is max pooled.

    Args:
      params: the parameters with ``{layer}/kernel`` of shape (…, in, out) and perhaps ``{layer}/bias``.
      layers: paths of the layers in the order of the data.
      activation: as for ``mlp``; the last layer has none.
      prefix: path under which the layers are.
      space: the hidden spaces are called by this and a number from 1.

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: as for ``mlp``. Grouped and depthwise convolutions are refused (their kernel's input axis
        has another size): write their labels by hand.
    """
    leaves = Leaves(params, prefix)
    return leaves.symmetry(chain(leaves, check_names("layers", layers, 2), activation, None, space))


class _Stream:
    """A space of channels of a residual net and the normalised convolutions that write into it."""

    def __init__(self, name: str, size: int):
        self.name = name
        self.size = size
        self.norms: list[str] = []


def resnet(
    params: Any,
    blocks: Sequence[str],
    norm: str | None = "batch",
    groups: int = 2,
    *,
    prefix: str | None = None,
    statistics: str | None = "batch_stats",
) -> Symmetry:
    r"""The symmetry of a residual net of ReLU blocks, as ``zoo.ResNet``.

    Each space of channels has permutations and one positive scaling per channel, "relu", which ReLU passes on.
    Besides, each normalised convolution that writes into the space brings:

    * "batch", evaluated with running statistics: a scaling and a sign per channel, (kernel, mean) against
      gamma: :math:`\gamma (s w x - s\mu)/\sqrt{v + \epsilon} \cdot 1/s`. The variance stays: scaling it too would be
      broken by eps. So a space written by one normalised convolution has S(n) ⋉ (R₊² × Z₂)^n.
    * "batch" on the statistics of the batch (``statistics=None``): the sign alone; the scaling of the kernel is
      broken by eps.
    * "group": one sign per group of channels, kernel against gamma. Permutations keep the groups:
      (S(n/G) ⋉ R₊^{n/G}) ≀ B(G).
    * None: nothing.

    A block whose ``shortcut`` is a convolution writes into a new space; otherwise into that of its input.

    Args:
      params: the variables ``{"params": ..., "batch_stats": ...}`` with running statistics, else the parameters.
        Layers below ``prefix``: ``stem``; for each block ``conv_0``, ``norm_0``, ``conv_1``, ``norm_1`` and
        perhaps ``shortcut``; ``head``. Kernels are (…, in, out), the head reads the mean over the image.
      blocks: paths of the blocks in the order of the data.
      norm: "batch", "group" or None.
      groups: the number of groups of "group".
      prefix: path under which the layers are; by default "params" with running statistics, else none.
      statistics: path under which the running statistics are.

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: the norm is unknown, a layer is missing, or shapes do not fit.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Example 1.2.7 (BatchNorm; "equivariant" there means invariant,
      and the group is R₊^m, m the rows of W: DA-E2).
    """
    if norm not in ("batch", "group", None):
        raise ValueError(f"`norm` must be 'batch', 'group' or None, got {norm!r}")
    running = norm == "batch" and statistics is not None
    leaves = Leaves(params, ("params" if running else "") if prefix is None else prefix)
    blocks = check_names("blocks", blocks, 1)
    stream = _Stream("stream0", leaves.shape("stem/kernel")[-1])
    streams, route = [stream], []
    for i, block in enumerate(blocks):
        inner = _Stream(f"inner{i}", leaves.shape(f"{block}/conv_0/kernel")[-1])
        target = stream
        if leaves.has(f"{block}/shortcut/kernel"):
            target = _Stream(f"stream{i + 1}", leaves.shape(f"{block}/shortcut/kernel")[-1])
        if norm:
            inner.norms.append(f"norm_{i}_0")
            target.norms.append(f"norm_{i}_1")
        streams += [inner] if target is stream else [inner, target]
        route.append((block, stream, inner, target))
        stream = target
    label = _Channels(norm, groups, running)
    leaves.label("stem/kernel", f"... _ {label(streams[0], 'relu:1')}")
    leaves.label_if("stem/bias", label(streams[0], "relu:1"))
    for i, (block, source, inner, target) in enumerate(route):
        _conv(leaves, label, f"{block}/conv_0", source, inner, f"norm_{i}_0")
        _conv(leaves, label, f"{block}/conv_1", inner, target, f"norm_{i}_1")
        for j, space in enumerate((inner, target)):
            if norm:
                _norm(leaves, label, f"{block}/norm_{j}", space, f"norm_{i}_{j}", statistics)
        if target is not source:
            read, write = label(source, "relu:-1"), label(target, "relu:1")
            leaves.label(f"{block}/shortcut/kernel", f"... {read} {write}")
            leaves.label_if(f"{block}/shortcut/bias", write)
    leaves.label("head/kernel", f"{label(stream, 'relu:-1')} _")
    return leaves.symmetry(dict(label.group(s) for s in streams))


class _Channels:
    """Labels and groups of the spaces of channels."""

    def __init__(self, norm: str | None, groups: int, running: bool):
        self.groups = groups
        self.grouped = norm == "group"
        self.running = running

    def __call__(self, space: _Stream, relu: str = "", sign: str = "") -> str:
        """The axis label with an exponent of the ReLU scaling and one of a norm's scaling and sign."""
        if self.grouped and space.norms:
            return f"({space.name}g{_braces(sign)} {space.name}{_braces(relu)})"
        return f"{space.name}{_braces(relu, sign)}"

    def group(self, space: _Stream) -> tuple[str | tuple[str, ...], Group]:
        """The spaces and their group."""
        if not (self.grouped and space.norms):
            norms = tuple(space.norms)
            return space.name, Monomial(space.size, ("relu", *(norms if self.running else ())), norms)
        if space.size % self.groups:
            raise ValueError(f"{self.groups} groups do not divide the {space.size} channels of {space.name}")
        inner = Monomial(space.size // self.groups, ("relu",))
        return (f"{space.name}g", space.name), Wreath(inner, Monomial(self.groups, 0, tuple(space.norms)))


def _braces(*terms: str) -> str:
    terms = tuple(t for t in terms if t)
    return "{" + ",".join(terms) + "}" if terms else "^0"


def _conv(leaves: Leaves, label: _Channels, path: str, source: _Stream, target: _Stream, norm: str) -> None:
    """A convolution; its norm is named in ``target.norms`` if it has one."""
    write = label(target, "", f"{norm}:1") if norm in target.norms else label(target, "relu:1")
    leaves.label(f"{path}/kernel", f"... {label(source, 'relu:-1')} {write}")
    leaves.label_if(f"{path}/bias", write)


def _norm(
    leaves: Leaves, label: _Channels, path: str, space: _Stream, norm: str, statistics: str | None
) -> None:
    """The gain and shift of a norm, and its running statistics."""
    leaves.label(f"{path}/scale", label(space, "relu:1", f"{norm}:-1"))
    leaves.label(f"{path}/bias", label(space, "relu:1"))
    if label.running:
        leaves.axes[f"{statistics}/{path}/mean"] = label(space, "", f"{norm}:1")
        leaves.axes[f"{statistics}/{path}/var"] = label(space)
