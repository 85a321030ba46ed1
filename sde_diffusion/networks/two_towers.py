"""Two towers: a picture and a caption as vectors of length 1, whose product says how well they fit.

They are small networks that a data set trains in a minute, and judge what a text-to-image model
draws: see `cli.judge`. Radford et al. 2021, "Learning transferable visual models from natural
language supervision", has towers of another size.
"""

import math

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.layers import Array

# Pixels along the longer axis from which no layer halves a picture any more.
SMALLEST = 8
FIRST, MOST = 24, 96  # channels


class PictureTower(nn.Module):
    """Pictures [B, H, W, C] in about [-1, 1] -> vectors of length 1, [B, width].

    Convolutions halve the picture until its longer axis has at most SMALLEST pixels, and at least
    once.
    """

    width: int = 128

    @nn.compact
    def __call__(self, x: Array) -> Array:
        halvings = max(1, math.ceil(math.log2(max(x.shape[1:3]) / SMALLEST)))
        for level in range(halvings):
            x = nn.relu(nn.Conv(min(FIRST * 2**level, MOST), (3, 3), strides=2)(x))
            x = nn.GroupNorm(8)(x)
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return unit(nn.Dense(self.width)(x))


class CaptionTower(nn.Module):
    """Tokens [B, L], 0 for padding -> vectors of length 1, [B, width].

    A sum over the tokens that are there, each with a vector of its place, and a perceptron.

    vocabulary: how many different tokens there are.
    """

    vocabulary: int
    width: int = 128

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        there = (tokens > 0)[..., None]
        places = self.param("places", nn.initializers.normal(0.5), (tokens.shape[1], 256))
        words = nn.relu(nn.Dense(256)(nn.Embed(self.vocabulary, 256)(tokens)) + places)
        total = jnp.sum(there * words, axis=1)
        return unit(nn.Dense(self.width)(nn.relu(nn.Dense(256)(total))))


def unit(x: Array) -> Array:
    """Vectors [B, D] divided by their lengths."""
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)
