"""Multi-head attention."""

from __future__ import annotations

from typing import Any

from eqtoolbox.groups import GeneralLinear, Group, Permutation, Product, Trivial, Wreath
from eqtoolbox.symmetry._symmetry import Symmetry
from eqtoolbox.symmetry.catalog._leaves import Leaves
from eqtoolbox.symmetry.catalog._records import Groups


def attention(
    params: Any,
    heads: int | None = None,
    kv_heads: int | None = None,
    *,
    query: str = "query",
    key: str = "key",
    value: str = "value",
    out: str = "out",
    prefix: str = "",
    suffix: str = "",
) -> Symmetry:
    r"""The symmetry of multi-head attention: (GL(d_k) × GL(d_v)) ≀ S(h), with or without biases.

    In each head :math:`W^Q \to W^Q g^T,\ W^K \to W^K g^{-1}` leaves the logits, and
    :math:`W^V \to W^V a^T,\ W^O \to a^{-T} W^O` the output; the biases of queries, keys and values move along
    (``"qk"``, ``"qk*"``, ``"vo"``), that of the output stays. Whole heads are permuted. With fewer heads of
    keys than of queries (grouped queries, G heads of keys) it is (GL(d_k) × GL(d_v) × S(h/G)) ≀ S(G).

    Rotary positions and normalised queries break GL(d_k): then use ``restrict`` or labels of your own.

    Args:
      params: the parameters. Kernels of queries, keys and values are (d, h, d_k), that of the output
        (h, d_v, d); or flattened, (d, h d_k) and (h d_v, d), head by head (the head is the slow index).
      heads: the number of query heads, needed only where kernels are flattened.
      kv_heads: the number of heads of keys and values; ``heads`` by default where kernels are flattened.
      query: path of the queries' layer; ``{query}/kernel`` and perhaps ``{query}/bias``.
      key: path of the keys' layer.
      value: path of the values' layer.
      out: path of the output layer.
      prefix: path under which the layers are.
      suffix: put behind the names of the spaces "heads", "qk", "vo" (and "queries").

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: a layer is missing, or shapes do not fit.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Examples 1.2.11 and 1.2.12 (S10, S11). Shapes there are
      corrected in DA-E4: K and V have as many rows as one another, and head i owns the rows
      (i-1) d_v + 1 … i d_v of W^O.
    """
    leaves = Leaves(params, prefix)
    names = {"query": query, "key": key, "value": value, "out": out}
    return leaves.symmetry(label_attention(leaves, names, heads, kv_heads, suffix))


