"""Images that a network is told beside a sample: the sample itself at a low resolution, and others.

A conditional network for super-resolution, colorization or inpainting sees a part of what it
generates. In training that part is computed from the sample, inside the compiled step; when samples
are drawn it is a measurement that the user gives. Both go through one `ImageCondition`:

    condition = low_resolution(factor=2, noise=0.3)
    image = condition.of_sample(keys, x0)         # [B, H, W, channels], in training
    image = condition.of_measurement(small)       # the same, of a user's [B, H/2, W/2, C]

Saharia et al. 2021 (SR3) and Saharia et al. 2022 (Palette) train such networks.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise as noises
from sde_diffusion.inverse import Downsampling, Grayscale
from sde_diffusion.sdes import Array

Shape = tuple[int, ...]


class ImageCondition(NamedTuple):
    """How an image condition comes from a sample, and from what a user measured.

    measured: the shape of one measurement, for samples of shape [H, W, C].
    channels: how many channels the condition has, for samples of C channels.
    of_sample: keys [B] and samples [B, H, W, C] to the condition [B, H, W, channels].
    of_measurement: measurements [B, *measured] to the condition [B, H, W, channels].
    """

    measured: Callable[[Shape], Shape]
    channels: Callable[[int], int]
    of_sample: Callable[[Array, Array], Array]
    of_measurement: Callable[[Array], Array]


def low_resolution(factor: int = 2, noise: float = 0.0) -> ImageCondition:
    """The means over blocks of `factor` by `factor` pixels, each repeated over its block.

    With `noise` above 0 the training image is augmented: Gaussian noise is added, whose standard
    deviation is drawn uniformly from [0, noise] and told to the network as one more channel. A
    network that has seen such images also accepts the slightly wrong output of another model.
    Measurements have no added noise. Source: Ho et al. 2022 (Cascaded Diffusion Models), who call
    it conditioning augmentation.

    Raises:
        ValueError: factor is below 2, noise is negative, or an image does not divide into blocks.
    """
    if factor < 2 or noise < 0:
        raise ValueError(
            f"low_resolution: factor must be at least 2 and noise at least 0, got {factor}, {noise}"
        )

    operator = Downsampling(factor)

    def measured(shape: Shape) -> Shape:
        return operator.shape(jnp.zeros((1, *_image(shape))))[1:]

    def with_level(small: Array, level: Array) -> Array:
        image = jnp.repeat(jnp.repeat(small, factor, axis=1), factor, axis=2)
        if noise == 0:
            return image
        told = jnp.broadcast_to(level[:, None, None, None], (*image.shape[:-1], 1))
        return jnp.concatenate([image, told], axis=-1)

    def of_sample(keys: Array, x0: Array) -> Array:
        small = operator(x0)
        level = noise * jax.vmap(jax.random.uniform)(noises.fold_in(keys, 0))
        if noise != 0:
            drawn = jax.vmap(lambda key: jax.random.normal(key, small.shape[1:]))
            small = small + level[:, None, None, None] * drawn(noises.fold_in(keys, 1))
        return with_level(small, level)

    return ImageCondition(
        measured,
        lambda channels: channels + (noise != 0),
        of_sample,
        lambda small: with_level(small, jnp.zeros(len(small))),
    )


def gray() -> ImageCondition:
    """The gray image of a color image, as `inverse.Grayscale` and image files have it.

    A network that is told it colors an image.
    """
    operator = Grayscale()

    def measured(shape: Shape) -> Shape:
        return operator.shape(jnp.zeros((1, *_image(shape))))[1:]

    return ImageCondition(
        measured, lambda channels: 1, lambda keys, x0: operator(x0), lambda image: image
    )


def hidden(least: float = 0.25, most: float = 1.0) -> ImageCondition:
    """The sample with a rectangle hidden, and a channel that is 1 where it is known.

    Each side of the rectangle is drawn uniformly between `least` and `most` of the image's side,
    and its place uniformly. Hidden pixels are 0. A measurement is an image [H, W, C] with NaN where
    it is not known.

    Raises:
        ValueError: unless 0 < least <= most <= 1.
    """
    if not 0 < least <= most <= 1:
        raise ValueError(f"hidden: 0 < least <= most <= 1 must hold, got {least} and {most}")

    def side(key: Array, length: int) -> Array:
        """Which of the places along a side are hidden, [length]."""
        key_size, key_place = jax.random.split(key)
        size = jnp.round(length * jax.random.uniform(key_size, minval=least, maxval=most))
        first = jnp.floor((length - size + 1) * jax.random.uniform(key_place))
        places = jnp.arange(length)
        return (places >= first) & (places < first + size)

    def of_sample(keys: Array, x0: Array) -> Array:
        _, height, width, _ = x0.shape
        rows = jax.vmap(lambda key: side(key, height))(noises.fold_in(keys, 0))
        columns = jax.vmap(lambda key: side(key, width))(noises.fold_in(keys, 1))
        unknown = (rows[:, :, None] & columns[:, None, :])[..., None]
        return of_measurement(jnp.where(unknown, jnp.nan, x0))

    def of_measurement(image: Array) -> Array:
        known = ~jnp.any(jnp.isnan(image), axis=-1, keepdims=True)
        return jnp.concatenate([jnp.where(known, image, 0.0), known.astype(image.dtype)], axis=-1)

    return ImageCondition(_image, lambda channels: channels + 1, of_sample, of_measurement)


IMAGE_CONDITIONS: dict[str, Callable[..., ImageCondition]] = {
    "low_resolution": low_resolution,
    "gray": gray,
    "hidden": hidden,
}


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"an image condition is of images [H, W, C], not of samples {shape}")
    return shape
