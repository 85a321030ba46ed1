"""DiT as diffusers writes it, under its names.

It is not `dit.DiT` by other names: the time's frequencies are 10000^(-i / 127), where those of the
reference are 10000^(-i / 128), so that no parameters of one give the outputs of the other; every
layer embeds time and class by itself; and the places of an image of another size than that of
training are scaled to the same range.

Peebles & Xie 2023, "Scalable diffusion models with transformers".
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import IMPLEMENTATIONS
from sde_diffusion.networks.dit import Modulation, add_gated, image, modulate, sines
from sde_diffusion.networks.joint_attention import FeedForward, SelfAttention
from sde_diffusion.networks.layers import Array, Conv, Dense
from sde_diffusion.networks.residual import TimeEmbedding, time_features, tokens
from sde_diffusion.networks.scan import REMAT, scanned
from sde_diffusion.selection import require_known

LEVEL_FEATURES = 256


class DiffusersDiT(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C], with H and W multiples of patch_size.

    t [B] is the time label, from 0 to 1000. cond holds class labels [B]; a negative one, and no
    cond, is no class. The fields are those of DiTTransformer2DModel. Of out_channels, the first
    in_channels are returned; the others are for a variance.

    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat, attention: see `networks.scan` and `networks.attention`.

    Raises ValueError for an unknown choice and an image that the patches do not divide.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    sample_size: int = 32
    patch_size: int = 2
    num_embeds_ada_norm: int = 1000
    norm_eps: float = 1e-5
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        require_known("remat", self.remat, REMAT)
        require_known("attention", self.attention, ("auto", *IMPLEMENTATIONS))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Any = None, *, train: bool = False) -> Array:
        size, dtype = self.patch_size, jnp.dtype(self.dtype)
        features = self.num_attention_heads * self.attention_head_dim
        if any(length % size for length in x.shape[1:3]):
            raise ValueError(
                f"x: patches of {size}x{size} do not divide images of {x.shape[1]}x{x.shape[2]}"
            )
        labels = jnp.full((len(x),), -1) if cond is None else cond
        labels = jnp.where(labels < 0, self.num_embeds_ada_norm, labels)
        h = tokens(Conv(features, size, size, "VALID", name="pos_embed.proj")(x.astype(dtype)))
        rows, columns = (
            np.linspace(0, self.sample_size // size, length // size, endpoint=False)
            for length in x.shape[1:3]
        )
        h = (h + jnp.asarray(sines(rows, columns, features))).astype(dtype)
        layers = scanned(
            Layer,
            self.num_layers,
            remat=self.remat,
            dtype=dtype,
            initializing=self.is_initializing(),
        )
        fields = (self.num_attention_heads, self.num_embeds_ada_norm, self.norm_eps, self.attention)
        h, embeddings = layers(*fields, name=f"{SCANNED}_transformer_blocks")(h, t, labels)
        silu = nn.silu(embeddings[0]).astype(dtype)
        last = Dense(2 * features, nn.initializers.zeros, name="proj_out_1")(silu)
        shift, scale = jnp.split(last[:, None], 2, axis=-1)
        channels = self.in_channels if self.out_channels is None else self.out_channels
        y = Dense(size**2 * channels, name="proj_out_2")(modulate(h, shift, scale))
        return image(y, x.shape[1:3], size)[..., : self.in_channels].astype(jnp.float32)


class Layer(nn.Module):
    """Tokens [B, T, D], times [B] and classes [B] -> (tokens, the embedding of both [B, D])."""

    num_heads: int
    num_classes: int
    epsilon: float
    implementation: str

    @nn.compact
    def __call__(self, h: Array, t: Array, labels: Array) -> tuple[Array, Array]:
        features = h.shape[-1]
        waves = time_features(t, LEVEL_FEATURES, cosine_first=True, frequency_shift=1)
        embed_time = TimeEmbedding(features, name="norm1.emb.timestep_embedder")
        name = "norm1.emb.class_embedder.embedding_table"
        classes = nn.Embed(self.num_classes + 1, features, name=name)(labels)
        embedding = embed_time(waves.astype(h.dtype)).astype(jnp.float32) + classes
        shift1, scale1, gate1, shift2, scale2, gate2 = Modulation(6, name="norm1")(
            embedding, h.dtype
        )
        attend = SelfAttention(self.num_heads, False, self.implementation, name="attn1")
        h = add_gated(h, gate1, attend(modulate(h, shift1, scale1)))
        inner = modulate(h, shift2, scale2, self.epsilon)
        return add_gated(h, gate2, FeedForward(name="ff")(inner)), embedding
