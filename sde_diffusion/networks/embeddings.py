"""Embeddings of the noise level."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sde_diffusion.networks.layers import Array, dense

EMBEDDINGS = ("positional", "fourier")


def positional_embedding(t: Array, features: int) -> Array:
    """[sin(w_i t), cos(w_i t)] with w_i from 1 down to 1e-4, [B] -> [B, features].

    Vaswani et al. 2017, sec. 3.5, with the frequencies of Ho et al. 2020: its endpoint included.
    """
    half = features // 2
    frequencies = np.geomspace(1.0, 1e-4, half, dtype=np.float32)
    angles = t[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, features - 2 * half)))


class GaussianFourierProjection(nn.Module):
    """[sin(2 pi W t), cos(2 pi W t)] with fixed W ~ N(0, scale^2), [B] -> [B, 2 features].

    Tancik et al. 2020. W is kept with the parameters but takes no gradient.
    """

    features: int
    scale: float

    @nn.compact
    def __call__(self, t: Array) -> Array:
        w = self.param("W", nn.initializers.normal(self.scale), (self.features,))
        angles = 2 * jnp.pi * t[:, None] * jax.lax.stop_gradient(w)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def level_features(t: Array, features: int, embedding_type: str, fourier_scale: float) -> Array:
    """The noise level's features, float32 [B, features] or [B, 2 features] ("fourier").

    The Fourier features are of log t, for labels that are standard deviations.
    """
    t = t.astype(jnp.float32)
    if embedding_type == "fourier":
        return GaussianFourierProjection(features, fourier_scale)(jnp.log(t))
    return positional_embedding(t, features)


def embed_level(level: Array, features: int, act: Callable[[Array], Array]) -> Array:
    """W2 act(W1 level), [B, features], in layers of the module that calls this."""
    return dense(act(dense(level, features)), features)
