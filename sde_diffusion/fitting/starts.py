"""The starts that a solver is fitted to, their targets, and the choice of useful starts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.fitting import family
from sde_diffusion.model import Model
from sde_diffusion.samplers import UniPC
from sde_diffusion.sdes import SDE, Array


class Starts(NamedTuple):
    """Starts x and targets [N, *event], their conditions cond [N, ...] or None, and weights [N].

    These are NumPy arrays. The model is applied to `size` of them at a time, so that another N
    needs no new compilation.
    """

    x: Any
    target: Any
    cond: Any
    weight: Any

    def rows(self, rows: Any) -> "Starts":
        return jax.tree.map(lambda leaf: leaf[rows], self)

    def chunks(self, size: int) -> Iterator["Starts"]:
        """The same, `size` of them at a time; N is a multiple of it."""
        return (self.rows(slice(i, i + size)) for i in range(0, len(self.x), size))


def draw(
    key: Array,
    sde: SDE,
    shape: tuple[int, ...],
    conditions: Callable[[np.ndarray], Any] | None,
) -> Starts:
    """The starts [N, *event] that `sample` draws from the key: equal weights, no targets."""
    num, event = shape[0], shape[1:]
    keys = noise.fold_in(noise.sample_keys(key, num), 0)
    x = sde.sigma(sde.t_max) * noise.normal(keys, jnp.zeros((num, *event)))
    cond = conditions(np.arange(num)) if conditions else None
    weight = np.ones(num, np.float32)
    return jax.tree.map(np.asarray, Starts(x, x, cond, weight))


def solved(
    model: Model,
    starts: Starts,
    *,
    steps: int,
    size: int,
    going: Callable[[], bool] = lambda: True,
    t_min: float | None = None,
) -> Starts:
    """The starts with targets: the denoised ends of UniPC's solution in `steps` steps.

    It ends at t_min, by default that of the SDE. Solves `size` starts at a time, and returns only
    those solved before going() is false.
    """
    sde = model.sde
    low, high = family.ends(sde, t_min)
    inner = sde.t_of_log_snr(jnp.linspace(low, high, steps + 1)[1:])
    times = jnp.append(jnp.asarray(sde.t_max, inner.dtype), inner)
    target = []
    for chunk in starts.chunks(size):
        target.append(np.asarray(_solve(model, chunk, times)))
        if not going():
            break
    done = starts.rows(slice(size * len(target)))
    return done._replace(target=np.concatenate(target))


@jax.jit
def _solve(model: Model, starts: Starts, times: Array) -> Array:
    keys = noise.sample_keys(jax.random.key(0), len(starts.x))
    x = UniPC().solve(keys, model, starts.x, times, starts.cond).x
    return model(x, times[-1], starts.cond).x0


def choose(key: Array, starts: Starts, errors: Sequence[np.ndarray], num: int) -> Starts:
    """Draws `num` starts by importance sampling, from their errors [N] under some solvers.

    The weights make weighted means unbiased for means over all starts. They have less variance
    where few starts carry most of the error, as those near the border between two modes of the data
    do. An error that is not finite counts as the largest finite one.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    share = np.sum([_shares(error) for error in errors], axis=0)
    likely = share / np.sum(share)
    rows = rng.choice(len(share), num, p=likely)
    weight = 1.0 / (len(share) * likely[rows])
    return starts.rows(rows)._replace(weight=weight.astype(np.float32))


def _shares(error: np.ndarray) -> np.ndarray:
    """The relative frequency of each start: its error over the mean error, plus one."""
    finite = np.isfinite(error)
    error = np.where(finite, error, np.max(error[finite]) if finite.any() else 1.0)
    return error / error.mean() + 1.0 if error.any() else np.ones(len(error))