def label_attention(
    leaves: Leaves,
    names: dict[str, str],
    heads: int | None = None,
    kv_heads: int | None = None,
    suffix: str = "",
    residual: tuple[str, str] = ("_", "_"),
    stack: str | None = None,
) -> Groups:
    """Labels the four layers of an attention.

    Args:
      leaves: where the labels go.
      names: the paths of "query", "key", "value" and "out".
      heads: as for ``attention``.
      kv_heads: as for ``attention``.
      suffix: as for ``attention``.
      residual: labels of the axes that read and write the stream.
      stack: the name of a leading axis of stacked layers, each with its own element.

    Returns:
      The groups.
    """
    lead, offset = (f"{stack} ", 1) if stack else ("", 0)
    ranks = (2 + offset, 3 + offset)
    q, k, v = (leaves.shape(f"{names[n]}/kernel", *ranks)[offset:] for n in ("query", "key", "value"))
    h, dim_k = _split_heads(leaves, names["query"], q, heads, "heads")
    g, dim_kv = _split_heads(leaves, names["key"], k, kv_heads or heads, "kv_heads")
    _, dim_v = _split_heads(leaves, names["value"], v, kv_heads or heads, "kv_heads")
    if h % g or dim_k != dim_kv:
        raise ValueError(
            f"queries {q} and keys {k} do not fit: {h} heads of {dim_k} against {g} heads of {dim_kv}"
        )
    head, qk, vo, member = (f"{n}{suffix}" for n in ("heads", "qk", "vo", "queries"))
    all_heads = head if g == h else f"{head} {member}"
    for name, width, heads_of in (
        ("query", qk, all_heads),
        ("key", f"{qk}*", head),
        ("value", vo, head),
    ):
        flat = len(leaves.shape(f"{names[name]}/kernel")) == ranks[0]
        axis = _axes(heads_of, width, flat)
        leaves.label(f"{names[name]}/kernel", f"{lead}{residual[0]} {axis}")
        leaves.label_if(f"{names[name]}/bias", f"{lead}{axis}")
    flat = len(leaves.shape(f"{names['out']}/kernel", *ranks)) == ranks[0]
    leaves.label(f"{names['out']}/kernel", f"{lead}{_axes(all_heads, f'{vo}*', flat)} {residual[1]}")
    leaves.label_if(f"{names['out']}/bias", f"{lead}{residual[1]}")
    parts: list[Group] = [GeneralLinear(dim_k), GeneralLinear(dim_v)]
    spaces = [head, qk, vo]
    if g != h:
        parts.append(Permutation(h // g))
        spaces.append(member)
    group = Wreath(Product(*parts), Permutation(g))
    if stack is None:
        return {tuple(spaces): group}
    return {(stack, *spaces): Wreath(group, Trivial(leaves.shape(f"{names['query']}/kernel")[0]))}


def _axes(heads: str, width: str, flat: bool) -> str:
    if flat:
        return f"({heads} {width})"
    return f"({heads}) {width}" if " " in heads else f"{heads} {width}"


def _split_heads(leaves: Leaves, layer: str, shape: tuple[int, ...], heads: int | None, name: str):
    """(heads, width) of a kernel (d, heads, width) or (d, heads * width)."""
    if len(shape) == 3:
        return shape[1], shape[2]
    path = leaves.full(f"{layer}/kernel")
    if heads is None:
        raise ValueError(f"leaf {path!r} is flattened, {shape}: `{name}` must be given")
    if heads < 1 or shape[1] % heads:
        raise ValueError(f"`{name}` = {heads} does not divide the last axis of leaf {path!r}, {shape}")
    return heads, shape[1] // heads


def fused_attention(
    params: Any,
    heads: int,
    *,
    qkv: str = "qkv",
    out: str = "out",
    prefix: str = "",
    suffix: str = "",
) -> Symmetry:
    """The symmetry of attention with one kernel for queries, keys and values: (GL(k) × GL(k)) ≀ S(h).

    The kernel is (d, 3 h k), its last axis (q, k, v) × (head, k) row-major: a direct sum of three parts,
    ``"_ (heads qk + heads qk* + heads vo)"``; or (d, h, 3 k), in each head the direct sum
    ``"_ heads (qk + qk* + vo)"``. A layout with the head slowest inside one axis, (head, (q, k, v), k), is to
    be reshaped to the latter.

    Args:
      params: the parameters with ``{qkv}/kernel``, ``{out}/kernel`` of shape (h k, d) or (h, k, d), and perhaps
        biases of the last axes.
      heads: the number of heads.
      qkv: path of the fused layer.
      out: path of the output layer.
      prefix: path under which the layers are.
      suffix: put behind the names of the spaces "heads", "qk", "vo".

    Returns:
      The symmetry, checked against the shapes.

    Raises:
      ValueError: a layer is missing, or shapes do not fit.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Example 1.2.12 (S11).
    """
    leaves = Leaves(params, prefix)
    shape = leaves.shape(f"{qkv}/kernel", 2, 3)
    width = shape[1] if len(shape) == 2 else shape[1] * shape[2]
    if heads < 1 or width % (3 * heads) or (len(shape) == 3 and shape[1] != heads):
        raise ValueError(
            f"`heads` = {heads} does not fit leaf {leaves.full(qkv + '/kernel')!r} of shape {shape}: expected "
            "(d, 3 * heads * k) or (d, heads, 3 * k)"
        )
    head, qk, vo = (f"{n}{suffix}" for n in ("heads", "qk", "vo"))
    fused = (
        f"({head} {qk} + {head} {qk}* + {head} {vo})" if len(shape) == 2 else f"{head} ({qk} + {qk}* + {vo})"
    )
    leaves.label(f"{qkv}/kernel", f"_ {fused}")
    leaves.label_if(f"{qkv}/bias", fused)
    flat = len(leaves.shape(f"{out}/kernel", 2, 3)) == 2
    leaves.label(f"{out}/kernel", f"{_axes(head, f'{vo}*', flat)} _")
    width //= 3 * heads
    pair = Product(GeneralLinear(width), GeneralLinear(width))
    return leaves.symmetry({(head, qk, vo): Wreath(pair, Permutation(heads))})
