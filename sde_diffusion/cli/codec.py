"""The codec of a run: the autoencoder that config.codec names, and codec.json in the run's folder.

It is that of another run, or of a pretrained folder, whose shift and scale are its own.

The file has the fingerprint of the codec's parameters, and shift and scale of its latents, so that
sampling needs no data, and refuses another codec.
"""

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data, distributed, training
from sde_diffusion.cli import run
from sde_diffusion.codec import Codec
from sde_diffusion.config import autoencoders, codecs, folders
from sde_diffusion.config.codecs import FrozenCodec
from sde_diffusion.networks.autoencoder_kl import Moments
from sde_diffusion.pretrained.codec import read_codec
from sde_diffusion.training.frozen import fingerprints

FILE = "codec.json"
# Shift and scale are measured on at most so many records, evenly spread.
MEASURED = 2000


def of_run(workdir: epath.Path, config: ConfigDict) -> FrozenCodec | None:
    """The codec of a trained run, for sampling; None for a run of images themselves.

    Raises ValueError for another codec than the one that it was trained with.
    """
    if not config.codec.path:
        return None
    stored = data.read_stored_codec(workdir)
    if not folders.is_pretrained(config.codec.path):
        return _as_stored(stored, workdir, read(config.codec))
    features = run.read_data(workdir).features
    return _as_stored(stored, workdir, _pretrained(config.codec.path, _image(features)))


def of_training(
    config: ConfigDict, source: data.Source, earlier: epath.Path | None
) -> FrozenCodec | None:
    """The codec for training on the records of a source; None where config.codec names none.

    Shift and scale are those that latents were stored with, or else those of an earlier run (the
    one that goes on, or whose network is taken over), or else they are measured.

    Raises ValueError for latents or images of another codec.
    """
    if not config.codec.path:
        return None
    codec = of_source(config.codec, source)
    if codecs.is_latent(source.features):
        stored = data.read_stored_codec(config.data.source.path)
        _require_same(codec, stored.fingerprint, f"the latents of {source.name} are", stored.name)
        return codec._replace(latent=source.features.event)
    require_images(codec, source, "config.codec.path")
    if folders.is_pretrained(config.codec.path):
        return codec
    if earlier is not None and (earlier / FILE).is_file():
        return _as_stored(data.read_stored_codec(earlier), earlier, codec)
    shift, scale = measure(codec, source, config.training.batch_size)
    return codec._replace(latent=codecs.latent_feature(codec.latent.shape, shift, scale))


def of_source(
    group: ConfigDict, source: data.Source, flag: str = "config.codec.path"
) -> FrozenCodec:
    """The codec of the run or of the pretrained folder in group.path, for the images of a source.

    Raises what `read` does, and ValueError for images of a size that it does not take.
    """
    if folders.is_pretrained(group.path):
        return _pretrained(group.path, _image(source.features), flag)
    return read(group, flag)


def read(group: ConfigDict, flag: str = "config.codec.path") -> FrozenCodec:
    """The autoencoder of the run that path, step and ema name, with latents as they are.

    Raises FileNotFoundError for a folder without a run, and ValueError for one without an
    autoencoder.
    """
    folder = run.folder(group.path, flag)
    theirs = run.read_config(folder, {})
    if not autoencoders.is_autoencoder(theirs):
        raise ValueError(f"{flag} {group.path}: its network {theirs.network.name!r} is no codec")
    features = run.read_data(folder).features
    step, ema = (None if value is None else str(value) for value in (group.step, group.ema))
    if ema is None or not theirs.optim.ema_rates:
        ema = "none"
    params, _ = run.restore_params(folder, theirs, features, step=step, ema=ema)
    mark = fingerprints({"codec": params})["codec"]
    return of_params(theirs, features, params)._replace(name=group.path, fingerprint=mark)


