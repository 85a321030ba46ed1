"""sample(): from noise to data along a time grid, by any solver."""

import collections
import importlib.util
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.model import LEAST_SIGNAL, Model, require_model
from sde_diffusion.noise import BrownianPath
from sde_diffusion.samplers.solver import Samples, Solver
from sde_diffusion.sdes import SDE, Array

logger = logging.getLogger(__name__)


def sample(
    key: Array | BrownianPath,
    model: Model,
    shape: tuple[int, ...],
    *,
    solver: Solver,
    grid: Array | None = None,
    cond: Any = None,
    x_init: Array | None = None,
    first: Array | int = 0,
    denoise_last: bool = True,
    trajectory: bool = False,
    remat: bool = False,
) -> Samples:
    """Samples of shape [B, *event], by `solver` along the decreasing times of `grid` [n + 1].

    Sample i depends on (key, first + i, cond_i) alone, not on B or on its neighbours. To draw more
    samples than fit in memory, call again with a later `first`.

    The function is compiled once for each shape and structure of the solver and the model. Another
    grid of the same length, and other numbers in the SDE, the solver, the parameters or the
    condition, compile nothing.

    Args:
      key: a key of JAX, or `BrownianPath(key)`, which fixes one path of noise for each sample: the
        same one at every step size and on every grid, from the same start as with the key.
      model: the `Model`, which has the SDE. shape: [B, *event]. solver: such as `DDIM()`. grid: n +
      1 decreasing times, as from `grids`. A fitted solver has its own. cond: a pytree of arrays [B,
      ...], the condition of each sample, passed to the model. x_init: where to start, [B, *event],
      in place of x ~ N(0, sigma(grid[0])^2 I). The samples have
        its dtype.
      first: the number of the first sample.
      denoise_last: end with E[x_0 | x] at grid[-1], by one more evaluation, so that no noise is
        left. Solvers that denoise in their last step need no additional one.
      trajectory: also return x at every time of the grid.
      remat: recompute each step in a backward pass instead of storing its intermediate values.

    Raises:
      ValueError: for a grid that is missing, differs from the solver's own, does not decrease, or
        leaves [0, t_max] (0 is excluded for an SDE without noise there); for an x_init or cond of
        another shape; and for a solver that reads the diffusion or the log-SNR where it is
        infinite.
      TypeError: for a key, model or solver of another type.

        model = sde_diffusion.from_eps(sde, lambda x, t: network(x, t))
        sample(key, model, (16, 32, 32, 3), solver=DDIM(), grid=grids.uniform(sde, 50)).x
    """
    require_key(key)
    require_model(model)
    require_solver(solver)
    grid = grid_of(solver, grid)
    if x_init is not None and tuple(x_init.shape) != tuple(shape):
        raise ValueError(f"x_init has shape {tuple(x_init.shape)}, but shape is {tuple(shape)}")
    require_batch(cond, shape[0])
    check(solver, model.sde, grid)
    if isinstance(key, BrownianPath):
        keys: Array | BrownianPath = key.of_samples(shape[0], first)
    else:
        keys = noise.sample_keys(key, shape[0], first)
    return _sample(
        keys,
        model,
        solver,
        grid,
        cond,
        x_init,
        shape=tuple(shape),
        denoise_last=denoise_last,
        trajectory=trajectory,
        remat=remat,
    )


@partial(jax.jit, static_argnames=("shape", "denoise_last", "trajectory", "remat"))
def _sample(
    keys: Array | BrownianPath,
    model: Model,
    solver: Solver,
    grid: Array,
    cond: Any,
    x_init: Array | None,
    *,
    shape: tuple[int, ...],
    denoise_last: bool,
    trajectory: bool,
    remat: bool,
) -> Samples:
    _note_compilation(model, solver, cond, shape, len(grid))
    if x_init is None:
        x_init = solver.draw(keys, model, grid, shape, cond)
    made = solver.solve(
        keys,
        model,
        x_init,
        grid,
        cond,
        denoise_last=denoise_last,
        trajectory=trajectory,
        remat=remat,
    )
    if denoise_last and not solver.denoises:
        last = model(made.x, grid[-1], cond)
        made = made._replace(x=last.x0.astype(made.x.dtype), nfe=made.nfe + last.evaluations)
    return made


