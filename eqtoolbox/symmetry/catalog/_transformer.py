"""Networks with a residual stream that is normalised before it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eqtoolbox.groups import Group, Monomial, Orthogonal, Stabiliser, Trivial, Wreath
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._activations import ActivationRule, activation_rule
from eqtoolbox.symmetry.catalog._attention import label_attention
from eqtoolbox.symmetry.catalog._leaves import Leaves, check_names
from eqtoolbox.symmetry.catalog._records import Groups


class _Residual:
    """The stream's exponents and group.

    Layer norms subtract the mean, so that nothing but permutations acts on the stream itself; a root mean
    square lets its sign through. A norm with gain multiplies unit by unit, which leaves permutations, and a
    scaling and a sign of its own between the gain and what reads it. Without any gain the stream keeps O(n), or
    the part of O(n) that fixes the all-ones vector (layer norm).
    """

    def __init__(self, norm: str, size: int, space: str):
        if norm not in ("layer", "rms"):
            raise ValueError(f"`norm` must be 'layer' or 'rms', got {norm!r}")
        self.norm, self.size, self.space = norm, size, space
        self.gains: list[str] = []
        self.has_gain = False

    def write(self) -> str:
        """What is added to the stream."""
        return self._axis("stream:1" if self.norm == "rms" else "")

    def read(self, gain: str = "") -> str:
        """What reads the output of the norm of that gain."""
        stream = "stream:1" if self.norm == "rms" else ""
        return self._axis(stream, f"{gain}:-1" if gain else "")

    def gain(self, gain: str = "") -> str:
        """The gain (and shift) itself; without a name that of a norm whose readers cannot move."""
        return self._axis(f"{gain}:1" if gain else "")

    def _axis(self, *terms: str) -> str:
        if not self.has_gain:
            return self.space
        text = ",".join(t for t in terms if t)
        return f"{self.space}{{{text}}}" if text else f"{self.space}^0"

    def group(self) -> Group:
        if not self.has_gain:
            return Orthogonal(self.size) if self.norm == "rms" else Stabiliser(Orthogonal(self.size))
        stream = ("stream",) if self.norm == "rms" else ()
        return Monomial(self.size, self.gains, (*stream, *self.gains))


def transformer(
    params: Any,
    blocks: Sequence[str],
    *,
    norm: str = "layer",
    activation: str | ActivationRule = "gelu",
    tied: bool = False,
    stacked: bool = False,
    heads: int | None = None,
    kv_heads: int | None = None,
    embeddings: Sequence[str] = ("embed/embedding", "position"),
    head: str = "head",
    final_norm: str | None = "norm",
    prefix: str = "",
    space: str = "residual",
) -> Symmetry:
    r"""The symmetry of a pre-norm transformer, as ``zoo.Transformer``.

    * The residual stream (d units) is permuted, and each norm with gain has a non-zero scaling per unit, gain
      (and shift) against the kernels that read it: S(d) ⋉ R*^{d r}, r the number of such norms. RMS norms add
      a sign of the stream itself. Without gains it is O(d), or for layer norms the part of it fixing 1. A tied
      embedding reads the last norm and cannot give its scaling back: r is one less.
    * The heads of each block carry (GL(k) × GL(v)) ≀ S(h), see ``attention``.
    * The hidden units of each block carry the group of their activation.

    Layers stacked by a scan share the residual permutation, but every layer has its own scalings, heads and
    hidden units: ``"layers residual{norm_0[layers]:1}"``.

    Args:
      params: the parameters. In each block ``norm_0``, ``attention/{query,key,value,out}``, and unless it has
        attention only, ``norm_1``, ``dense_0``, ``dense_1``; norms with gain have ``scale`` and perhaps
        ``bias``; biases are optional.
      blocks: paths of the blocks in the order of the data.
      norm: "layer" or "rms".
      activation: of the blocks' hidden units: name or rule.
      tied: whether the first of ``embeddings`` is also the output layer.
      stacked: whether leaves of blocks have a leading axis of layers, as ``nn.scan`` makes them.
      heads: the number of heads, needed only where the kernels of heads are flattened, see ``attention``.
      kv_heads: likewise of keys and values.
      embeddings: paths of leaves (…, d) that are added up to the first stream.
      head: path of the output layer, unless tied.
      final_norm: path of the norm before the output layer, or None.
      prefix: path under which all of these are.
      space: the name of the residual space; the others are called heads, qk, vo, hidden (and layers), with
        "_i" for block i where there are several.

    Returns:
      The symmetry, checked against the shapes. The exact group is larger by translations (what a norm
      subtracts), which are no linear action on axes and are left out.

    Raises:
      ValueError: a layer is missing, shapes do not fit, or the norm or activation is unknown.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Examples 1.2.7 and 1.2.12 and the composition rule of sec. 1.2.
    """
    leaves = Leaves(params, prefix)
    blocks = check_names("blocks", blocks, 1)
    embeddings = check_names("embeddings", embeddings, 1)
    rule = activation_rule(activation)
    stream = _Residual(norm, leaves.shape(embeddings[0])[-1], space)
    gains: dict[str, str] = {}  # path of a norm -> name of its scaling
    for i, block in enumerate(blocks):
        for j in range(2):
            path = f"{block}/norm_{j}"
            if leaves.has(f"{path}/scale"):
                gains[path] = f"norm_{i}_{j}" if len(blocks) > 1 else f"norm_{j}"
                count = f"[{leaves.shape(f'{path}/scale', 2)[0]}]" if stacked else ""
                stream.gains.append(gains[path] + count)
                stream.has_gain = True
    last = ""
    if final_norm is not None and leaves.has(f"{final_norm}/scale"):
        stream.has_gain = True
        if not tied:
            last = "norm"
            stream.gains.append(last)
    for path in embeddings:
        leaves.label(path, f"... {stream.write()}")
    groups: Groups = {space: stream.group()}
    for i, block in enumerate(blocks):
        suffix = f"_{i}" if len(blocks) > 1 else ""
        groups |= _block(leaves, stream, gains, rule, block, suffix, stacked, heads, kv_heads)
    if final_norm is not None:
        leaves.label_if(f"{final_norm}/scale", stream.gain(last))
        leaves.label_if(f"{final_norm}/bias", stream.gain(last))
    if not tied:
        leaves.label(f"{head}/kernel", f"{stream.read(last)} _")
    return leaves.symmetry(groups)


def _block(
    leaves, stream: _Residual, gains, rule: ActivationRule, block, suffix, stacked, heads, kv_heads
) -> Groups:
    """Labels one block, or one stack of blocks; returns its groups."""
    stack = f"layers{suffix}" if stacked else None
    lead = f"{stack} " if stack else ""

    def name(norm: str, index: bool = True) -> str:
        gain = gains.get(f"{block}/{norm}", "")
        return f"{gain}[{stack}]" if gain and stack and index else gain

    for norm in ("norm_0", "norm_1"):
        for leaf in ("scale", "bias"):
            leaves.label_if(f"{block}/{norm}/{leaf}", f"{lead}{stream.gain(name(norm))}")
    names = {n: f"{block}/attention/{n}" for n in ("query", "key", "value", "out")}
    residual = stream.read(name("norm_0")), stream.write()
    groups = label_attention(leaves, names, heads, kv_heads, suffix, residual, stack)
    if not leaves.has(f"{block}/dense_0/kernel"):
        return groups
    hidden = f"hidden{suffix}"
    shape = leaves.shape(f"{block}/dense_0/kernel", 3 if stack else 2)
    leaves.label(f"{block}/dense_0/kernel", f"{lead}{stream.read(name('norm_1'))} {hidden}{rule.writer}")
    leaves.label_if(f"{block}/dense_0/bias", f"{lead}{hidden}{rule.writer}")
    leaves.label(f"{block}/dense_1/kernel", f"{lead}{hidden}{rule.reader} {stream.write()}")
    leaves.label_if(f"{block}/dense_1/bias", f"{lead}{stream.write()}")
    group = rule.group(shape[-1])
    return groups | ({(stack, hidden): Wreath(group, Trivial(shape[0]))} if stack else {hidden: group})


def rms_net(
    params: Any,
    blocks: int,
    activation: str | ActivationRule = "silu",
    *,
    prefix: str = "",
    space: str = "residual",
) -> Symmetry:
    r"""The symmetry of residual blocks with RMS norms, as ``zoo.RMSNet``.

    Blocks are :math:`h \leftarrow h + \sigma(\mathrm{RMS}(h)\,U)\,D`.

    Without gains the stream carries O(d), the eps of the norm notwithstanding. With gains it carries
    permutations, a scaling and a sign for each norm (gain against reader), and a sign of its own:
    S(d) ⋉ (R₊^{b+1} × Z₂^{b+2})^d for b blocks. Hidden units carry the group of their activation.

    Args:
      params: the parameters ``embed/kernel``, ``norm_i/scale``, ``up_i/kernel``, ``down_i/kernel``,
        ``norm/scale`` and ``head/kernel``, without biases on the stream; the scales may be absent.
      blocks: the number of blocks.
      activation: of the hidden units: name or rule.
      prefix: path under which the layers are.
      space: the name of the residual space; the hidden ones are called hidden_i.

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: a layer is missing, shapes do not fit, or the activation is unknown.
    """
    leaves = Leaves(params, prefix)
    rule = activation_rule(activation)
    stream = _Residual("rms", leaves.shape("embed/kernel", 2)[1], space)
    norms = {
        n: n if leaves.has(f"{n}/scale") else "" for n in (*(f"norm_{i}" for i in range(blocks)), "norm")
    }
    stream.gains = [gain for gain in norms.values() if gain]
    stream.has_gain = bool(stream.gains)
    for norm, gain in norms.items():
        leaves.label_if(f"{norm}/scale", stream.gain(gain))
    groups: Groups = {space: stream.group()}
    leaves.label("embed/kernel", f"_ {stream.write()}")
    leaves.label("head/kernel", f"{stream.read(norms['norm'])} _")
    for i in range(blocks):
        hidden = f"hidden_{i}"
        leaves.label(f"up_{i}/kernel", f"{stream.read(norms[f'norm_{i}'])} {hidden}{rule.writer}")
        leaves.label_if(f"up_{i}/bias", f"{hidden}{rule.writer}")
        leaves.label(f"down_{i}/kernel", f"{hidden}{rule.reader} {stream.write()}")
        leaves.label_if(f"down_{i}/bias", stream.write())
        groups[hidden] = rule.group(leaves.shape(f"up_{i}/kernel", 2)[1])
    return leaves.symmetry(groups)
