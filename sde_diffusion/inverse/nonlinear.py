"""Operators that are not linear: phase retrieval, quantization, clipping.

Methods that need A^T refuse them; `sda`, `mmps`, `DPS`, `DAPS` and the particle methods take them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sde_diffusion.inverse.operator import Operator
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import Array


@pytree
class PhaseRetrieval(Operator):
    """|F(x)|, the magnitudes of the discrete Fourier transform (orthonormal) of the padded sample.

    The transform is over the first two axes of an image [height, width, channels], over the one
    axis of a vector [D]. `padding` is the share of the size that is added as zeros behind each
    axis; 1 doubles it. x and -x, and shifted or reflected samples, have the same magnitudes.
    """

    linear = False
    padding: float = dataclasses.field(default=0.0, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        axes = tuple(range(1, min(x.ndim, 3)))
        size = [x.shape[axis] + round(self.padding * x.shape[axis]) for axis in axes]
        transformed = jnp.fft.fftn(x, size, axes, norm="ortho")
        square = jnp.real(transformed) ** 2 + jnp.imag(transformed) ** 2
        # The magnitude has no derivative at 0.
        return jnp.sqrt(square + jnp.finfo(x.dtype).tiny)


@pytree
class Quantization(Operator):
    """JPEG's loss: blocks of pixels, their cosine transform rounded to multiples of `step`.

    `step` is a number, or [block, block] for each frequency. The result is the decoded image
    [B, height, width, channels]. Rounding has the derivative of the identity (straight through);
    its true derivative is 0. Raises ValueError where `block` does not divide the size.
    """

    linear = False
    step: Array | float
    block: int = dataclasses.field(default=8, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        batch, *size, channels = x.shape
        if len(size) != 2 or any(n % self.block for n in size):
            raise ValueError(
                f"Quantization needs images [height, width, channels] of a size that {self.block} "
                f"divides, got {x.shape[1:]}"
            )
        height, width = (n // self.block for n in size)
        blocks = x.reshape(batch, height, self.block, width, self.block, channels)
        cosines = _cosines(self.block, x.dtype)
        step = jnp.broadcast_to(jnp.asarray(self.step, x.dtype), (self.block, self.block))
        spectrum = jnp.einsum("ip,jq,bhpwqc->bhwcij", cosines, cosines, blocks, precision="highest")
        levels = spectrum / step
        kept = step * (levels + jax.lax.stop_gradient(jnp.round(levels) - levels))
        made = jnp.einsum("ip,jq,bhwcij->bhpwqc", cosines, cosines, kept, precision="highest")
        return made.reshape(x.shape)


@pytree
class Clipping(Operator):
    """x limited to [low, high], as by a saturated sensor; its derivative is 0 beyond."""

    linear = False
    low: Array | float
    high: Array | float

    def __call__(self, x: Array) -> Array:
        return jnp.clip(x, self.low, self.high)


def _cosines(size: int, dtype: jnp.dtype) -> Array:
    """The orthogonal matrix [size, size] of the discrete cosine transform (II)."""
    k, n = jnp.arange(size)[:, None], jnp.arange(size)
    rows = jnp.cos(jnp.pi * k * (2 * n + 1) / (2 * size)) * jnp.sqrt(2.0 / size)
    return rows.at[0].multiply(jnp.sqrt(0.5)).astype(dtype)
