"""Per-sample randomness: sample i draws on (key, i) alone, whatever else is in the batch.

A `BrownianPath` in place of a key fixes one path of noise for each sample, which a stochastic
solver then follows at every step size and on every grid. If x0 is constant, the noise of the
reverse process is sigma V, where V has unit variance and is stationary in
lambda = log(alpha / sigma):

    dV = -V dlambda + sqrt(2) dw
    a step from t to s with h = lambda_s - lambda_t adds   sigma_s (V_s - exp(-h) V_t)          (1)
    halfway between two values, half a width d from each,
    V = (V_low + V_high) / (2 cosh(d)) + sqrt(tanh(d)) z                                        (2)

One path in lambda therefore serves every SDE. By (2), V is a dyadic tree: each node draws its z
from the key folded with the node's number, so nothing is stored. exp(lambda) V is a Brownian motion
in the signal-to-noise ratio. This is the virtual Brownian tree of Li et al. 2020, "Scalable
Gradients for Stochastic Differential Equations".
"""

import itertools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import SDE, Array, expand

# The tree spans lambda from -16 to 16. Within its last intervals, of 2^-19, V is linear: float32
# resolves no more.
_END, _LEVELS = 16.0, 24
# The keys of the tree are folded with this number, which no step has.
_TREE = 2**32 - 1


@pytree
class BrownianPath:
    """The noise of one path for each sample: `sample(BrownianPath(key), ...)` at any step size.

    The start x_T is the same as with the key itself. Noise that does not belong to the reverse SDE,
    such as that of a corrector, is drawn independently at each step.
    """

    key: Array

    def of_samples(self, num: int, first: Array | int = 0) -> "BrownianPath":
        """The paths of the samples first, first + 1, ..., by their keys [num]."""
        return BrownianPath(sample_keys(self.key, num, first))


class PathStep(NamedTuple):
    """The samples' paths from lambda_t to lambda_s: what a step receives in place of keys [B]."""

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
    """Keys [B] folded with `data`, such as the number of the step; for a path, its plain keys."""
    keys = keys.key if isinstance(keys, BrownianPath | PathStep) else keys
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def step_keys(keys: Source, i: Array, sde: SDE, t: Array, s: Array) -> Keys:
    """The source of the noise of step i, from t to s: keys, or a part of the path."""
    if not isinstance(keys, BrownianPath):
        return fold_in(keys, i)
    return PathStep(fold_in(keys, i), fold_in(keys, _TREE), sde.log_snr(t), sde.log_snr(s))


def split(keys: Keys) -> tuple[Array, Keys]:
    """(keys for noise outside of the reverse SDE, keys or path for its own noise)."""
    return fold_in(keys, 0), keys if isinstance(keys, PathStep) else fold_in(keys, 1)


def normal(keys: Keys, like: Array) -> Array:
    """Standard normal noise of the shape and dtype of `like`, [B, *event], sample by sample.

    On a path it is the step's increment (1), divided by its standard deviation.
    """
    if isinstance(keys, PathStep):
        return increments(keys, like, keys.start, keys.end)[0]
    return jax.vmap(lambda k: jax.random.normal(k, like.shape[1:], like.dtype))(keys)


def normals(keys: Keys, like: Array, *log_snr: Array) -> list[Array]:
    """Noise as from `normal` for each part of a step; the lambdas, in rising order, part it."""
    if isinstance(keys, PathStep):
        return increments(keys, like, *log_snr)
    return [normal(fold_in(keys, i), like) for i in range(len(log_snr) - 1)]


def increments(keys: Keys, like: Array, *log_snr: Array) -> list[Array]:
    """(V(end) - exp(-h) V(start)) / sqrt(1 - exp(-2 h)), h = end - start > 0, from one to the next.

    Each lambda is [] or [B]. With plain keys, V is a path of these keys.
    """
    values, made = _stationary(keys, log_snr, like), []
    for i, (start, end) in enumerate(itertools.pairwise(log_snr)):
        # Equal ends are a step of length 0, also where alpha = 0 and both lambdas are infinite.
        h = expand(jnp.where(start == end, 0.0, end - start), like)
        # A step that float32 cannot distinguish from none draws 0 rather than 0 / 0.
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
    # One compiled walk for all places: the tree takes longer to compile than to walk.
    return jax.vmap(jax.vmap(value), (None, 0))(path, places)
