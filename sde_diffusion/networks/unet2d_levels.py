"""The levels of `networks.unet2d`, named as diffusers names its blocks, and the middle."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks import resampling
from sde_diffusion.networks.layers import Array, Conv
from sde_diffusion.networks.normalization import GroupNorm
from sde_diffusion.networks.residual import Downsample, PixelAttention, ResidualBlock, Upsample


class Kind(NamedTuple):
    """What the name of a block says.

    attends: whether it has attention.
    skip: whether it has the pyramid.
    residual: whether it resamples inside a residual block, without a filter.
    """

    attends: bool
    skip: bool
    residual: bool = False


DOWN = {
    "DownBlock2D": Kind(False, False),
    "ResnetDownsampleBlock2D": Kind(False, False, True),
    "AttnDownBlock2D": Kind(True, False),
    "SkipDownBlock2D": Kind(False, True),
    "AttnSkipDownBlock2D": Kind(True, True),
}
UP = {
    "UpBlock2D": Kind(False, False),
    "ResnetUpsampleBlock2D": Kind(False, False, True),
    "AttnUpBlock2D": Kind(True, False),
    "SkipUpBlock2D": Kind(False, True),
    "AttnSkipUpBlock2D": Kind(True, True),
}
FIR = (1, 3, 3, 1)
SKIP_GROUPS = 32  # of the attention of NCSN++


class Level(nn.Module):
    """The fields that the blocks of a level have, and the modules that they are made of."""

    features: int
    layers: int
    kind: Kind
    groups: int | None
    epsilon: float
    head: int | None
    implementation: str
    scale_shift: bool
    resamples: bool

    @property
    def scale(self) -> float:
        return 2**0.5 if self.kind.skip else 1.0

    def residual(self, i: int, groups: int) -> ResidualBlock:
        """Residual block i, whose first normalization has so many groups."""
        out = groups_of(None, self.features) if self.kind.skip else groups
        fields = (self.features, groups, self.epsilon, out, self.scale)
        return ResidualBlock(*fields, scale_shift=self.scale_shift, name=f"resnets.{i}")

    def attention(self, i: int) -> PixelAttention:
        groups = SKIP_GROUPS if self.kind.skip else groups_of(self.groups, self.features)
        return PixelAttention(
            groups,
            self.epsilon,
            heads_of(self.head, self.features),
            self.scale,
            self.implementation,
            name=f"attentions.{i}",
        )

    def resampled(self, resample: Any, name: str) -> ResidualBlock:
        """A residual block that changes the resolution, with the pyramid by a filter."""
        skip = self.kind.skip
        return ResidualBlock(
            self.features,
            groups_of(None if skip else self.groups, self.features),
            self.epsilon,
            scale=self.scale,
            resample=partial(resample, kernel=FIR) if skip else resample,
            shortcut=skip,
            scale_shift=self.scale_shift,
            name=name,
        )


class Down(Level):
    """(h, image, all that the way up is given), from h, the embedding and the image."""

    padding: int = 1

    @nn.compact
    def __call__(self, h: Array, embedding: Array, image: Array) -> tuple[Array, Array, list[Any]]:
        made = []
        for i in range(self.layers):
            groups = groups_of(None if self.kind.skip else self.groups, h.shape[-1])
            h = self.residual(i, groups)(h, embedding)
            if self.kind.attends:
                h = self.attention(i)(h)
            made.append(h)
        if not self.resamples:
            return h, image, made
        if self.kind.skip:
            h = self.resampled(resampling.downsample, "resnet_down")(h, embedding)
            image = resampling.downsample(image, FIR)
            h = Conv(self.features, 1, name="skip_conv")(image) + h
        elif self.kind.residual:
            h = self.resampled(resampling.downsample, "downsamplers.0")(h, embedding)
        else:
            h = Downsample(self.padding, name="downsamplers.0")(h)
        return h, image, [*made, h]


class Up(Level):
    """(h, the image that comes out), from those of the level below and what the way down gave."""

    @nn.compact
    def __call__(
        self, h: Array, embedding: Array, image: Array | None, skips: list[Array]
    ) -> tuple[Array, Array | None]:
        for i in range(self.layers):
            skip = skips[-1 - i]
            groups = self._groups(h.shape[-1], skip.shape[-1])
            h = jnp.concatenate([h, skip], axis=-1)
            h = self.residual(i, groups)(h, embedding)
            # NCSN++ attends once on the way up.
            if self.kind.attends and (not self.kind.skip or i == self.layers - 1):
                h = self.attention(0 if self.kind.skip else i)(h)
        if not self.kind.skip:
            if self.resamples and self.kind.residual:
                h = self.resampled(resampling.upsample, "upsamplers.0")(h, embedding)
            elif self.resamples:
                h = Upsample(name="upsamplers.0")(h)
            return h, None
        if image is not None:
            image = resampling.upsample(image, FIR)
        if not self.resamples:
            return h, image
        groups = groups_of(None, self.features)
        shown = GroupNorm(groups, nn.silu, self.epsilon, name="skip_norm")(h)
        shown = Conv(3, name="skip_conv")(shown)
        image = shown if image is None else image + shown
        return self.resampled(resampling.upsample, "resnet_up")(h, embedding), image

    def _groups(self, channels: int, skipped: int) -> int:
        """The groups of a residual block's first normalization."""
        if not self.kind.skip:
            return groups_of(self.groups, channels + skipped)
        if self.kind.attends:  # as diffusers has it, without brackets around the sum
            return min(channels + skipped // 4, SKIP_GROUPS)
        return groups_of(None, channels + skipped)


class Middle(nn.Module):
    """A residual block, attention, a residual block."""

    groups: int
    attention_groups: int | None
    epsilon: float
    head: int | None
    scale: float
    implementation: str
    scale_shift: bool

    @nn.compact
    def __call__(self, h: Array, embedding: Array) -> Array:
        def residual(i: int) -> ResidualBlock:
            fields = (h.shape[-1], self.groups, self.epsilon, None, self.scale)
            return ResidualBlock(*fields, scale_shift=self.scale_shift, name=f"resnets.{i}")

        h = residual(0)(h, embedding)
        h = PixelAttention(
            self.attention_groups,
            self.epsilon,
            heads_of(self.head, h.shape[-1]),
            self.scale,
            self.implementation,
            name="attentions.0",
        )(h)
        return residual(1)(h, embedding)


def groups_of(groups: int | None, channels: int) -> int:
    """The groups of a normalization; where a config has none, a group is 4 channels at least."""
    return min(channels // 4, 32) if groups is None else groups


def heads_of(size: int | None, channels: int) -> int:
    """The number of heads of this size; None stands for one head."""
    return 1 if size is None else channels // size
