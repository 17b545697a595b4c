"""Transformers and attention: a pre-norm transformer, one attention block, attention with a fused kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.zoo._activations import activation, require_positive

_NORMS = ("layer", "rms")


def normalisation(kind: str, gain: bool, name: str) -> nn.Module:
    """The normalisation layer ``kind`` ("layer" or "rms"), with or without learned gain (and shift)."""
    if kind == "layer":
        return nn.LayerNorm(use_scale=gain, use_bias=gain, name=name)
    return nn.RMSNorm(use_scale=gain, name=name)


def _causal_mask(length: int) -> Array:
    return jnp.tril(jnp.ones((1, 1, length, length), bool))


class Block(nn.Module):
    """Pre-norm transformer block: ``h + attention(norm_0(h))``, then ``h + mlp(norm_1(h))``.

    ========================================== =================================
    parameter                                  shape
    ========================================== =================================
    ``norm_0/{scale,bias}``                    ``(d,)``
    ``attention/{query,key,value}/kernel``     ``(d, heads, head_dim)``
    ``attention/{query,key,value}/bias``       ``(heads, head_dim)``
    ``attention/out/kernel``                   ``(heads, head_dim, d)``
    ``attention/out/bias``                     ``(d,)``
    ``norm_1/{scale,bias}``                    ``(d,)``
    ``dense_0/{kernel,bias}``                  ``(d, ff)``, ``(ff,)``
    ``dense_1/{kernel,bias}``                  ``(ff, d)``, ``(d,)``
    ========================================== =================================

    Attributes:
      heads: Number of heads.
      head_dim: Width of a head.
      ff: Width of the MLP; with 0 there is no ``norm_1``, ``dense_0`` and ``dense_1``.
      norm: "layer" or "rms".
      gain: Whether norms have a scale (and a bias, for "layer").
      activation: Name of the MLP's activation.
    """

    heads: int
    head_dim: int
    ff: int
    norm: str = "layer"
    gain: bool = True
    activation: str = "gelu"

    @nn.compact
    def __call__(self, h: Array, mask: Array | None) -> tuple[Array, None]:
        """Maps ``(batch, length, d)`` to the same shape; the second result is for ``nn.scan``."""
        d = h.shape[-1]
        attention = nn.MultiHeadDotProductAttention(
            num_heads=self.heads, qkv_features=self.heads * self.head_dim, out_features=d, name="attention"
        )
        h = h + attention(normalisation(self.norm, self.gain, "norm_0")(h), mask=mask)
        if self.ff:
            y = normalisation(self.norm, self.gain, "norm_1")(h)
            y = activation(self.activation)(nn.Dense(self.ff, name="dense_0")(y))
            h = h + nn.Dense(d, name="dense_1")(y)
        return h, None


class Transformer(nn.Module):
    """Pre-norm transformer on tokens with learned positions.

    =========================== ===========================================================================
    parameter                   shape
    =========================== ===========================================================================
    ``embed/embedding``         ``(vocab, d)``
    ``position``                ``(length, d)``
    ``block_i/...``             as in ``Block``; with ``scan``, ``blocks/...`` with a leading axis ``layers``
    ``norm/{scale,bias}``       ``(d,)``, only with ``final_norm``
    ``head/{kernel,bias}``      ``(d, vocab)``, ``(vocab,)``; none if ``tied``
    =========================== ===========================================================================

    Attributes:
      vocab: Number of tokens.
      d: Width of the residual stream.
      heads: Number of heads.
      head_dim: Width of a head.
      layers: Number of blocks.
      ff: Width of the MLPs; 0 for blocks of attention only.
      length: Longest sequence.
      causal: Whether a position attends only to itself and earlier ones.
      tied: Whether the embedding is also the output layer (then without bias).
      scan: Whether the blocks are stacked with ``nn.scan``.
      norm: "layer" or "rms".
      gain: Whether norms have a scale (and a bias, for "layer").
      final_norm: Whether a norm precedes the output layer.
      activation: Name of the MLPs' activation.
    """

    vocab: int = 11
    d: int = 8
    heads: int = 3
    head_dim: int = 2
    layers: int = 2
    ff: int = 10
    length: int = 5
    causal: bool = False
    tied: bool = False
    scan: bool = False
    norm: str = "layer"
    gain: bool = True
    final_norm: bool = True
    activation: str = "gelu"

    def __post_init__(self):
        require_positive(vocab=self.vocab, d=self.d, heads=self.heads, head_dim=self.head_dim)
        require_positive(layers=self.layers, length=self.length)
        if self.ff != 0:
            require_positive(ff=self.ff)
        if self.norm not in _NORMS:
            raise ValueError(f"`norm` must be one of {_NORMS}, got {self.norm!r}")
        activation(self.activation)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Maps integer tokens ``(batch, n)``, with n at most ``length``, to logits ``(batch, n, vocab)``.

        Raises:
          ValueError: If the sequence is longer than ``length``.
        """
        length = tokens.shape[1]
        if length > self.length:
            raise ValueError(f"`tokens` must have at most `length` = {self.length} positions, got {length}")
        embed = nn.Embed(self.vocab, self.d, name="embed")
        position = self.param("position", nn.initializers.normal(self.d**-0.5), (self.length, self.d))
        h = embed(tokens) + position[None, :length]
        mask = _causal_mask(length) if self.causal else None
        settings = (self.heads, self.head_dim, self.ff, self.norm, self.gain, self.activation)
        if self.scan:
            stack = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
                length=self.layers,
            )
            h, _ = stack(*settings, name="blocks")(h, mask)
        else:
            for i in range(self.layers):
                h, _ = Block(*settings, name=f"block_{i}")(h, mask)
        if self.final_norm:
            h = normalisation(self.norm, self.gain, "norm")(h)
        return embed.attend(h) if self.tied else nn.Dense(self.vocab, name="head")(h)


