"""SDEdit: from a sample of your own, noised part of the way, back to data."""

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.model import Model, require_model
from sde_diffusion.samplers.sample import grid_of, sample
from sde_diffusion.samplers.solver import Samples, Solver
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import is_known


def sdedit(
    key: Array,
    model: Model,
    x: Array,
    *,
    strength: float,
    solver: Solver,
    grid: Array,
    cond: Any = None,
    first: Array | int = 0,
    denoise_last: bool = True,
    trajectory: bool = False,
) -> Samples:
    """Samples near x [B, *event]: x is noised to a time of the grid, and sampled from there.

    strength is the share of the steps of the grid [n + 1] that are taken, k = round(strength n): at
    0 the samples are x itself, at 1 they hardly depend on it. cond, a class or a text, says what x
    is to become. The other arguments are those of `sample`.

    Raises ValueError for a strength outside [0, 1], and as `sample` does. Source: Meng et al. 2022
    (SDEdit).
    """
    require_model(model)
    grid = grid_of(solver, grid)
    if not (is_known(strength) and 0.0 <= float(strength) <= 1.0):
        raise ValueError(f"strength must be a number from 0 to 1, got {strength}")
    steps = round(float(strength) * (len(grid) - 1))
    x = jnp.asarray(x)
    if steps == 0:
        return Samples(x, jnp.zeros((), jnp.int32))
    times = grid[len(grid) - 1 - steps :]
    keys = noise.fold_in(noise.sample_keys(key, len(x), first), 0)
    start = _noised(keys, model, x, times[0])
    return sample(
        key,
        model,
        x.shape,
        solver=solver,
        grid=times,
        cond=cond,
        x_init=start,
        first=first,
        denoise_last=denoise_last,
        trajectory=trajectory,
    )


@jax.jit
def _noised(keys: Array, model: Model, x: Array, t: Array) -> Array:
    mean, std = model.sde.marginal_prob(x, t)
    return (mean + std * noise.normal(keys, x)).astype(x.dtype)
