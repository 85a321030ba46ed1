"""Flux, a transformer over the tokens of an image and of a text, under diffusers' names.

Squares of 2x2 latents are tokens. In the first layers image and text have weights of their own, as
in `joint_attention`; in those that follow, all tokens h share the weights of a layer,

    h <- h + gate W [attention(y), gelu(V y)],      y = modulate(h),

with rotary positions along (0, row, column), and (0, 0, 0) for the text. A network that was
distilled from guided sampling takes the weight of the guidance beside the time.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.layerwise import SCANNED
from sde_diffusion.networks.attention import IMPLEMENTATIONS
from sde_diffusion.networks.conditions import require_conditions
from sde_diffusion.networks.dit import Modulation, add_gated, modulate
from sde_diffusion.networks.joint_attention import JointLayer, SelfAttention
from sde_diffusion.networks.layers import Array, Dense
from sde_diffusion.networks.mmdit import embed_time_and_text
from sde_diffusion.networks.rotary import Turns, turns
from sde_diffusion.networks.scan import REMAT, scanned
from sde_diffusion.selection import require_known

PACKED = 2  # latents along an axis for one token


class Flux(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C], with H and W even, 4 C = in_channels.

    t [B] is the time label, from 0 to 1000. cond has `text` [B, S, joint_attention_dim], `pooled`
    [B, pooled_projection_dim], and, with guidance_embeds, `guidance` [B], such as 3.5. The fields
    are those of FluxTransformer2DModel.

    axes_dims_rope: the features of a head that tell each axis.
    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat, attention: see `networks.scan` and `networks.attention`.

    Raises ValueError for an unknown choice, an image of another shape, and a condition that is
    missing.
    """

    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        require_known("remat", self.remat, REMAT)
        require_known("attention", self.attention, ("auto", *IMPLEMENTATIONS))
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope: the sum of {self.axes_dims_rope} is not attention_head_dim = "
                f"{self.attention_head_dim}"
            )
        super().__post_init__()

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the condition of one sample, with a text of one token."""
        texts = {"text": (1, self.joint_attention_dim), "pooled": (self.pooled_projection_dim,)}
        return texts | ({"guidance": ()} if self.guidance_embeds else {})

    @nn.compact
    def __call__(
        self, x: Array, t: Array, cond: Mapping[str, Array], *, train: bool = False
    ) -> Array:
        require_conditions(cond, "text", "pooled", *["guidance"] * self.guidance_embeds)
        _check(x, self.in_channels)
        dtype = jnp.dtype(self.dtype)
        features = self.num_attention_heads * self.attention_head_dim
        guidance = 1000.0 * cond["guidance"] if self.guidance_embeds else None
        embedding = embed_time_and_text(t, cond["pooled"], features, dtype, guidance)
        h = Dense(features, name="x_embedder")(packed(x.astype(dtype)))
        c = Dense(features, name="context_embedder")(cond["text"].astype(dtype))
        length = c.shape[1]
        turning = turns(_places(length, *x.shape[1:3]), self.axes_dims_rope)

        def layers(layer: type[nn.Module], depth: int, name: str, *fields: Any) -> nn.Module:
            of_all = scanned(
                layer,
                depth,
                remat=self.remat,
                dtype=dtype,
                initializing=self.is_initializing(),
            )
            return of_all(self.num_attention_heads, *fields, name=f"{SCANNED}_{name}")

        double: Any = layers(
            JointLayer, self.num_layers, "transformer_blocks", True, self.attention
        )
        (h, c), _ = double((h, c), embedding, turning)
        single: Any = layers(
            SingleLayer, self.num_single_layers, "single_transformer_blocks", self.attention
        )
        h, _ = single(jnp.concatenate([c, h], axis=1), embedding, turning)

        scale, shift = Modulation(2, name="norm_out")(embedding, dtype)
        channels = self.in_channels if self.out_channels is None else self.out_channels
        y = Dense(channels, name="proj_out")(modulate(h[:, length:], shift, scale))
        return unpacked(y, x.shape[1:3]).astype(jnp.float32)


class SingleLayer(nn.Module):
    """Tokens of text and image [B, T, D], and the embedding [B, D] -> (tokens, None)."""

    num_heads: int
    implementation: str

    @nn.compact
    def __call__(self, h: Array, embedding: Array, turns: Turns) -> tuple[Array, None]:
        shift, scale, gate = Modulation(3, name="norm")(embedding, h.dtype)
        y = modulate(h, shift, scale)
        hidden = jax.nn.gelu(Dense(4 * h.shape[-1], name="proj_mlp")(y))
        attended = SelfAttention(self.num_heads, True, self.implementation, False, name="attn")
        projected = Dense(h.shape[-1], name="proj_out").apart(attended(y, turns), hidden)
        return add_gated(h, gate, *projected), None


def packed(x: Array) -> Array:
    """[B, H, W, C] -> [B, H W / 4, 4 C], row by row; a token holds the squares of its channels."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // PACKED, PACKED, width // PACKED, PACKED, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, PACKED**2 * channels)


def unpacked(h: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `packed`, for latents of H x W: [B, H, W, C]."""
    height, width = shape
    x = h.reshape(len(h), height // PACKED, width // PACKED, -1, PACKED, PACKED)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(len(h), height, width, -1)


def _places(length: int, height: int, width: int) -> np.ndarray:
    """(0, row, column) of each token, after the (0, 0, 0) of the text's."""
    row, column = np.mgrid[: height // PACKED, : width // PACKED].reshape(2, -1)
    of_image = np.stack([np.zeros_like(row), row, column], axis=1)
    return np.concatenate([np.zeros((length, 3), of_image.dtype), of_image])


def _check(x: Array, in_channels: int) -> None:
    height, width, channels = x.shape[1:]
    if height % PACKED or width % PACKED or channels * PACKED**2 != in_channels:
        raise ValueError(
            f"x: latents of {height}x{width} with {channels} channels are not even in size, with "
            f"{in_channels // PACKED**2} channels"
        )