class Attention(Transformer):
    """One causal attention block with a residual connection: a ``Transformer`` of one layer without MLP.

    ================================================== ==============================
    parameter                                          default shape
    ================================================== ==============================
    ``embed/embedding``                                ``(11, 8)``
    ``position``                                       ``(5, 8)``
    ``block_0/norm_0/{scale,bias}``                    ``(8,)``
    ``block_0/attention/{query,key,value}/kernel``     ``(8, 2, 3)``
    ``block_0/attention/{query,key,value}/bias``       ``(2, 3)``
    ``block_0/attention/out/{kernel,bias}``            ``(2, 3, 8)``, ``(8,)``
    ``head/{kernel,bias}``                             ``(8, 11)``, ``(11,)``
    ================================================== ==============================

    Attributes: those of ``Transformer``, with other defaults.
    """

    layers: int = 1
    ff: int = 0
    heads: int = 2
    head_dim: int = 3
    causal: bool = True
    final_norm: bool = False


class FusedQKVAttention(nn.Module):
    """Self-attention with one kernel for queries, keys and values, and no biases.

    ================ ===========================================================================
    parameter        shape
    ================ ===========================================================================
    ``qkv/kernel``   ``(d_in, 3 * heads * head_dim)``, axis 1 being (q, k, v) x (head, head_dim)
    ``out/kernel``   ``(heads * head_dim, features)``, axis 0 being (head, head_dim)
    ================ ===========================================================================

    Attributes:
      heads: Number of heads.
      head_dim: Width of a head.
      features: Width of the output.
      causal: Whether a position attends only to itself and earlier ones.
    """

    heads: int = 2
    head_dim: int = 3
    features: int = 4
    causal: bool = False

    def __post_init__(self):
        require_positive(heads=self.heads, head_dim=self.head_dim, features=self.features)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps ``(batch, length, d_in)`` to ``(batch, length, features)``."""
        batch, length, _ = x.shape
        width = self.heads * self.head_dim
        qkv = nn.Dense(3 * width, use_bias=False, name="qkv")(x)
        query, key, value = (
            part.reshape(batch, length, self.heads, self.head_dim) for part in jnp.split(qkv, 3, axis=-1)
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(jnp.asarray(self.head_dim, x.dtype))
        if self.causal:
            logits = jnp.where(_causal_mask(length), logits, jnp.finfo(logits.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
        return nn.Dense(self.features, use_bias=False, name="out")(mixed.reshape(batch, length, width))
