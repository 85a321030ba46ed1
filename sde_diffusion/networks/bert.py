"""BERT, a text encoder, under the names of transformers; MiniLM and others are of this kind.

    h <- norm(h + attention(h)),    h <- norm(h + W2 gelu(W1 h))

Devlin et al. 2019; Wang et al. 2020 (MiniLM).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.layers import Array, Dense
from sde_diffusion.networks.normalization import LayerNorm
from sde_diffusion.networks.scan import scanned


class Encoded(NamedTuple):
    """last [B, T, D], and pooled [B, D]: tanh(W last) at the first token."""

    last: Array
    pooled: Array


class BERT(nn.Module):
    """Token numbers [B, T], mask [B, T] of those that are seen, and segments [B, T] -> Encoded.

    Without a mask all are seen; without segments all are 0. The fields are those of transformers'
    config. dtype is that of the computation; normalizations and softmax are in float32.

    Raises ValueError for a text that is longer than max_position_embeddings.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, ids: Array, mask: Array | None = None, segments: Array | None = None
    ) -> Encoded:
        length, most = ids.shape[1], self.max_position_embeddings
        if length > most:
            raise ValueError(f"a text of {length} tokens is longer than {most}")

        def table(rows: int, name: str, numbers: Array) -> Array:
            return nn.Embed(rows, self.hidden_size, name=f"embeddings.{name}_embeddings")(numbers)

        segments = jnp.zeros_like(ids) if segments is None else segments
        h = table(self.vocab_size, "word", ids) + table(
            self.type_vocab_size, "token_type", segments
        )
        h = h + table(most, "position", jnp.arange(length))
        h = LayerNorm(self.layer_norm_eps, name="embeddings.LayerNorm")(h).astype(self.dtype)
        layers = scanned(
            Layer,
            self.num_hidden_layers,
            remat="none",
            dtype=h.dtype,
            initializing=self.is_initializing(),
        )
        fields = (self.num_attention_heads, self.intermediate_size, self.layer_norm_eps)
        seen = None if mask is None else mask[:, None, None, :].astype(bool)
        h, _ = layers(*fields, name=f"{SCANNED}_encoder.layer")(h, seen)
        pooled = jnp.tanh(Dense(self.hidden_size, name="pooler.dense")(h[:, 0]))
        return Encoded(h.astype(jnp.float32), pooled.astype(jnp.float32))


class Layer(nn.Module):
    """h [B, T, D] and the mask [B, 1, 1, T] -> (h, None)."""

    num_heads: int
    hidden: int
    epsilon: float

    @nn.compact
    def __call__(self, h: Array, seen: Array | None) -> tuple[Array, None]:
        features = h.shape[-1]

        def heads(name: str) -> Array:
            shape = (*h.shape[:2], self.num_heads, features // self.num_heads)
            return Dense(features, name=f"attention.self.{name}")(h).reshape(shape)

        def normalized(name: str, x: Array) -> Array:
            return LayerNorm(self.epsilon, name=f"{name}.LayerNorm")(x)

        found = attention(heads("query"), heads("key"), heads("value"), seen).reshape(h.shape)
        found = Dense(features, name="attention.output.dense")(found)
        h = normalized("attention.output", h + found)
        x = Dense(self.hidden, name="intermediate.dense")(h)
        x = Dense(features, name="output.dense")(jax.nn.gelu(x, approximate=False))
        return normalized("output", h + x), None


def mean_of_seen(last: Array, mask: Array) -> Array:
    """One vector for each text, of length 1: the mean over the tokens that are seen, [B, D].

    Reimers & Gurevych 2019, "Sentence-BERT", sec. 3.
    """
    weight = mask[..., None].astype(last.dtype)
    mean = jnp.sum(last * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
