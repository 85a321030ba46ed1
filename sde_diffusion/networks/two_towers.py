"""Two towers: a picture and a caption as vectors of length 1, whose product says how well they fit.

They are small networks that a data set trains in a minute, and judge what a text-to-image model
draws: see `cli.judge`. Radford et al. 2021, "Learning transferable visual models from natural
language supervision", has towers of another size.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

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
            width, name = min(FIRST * 2**level, MOST), f"Conv_{level}"
            if level == 0:
                x = FirstConv(width, name=name)(x)
            else:
                x = nn.Conv(width, (3, 3), strides=2, name=name)(x)
            x = nn.relu(x)
            x = nn.GroupNorm(8)(x)
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return unit(nn.Dense(self.width)(x))


class FirstConv(nn.Module):
    """nn.Conv(features, (3, 3), strides=2), as one product of the 3x3 patches of x [B, H, W, C].

    For the 3 channels of a picture it takes, with its gradient, 0.4 of the processor time of
    XLA's convolution on a CPU; for more channels it takes more.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        rows, columns = lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), "SAME")
        padded = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
        height, width = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
        patches = jnp.concatenate(
            [
                padded[:, i : i + 2 * height : 2, j : j + 2 * width : 2]
                for i in range(3)
                for j in range(3)
            ],
            axis=-1,
        )
        return patches @ kernel.reshape(-1, self.features) + bias


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
