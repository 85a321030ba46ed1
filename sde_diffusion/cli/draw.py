"""Samples from a trained network, in the data's own range."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sde_diffusion import data, distributed, inverse, noise
from sde_diffusion.cli import codec as codec_of_run
from sde_diffusion.config import build, conditions
from sde_diffusion.config.codecs import FrozenCodec
from sde_diffusion.model import Model
from sde_diffusion.samplers import Samples, sample
from sde_diffusion.sdes import Array

Steer = Callable[[Model], Model]


class Start(NamedTuple):
    """Where samples begin that change an image.

    images: [num, *event] in the data's own units.
    strength: the share of the solver's steps that are taken; see `inverse.sdedit`.
    """

    images: np.ndarray
    strength: float


def as_trained(model: Model) -> Model:
    """The model itself: no guidance."""
    return model


class Under(NamedTuple):
    """What samples are drawn under.

    cond: a pytree of arrays [num, ...], or None.
    steer: from the trained model to the one that samples, such as that of a measurement.
    start: where samples begin, if not at noise.
    no_text: the embeddings of no text, which guidance goes away from; see `without_text`.
    """

    cond: Any = None
    steer: Steer = as_trained
    start: Start | None = None
    no_text: Any = None


UNCONDITIONED = Under()


class NonFiniteSamples(FloatingPointError):
    """Some samples are not finite numbers. Nothing of them is to be written."""


def draw(
    config: ConfigDict,
    params: Any,
    features: data.Features,
    num: int,
    *,
    seed: int,
    under: Under = UNCONDITIONED,
    progress: bool = False,
    coder: FrozenCodec | None = None,
) -> tuple[np.ndarray, int]:
    """(x [num, *event] in the data's own range, evaluations a sample).

    With a codec, `features` are those of its latents, and x are the images that it decodes.

    In batches of about config.sampling.batch_size, over all the devices; every process draws, and
    has all the samples. Sample i depends on the seed, i and its own conditions alone.

    Raises NonFiniteSamples that says how many are not finite, and from which step on.
    """
    mesh = build.mesh(config)
    params = jax.device_put(params, distributed.sampling_shardings(mesh, params))
    scaling = build.scaling(config, features)
    # As many on each device.
    size = -(-min(num, config.sampling.batch_size) // mesh.size) * mesh.size
    hidden = not (progress and distributed.is_first_process())
    parts, nfe = [], 0
    for first in tqdm(range(0, num, size), desc="sampling", unit="batch", disable=hidden):
        samples = batch(config, params, features, size, first, seed=seed, under=under)
        latents = scaling.unscale(samples.x)
        if coder is None:
            parts.append(distributed.to_every_process(latents))
        else:
            parts.append(codec_of_run.decode(coder, mesh, latents))
        nfe = int(np.max(distributed.to_every_process(samples.nfe)))
    x = np.concatenate(parts)[:num]
    bad = np.flatnonzero(~np.isfinite(x).reshape(num, -1).all(axis=1))
    if len(bad):
        where = _first_bad_step(config, params, features, int(bad[0]), seed=seed, under=under)
        raise NonFiniteSamples(
            f"{len(bad)} of {num} samples are not finite, the first of them sample {bad[0]}{where}"
        )
    return codec_of_run.as_stored(x, features.event if coder is None else coder.image), nfe


def check(config: ConfigDict, params: Any, features: data.Features) -> None:
    """ValueError if the solver or its grid does not fit, found without computing anything.

    `params` may be shapes.
    """
    mesh = build.mesh(config)
    size = -(-min(100, config.sampling.batch_size) // mesh.size) * mesh.size
    under = Under(conditions.cond(conditions.zeros(config, features)))
    jax.eval_shape(
        lambda params: batch(config, params, features, size, 0, seed=0, under=under), params
    )


def batch(
    config: ConfigDict,
    params: Any,
    features: data.Features,
    size: int,
    first: int,
    *,
    seed: int,
    under: Under,
    trajectory: bool = False,
) -> Samples:
    """Samples first, first + 1, ... in the model's range, spread over all the devices."""
    spread = distributed.spread(build.model(config, params), build.mesh(config))
    model = under.steer(build.guided(config, spread))
    # The last batch is filled up rather than compiled anew for its own size.
    rows = np.arange(first, first + size)

    def of_rows(each: np.ndarray) -> Array:
        return jnp.asarray(each[np.minimum(rows, len(each) - 1)])

    options = {
        "solver": build.solver(config),
        "grid": build.grid(config),
        "cond": guided_cond(config, jax.tree.map(of_rows, under.cond), under.no_text),
        "denoise_last": config.sampling.denoise_last,
        "first": first,
        "trajectory": trajectory,
    }
    if under.start is None:
        return sample(noise.key(seed), model, (size, *features.event.shape), **options)
    x = build.scaling(config, features).scale(of_rows(under.start.images))
    strength = under.start.strength
    return inverse.sdedit(noise.key(seed), model, x, strength=strength, **options)


def guided_cond(config: ConfigDict, cond: Any, no_text: Any) -> Any:
    """The condition of the guided model, which for embeddings has both branches."""
    if not build.is_guided_by_embeddings(config):
        return cond
    return {"negative": conditions.without_text(config, cond, no_text), "positive": cond}


def _first_bad_step(
    config: ConfigDict,
    params: Any,
    features: data.Features,
    index: int,
    *,
    seed: int,
    under: Under,
) -> str:
    """At which step of the solver sample `index` ceases to be finite, found by drawing it again."""
    size = build.mesh(config).size
    samples = batch(config, params, features, size, index, seed=seed, under=under, trajectory=True)
    assert samples.trajectory is not None
    states = distributed.to_every_process(samples.trajectory)[:, 0]
    steps, bad = len(states) - 1, ~np.isfinite(states).reshape(len(states), -1).all(axis=1)
    if not bad.any():
        return f": after {steps} steps it still is, and its denoising by one more evaluation is not"
    return f", which ceases to be at step {int(np.argmax(bad))} of {steps}"
