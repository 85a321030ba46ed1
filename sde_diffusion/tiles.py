"""Large images, a tile at a time: a codec whose memory does not grow with the image.

Tiles of one size overlap. A pixel is the mean of the tiles that reach it, weighted by the distance
to each tile's edge, up to the overlap:

    x = sum_k w_k x_k / sum_k w_k,      w_k = min(distance to the edge of tile k, overlap)

so a tile fades in and out, and no seam is left at its edge. An autoencoder's group norms and its
attention see one tile in place of the whole, so colours and contrast can drift from what the whole
image would give: the larger the tiles, the less.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sde_diffusion.codec import Codec
from sde_diffusion.networks.autoencoder_kl import Moments

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Tiled(Codec):
    """A codec that encodes and decodes tile by tile; `tiled` makes one of another.

    tile, overlap: of the tiles, in latents along an axis.
    """

    tile: int = 64
    overlap: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.overlap <= self.tile // 2:
            raise ValueError(
                f"tiles of {self.tile} latents must overlap by 1 to {self.tile // 2}, got "
                f"{self.overlap}"
            )

    def moments(self, params: Any, x: Array) -> Moments:
        def of_tile(part: Array) -> Moments:
            return Codec.moments(self, params, part)

        made: Moments = by_tiles(of_tile, x, self.tile, self.overlap, inward=self.factor)
        return made

    def decode(self, params: Any, z: Array) -> Array:
        def of_tile(part: Array) -> Array:
            return Codec.decode(self, params, part)

        made: Array = by_tiles(of_tile, z, self.tile, self.overlap, outward=self.factor)
        return made


def tiled(codec: Codec, tile: int = 64, overlap: int | None = None) -> Tiled:
    """The codec by tiles of `tile` latents along an axis, which overlap by a quarter by default.

        pipe = dataclasses.replace(pipe, codec=tiled(pipe.codec))

    Raises ValueError unless the overlap is from 1 to half of a tile.
    """
    overlap = max(1, tile // 4) if overlap is None else overlap
    return Tiled(codec.module, codec.scale, codec.shift, tile, overlap)


def by_tiles(
    function: Callable[[Array], Any],
    x: Array,
    tile: int,
    overlap: int,
    *,
    inward: int = 1,
    outward: int = 1,
) -> Any:
    """function(x) of x [B, inward h, inward w, C], from its values at tiles of x.

    Args:
        function: [B, inward p, inward q, C] -> a pytree of arrays [B, outward p, outward q, ...].
        x: the whole.
        tile, overlap: in units of h and w; an axis that is no longer than a tile is not cut.
        inward, outward: entries of x, and of the result, for one unit along an axis.

    Tiles are computed one after another, so memory is that of one tile beside x and the result.
    """
    sizes = tuple(length // inward for length in x.shape[1:3])
    spans = tuple(min(tile, size) for size in sizes)
    rows, columns = (_starts(size, span, overlap) for size, span in zip(sizes, spans, strict=True))
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    ramps = [_ramp(span * outward, overlap * outward) for span in spans]
    weight = (ramps[0][:, None] * ramps[1])[None, :, :, None]

    def cut(corner: Array) -> Array:
        shape = (x.shape[0], spans[0] * inward, spans[1] * inward, x.shape[3])
        return lax.dynamic_slice(x, (0, corner[0] * inward, corner[1] * inward, 0), shape)

    def add(total: Array, part: Array, corner: Array) -> Array:
        at = (0, corner[0] * outward, corner[1] * outward, 0)
        there = lax.dynamic_slice(total, at, part.shape)
        return lax.dynamic_update_slice(total, there + part, at)

    def step(totals: Any, corner: Array) -> tuple[Any, None]:
        made, weights = totals
        parts = jax.tree.map(lambda part: weight * part, function(cut(corner)))
        made = jax.tree.map(lambda total, part: add(total, part, corner), made, parts)
        return (made, add(weights, weight, corner)), None

    def empty(part: Any) -> Array:
        return jnp.zeros((part.shape[0], *(s * outward for s in sizes), part.shape[3]), part.dtype)

    first = jax.ShapeDtypeStruct(cut(corners[0]).shape, x.dtype)
    made = jax.tree.map(empty, jax.eval_shape(function, first))
    weights = jnp.zeros((1, *(size * outward for size in sizes), 1), jnp.float32)
    (made, weights), _ = lax.scan(step, (made, weights), jnp.asarray(corners))
    return jax.tree.map(lambda total: total / weights, made)


def _starts(size: int, span: int, overlap: int) -> np.ndarray:
    """Where tiles begin, evenly spread, each sharing at least `overlap` with the one before."""
    num = 1 if size <= span else -(-(size - overlap) // (span - overlap))
    return np.round(np.linspace(0, size - span, num)).astype(np.int32)


def _ramp(length: int, overlap: int) -> np.ndarray:
    """The distance of each entry to the nearer end, from a half up to `overlap`, float32."""
    places = np.arange(length) + 0.5
    return np.minimum(np.minimum(places, length - places), overlap).astype(np.float32)
