"""What tells a network the noise level and the class."""

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


class ClassEmbedding(nn.Module):
    """A learned vector for a class label and zero for a negative one, int [B] -> [B, features]."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        table = self.param(
            "embedding", nn.initializers.normal(1.0), (self.num_classes, self.features)
        )
        return jax.nn.one_hot(labels, self.num_classes) @ table


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


def embed_class(
    cond: Array | None, batch: int, num_classes: int | None, features: int, dtype: jnp.dtype
) -> Array | None:
    """The class as a vector [B, features], in a layer of the module that calls this.

    None for a network without classes, which has no such layer. cond=None means that no sample has
    a class.
    """
    if num_classes is None:
        if cond is not None:
            raise ValueError("cond is given to a network without classes: set num_classes")
        return None
    labels = jnp.full((batch,), -1) if cond is None else cond
    return ClassEmbedding(num_classes, features)(labels).astype(dtype)
