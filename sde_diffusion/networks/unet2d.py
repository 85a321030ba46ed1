"""UNet2DModel: the U-Nets without text of diffusers, of DDPM, ADM and NCSN++, under its names.

ADM's, which consistency models have too, scale and shift what is normalized, resample inside a
residual block, and may be told a class, whose vector is added to that of the time.

The blocks named "Skip" are those of NCSN++: they resample inside a residual block with a FIR
filter, and a pyramid of images goes in on the way down and comes out on the way up,

    down    p <- filtered(p),   h <- h + skip_conv(p)
    up      p <- filtered(p) + skip_conv(silu(skip_norm(h)))

so that the network's output is its last convolution plus p.

The networks `ncsnpp` and `ddpm` are the same mathematics in the tree of score_sde, which numbers
its blocks in another way, so weights of one do not fit the other.

Ho et al. 2020, app. B; Song et al. 2021, app. H; Dhariwal & Nichol 2021, sec. 3; Song et al. 2023.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.attention import IMPLEMENTATIONS
from sde_diffusion.networks.layers import Array, Conv
from sde_diffusion.networks.normalization import GroupNorm
from sde_diffusion.networks.residual import TimeEmbedding, time_features
from sde_diffusion.networks.unet2d_levels import DOWN, UP, Down, Kind, Middle, Up, groups_of
from sde_diffusion.selection import require_known

TIMES = ("positional", "fourier")
RESAMPLINGS = ("conv", "resnet")
EMBEDDINGS = ("default", "scale_shift")
CLASSES = (None, "identity")
FOURIER_SCALE = 16.0


class UNet2D(nn.Module):
    """network(x, t) of the shape of x [B, H, W, in_channels], with out_channels channels.

    t [B] is the time label: from 0 to 1000, or the noise level sigma with "fourier", by which the
    output is divided then. H and W are multiples of 2^(levels - 1). The fields are those of
    diffusers' config, in which `attention_head_dim` is the size of a head, or None for one head.

    cond holds class labels [B] with num_class_embeds, and with class_embed_type="identity" vectors
    [B, 4 block_out_channels[0]] that are added to the embedding of the time as they are.

    dtype: of the computation; normalizations, softmax and output are in float32.
    attention: the implementation, see `networks.attention`.

    Raises ValueError for an unknown choice, blocks with and without the pyramid in one network,
    images that cannot be halved so often, a class that is missing, and one that has no place.
    """

    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *("AttnDownBlock2D",) * 3)
    up_block_types: tuple[str, ...] = (*("AttnUpBlock2D",) * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    resnet_time_scale_shift: str = "default"
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    attention_head_dim: int | None = 8
    norm_num_groups: int | None = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    dtype: str = "float32"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for kinds, known in ((self.down_block_types, DOWN), (self.up_block_types, UP)):
            for name in kinds:
                require_known("block of a U-Net", name, known)
        require_known("time_embedding_type", self.time_embedding_type, TIMES)
        require_known("downsample_type", self.downsample_type, RESAMPLINGS)
        require_known("upsample_type", self.upsample_type, RESAMPLINGS)
        require_known("resnet_time_scale_shift", self.resnet_time_scale_shift, EMBEDDINGS)
        if self.class_embed_type not in CLASSES:
            raise ValueError(f"class_embed_type {self.class_embed_type!r} (choices: {CLASSES})")
        require_known("attention", self.attention, ("auto", *IMPLEMENTATIONS))
        skips = {DOWN[name].skip for name in self.down_block_types}
        if len(skips | {UP[name].skip for name in self.up_block_types}) > 1:
            raise ValueError("a U-Net has blocks named Skip at all of its levels, or at none")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Any = None, *, train: bool = False) -> Array:
        last = len(self.block_out_channels) - 1
        if any(length % 2**last for length in x.shape[1:3]):
            raise ValueError(
                f"x: images of {x.shape[1]}x{x.shape[2]} cannot be halved {last} times"
            )
        dtype = jnp.dtype(self.dtype)
        embedding = self._embedding(t).astype(dtype)
        embedding = TimeEmbedding(4 * self.block_out_channels[0], name="time_embedding")(embedding)
        embedding = self._with_class(embedding, cond)
        x = (2.0 * x - 1.0 if self.center_input_sample else x).astype(dtype)
        h = Conv(self.block_out_channels[0], name="conv_in")(x)
        skips, image = [h], x
        for level, name in enumerate(self.down_block_types):
            kind = _resampling(DOWN[name], self.downsample_type)
            fields = self._shared(level, kind) | {"resamples": level < last}
            down = Down(**fields, padding=self.downsample_padding, name=f"down_blocks.{level}")
            h, image, made = down(h, embedding, image)
            skips += made
        h = self._middle(h, embedding)
        out: Array | None = None
        for up, name in enumerate(self.up_block_types):
            level, layers = last - up, self.layers_per_block + 1
            skips, given = skips[:-layers], skips[-layers:]
            kind = _resampling(UP[name], self.upsample_type)
            fields = self._shared(level, kind) | {"resamples": level > 0, "layers": layers}
            h, out = Up(**fields, name=f"up_blocks.{up}")(h, embedding, out, given)
        groups = groups_of(self.norm_num_groups, self.block_out_channels[0])
        h = GroupNorm(groups, nn.silu, self.norm_eps, name="conv_norm_out")(h)
        h = Conv(self.out_channels, name="conv_out")(h)
        y = (h if out is None else h + out).astype(jnp.float32)
        return y / t[:, None, None, None] if self.time_embedding_type == "fourier" else y

    def _embedding(self, t: Array) -> Array:
        """What the time is told by, [B, C], or [B, 2 C] with "fourier"."""
        features = self.block_out_channels[0]
        if self.time_embedding_type == "fourier":
            return Fourier(features, name="time_proj")(t)
        return time_features(
            t, features, cosine_first=self.flip_sin_to_cos, frequency_shift=self.freq_shift
        )

    def _with_class(self, embedding: Array, cond: Any) -> Array:
        if self.class_embed_type is None and self.num_class_embeds is None:
            if cond is not None:
                raise ValueError("cond: this U-Net is told no class")
            return embedding
        if cond is None:
            raise ValueError("cond: this U-Net is told classes, and none is given")
        if self.num_class_embeds is None or self.class_embed_type == "identity":
            return embedding + jnp.asarray(cond, embedding.dtype)
        embed = nn.Embed(self.num_class_embeds, embedding.shape[-1], name="class_embedding")
        return embedding + embed(cond).astype(embedding.dtype)

    def _middle(self, h: Array, embedding: Array) -> Array:
        groups = groups_of(self.norm_num_groups, h.shape[-1])
        scale_shift = self.resnet_time_scale_shift == "scale_shift"
        attended = self.attn_norm_num_groups
        if attended is None and not scale_shift:  # with it, None is no normalization in diffusers
            attended = groups
        middle = Middle(
            groups,
            attended,
            self.norm_eps,
            self.attention_head_dim,
            self.mid_block_scale_factor,
            self.attention,
            scale_shift,
            name="mid_block",
        )
        made: Array = middle(h, embedding)
        return made

    def _shared(self, level: int, kind: Kind) -> dict[str, Any]:
        """The fields of the blocks at a level."""
        return {
            "features": self.block_out_channels[level],
            "layers": self.layers_per_block,
            "kind": kind,
            "groups": self.norm_num_groups,
            "epsilon": self.norm_eps,
            "head": self.attention_head_dim,
            "implementation": self.attention,
            "scale_shift": self.resnet_time_scale_shift == "scale_shift",
        }


def _resampling(kind: Kind, resampling: str) -> Kind:
    """The kind of a block where blocks with attention resample in this way."""
    inside = kind.attends and not kind.skip and resampling == "resnet"
    return kind._replace(residual=kind.residual or inside)


class Fourier(nn.Module):
    """[sin(2 pi w log t), cos(2 pi w log t)] with fixed w ~ N(0, 16^2), [B] -> [B, 2 features]."""

    features: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        init = nn.initializers.normal(FOURIER_SCALE)
        w = self.param("weight", init, (self.features,)).astype(jnp.float32)
        angles = 2.0 * jnp.pi * jnp.log(t.astype(jnp.float32))[:, None] * w
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