def grid_of(solver: Solver, grid: Array | None) -> Array:
    """The given grid, or the solver's own; ValueError if there is none, or if the two differ."""
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


def require_key(key: Any) -> None:
    """Raise TypeError unless key is a PRNG key of JAX or a BrownianPath."""
    if isinstance(key, BrownianPath) or (
        isinstance(key, jax.Array | np.ndarray)
        and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == jnp.uint32)
    ):
        return
    raise TypeError(f"key must be made by jax.random.key(seed), got {key!r}")


def require_solver(solver: Any) -> None:
    """Raise TypeError, which says what to write instead, unless it is a frozen Solver."""
    if isinstance(solver, type) and issubclass(solver, Solver):
        raise TypeError(f"solver is the class {solver.__name__}: pass a value, {solver.__name__}()")
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be a Solver, got {solver!r}: for a name use samplers.named, as in "
            'samplers.named("ddim", eta=0.5)'
        )
    parameters = type(solver).__dict__.get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise TypeError(
            f"{type(solver).__name__} must be a frozen dataclass: decorate the class with "
            "@dataclasses.dataclass(frozen=True)"
        )


def require_batch(cond: Any, batch: int) -> None:
    """Raise ValueError, which names the array, unless all arrays of cond are [batch, ...]."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if jnp.ndim(leaf) == 0 or len(leaf) != batch:
            raise ValueError(
                f"cond{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but must have one "
                f"entry for each of the {batch} samples"
            )


def check(solver: Solver, sde: SDE, grid: Array) -> None:
    """Raise ValueError unless the grid decreases within [0, t_max] and suits the solver.

    Raises ImportError where the solver needs a package that is not installed.
    """
    if solver.needs is not None and importlib.util.find_spec(solver.needs[0]) is None:
        package, extra = solver.needs
        raise ImportError(
            f"{type(solver).__name__} needs {package}: pip install 'sde-diffusion[{extra}]'"
        )
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
        # Where float32 cannot distinguish alpha from 0, a finite value is only rounding.
        signal = np.asarray(_at(sde.log_snr, times[0])) > np.log(LEAST_SIGNAL)
        if needed and not (signal and np.isfinite(_at(value, times[0]))):
            raise ValueError(
                f"{type(solver).__name__} needs a finite {name}, but {type(sde).__name__} has "
                f"none at t = {times[0]:g}: start the grid later, for example with t_max=0.999"
            )


def _at(function: Callable[[Array], Array], t: float) -> Array:
    with jax.ensure_compile_time_eval():  # constants, under the caller's jit too
        return function(jnp.asarray(t))


# After this many compilations for the same code, a warning is logged.
MANY = 5
_compilations: collections.Counter[Any] = collections.Counter()


def _note_compilation(
    model: Model, solver: Solver, cond: Any, shape: tuple[int, ...], times: int
) -> None:
    """Log a warning when the same code was compiled MANY times for the same kind of call.

    This runs when `_sample` is traced, not when it is executed. A function that is created for
    every call, such as a lambda inside a loop, is a new structure each time.
    """
    code = _code(model.function)
    if code is None:
        return
    call = (code, jax.tree.structure((model.params, solver, cond)), shape, times)
    _compilations[call] += 1
    if _compilations[call] == MANY:
        logger.warning(
            "sample was compiled %d times for the model of %s in %s, line %d: make the function "
            "once, outside of the loop, or pass what it closes over as params or cond",
            *(MANY, code.co_qualname, code.co_filename, code.co_firstlineno),
        )


def _code(function: Any) -> Any:
    """The code of the user's function inside nested partials, or None where there is none."""
    while hasattr(function, "func"):
        inner = [arg for arg in function.args if callable(arg)]
        function = inner[0] if inner else function.func
    return getattr(function, "__code__", None)
