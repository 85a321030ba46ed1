"""Samples by a candidate, with what they cost; and the fine solutions to hold them against."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sde_diffusion import grids, noise
from sde_diffusion.comparison.candidates import Candidate
from sde_diffusion.comparison.problems import Problem
from sde_diffusion.compilation_cache import without_compilation_cache
from sde_diffusion.prediction import Prediction, with_condition
from sde_diffusion.samplers import RK4, Solver, sample
from sde_diffusion.sdes import SDE, Array, expand

# Steps of the fine solution: on the exact problems its error is then float32's own, about 1e-5.
FINE = 200
# Seconds from which on a first run, of a program that is compiled, is as good as a second.
WARM = 1.0


class Run(NamedTuple):
    """Samples x [num, *event], evaluations nfe [num], seconds, and bytes of the largest call."""

    x: np.ndarray
    nfe: np.ndarray
    seconds: float
    compile_seconds: float
    memory_bytes: int


def run(problem: Problem, candidate: Candidate, key: Array, num: int, batch: int) -> Run:
    """The candidate's samples 0, ..., num - 1, timed after compilation, a short run once warm."""
    return _run(problem, problem.model, candidate.solver, candidate.times, key, num, batch)


def fine(problem: Problem, key: Array, num: int, batch: int, steps: int = FINE) -> np.ndarray:
    """Where the probability flow of the problem's model takes the same starts, to fine accuracy."""
    times = fine_grid(problem.sde, steps)
    return _run(problem, problem.model, RK4(), times, key, num, batch, timed=False).x


def fine_exact(
    problem: Problem, key: Array, num: int, batch: int, data: Array | None = None
) -> np.ndarray:
    """The same with the exact model; from the process's own start, and to t ~ 0, if given data.

    With data x_0 the start is alpha x_0 + sigma z at t_max, with the z of the other runs, and the
    flow goes on to t_min / 100: what is left of the difference is truncation at either end.
    """
    assert problem.exact is not None
    sde = problem.sde
    start = None
    if data is not None:
        z = noise.normal(noise.fold_in(noise.sample_keys(key, num), 0), data)
        t = jnp.asarray(sde.t_max, data.dtype)
        start = expand(sde.alpha(t), data) * data + expand(sde.sigma(t), data) * z
        sde = dataclasses.replace(sde, t_min=float(sde.t_min) / 100)
    model, times = problem.exact.model(problem.sde), fine_grid(sde, FINE)
    return _run(problem, model, RK4(), times, key, num, batch, timed=False, start=start).x


def fine_grid(sde: SDE, steps: int) -> Array:
    """Times that are dense in log-SNR, and near t_max where that may be infinite."""
    low, high = jnp.maximum(sde.log_snr(sde.t_max), -6.0), sde.log_snr(sde.t_min)
    dense = sde.t_of_log_snr(jnp.linspace(low, high, steps + 1)[1:-1])
    wide = grids.cosine(sde, steps // 4)
    return jnp.unique(jnp.concatenate([dense, wide]))[::-1]


def _run(
    problem: Problem,
    model: Callable[..., Prediction],
    solver: Solver,
    times: Array,
    key: Array,
    num: int,
    batch: int,
    *,
    timed: bool = True,
    start: Array | None = None,
) -> Run:
    given = model if isinstance(model, Partial) else Partial(model)
    batch = min(batch, num)

    def part(given: Partial, key: Array, first: Array, conditions: Any, start: Array | None) -> Any:
        made = sample(
            key,
            with_condition(given, **conditions) if conditions else given,
            problem.sde,
            (batch, *problem.event),
            solver=solver,
            grid=times,
            first=first,
            x_init=start,
        )
        return made.x, jnp.broadcast_to(made.nfe, (batch,))

    def arguments(first: int) -> tuple[Any, ...]:
        # The last batch is filled up with the last sample, rather than compiled for its own size.
        rows = np.minimum(np.arange(first, first + batch), num - 1)
        conditions = problem.conditions(rows) if problem.conditions else {}
        return (
            given,
            key,
            jnp.asarray(first),
            conditions,
            None if start is None else start[rows],
        )

    clock = time.perf_counter()
    with without_compilation_cache():
        compiled = jax.jit(part).lower(*arguments(0)).compile()
    compile_seconds = time.perf_counter() - clock
    memory = compiled.memory_analysis()

    def whole() -> list[Any]:
        made = [compiled(*arguments(first)) for first in range(0, num, batch)]
        return jax.block_until_ready(made)

    clock = time.perf_counter()
    made = whole()
    seconds = time.perf_counter() - clock
    if timed and seconds < WARM:
        clock = time.perf_counter()
        whole()
        seconds = time.perf_counter() - clock
    x, nfe = (
        np.concatenate([np.asarray(a) for a in parts])[:num] for parts in zip(*made, strict=True)
    )
    return Run(x, nfe, seconds, compile_seconds, _peak(memory))


def _peak(memory: Any) -> int:
    """Bytes of arguments, results and temporaries together, as the compiler lays them out."""
    if memory is None:
        return 0
    sizes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(sizes + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
