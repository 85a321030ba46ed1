"""CLIP's text encoder, under the names of transformers: ViT-L, OpenCLIP's H and bigG.

A transformer in which a token sees those before it. Diffusion models read its last states, or those
before its last layer, and the state at the end token as one vector for the text.

Radford et al. 2021, sec. 2.4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import attention
from sde_diffusion.networks.layers import Array, Dense
from sde_diffusion.networks.normalization import LayerNorm
from sde_diffusion.networks.scan import scanned
from sde_diffusion.selection import choose, require_known

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
LARGEST = 2
"""The `eos_token_id` of old configs, which means that the end token has the largest number."""


class Encoded(NamedTuple):
    """Texts, encoded, with T tokens and L layers.

    last [B, T, D] is the normalized output; states [L, B, T, D] are the inputs of the layers, so
    states[-1] is the penultimate state; pooled [B, D] is `last` at the end token; projected [B, P]
    is its projection, or None.
    """

    last: Array
    states: Array
    pooled: Array
    projected: Array | None


class CLIPText(nn.Module):
    """Token numbers [B, T] -> Encoded; the fields are those of transformers' config.

    with_projection: whether there is a projection of the pooled state, to `projection_dim`.
    eos_token_id: the number of the end token, whose first place counts; LARGEST for the largest
        number in a text.
    dtype: of the computation; normalizations and softmax are in float32.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    projection_dim: int = 512
    with_projection: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_known("hidden_act", self.hidden_act, ACTIVATIONS)
        super().__post_init__()

    @nn.compact
    def __call__(self, ids: Array) -> Encoded:
        if ids.shape[1] > self.max_position_embeddings:
            raise ValueError(
                f"a text of {ids.shape[1]} tokens is longer than {self.max_position_embeddings}"
            )
        width, length = self.hidden_size, self.max_position_embeddings
        words = nn.Embed(self.vocab_size, width, name="text_model.embeddings.token_embedding")
        places = nn.Embed(length, width, name="text_model.embeddings.position_embedding")
        h = (words(ids) + places(np.arange(ids.shape[1]))).astype(self.dtype)
        layers = scanned(
            Layer,
            self.num_hidden_layers,
            remat="none",
            dtype=h.dtype,
            initializing=self.is_initializing(),
        )
        h, states = layers(
            self.num_attention_heads,
            self.intermediate_size,
            self.hidden_act,
            self.layer_norm_eps,
            name=f"{SCANNED}_text_model.encoder.layers",
        )(h)
        last = LayerNorm(self.layer_norm_eps, name="text_model.final_layer_norm")(h)
        if self.eos_token_id == LARGEST:
            end = jnp.argmax(ids, axis=-1)
        else:
            end = jnp.argmax(ids == self.eos_token_id, axis=-1)
        pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
        projected = None
        if self.with_projection:
            projected = Dense(self.projection_dim, use_bias=False, name="text_projection")(pooled)
        return Encoded(last, states, pooled, projected)


class Layer(nn.Module):
    """h [B, T, D] -> h after the layer, h before it."""

    num_heads: int
    hidden: int
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, Array]:
        before, width = h, h.shape[-1]
        x = LayerNorm(self.epsilon, name="layer_norm1")(h)
        h = h + SelfAttention(self.num_heads, name="self_attn")(x)
        x = LayerNorm(self.epsilon, name="layer_norm2")(h)
        act = choose("hidden_act", self.activation, ACTIVATIONS)
        x = act(Dense(self.hidden, name="mlp.fc1")(x))
        return h + Dense(width, name="mlp.fc2")(x), before


class SelfAttention(nn.Module):
    """Attention of each token to itself and those before it, [B, T, D] -> [B, T, D]."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, length, width = x.shape

        def heads(name: str) -> Array:
            shape = (batch, length, self.num_heads, width // self.num_heads)
            return Dense(width, name=name)(x).reshape(shape)

        seen = np.tril(np.ones((1, 1, length, length), bool))
        found = attention(heads("q_proj"), heads("k_proj"), heads("v_proj"), jnp.asarray(seen))
        return Dense(width, name="out_proj")(found.reshape(x.shape))
