"""sample(): from noise to data along a time grid, by any solver."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sde_diffusion import noise
from sde_diffusion.noise import BrownianPath
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Samples, Solver
from sde_diffusion.sdes import SDE, Array


def sample(
    key: Array | BrownianPath,
    model: Callable[..., Prediction],
    sde: SDE,
    shape: tuple[int, ...],
    *,
    solver: Solver,
    grid: Array | None = None,
    x_init: Array | None = None,
    first: Array | int = 0,
    denoise_last: bool = True,
    trajectory: bool = False,
    remat: bool = False,
) -> Samples:
    """Samples of shape [B, *event], by `solver` along the decreasing times of `grid` [n + 1].

    Starts at x ~ N(0, sigma(grid[0])^2 I), or at `x_init`. A solver that was fitted brings its own
    grid. Sample i depends on (key, first + i) alone, not on B or on its neighbours: to make many,
    call again with a later `first`.
    With `BrownianPath(key)` for a key the noise is that of one path for each sample, the same at
    every step size and on every grid; it starts where the key alone would.
    `denoise_last` ends with E[x_0 | x] at grid[-1], one more evaluation, so that no noise is left;
    a solver that denoises in its last step adds none.
    `remat` recomputes each step in a backward pass instead of storing its insides.

    Compiled once for each (shape, solver, structure of the model): a second call compiles nothing,
    nor does one with another grid of the same length, other parameters of the SDE or, where the
    model is a pytree as `from_network` makes it, other weights or conditions.

    Raises ValueError for a grid that is missing, not the solver's own, or does not decrease
    between t_max and 0 (excluded where there is no noise), an x_init of another shape, or an SDE
    without a finite diffusion or log-SNR at grid[0] for a solver that reads it.

        model = sde_diffusion.from_eps(sde, lambda x, t: network(x, t))
        sample(key, model, sde, (16, 32, 32, 3), solver=DDIM(), grid=grids.uniform(sde, 50)).x
    """
    grid = grid_of(solver, grid)
    if x_init is not None and tuple(x_init.shape) != tuple(shape):
        raise ValueError(f"x_init has shape {tuple(x_init.shape)}, but shape is {tuple(shape)}")
    check(solver, sde, grid)
    # A plain function is its own structure: the same one does not retrace.
    model = model if isinstance(model, Partial) else Partial(model)
    if isinstance(key, BrownianPath):
        keys: Array | BrownianPath = key.of_samples(shape[0], first)
    else:
        keys = noise.sample_keys(key, shape[0], first)
    return _sample(
        keys,
        model,
        sde,
        grid,
        x_init,
        shape=tuple(shape),
        solver=solver,
        denoise_last=denoise_last,
        trajectory=trajectory,
        remat=remat,
    )


@partial(jax.jit, static_argnames=("shape", "solver", "denoise_last", "trajectory", "remat"))
def _sample(
    keys: Array | BrownianPath,
    model: Callable[..., Prediction],
    sde: SDE,
    grid: Array,
    x_init: Array | None,
    *,
    shape: tuple[int, ...],
    solver: Solver,
    denoise_last: bool,
    trajectory: bool,
    remat: bool,
) -> Samples:
    if x_init is None:
        x_init = draw_start(keys, sde, grid, shape)
    made = solver.solve(keys, model, sde, x_init, grid, trajectory=trajectory, remat=remat)
    if denoise_last and not solver.denoises:
        made = made._replace(x=model(made.x, grid[-1]).x0, nfe=made.nfe + 1)
    return made


def draw_start(keys: Array | BrownianPath, sde: SDE, grid: Array, shape: tuple[int, ...]) -> Array:
    """x ~ N(0, sigma(grid[0])^2 I), a sample for each of the keys [B]."""
    # 0 draws the start; the steps draw on 1, 2, ...
    return sde.sigma(grid[0]) * noise.normal(noise.fold_in(keys, 0), jnp.zeros(shape))


def grid_of(solver: Solver, grid: Array | None) -> Array:
    """The grid that is given, or the solver's own; ValueError where neither or another is."""
    if solver.times is None:
        if grid is None:
            raise ValueError(f"{type(solver).__name__} needs a grid of times")
        return jnp.asarray(grid)
    if grid is not None and not isinstance(grid, jax.core.Tracer):
        given = np.asarray(grid)
        if not np.array_equal(np.asarray(solver.times, given.dtype), given):
            raise ValueError(
                f"{type(solver).__name__} was fitted with its own grid {solver.times}, got "
                f"{given}: leave the grid out"
            )
    return jnp.asarray(solver.times)


def check(solver: Solver, sde: SDE, grid: Array) -> None:
    """ValueError unless the grid decreases from t_max or later, and the solver can take it."""
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"grid must hold at least two times, got shape {grid.shape}")
    leaves = jax.tree.leaves((grid, sde))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return
    times = np.asarray(grid)
    if not np.all(np.diff(times) < 0):
        raise ValueError(f"grid must decrease from noise to data, got {times}")
    if times[-1] < 0.0 or times[0] > float(sde.t_max) * (1.0 + 1e-6):  # up to float32's rounding
        raise ValueError(
            f"grid must lie between 0 and t_max={sde.t_max:g}, got times from {times[0]:g} to "
            f"{times[-1]:g}"
        )
    if times[-1] == 0.0 and not np.isfinite(_at(sde.log_snr, 0.0)):
        raise ValueError(
            f"{type(sde).__name__} has no noise at t = 0: end the grid above it, for example at "
            "t_min; the step to t = 0 is denoise_last's"
        )
    for needed, name, value in (
        (solver.reads_diffusion, "diffusion g(t)", sde.diffusion),
        (solver.reads_log_snr, "log-SNR", sde.log_snr),
    ):
        if needed and not np.isfinite(_at(value, times[0])):
            raise ValueError(
                f"{type(solver).__name__} needs a finite {name}, but {type(sde).__name__} has "
                f"none at t = {times[0]:g}: start the grid later, for example with t_max=0.999"
            )


def _at(function: Callable[[Array], Array], t: float) -> Array:
    with jax.ensure_compile_time_eval():  # constants, under the caller's jit too
        return function(jnp.asarray(t))
