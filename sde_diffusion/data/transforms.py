"""What is done to a batch on the device: pure functions, a key for each sample."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Scaling:
    """The affine map of the data's range [low, high] onto the model's [to_low, to_high].

    scale(x) = a x + b,   a = (to_high - to_low) / (high - low),   b = to_low - a low

    `unscale` is its inverse, to float32 rounding; whole numbers come back exactly once rounded.
    Where the two ranges are equal, both are the identity.

    Args:
        low, high: the data's range, `features.event.range`.
        to_low, to_high: the model's.

    Raises:
        ValueError: a range is empty.
    """

    low: float
    high: float
    to_low: float = -1.0
    to_high: float = 1.0

    def __post_init__(self) -> None:
        if not (self.low < self.high and self.to_low < self.to_high):
            raise ValueError(
                f"a range must have low < high, got [{self.low}, {self.high}] "
                f"to [{self.to_low}, {self.to_high}]"
            )

    @property
    def slope(self) -> float:
        """a = d scale(x) / dx: a density per unit of the data is a^D times the model's."""
        return (self.to_high - self.to_low) / (self.high - self.low)

    def scale(self, x: jax.Array) -> jax.Array:
        """From the data's range to the model's, float32 of the same shape."""
        return jnp.asarray(x, jnp.float32) * self.slope + self._offset

    def unscale(self, x: jax.Array) -> jax.Array:
        """From the model's range to the data's, float32 of the same shape; nothing is clipped."""
        return (jnp.asarray(x, jnp.float32) - self._offset) / self.slope

    def to_uint8(self, x: jax.Array) -> jax.Array:
        """From the model's range to 0 ... 255, rounded and clipped: a picture of x."""
        unit = (jnp.asarray(x, jnp.float32) - self.to_low) / (self.to_high - self.to_low)
        return jnp.round(255 * jnp.clip(unit, 0, 1)).astype(jnp.uint8)

    @property
    def _offset(self) -> float:
        return self.to_low - self.slope * self.low


def random_flip(keys: jax.Array, x: jax.Array) -> jax.Array:
    """Each image of x [B, H, W, C] mirrored left to right with probability 1/2, by its own key.

    Args:
        keys: [B].
        x: any dtype, which is kept.

    Raises:
        ValueError: x is not a batch of images.
    """
    if x.ndim != 4:
        raise ValueError(f"x must be images [B, H, W, C] to be flipped, got shape {x.shape}")
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], jnp.flip(x, axis=2), x)


def dequantize(keys: jax.Array, x: jax.Array, low: float, high: float) -> jax.Array:
    """low + (x - low + u) (high - low) / (high - low + 1),   u ~ U[0, 1): noise fills the bins.

    For whole x in [low, high], as in Theis et al. 2016, section 3.1, in the data's own range, so
    that `Scaling` is the same with it and without.

    Args:
        keys: [B].
        x: uint8 [B, *event].
        low, high: the data's range.

    Returns:
        float32 [B, *event] in [low, high].

    Raises:
        ValueError: x is not uint8: between other numbers there are no bins of width 1.
    """
    if x.dtype != jnp.uint8:
        raise ValueError(f"only uint8 data can be dequantized, got {x.dtype}")
    u = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)
    return low + (x.astype(jnp.float32) - low + u) * ((high - low) / (high - low + 1))