def _pretrained(
    path: str, image: data.Feature | None, flag: str = "config.codec.path"
) -> FrozenCodec:
    """The autoencoder in a pretrained folder, for images like that, or 512x512 where it is None."""
    given, params = read_codec(epath.Path(path) / "vae")
    codec, channels = Codec(given.module), given.module.in_channels
    shape = (512, 512, channels) if image is None else image.shape
    factor = given.factor
    if len(shape) != 3 or shape[2] != channels or shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"{flag} {path}: it encodes images of {channels} channels whose height and width are "
            f"multiples of {factor}, got {shape}"
        )
    latent = codecs.latent_feature(
        (shape[0] // factor, shape[1] // factor, given.module.latent_channels),
        given.shift,
        given.scale,
    )
    mark = fingerprints({"codec": params})["codec"]
    event = data.Feature(shape, "uint8", 0, 255)
    return FrozenCodec(codec, params, path, mark, event, (-1.0, 1.0), latent)


def _image(features: data.Features) -> data.Feature | None:
    """The images of records, or None for latents."""
    return None if codecs.is_latent(features) else features.event


def of_params(config: ConfigDict, features: data.Features, params: Any) -> FrozenCodec:
    """The codec of an autoencoder's config and parameters, without a name and a fingerprint."""
    codec, event = autoencoders.codec(config), features.event
    image = jnp.zeros((1, *event.shape), jnp.float32)
    shape = jax.eval_shape(lambda: codec.moments(params, image)).mean.shape[1:]
    latent = codecs.latent_feature(shape, 0.0, 1.0)
    return FrozenCodec(codec, params, "", "", event, tuple(config.data.range), latent)


def require_images(codec: FrozenCodec, source: data.Source, flag: str) -> None:
    """Raise ValueError unless the records of a source are images as the codec takes them."""
    image, event = codec.image, source.features.event
    if (image.shape, image.dtype, image.range) != (event.shape, event.dtype, event.range):
        raise ValueError(
            f"{flag} {codec.name}: it encodes {_described(image)}, and {source.name} has "
            f"{_described(event)}"
        )


def write(workdir: epath.Path, codec: FrozenCodec) -> None:
    """Write what `of_run` reads, and the shift and scale."""
    if distributed.is_first_process():
        write_stored(workdir, told(codec))


def told(codec: FrozenCodec) -> data.StoredCodec:
    """What a run's folder says of its codec."""
    return data.StoredCodec(codec.name, codec.fingerprint, *codecs.shift_and_scale(codec.latent))


def write_stored(folder: os.PathLike[str], stored: data.StoredCodec) -> None:
    """Write what `data.read_stored_codec` reads."""
    training.write_whole(epath.Path(folder) / FILE, json.dumps(stored._asdict(), indent=1) + "\n")


def encode(codec: FrozenCodec, mesh: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the latents of images in their own units, on every process.

    The images [B, H, W, C] are split over all the devices.
    """
    moments = _encode(codec.params, _spread(mesh, images), codec=codec.codec, scaling=codec.scaling)
    mean, deviation = (distributed.to_every_process(each)[: len(images)] for each in moments)
    return mean, deviation


def decode(codec: FrozenCodec, mesh: Any, latents: Any) -> np.ndarray:
    """Images in their own units of latents [B, h, w, c], on every process, float32."""
    on_devices = latents
    if isinstance(latents, np.ndarray):
        on_devices = _spread(mesh, latents)
    images = _decode(codec.params, on_devices, codec=codec.codec, scaling=codec.scaling)
    return distributed.to_every_process(images)[: len(latents)]


def as_stored(x: np.ndarray, event: data.Feature) -> np.ndarray:
    """Samples in the type of the data: rounded and clipped where these are whole numbers."""
    if event.dtype == "uint8":
        return np.clip(np.round(x), *event.range).astype(np.uint8)
    return x


def measure(codec: FrozenCodec, source: data.Source, batch_size: int) -> tuple[float, float]:
    """Shift and scale of the latents of a source of images, from `measured_rows` of it."""
    mesh = distributed.make_mesh()
    used = data.select(source, [source.features.event_name])
    found = [
        encode(codec, mesh, data.take(used, rows)[source.features.event_name])
        for rows in batches_of(measured_rows(len(source)), batch_size)
    ]
    return statistics(*map(np.concatenate, zip(*found, strict=True)))


def measured_rows(num: int) -> np.ndarray:
    """The records out of `num` that shift and scale are measured on."""
    return np.unique(np.linspace(0, num - 1, min(num, MEASURED)).round().astype(int))


def statistics(mean: np.ndarray, deviation: np.ndarray) -> tuple[float, float]:
    """The mean, and one over the standard deviation, of all numbers of samples of Gaussians."""
    mean, deviation = mean.astype(np.float64), deviation.astype(np.float64)
    return float(mean.mean()), float(1.0 / np.sqrt(mean.var() + (deviation**2).mean()))


def batches_of(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The rows in parts of `size`."""
    yield from (rows[first : first + size] for first in range(0, len(rows), size))


def _as_stored(stored: data.StoredCodec, workdir: epath.Path, codec: FrozenCodec) -> FrozenCodec:
    """The codec with the shift and scale of a run's folder; ValueError if it is another one."""
    _require_same(codec, stored.fingerprint, f"workdir {workdir} was trained on those", stored.name)
    latent = codecs.latent_feature(codec.latent.shape, stored.shift, stored.scale)
    return codec._replace(latent=latent)


def _require_same(codec: FrozenCodec, fingerprint: str, what: str, name: str) -> None:
    if codec.fingerprint != fingerprint:
        raise ValueError(
            f"config.codec.path {codec.name} has the fingerprint {codec.fingerprint}, but {what} "
            f"of another codec, {name} with the fingerprint {fingerprint}"
        )


def _described(event: data.Feature) -> str:
    return f"{event.dtype} {event.shape} from {event.range[0]:g} to {event.range[1]:g}"


def _spread(mesh: Any, images: np.ndarray) -> jax.Array:
    """An array [B, ...] on all the devices, filled up to a multiple of their number."""
    more = -len(images) % mesh.size
    filled = np.concatenate([images, np.repeat(images[-1:], more, axis=0)])
    sharding = distributed.shard_samples(mesh)
    return jax.make_array_from_callback(filled.shape, sharding, lambda at: filled[at])


@partial(jax.jit, static_argnames=("codec", "scaling"))
def _encode(params: Any, images: Any, *, codec: Codec, scaling: data.Scaling) -> Moments:
    return codec.moments(params, scaling.scale(images))


@partial(jax.jit, static_argnames=("codec", "scaling"))
def _decode(params: Any, latents: Any, *, codec: Codec, scaling: data.Scaling) -> Any:
    return scaling.unscale(codec.decode(params, latents))
