"""MMDiT, the transformer of Stable Diffusion 3 and 3.5, under diffusers' names.

The latents are cut into patches, which are tokens beside those of a text; see `joint_attention` for
a layer. The pooled text is added to the embedding of the time.

Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis",
sec. 4.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import IMPLEMENTATIONS
from sde_diffusion.networks.conditions import require_conditions
from sde_diffusion.networks.dit import Modulation, image, modulate, waves
from sde_diffusion.networks.joint_attention import JointLayer
from sde_diffusion.networks.layers import Array, Conv, Dense
from sde_diffusion.networks.residual import TimeEmbedding, time_features, tokens
from sde_diffusion.networks.scan import REMAT, scanned
from sde_diffusion.selection import require_known

LEVEL_FEATURES = 256


class MMDiT(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C], with H and W multiples of patch_size.

    t [B] is the time label, from 0 to 1000. cond has `text` [B, S, joint_attention_dim] and
    `pooled` [B, pooled_projection_dim]. The fields are those of SD3Transformer2DModel; the
    positions, pos_embed.pos_embed, are a parameter that takes no gradient.

    pos_embed_max_size: patches along an axis for which there are positions; those in the middle are
        used for a smaller image.
    dual_attention_layers: the layers in which image tokens have an attention of their own as well.
    qk_norm: "rms_norm", or None.
    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat, attention: see `networks.scan` and `networks.attention`.

    Raises ValueError for an unknown choice, an image that the patches do not divide or that is too
    large, and a condition that is missing.
    """

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    out_channels: int | None = 16
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: str | None = None
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        require_known("remat", self.remat, REMAT)
        require_known("attention", self.attention, ("auto", *IMPLEMENTATIONS))
        if self.qk_norm is not None:
            require_known("qk_norm", self.qk_norm, ("rms_norm",))
        features = self.num_attention_heads * self.attention_head_dim
        if self.caption_projection_dim != features:
            raise ValueError(
                f"caption_projection_dim: {self.caption_projection_dim} is not the width of the "
                f"tokens, {features}"
            )
        super().__post_init__()

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the condition of one sample, with a text of one token."""
        return {"text": (1, self.joint_attention_dim), "pooled": (self.pooled_projection_dim,)}

    @nn.compact
    def __call__(
        self, x: Array, t: Array, cond: Mapping[str, Array], *, train: bool = False
    ) -> Array:
        require_conditions(cond, "text", "pooled")
        dtype, features = jnp.dtype(self.dtype), self.caption_projection_dim
        embedding = embed_time_and_text(t, cond["pooled"], features, dtype)
        c = Dense(features, name="context_embedder")(cond["text"].astype(dtype))
        patch = Conv(features, self.patch_size, self.patch_size, "VALID", name="pos_embed.proj")
        h = tokens(patch(x.astype(dtype)))
        h = (h + self._positions(x.shape[1:3], features)).astype(dtype)
        for first, depth, dual, last in runs(self.num_layers, self.dual_attention_layers):
            fields = (self.num_attention_heads, self.qk_norm is not None, self.attention)
            if depth == 1:
                layer = JointLayer(*fields, dual, last, name=f"transformer_blocks.{first}")
                (h, c), _ = layer((h, c), embedding)
            else:
                layers = scanned(
                    JointLayer,
                    depth,
                    remat=self.remat,
                    dtype=dtype,
                    initializing=self.is_initializing(),
                )
                start = f"@{first}" if first else ""
                name = f"{SCANNED}_transformer_blocks{start}"
                (h, c), _ = layers(*fields, dual, last, name=name)((h, c), embedding)
        scale, shift = Modulation(2, name="norm_out")(embedding, dtype)
        channels = self.in_channels if self.out_channels is None else self.out_channels
        y = Dense(self.patch_size**2 * channels, name="proj_out")(modulate(h, shift, scale))
        return image(y, x.shape[1:3], self.patch_size).astype(jnp.float32)

    def _positions(self, shape: tuple[int, ...], features: int) -> Array:
        """The vectors of the patches in the middle, float32 [T, features]."""
        most, size = self.pos_embed_max_size, self.patch_size
        rows, columns = (length // size for length in shape)
        if any(length % size for length in shape) or max(rows, columns) > most:
            raise ValueError(
                f"x: an image of {shape[0]}x{shape[1]} must be of whole patches of {size}x{size}, "
                f"at most {most} along an axis"
            )

        def init(_: Any) -> Array:
            # The table is large, so it is made of its rows and columns when the program runs.
            along = waves(np.arange(most) * (self.sample_size // size) / most, features // 2)
            shape = (most, most, features // 2)
            column, row = (jnp.broadcast_to(x, shape) for x in (along[None], along[:, None]))
            return jnp.concatenate([column, row], axis=-1).reshape(1, most * most, features)

        table = jax.lax.stop_gradient(self.param("pos_embed.pos_embed", init))
        top, left = (most - rows) // 2, (most - columns) // 2
        grid = table.reshape(most, most, features)[top : top + rows, left : left + columns]
        return grid.reshape(rows * columns, features).astype(jnp.float32)


def embed_time_and_text(
    t: Array, pooled: Array, features: int, dtype: Any, guidance: Array | None = None
) -> Array:
    """The time, the pooled text and a guidance weight (times 1000) as a vector for each sample.

    It is float32 [B, features], from layers of the module that calls this.
    """

    def embed(name: str, h: Array) -> Array:
        made: Array = TimeEmbedding(features, name=f"time_text_embed.{name}")(h.astype(dtype))
        # A sum over the layers in the backward pass, hence float32.
        return made.astype(jnp.float32)

    def waves(number: Array) -> Array:
        return time_features(number, LEVEL_FEATURES, cosine_first=True, frequency_shift=0)

    embedding = embed("timestep_embedder", waves(t)) + embed("text_embedder", pooled)
    if guidance is not None:
        embedding = embedding + embed("guidance_embedder", waves(guidance))
    return embedding


def runs(depth: int, dual: tuple[int, ...]) -> list[tuple[int, int, bool, bool]]:
    """Layers of one shape, one after another: (first, how many, whether dual, whether the last)."""
    shapes = [(i in dual, i == depth - 1) for i in range(depth)]
    made, first = [], 0
    for shape, group in groupby(shapes):
        length = len(list(group))
        made.append((first, length, *shape))
        first += length
    return made
