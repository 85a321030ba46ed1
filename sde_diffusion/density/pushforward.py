"""pushforward(): samples of a deterministic solver, with the density of its own distribution."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from sde_diffusion import noise
from sde_diffusion.model import Model, require_model
from sde_diffusion.samplers.sample import check, grid_of, require_batch, sample
from sde_diffusion.samplers.solver import Solver, draw_start
from sde_diffusion.sdes import Array


class Pushforward(NamedTuple):
    """Samples x [B, *event]; log q(x) in nats, [B]; the sign of det df/dx_T, [B].

    The signs are those of the map f from starts to samples, see `pushforward`.
    """

    x: Array
    log_prob: Array
    sign: Array


def pushforward(
    key: Array,
    model: Model,
    shape: tuple[int, ...],
    *,
    solver: Solver,
    grid: Array | None = None,
    cond: Any = None,
    first: Array | int = 0,
    denoise_last: bool = True,
) -> Pushforward:
    """The samples of `sample`, [B, *event], with their log density q under the sampler, in nats.

    A deterministic solver maps the start x_T ~ N(0, s^2 I), s = sigma(grid[0]), to x = f(x_T), so

        log q(x) = log N(x_T; 0, s^2 I) - log |det df/dx_T|,

    by the change of variables, where f is the composition of the solver's own steps. This is the
    density of a solver of five steps, for example; `log_likelihood` gives that of the flow which it
    approximates. If the steps are so large that f folds, several starts end at the same x and q(x)
    is the sum over them, so the value here is a lower bound. A map without folds has one sign
    everywhere; signs that differ between samples reveal folds.

    All D derivatives are computed at once: the time of D samplers, and memory for B D numbers for
    every number of a sample. Compiled once, as `sample` is.

    Raises ValueError for a solver that draws noise, or chooses its own steps, and as `sample` does.

        made = pushforward(key, model, (1000, 2), solver=DPMSolverPP2M(), grid=grid)
        kl = jnp.mean(made.log_prob - exact_log_prob(made.x))    # KL(q || p), in nats
    """
    if solver.stochastic or solver.adaptive:
        why = "draws noise" if solver.stochastic else "chooses its own steps"
        raise ValueError(f"pushforward needs a fixed map of the start, but {solver} {why}")
    require_model(model)
    grid = grid_of(solver, grid)
    require_batch(cond, shape[0])
    check(solver, model.sde, grid)
    return _pushforward(
        noise.sample_keys(key, shape[0], first),
        model,
        solver,
        grid,
        cond,
        shape=tuple(shape),
        denoise_last=denoise_last,
    )


@partial(jax.jit, static_argnames=("shape", "denoise_last"))
def _pushforward(
    keys: Array,
    model: Model,
    solver: Solver,
    grid: Array,
    cond: Any,
    *,
    shape: tuple[int, ...],
    denoise_last: bool,
) -> Pushforward:
    sde, batch, size = model.sde, shape[0], math.prod(shape[1:])
    start = draw_start(keys, sde, grid, shape)

    def end(x: Array) -> Array:
        # The key is unused: the start is given, and the solver is deterministic.
        made = sample(
            jax.random.key(0),
            model,
            shape,
            solver=solver,
            grid=grid,
            cond=cond,
            x_init=x,
            denoise_last=denoise_last,
        )
        return made.x

    def along(direction: Array) -> tuple[Array, Array]:
        # Samples do not depend on each other, so one direction serves all of them at once.
        return jax.jvp(end, (start,), (jnp.broadcast_to(direction, shape),))

    directions = jnp.eye(size, dtype=start.dtype).reshape(size, *shape[1:])
    x, columns = jax.vmap(along, out_axes=(None, -1))(directions)
    sign, log_volume = jnp.linalg.slogdet(columns.reshape(batch, size, size))
    log_start = norm.logpdf(start, scale=sde.sigma(grid[0])).reshape(batch, size)
    return Pushforward(x, jnp.sum(log_start, axis=1) - log_volume, sign)
