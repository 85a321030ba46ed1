"""The encoder of T5 (v1.1), under the names of transformers.

A transformer without absolute positions: what is added to the logits of attention depends on the
distance of two tokens, by buckets that widen with it, the same for all layers. Logits are not
divided by sqrt(H). The perceptron is gated, W (gelu(W0 x) W1 x).

Raffel et al. 2020, sec. 2.1; Shazeer 2020, "GLU variants improve transformer".
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import IMPLEMENTATIONS, attention
from sde_diffusion.networks.layers import Array, Dense
from sde_diffusion.networks.normalization import RMSNorm
from sde_diffusion.networks.scan import scanned
from sde_diffusion.selection import require_known

BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"


class T5Encoder(nn.Module):
    """Token numbers [B, T] -> float32 [B, T, d_model].

    The fields are those of transformers' config.

    mask [B, T] says which tokens are seen; by default all, padding included, as diffusion models
    read T5.

    dtype: of the computation; normalizations and softmax are in float32.
    attention: the implementation, see `networks.attention`.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dtype: str = "float32"
    attention: str = "auto"

    def __post_init__(self) -> None:
        require_known("attention", self.attention, ("auto", *IMPLEMENTATIONS))
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Array, mask: Array | None = None) -> Array:
        h = nn.Embed(self.vocab_size, self.d_model, name="shared")(ids).astype(self.dtype)
        buckets = bucket(
            ids.shape[1], self.relative_attention_num_buckets, self.relative_attention_max_distance
        )
        table = nn.Embed(self.relative_attention_num_buckets, self.num_heads, name=BIAS)
        bias = jnp.moveaxis(table(buckets), -1, 0)[None]
        layers = scanned(
            Layer,
            self.num_layers,
            remat="none",
            dtype=h.dtype,
            initializing=self.is_initializing(),
        )
        fields = (self.num_heads, self.d_kv, self.d_ff, self.layer_norm_epsilon, self.attention)
        seen = None if mask is None else mask[:, None, None, :].astype(bool)
        h, _ = layers(*fields, name=f"{SCANNED}_encoder.block")(h, bias, seen)
        norm = RMSNorm(self.layer_norm_epsilon, name="encoder.final_layer_norm")
        last: Array = norm(h).astype(jnp.float32)
        return last


class Layer(nn.Module):
    """h [B, T, D], the bias of the logits [1, N, T, T] and the mask -> (h, None)."""

    num_heads: int
    head: int
    hidden: int
    epsilon: float
    implementation: str

    @nn.compact
    def __call__(self, h: Array, bias: Array, seen: Array | None) -> tuple[Array, None]:
        features, (batch, length) = h.shape[-1], h.shape[:2]

        def dense(features: int, name: str, x: Array) -> Array:
            return Dense(features, use_bias=False, name=name)(x)

        def heads(name: str, x: Array) -> Array:
            y = dense(self.num_heads * self.head, f"layer.0.SelfAttention.{name}", x)
            return y.reshape(batch, length, self.num_heads, self.head)

        x = RMSNorm(self.epsilon, name="layer.0.layer_norm")(h)
        query = heads("q", x) * math.sqrt(self.head)
        found = attention(query, heads("k", x), heads("v", x), seen, self.implementation, bias=bias)
        h = h + dense(features, "layer.0.SelfAttention.o", found.reshape(batch, length, -1))
        x = RMSNorm(self.epsilon, name="layer.1.layer_norm")(h)
        gate = jax.nn.gelu(dense(self.hidden, "layer.1.DenseReluDense.wi_0", x))
        x = gate * dense(self.hidden, "layer.1.DenseReluDense.wi_1", x)
        return h + dense(features, "layer.1.DenseReluDense.wo", x), None


def bucket(length: int, buckets: int, most: int) -> np.ndarray:
    """The bucket of the distance from each query to each key, int [length, length].

    Half of the buckets are for keys before the query, half for those after it. Of each half, the
    first half is for one distance each, and the others widen up to the distance `most`.
    """
    half, exact = buckets // 2, buckets // 4
    place = np.arange(length)
    offset = place[None, :] - place[:, None]
    distance = np.abs(offset)
    far = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(most / exact)
    wide = np.minimum(exact + (far * (half - exact)).astype(int), half - 1)
    return half * (offset > 0) + np.where(distance < exact, distance, wide)
