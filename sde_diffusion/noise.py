"""Per-sample randomness: sample i draws on (key, i) alone, whatever else is in the batch.

A `BrownianPath` in place of a key makes the noise of a stochastic solver that of one path, the
same at all step sizes and on all grids. The reverse process's noise, as its part that a constant
x0 leaves, is sigma V with V of unit variance and stationary in lambda = log(alpha / sigma):

    dV = -V dlambda + sqrt(2) dw
    a step from t to s with h = lambda_s - lambda_t adds   sigma_s (V_s - exp(-h) V_t)          (1)
    halfway between two values, half a width d from each,
    V = (V_low + V_high) / (2 cosh(d)) + sqrt(tanh(d)) z                                        (2)

so that in lambda one path serves every SDE. By (2) V is a dyadic tree whose every node draws z by
folding the key with its number, and nothing is stored. (exp(lambda) V is a Brownian motion in the
signal-to-noise ratio.) The tree is the virtual one of Li et al. 2020, "Scalable Gradients for
Stochastic Differential Equations".
"""

import itertools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, expand

# lambda is taken between -16 and 16, and V as a straight line below 2^-19, where float32 ends.
_END, _LEVELS = 16.0, 24
# What the keys are folded with for the tree: no step has this number.
_TREE = 2**32 - 1


@pytree
class BrownianPath:
    """The noise of one path for each sample: `sample(BrownianPath(key), ...)` at any step size.

    The start x_T is the one that the key itself would give. Noise that is not the reverse SDE's
    own, such as a corrector's, is drawn independently for each step.
    """

    key: Array

    def of_samples(self, num: int, first: Array | int = 0) -> "BrownianPath":
        """The paths of the samples first, first + 1, ..., by their keys [num]."""
        return BrownianPath(sample_keys(self.key, num, first))


class PathStep(NamedTuple):
    """What a step receives in place of keys [B]: the samples' paths from lambda_t to lambda_s."""

    key: Array
    path: Array
    start: Array
    end: Array


Source = Array | BrownianPath
Keys = Array | PathStep


def check_seed(seed: int) -> int:
    """The seed; ValueError unless it is a whole number in [0, 2^64)."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"seed must be a whole number, got {seed!r}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, got {seed}")
    return number


def key(seed: int) -> Array:
    """A key for a whole number in [0, 2^64), for each its own; ValueError for any other.

    Below 2^32 it is `jax.random.key(seed)`, which takes larger numbers modulo 2^32.
    """
    high, low = divmod(check_seed(seed), 2**32)
    made = jax.random.key(np.uint32(low))
    return jax.random.fold_in(made, high) if high else made


def sample_keys(key: Array, num: int, first: Array | int = 0) -> Array:
    """Keys [num] of the samples first, first + 1, ...: key i is fold_in(key, i)."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(num))


def fold_in(keys: Keys | Source, data: Array | int) -> Array:
    """Keys [B] for one more coordinate of the draw, such as the step; never those of a path."""
    keys = keys.key if isinstance(keys, BrownianPath | PathStep) else keys
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def step_keys(keys: Source, i: Array, sde: SDE, t: Array, s: Array) -> Keys:
    """What step i, from t to s, draws on."""
    if not isinstance(keys, BrownianPath):
        return fold_in(keys, i)
    return PathStep(fold_in(keys, i), fold_in(keys, _TREE), sde.log_snr(t), sde.log_snr(s))


def split(keys: Keys) -> tuple[Array, Keys]:
    """Keys for noise that is not the reverse SDE's own, and for that which is."""
    return fold_in(keys, 0), keys if isinstance(keys, PathStep) else fold_in(keys, 1)


def normal(keys: Keys, like: Array) -> Array:
    """Standard normal noise of the shape and dtype of `like`, [B, *event], sample by sample.

    On a path it is the step's, (1) over its standard deviation.
    """
    if isinstance(keys, PathStep):
        return increments(keys, like, keys.start, keys.end)[0]
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(keys)


def normals(keys: Keys, like: Array, *log_snr: Array) -> list[Array]:
    """Noise as of `normal` for each part of a step, between one lambda and the next, rising."""
    if isinstance(keys, PathStep):
        return increments(keys, like, *log_snr)
    return [normal(fold_in(keys, i), like) for i in range(len(log_snr) - 1)]


def increments(keys: Keys, like: Array, *log_snr: Array) -> list[Array]:
    """(V(end) - exp(-h) V(start)) / sqrt(1 - exp(-2 h)), h = end - start > 0, from one to the next.

    Each lambda is [] or [B]. V is that of the path which the step is on; plain keys stand for a
    path of their own.
    """
    values, made = _stationary(keys, log_snr, like), []
    for i, (start, end) in enumerate(itertools.pairwise(log_snr)):
        # Equal ends are no step, where alpha = 0 and both are infinite too.
        h = expand(jnp.where(start == end, 0.0, end - start), like)
        # A step too short for float32 to tell from none draws 0, and not 0 / 0.
        variance = jnp.maximum(-jnp.expm1(-2.0 * h), jnp.finfo(like.dtype).tiny)
        made.append((values[i + 1] - jnp.exp(-h) * values[i]) / jnp.sqrt(variance))
    return made


def _stationary(keys: Keys, log_snr: tuple[Array, ...], like: Array) -> Array:
    """V [k, B, *event] at each of the k lambdas, by (2) from the root of the tree down."""
    path = keys.path if isinstance(keys, PathStep) else keys
    shape, dtype = like.shape[1:], like.dtype

    def value(key: Array, place: Array) -> Array:
        low, high = jax.random.normal(jax.random.fold_in(key, 0), (2, *shape), dtype)

        def halve(level: Array, carry: tuple) -> tuple:
            low, high, node, place = carry
            distance = jnp.asarray(_END, dtype) * jnp.exp2(-level.astype(dtype))
            z = jax.random.normal(jax.random.fold_in(key, node), shape, dtype)
            middle = (low + high) / (2.0 * jnp.cosh(distance)) + jnp.sqrt(jnp.tanh(distance)) * z
            right = place >= 0.5
            low, high = jnp.where(right, middle, low), jnp.where(right, high, middle)
            return low, high, 2 * node + right, 2.0 * place - right

        carry = (low, high, jnp.uint32(1), place)
        low, high, _, place = jax.lax.fori_loop(0, _LEVELS, halve, carry)
        return low + place.astype(dtype) * (high - low)

    places = jnp.stack([jnp.broadcast_to(each, path.shape) for each in log_snr])
    places = (jnp.clip(places, -_END, _END) + _END) / (2.0 * _END)
    # All at once, as the tree takes longer to compile than to walk.
    return jax.vmap(jax.vmap(value), (None, 0))(path, places)
