"""UNet2DConditionModel: the U-Net of Stable Diffusion 1.x, 2.x and SDXL, under diffusers' names.

At each resolution residual blocks alternate with transformers that read the text. On the way up a
block is given what came out of its counterpart on the way down.

Rombach et al. 2022; Podell et al. 2024 (SDXL), sec. 2, for the sizes and the pooled text that join
the time.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.attention import IMPLEMENTATIONS
from sde_diffusion.networks.conditions import require_conditions
from sde_diffusion.networks.cross_attention import TextTransformer
from sde_diffusion.networks.layers import Array, Conv
from sde_diffusion.networks.normalization import GroupNorm
from sde_diffusion.networks.residual import (
    Downsample,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    time_features,
)
from sde_diffusion.networks.scan import REMAT
from sde_diffusion.selection import require_known

DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
"""The types of blocks of a config, and whether they read the text."""


class UNetCondition(nn.Module):
    """network(x, t, cond) of the shape of x [B, H, W, C].

    t [B] is the time label, from 0 to 1000. cond is a dict of

        text     [B, S, cross_attention_dim], the tokens of a text
        pooled   [B, P], the text as one vector
        sizes    [B, 6], height and width of the original image, top and left of what was cut out of
                 it, height and width of the target

    of which the last two are there with addition_embed_type="text_time" only. Where x has fewer
    channels than in_channels, it also has

        image    [B, H, W, in_channels - C], what is put beside x, such as a picture to be filled in

    and with time_cond_proj_dim

        guidance [B], the weight of the guidance that the network was distilled from, see `guided`

    The fields are those of diffusers' config, in which `attention_head_dim` is the number of heads.

    dtype: of the computation; normalizations, softmax and output are in float32.
    remat: what the backward pass computes again instead of keeping it; see `networks.scan`.
    attention: the implementation, see `networks.attention`.

    Raises ValueError for a condition that is missing.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    layers_per_block: int = 2
    attention_head_dim: int | tuple[int, ...] = 8
    transformer_layers_per_block: int | tuple[int, ...] = 1
    cross_attention_dim: int = 1280
    use_linear_projection: bool = False
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_cond_proj_dim: int | None = None
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for kind, known in ((self.down_block_types, DOWN), (self.up_block_types, UP)):
            for name in kind:
                require_known("block of a U-Net", name, known)
        require_known("remat", self.remat, REMAT)
        require_known("attention", self.attention, ("auto", *IMPLEMENTATIONS))
        if self.addition_embed_type is not None:
            require_known("addition_embed_type", self.addition_embed_type, ("text_time",))
        super().__post_init__()

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the condition of one sample, with a text of one token."""
        text: dict[str, tuple[int, ...]] = {"text": (1, self.cross_attention_dim)}
        if self.time_cond_proj_dim is not None:
            text |= {"guidance": ()}
        if self.addition_embed_type is None:
            return text
        sizes = 6 * (self.addition_time_embed_dim or 0)
        pooled = (self.projection_class_embeddings_input_dim or 0) - sizes
        return text | {"pooled": (pooled,), "sizes": (6,)}

    @nn.compact
    def __call__(
        self, x: Array, t: Array, cond: Mapping[str, Array], *, train: bool = False
    ) -> Array:
        needed = ["pooled", "sizes"] if self.addition_embed_type else []
        needed += ["guidance"] if self.time_cond_proj_dim else []
        require_conditions(cond, "text", *needed)
        dtype = jnp.dtype(self.dtype)
        if x.shape[-1] != self.in_channels:
            require_conditions(cond, "text", "image", *needed)
            x = jnp.concatenate([x, cond["image"].astype(x.dtype)], axis=-1)
        embedding, text = self._embedding(t, cond, dtype), cond["text"].astype(dtype)
        h = Conv(self.block_out_channels[0], name="conv_in")(x.astype(dtype))
        skips = [h]
        last = len(self.block_out_channels) - 1
        for level, kind in enumerate(self.down_block_types):
            fields = self._shared(level) | {"layers": self.layers_per_block, "reads": DOWN[kind]}
            to_next = "" if level == last else "down"
            block = Level(**fields, to_next=to_next, name=f"down_blocks.{level}")
            h, made = block(h, embedding, text, [])
            skips += made
        middle = Middle(**self._shared(last), name="mid_block")
        h = middle(h, embedding, text)
        for up, kind in enumerate(self.up_block_types):
            level, layers = last - up, self.layers_per_block + 1
            skips, given = skips[:-layers], skips[-layers:]
            fields = self._shared(level) | {"layers": layers, "reads": UP[kind]}
            to_next, size = ("", None) if level == 0 else ("up", skips[-1].shape[1:3])
            block = Level(**fields, to_next=to_next, name=f"up_blocks.{up}")
            h, _ = block(h, embedding, text, given, size)
        h = GroupNorm(self.norm_num_groups, nn.silu, self.norm_eps, name="conv_norm_out")(h)
        return Conv(self.out_channels, name="conv_out")(h).astype(jnp.float32)

    def _embedding(self, t: Array, cond: Mapping[str, Array], dtype: Any) -> Array:
        """The time, with what joins it, as a vector for each sample."""

        def sines(t: Array, features: int) -> Array:
            return time_features(
                t,
                features,
                cosine_first=self.flip_sin_to_cos,
                frequency_shift=self.freq_shift,
            )

        features = 4 * self.block_out_channels[0]
        h = sines(t, self.block_out_channels[0]).astype(dtype)
        told = None
        if self.time_cond_proj_dim is not None:
            # Luo et al. 2023 (LCM), as diffusers' LatentConsistencyModelPipeline tells it.
            w = 1000.0 * (cond["guidance"].astype(jnp.float32) - 1.0)
            features_of_w = partial(time_features, cosine_first=False, frequency_shift=1)
            told = features_of_w(w, self.time_cond_proj_dim).astype(dtype)
        embedding = TimeEmbedding(features, name="time_embedding")(h, told)
        if self.addition_embed_type is None:
            return embedding
        sizes = sines(cond["sizes"], self.addition_time_embed_dim or 0)
        joined = [cond["pooled"].astype(jnp.float32), sizes.reshape(len(t), -1)]
        h = jnp.concatenate(joined, axis=-1).astype(dtype)
        return embedding + TimeEmbedding(features, name="add_embedding")(h)

    def _shared(self, level: int) -> dict[str, Any]:
        """The fields of the blocks at a level."""

        def at(field: int | tuple[int, ...]) -> int:
            return field if isinstance(field, int) else field[level]

        return {
            "features": self.block_out_channels[level],
            "depth": at(self.transformer_layers_per_block),
            "num_heads": at(self.attention_head_dim),
            "groups": self.norm_num_groups,
            "epsilon": self.norm_eps,
            "linear": self.use_linear_projection,
            "remat": self.remat,
            "implementation": self.attention,
        }


class Block(nn.Module):
    """The fields that all blocks have, and the modules that they are made of."""

    features: int
    depth: int
    num_heads: int
    groups: int
    epsilon: float
    linear: bool
    remat: str
    implementation: str

    def residual(self, i: int) -> ResidualBlock:
        return ResidualBlock(self.features, self.groups, self.epsilon, name=f"resnets.{i}")

    def transformer(self, i: int) -> TextTransformer:
        return TextTransformer(
            self.depth,
            self.num_heads,
            self.groups,
            self.linear,
            self.remat,
            self.implementation,
            name=f"attentions.{i}",
        )


class Level(Block):
    """Pairs of a residual block and a transformer, and the way to the next resolution.

    h, the embedding and the text give h and all that a counterpart on the way up is given. With
    `skips`, the last of which is used first, this is such a counterpart.

    reads: whether there are transformers. to_next: "down", "up" or "".
    """

    layers: int = 2
    reads: bool = True
    to_next: str = ""

    @nn.compact
    def __call__(
        self,
        h: Array,
        embedding: Array,
        text: Array,
        skips: list[Array],
        size: tuple[int, ...] | None = None,
    ) -> tuple[Array, list[Array]]:
        made = []
        for i in range(self.layers):
            if skips:
                h = jnp.concatenate([h, skips[-1 - i]], axis=-1)
            h = self.residual(i)(h, embedding)
            if self.reads:
                h = self.transformer(i)(h, text)
            made.append(h)
        if self.to_next == "down":
            h = Downsample(1, name="downsamplers.0")(h)
            made.append(h)
        elif self.to_next == "up":
            h = Upsample(name="upsamplers.0")(h, size)
        return h, made


class Middle(Block):
    """A residual block, a transformer, a residual block."""

    @nn.compact
    def __call__(self, h: Array, embedding: Array, text: Array) -> Array:
        h = self.residual(0)(h, embedding)
        h = self.transformer(0)(h, text)
        return self.residual(1)(h, embedding)
