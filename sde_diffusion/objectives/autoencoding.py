"""The objective of an autoencoder whose latents are Gaussian.

The encoder gives N(mean, deviation^2) over latents z, and the decoder an image x' of a sample of
it. With D values in an image,

    loss = l1 |x' - x|_1 / D + l2 |x' - x|_2^2 / D + kl KL / D + perceptual d(x', x)
    KL = 1/2 sum (mean^2 + deviation^2 - 1 - 2 log deviation)

Kingma & Welling 2014, "Auto-encoding variational Bayes", app. B, for KL. Rombach et al. 2022,
"High-resolution image synthesis with latent diffusion models", app. G, for the small weight of KL
beside the error of the reconstruction. Both are divided by D, so that one weight serves images of
every size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.objectives.objective import Metrics, Objective
from sde_diffusion.sdes import Array

Distance = Callable[[Array, Array], Array]


class Weights(NamedTuple):
    """The weights of the terms of the loss.

    l1, l2: of the mean absolute and the mean squared error of a reconstruction.
    kl: of the divergence from N(0, I), summed over the latents and divided by the number of values
        of an image.
    perceptual: of the distance that is given to `autoencoding_objective`.
    """

    l1: float = 1.0
    l2: float = 0.0
    kl: float = 1e-6
    perceptual: float = 1.0


DEFAULT = Weights()


def kl_divergence(mean: Array, deviation: Array) -> Array:
    """KL(N(mean, deviation^2) | N(0, I)) in nats of latents [B, ...], summed: [B]."""
    terms = mean**2 + deviation**2 - 1.0 - 2.0 * jnp.log(deviation)
    return 0.5 * jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def autoencoding_objective(
    encode: Callable[[Any, Array], tuple[Array, Array]],
    decode: Callable[[Any, Array], Array],
    data: Callable[[Array, Any], Array],
    weights: Weights = DEFAULT,
    perceptual: Distance | None = None,
) -> Objective:
    """The objective of an autoencoder; it reports `l1`, `psnr` and `kl` beside the loss.

    `psnr` is in decibels, for images in [-1, 1], of the batch's mean squared error.

    Args:
        encode: encode(params, x) gives mean and deviation of the latents, each [B, *latent].
        decode: decode(params, z) gives images [B, *event].
        data: data(key, batch) gives images x [B, *event] in [-1, 1].
        weights: of the terms.
        perceptual: d(x', x) [B], a distance in the features of another network, or None.

    Raises ValueError for a weight below 0, or if nothing weighs the reconstruction.
    """
    _check(weights, perceptual)

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        del frozen, ema, step
        key_data, key_latents = jax.random.split(key)
        x = data(key_data, batch)
        mean, deviation = encode(params, x)
        keys = noise.sample_keys(key_latents, len(x))
        made = decode(params, mean + deviation * noise.normal(keys, mean))
        axes = tuple(range(1, x.ndim))
        l1, l2 = jnp.mean(jnp.abs(made - x), axis=axes), jnp.mean((made - x) ** 2, axis=axes)
        kl = kl_divergence(mean, deviation)
        loss = weights.l1 * l1 + weights.l2 * l2 + weights.kl * kl / x[0].size
        if perceptual is not None:
            loss = loss + weights.perceptual * perceptual(made, x)
        psnr = 10.0 * jnp.log10(4.0 / jnp.mean(l2))
        return loss, {"l1": jnp.mean(l1), "psnr": psnr, "kl": jnp.mean(kl)}

    return objective


def _check(weights: Weights, perceptual: Distance | None) -> None:
    for name, value in weights._asdict().items():
        if not value >= 0:
            raise ValueError(f"the weight {name} of autoencoding must be at least 0, got {value}")
    if weights.l1 == weights.l2 == 0 and (perceptual is None or weights.perceptual == 0):
        raise ValueError("autoencoding needs a weight above 0 for l1 or l2")
