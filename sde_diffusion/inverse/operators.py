"""Linear operators: masks, gray values, low resolution, blur, compressed sensing, tomography.

Images are [B, height, width, channels].
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.inverse.operator import Operator
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import Array
from sde_diffusion.selection import require_known

# The gray value of red, green and blue, as in ITU-R recommendation BT.601.
LUMA = (0.299, 0.587, 0.114)
BOUNDARIES = ("wrap", "reflect", "edge", "zero")


@pytree
class Inpainting(Operator):
    """A(x) = x where the mask [*event] is 1 (known), and 0 where it is 0 (hidden).

    A mask [height, width, 1] serves every channel of an image. Raises ValueError for a mask of
    another size.
    """

    mask: Array

    def __call__(self, x: Array) -> Array:
        return x * self._known(x.shape[1:], x.dtype)

    def seen(self, y: Array) -> Array:
        return y * self._known(y.shape[1:], y.dtype)

    def _known(self, event: tuple[int, ...], dtype: jnp.dtype) -> Array:
        shape = jnp.shape(self.mask)
        fits = len(shape) == len(event) and all(
            m == e or (m == 1 and axis == len(event) - 1 and len(event) > 1)
            for axis, (m, e) in enumerate(zip(shape, event, strict=True))
        )
        if not fits:
            raise ValueError(
                f"Inpainting's mask has shape {shape}, but must have the shape of a sample, {event}"
            )
        return (jnp.asarray(self.mask) != 0).astype(dtype)


@pytree
class Grayscale(Operator):
    """The gray image [B, height, width, 1] of a color image: inverting it is colorization.

    `weights` are those of the channels, by default those of BT.601 for red, green and blue.
    """

    weights: Array | tuple[float, ...] = LUMA

    def __call__(self, x: Array) -> Array:
        weights = jnp.asarray(self.weights, x.dtype)
        if x.shape[-1:] != weights.shape:
            raise ValueError(
                f"Grayscale has {len(weights)} weights, but a sample has shape {x.shape[1:]}"
            )
        return jnp.sum(x * weights, axis=-1, keepdims=True)


@pytree
class Downsampling(Operator):
    """The image at 1 / factor of the size: inverting it is super-resolution.

    method="box" averages squares of factor x factor pixels. method="bicubic" uses Keys' cubic
    kernel (a = -1/2), widened by the factor against aliasing, as `jax.image.resize` does.
    Raises ValueError where the factor does not divide the size.
    """

    factor: int = dataclasses.field(metadata={"static": True})
    method: str = dataclasses.field(default="box", metadata={"static": True})

    def __post_init__(self) -> None:
        require_known("method of Downsampling", self.method, ("box", "bicubic"))

    def __call__(self, x: Array) -> Array:
        batch, *size, channels = x.shape
        if len(size) != 2 or any(n % self.factor for n in size):
            raise ValueError(
                f"Downsampling needs images [height, width, channels] of a size that {self.factor} "
                f"divides, got {x.shape[1:]}"
            )
        height, width = (n // self.factor for n in size)
        if self.method == "bicubic":
            return jax.image.resize(x, (batch, height, width, channels), "cubic")
        blocks = x.reshape(batch, height, self.factor, width, self.factor, channels)
        return jnp.mean(blocks, axis=(2, 4))


@pytree
class Blur(Operator):
    """The convolution of each channel with a kernel [k] or [k, l], of odd sizes, at full size.

    The event has an axis for each of the kernel, and may have channels behind them: a kernel [k, l]
    suits images [height, width, channels], a kernel [k] vectors [D]. `boundary` continues the
    sample beyond its edge: "wrap", "reflect", "edge" or "zero".
    `gaussian_kernel` and `motion_kernel` make kernels.
    """

    kernel: Array
    boundary: str = dataclasses.field(default="wrap", metadata={"static": True})

    def __post_init__(self) -> None:
        require_known("boundary of Blur", self.boundary, BOUNDARIES)

    def __call__(self, x: Array) -> Array:
        kernel = jnp.asarray(self.kernel, x.dtype)
        rank, event = kernel.ndim, x.shape[1:]
        if (
            rank not in (1, 2)
            or len(event) - rank not in (0, 1)
            or not all(k % 2 == 1 and k <= n for k, n in zip(kernel.shape, event, strict=False))
        ):
            raise ValueError(
                f"Blur's kernel has shape {kernel.shape}, but must have odd sizes, an axis for "
                f"each of a sample {event} without its channels, and be no larger"
            )
        flat = x if len(event) > rank else x[..., None]
        pad = [(0, 0), *((k // 2, k // 2) for k in kernel.shape), (0, 0)]
        mode = "constant" if self.boundary == "zero" else self.boundary
        padded = jnp.moveaxis(jnp.pad(flat, pad, mode=mode), -1, 1)
        channels = padded.shape[1]
        # conv_general_dilated correlates; a convolution has the kernel reversed.
        weights = jnp.broadcast_to(jnp.flip(kernel), (channels, 1, *kernel.shape))
        made = jax.lax.conv_general_dilated(
            padded,
            weights,
            window_strides=(1,) * rank,
            padding="VALID",
            feature_group_count=channels,
            precision="highest",
        )
        return jnp.moveaxis(made, 1, -1).reshape(x.shape)


def gaussian_kernel(size: int, std: float, rank: int = 2) -> Array:
    """A Gaussian of `std` pixels on `size` pixels along each of `rank` axes, of sum 1."""
    offsets = jnp.arange(size) - (size - 1) / 2
    line = jax.nn.softmax(-0.5 * (offsets / std) ** 2)
    return line if rank == 1 else line[:, None] * line


def motion_kernel(size: int, angle: float) -> Array:
    """A straight stroke through the middle of [size, size] pixels at `angle` degrees, of sum 1."""
    radius = (size - 1) / 2
    along = np.linspace(-radius, radius, 8 * size)
    direction = np.sin(np.deg2rad(-angle)), np.cos(np.deg2rad(angle))
    rows, columns = (np.rint(radius + along * d).astype(int) for d in direction)
    kernel = np.zeros((size, size))
    np.add.at(kernel, (rows, columns), 1.0 / len(along))
    return jnp.asarray(kernel, jnp.float32)


@pytree
class CompressedSensing(Operator):
    """rows @ x, [B, M], for a matrix `rows` [M, D] and samples of D numbers, flattened."""

    rows: Array

    @classmethod
    def gaussian(cls, key: Array, measurements: int, event: tuple[int, ...]) -> CompressedSensing:
        """A random matrix [M, D] with entries N(0, 1 / M)."""
        shape = (measurements, math.prod(event))
        return cls(jax.random.normal(key, shape) / math.sqrt(measurements))

    def __call__(self, x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        if jnp.ndim(self.rows) != 2 or flat.shape[1] != jnp.shape(self.rows)[1]:
            raise ValueError(
                f"CompressedSensing's matrix has shape {jnp.shape(self.rows)}, but a sample has "
                f"{flat.shape[1]} numbers"
            )
        return jnp.matmul(flat, jnp.asarray(self.rows, x.dtype).T, precision="highest")


@pytree
class Radon(Operator):
    """Tomography: the sums of a square image along parallel rays, [B, angles, width, channels].

    angles [A] are in degrees. The image is rotated by each of them about its middle, by bilinear
    interpolation with 0 outside, and its columns are summed.
    """

    angles: Array

    def __call__(self, x: Array) -> Array:
        if x.ndim != 4 or x.shape[1] != x.shape[2]:
            raise ValueError(f"Radon needs square images [n, n, channels], got {x.shape[1:]}")
        middle = (x.shape[1] - 1) / 2
        rows, columns = jnp.meshgrid(*[jnp.arange(x.shape[1]) - middle] * 2, indexing="ij")

        def project(angle: Array) -> Array:
            c, s = jnp.cos(angle), jnp.sin(angle)
            where = [c * rows + s * columns + middle, c * columns - s * rows + middle]

            def rotated(plane: Array) -> Array:
                return jax.scipy.ndimage.map_coordinates(plane, where, order=1)

            planes = jax.vmap(jax.vmap(rotated, -1, -1))(x)
            return jnp.sum(planes, axis=1)

        angles = jnp.deg2rad(jnp.asarray(self.angles, x.dtype))
        return jnp.moveaxis(jax.vmap(project)(angles), 0, 1)
