"""Autoencoders in a config: `loss.name` is "autoencoding", and the network is an autoencoder.

Of the other groups such a config uses `data`, `optim`, `training`, `init_from`, `eval` and `mesh`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from sde_diffusion import data, objectives
from sde_diffusion.codec import Codec
from sde_diffusion.networks import AUTOENCODERS, AutoencoderKL, build
from sde_diffusion.sdes import Array

LOSS = "autoencoding"


def is_autoencoder(config: ConfigDict) -> bool:
    """Whether the config trains an autoencoder."""
    return bool(config.loss.name == LOSS)


def require_denoiser(config: ConfigDict, what: str) -> None:
    """Raise ValueError, which begins with `what`, where the config trains an autoencoder."""
    if is_autoencoder(config):
        raise ValueError(
            f"{what} holds an autoencoder ({config.network.name}), which has nothing to sample: "
            "train a model of its latents (encode, then config.codec.path), or evaluate it"
        )


def codec(config: ConfigDict) -> Codec:
    """The autoencoder of a config, whose latents are not scaled."""
    fields = {key: value for key, value in config.network.items() if key != "name"}
    network = build(config.network.name, **fields)
    assert isinstance(network, AutoencoderKL)
    return Codec(network)


def objective(config: ConfigDict, read: Callable[[Array, Any], Array]) -> objectives.Objective:
    """The objective of the autoencoder; read(key, batch) gives its images."""
    made = codec(config)

    def encode(params: Any, x: Array) -> tuple[Array, Array]:
        moments = made.moments(params, x)
        return moments.mean, moments.deviation

    weights = objectives.AutoencodingWeights(**config.loss.autoencoding)
    return objectives.autoencoding_objective(encode, made.decode, read, weights)


def problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    """A line for each field that conflicts with the network, the loss, or the data."""
    name, event = config.network.name, features.event
    if is_autoencoder(config) != (name in AUTOENCODERS):
        yield (
            f"config.network.name {name!r} and config.loss.name {config.loss.name!r}: the loss "
            f"{LOSS!r} and the networks {', '.join(AUTOENCODERS)} go together"
        )
        return
    if not is_autoencoder(config):
        return
    for group in ("teacher", "codec"):
        if config[group].path:
            yield f"config.{group}.path is set, and an autoencoder has none"
    if config.lora.rank is not None:
        yield "config.lora.rank is set, and an autoencoder has no adapters"
    if len(event.shape) != 3:
        yield (
            f"config.network.name {name!r} takes images [H, W, C], and {features.event_name} has "
            f"the shape {event.shape}"
        )
        return
    for field in ("in_channels", "out_channels"):
        if config.network[field] != event.shape[-1]:
            yield (
                f"config.network.{field} is {config.network[field]}, and images have "
                f"{event.shape[-1]} channels"
            )
    factor = codec(config).factor
    if any(size % factor for size in event.shape[:2]):
        yield (
            f"config.network has {factor} pixels for one of the latents, and images of "
            f"{event.shape[0]}x{event.shape[1]} are not a multiple of that"
        )
    if tuple(config.data.range) != (-1.0, 1.0):
        yield f"config.data.range is {tuple(config.data.range)}, and a codec takes (-1.0, 1.0)"
