"""NCSN++ and DDPM++, the U-Nets of Song et al. 2021 (app. H), with every switch of theirs."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.blocks import AttnBlock, Combine, ResnetBlock
from sde_diffusion.networks.conditions import Conditions
from sde_diffusion.networks.embeddings import EMBEDDINGS, embed_level, level_features
from sde_diffusion.networks.layers import ACTIVATIONS, Array, Conv, add_skip
from sde_diffusion.networks.normalization import group_norm
from sde_diffusion.networks.resampling import (
    BOX,
    Downsample,
    Kernel,
    Upsample,
    downsample,
    upsample,
)
from sde_diffusion.selection import require_known

PRODUCTS = {"conv2d", "conv_general_dilated", "dot_general", "product"}
REMAT: dict[str, Callable[[Any], Any]] = {
    "pointwise": partial(nn.remat, policy=lambda primitive, *_, **__: primitive.name in PRODUCTS),
    "blocks": nn.remat,
}
CHOICES: dict[str, tuple[str, ...]] = {
    "nonlinearity": tuple(ACTIVATIONS),
    "embedding_type": EMBEDDINGS,
    "resblock_type": ("ddpm", "biggan"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "dtype": ("float32", "bfloat16"),
    "remat": ("none", *REMAT),
}


class NCSNpp(nn.Module):
    """network(x, t) of the shape of x [B, H, W, C], with H and W multiples of 2^(levels - 1).

    t [B] is the time label: a standard deviation for "fourier", anything else for "positional".
    cond holds class labels [B], or a dict with `label`, `tokens` and `image`: see `conditions`.
    The parameter tree is that of the reference, https://github.com/yang-song/score_sde.

    nf, ch_mult: channels of level i are nf * ch_mult[i]; num_res_blocks of them on the way down.
    attn_resolutions: heights at which a residual block is followed by attention.
    conditional: whether the network sees the noise level.
    fir, fir_kernel: whether and by what to filter where it resamples.
    progressive, progressive_input, progressive_combine: pyramids of images that leave and enter.
    skip_rescale: whether to divide the sum of a skip connection by sqrt(2).
    init_scale: of the last layer of every block and of the network, 0 for nearly zero.
    scale_by_sigma: whether to divide the output by the noise level: t itself for "fourier", and
        sigma_max (sigma_min / sigma_max)^(t / (num_scales - 1)) for "positional".
    centered: whether x is centered already; otherwise the network maps [0, 1] to [-1, 1].
    min_group_size: the fewest channels that GroupNorm takes together.
    num_classes, vocabulary, image_channels, learned_null, numbers: the conditions that it takes,
        see `conditions.Conditions`; without them it has no parameters for them.
    dtype: of the computation; parameters, normalizations, softmax and output are in float32.
    remat: what inside the blocks the backward pass computes again instead of keeping it: "none",
        "pointwise" (all but what convolutions and products give) or "blocks" (everything).

    Raises ValueError for an unknown choice and an image size that cannot be halved so often.
    """

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    nonlinearity: str = "swish"
    conditional: bool = True
    embedding_type: str = "fourier"
    fourier_scale: float = 16.0
    resblock_type: str = "biggan"
    resamp_with_conv: bool = True
    fir: bool = True
    fir_kernel: Kernel = (1, 3, 3, 1)
    progressive: str = "none"
    progressive_input: str = "residual"
    progressive_combine: str = "sum"
    skip_rescale: bool = True
    init_scale: float = 0.0
    scale_by_sigma: bool = True
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    num_scales: int = 1000
    centered: bool = True
    min_group_size: int = 4
    num_classes: int | None = None
    vocabulary: int | None = None
    image_channels: int | None = None
    learned_null: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    dtype: str = "float32"
    remat: str = "none"

    suffix = "pp"  # of the blocks' names in the parameter tree

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
            require_known(field, getattr(self, field), known)
        self.conditions().check()
        super().__post_init__()

    def conditions(self) -> Conditions:
        return Conditions(
            self.num_classes,
            self.vocabulary,
            self.image_channels,
            self.learned_null,
            self.numbers,
        )

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Any = None, *, train: bool = False) -> Array:
        levels, channels = len(self.ch_mult), x.shape[-1]
        if any(size % 2 ** (levels - 1) for size in x.shape[1:3]):
            raise ValueError(
                f"x: images of {x.shape[1]}x{x.shape[2]} cannot be halved {levels - 1} times"
                f" (ch_mult has {levels} levels)"
            )
        act = ACTIVATIONS[self.nonlinearity]
        dtype = jnp.dtype(self.dtype)
        fir_kernel = self.fir_kernel if self.fir else None

        # Made even where it goes unused: the reference's tree has its parameters then, too.
        features = level_features(t, self.nf, self.embedding_type, self.fourier_scale)
        embedding = None
        if self.conditional:
            embedding = embed_level(features.astype(dtype), 4 * self.nf, act)
        conditions = self.conditions()
        told = conditions.vector(cond, x.shape[0], 4 * self.nf)
        if told is not None:
            told = told.astype(dtype)
            embedding = told if embedding is None else embedding + told
        if embedding is not None:
            embedding = act(embedding)

        # The reference's tree numbers the blocks of a class; naming them keeps it so under remat.
        kind = {"ddpm": "DDPM", "biggan": "BigGAN"}[self.resblock_type]
        block_names = (f"ResnetBlock{kind}{self.suffix}_{i}" for i in itertools.count())
        attention_names = (f"AttnBlock{self.suffix}_{i}" for i in itertools.count())
        lift = REMAT.get(self.remat, lambda module: module)

        def block(h: Array, features: int, resample: Any = None) -> Array:
            return lift(ResnetBlock)(
                features,
                act=act,
                dropout=self.dropout,
                train=train,
                min_group_size=self.min_group_size,
                init_scale=self.init_scale,
                skip_rescale=self.skip_rescale,
                resample=resample,
                nin_shortcut=self.resblock_type == "ddpm",
                name=next(block_names),
            )(h, embedding)

        def attention(h: Array) -> Array:
            return lift(AttnBlock)(
                min_group_size=self.min_group_size,
                init_scale=self.init_scale,
                skip_rescale=self.skip_rescale,
                name=next(attention_names),
            )(h)

        def attend(h: Array) -> Array:
            return attention(h) if h.shape[1] in self.attn_resolutions else h

        def resized(h: Array, module: type[nn.Module], resample: Any) -> Array:
            if self.resblock_type == "biggan":
                kernel = fir_kernel or BOX
                return block(h, h.shape[-1], partial(resample, kernel=kernel))
            return module(h.shape[-1], self.resamp_with_conv, fir_kernel)(h)

        def to_features(h: Array, features: int, init_scale: float) -> Array:
            normalized = group_norm(h, self.min_group_size, act)
            return Conv(features, init_scale=init_scale)(normalized)

        image = conditions.image(cond, x)
        entered = x if image is None else jnp.concatenate([x, image], axis=-1)
        entered = (entered if self.centered else 2 * entered - 1).astype(dtype)

        pyramid = entered[..., :channels]
        skips = [Conv(self.nf)(entered)]
        for level, multiple in enumerate(self.ch_mult):
            for _ in range(self.num_res_blocks):
                skips.append(attend(block(skips[-1], self.nf * multiple)))
            if level < levels - 1:
                h = resized(skips[-1], Downsample, downsample)
                if self.progressive_input == "input_skip":
                    pyramid = Downsample(channels, False, fir_kernel)(pyramid)
                    h = Combine(self.progressive_combine)(pyramid, h)
                elif self.progressive_input == "residual":
                    pyramid = Downsample(h.shape[-1], True, fir_kernel)(pyramid)
                    h = pyramid = add_skip(pyramid, h, self.skip_rescale)
                skips.append(h)

        h = skips[-1]
        h = block(h, h.shape[-1])
        h = attention(h)
        h = block(h, h.shape[-1])

        for level in reversed(range(levels)):
            for _ in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self.nf * self.ch_mult[level])
            h = attend(h)
            lowest = level == levels - 1
            if self.progressive == "output_skip":
                if not lowest:
                    pyramid = Upsample(channels, False, fir_kernel)(pyramid)
                image = to_features(h, channels, self.init_scale)
                pyramid = image if lowest else pyramid + image
            elif self.progressive == "residual":
                if lowest:
                    pyramid = to_features(h, h.shape[-1], 1.0)
                else:
                    pyramid = Upsample(h.shape[-1], True, fir_kernel)(pyramid)
                    h = pyramid = add_skip(pyramid, h, self.skip_rescale)
            if level > 0:
                h = resized(h, Upsample, upsample)

        if self.progressive == "output_skip":
            y = pyramid
        else:
            y = to_features(h, channels, self.init_scale)
        y = y.astype(jnp.float32)
        return y / self._sigma(t)[:, None, None, None] if self.scale_by_sigma else y

    def _sigma(self, t: Array) -> Array:
        """The noise level that a time label stands for, [B]."""
        if self.embedding_type == "fourier":
            return t
        decay = self.sigma_min / self.sigma_max
        return self.sigma_max * decay ** (jnp.floor(t) / (self.num_scales - 1))
