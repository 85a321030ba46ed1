"""The codec of a latent model: an autoencoder that another run trained, frozen.

`config.codec.path` is that run's folder. The records of a latent model are either latents, with a
mean and a deviation each, or images, which the codec encodes inside the training step. Either way
the model sees (z - shift) scale, where z is a new sample of the record's Gaussian at each step.

Shift and scale are those of the latents' feature: it declares the range from shift - 1 / scale to
shift + 1 / scale, which `config.data.range` = (-1, 1) maps to unit variance, as it maps any
range.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.codec import Codec, sample_latents
from sde_diffusion.networks.autoencoder_kl import Moments
from sde_diffusion.sdes import Array


class FrozenCodec(NamedTuple):
    """A codec with its parameters.

    name: the folder of its run.
    fingerprint: of its parameters.
    image: what its images are, in their own units.
    range: what they are mapped to before they are encoded.
    latent: what its latents are, with shift and scale as their range.
    """

    codec: Codec
    params: Any
    name: str
    fingerprint: str
    image: data.Feature
    range: tuple[float, float]
    latent: data.Feature

    @property
    def scaling(self) -> data.Scaling:
        """From the images' own units to the codec's, and back."""
        return data.Scaling(*self.image.range, *self.range)

    def moments(self, params: Any, images: Array) -> Moments:
        """Mean and deviation of the latents of images in their own units, [B, h, w, c] each."""
        return self.codec.moments(params, self.scaling.scale(images))


def is_latent(features: data.Features) -> bool:
    """Whether the records are latents."""
    return features.event_name == "mean"


def latent_feature(
    shape: tuple[int, ...], shift: float, scale: float, dtype: str = "float32"
) -> data.Feature:
    """Latents whose mean is `shift`, and whose standard deviation is 1 / scale."""
    return data.Feature(shape, dtype, shift - 1.0 / scale, shift + 1.0 / scale)


def shift_and_scale(latent: data.Feature) -> tuple[float, float]:
    """The shift and the scale that `latent_feature` was given."""
    low, high = latent.range
    return (low + high) / 2.0, 2.0 / (high - low)


def sampled(features: data.Features, codec: FrozenCodec | None) -> data.Features:
    """What the model samples, and the conditions: latents where it has a codec."""
    if codec is None or is_latent(features):
        return features
    return data.Features({"mean": codec.latent, **others(features)})


def shown(features: data.Features, codec: FrozenCodec | None) -> data.Features:
    """What samples are once they are decoded, and the conditions."""
    if codec is None:
        return features
    return data.Features({"image": codec.image, **others(features)})


def read(
    features: data.Features, codec: FrozenCodec | None
) -> Callable[[Array, Mapping[str, Any], Any], Array]:
    """(keys [B], records, frozen) -> what the model samples, in its own units.

    Latents are drawn from their Gaussians, which images have by `frozen["codec"]`.
    """

    def of_records(keys: Array, records: Mapping[str, Any], frozen: Any) -> Array:
        x = jnp.asarray(records[features.event_name])
        if is_latent(features):
            deviation = jnp.asarray(records["deviation"], jnp.float32)
            return sample_latents(keys, Moments(x.astype(jnp.float32), deviation))
        if codec is not None:
            return sample_latents(keys, codec.moments(frozen["codec"], x))
        return x

    return of_records


def frozen(features: data.Features, codec: FrozenCodec | None) -> dict[str, Any]:
    """What a step of training uses of the codec: its parameters, where the records are images."""
    return {} if codec is None or is_latent(features) else {"codec": codec.params}


def problems(config: ConfigDict, features: data.Features, codec: FrozenCodec | None) -> list[str]:
    """A line for each field that does not fit latents."""
    found = []
    if is_latent(features) and config.data.flip:
        found.append(
            "config.data.flip: the latents of a flipped image are not its flipped latents; encode "
            "flipped images too"
        )
    if codec is None or is_latent(features):
        return found
    if config.data.dequantize:
        found.append("config.data.dequantize: a codec encodes images as they are")
    if config.network.get("image_channels") is not None:
        found.append(
            "config.network.image_channels: images that are encoded in the step are no condition; "
            "run sde-diffusion encode, and train on latents"
        )
    return found


def others(features: data.Features) -> dict[str, data.Feature]:
    """The features of records beside the image, or the mean and deviation of latents."""
    left_out = (features.event_name, "deviation")
    return {name: feature for name, feature in features.items() if name not in left_out}
