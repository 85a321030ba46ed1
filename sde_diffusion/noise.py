"""Per-sample randomness: sample i draws on (key, i) alone, whatever else is in the batch."""

import jax
import jax.numpy as jnp

from sde_diffusion.sdes import Array


def sample_keys(key: Array, num: int, first: Array | int = 0) -> Array:
    """Keys [num] of the samples first, first + 1, ...: key i is fold_in(key, i)."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(num))


def fold_in(keys: Array, data: Array | int) -> Array:
    """Keys [B] for one more coordinate of the draw, such as the step."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Array, like: Array) -> Array:
    """Standard normal noise of the shape and dtype of `like`, [B, *event], sample by sample."""
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(keys)
