"""The samples of a candidate with their cost, and the fine solutions to compare them with."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import grids, noise
from sde_diffusion.comparison.candidates import Candidate
from sde_diffusion.comparison.problems import Problem
from sde_diffusion.compilation_cache import without_compilation_cache
from sde_diffusion.density import pushforward
from sde_diffusion.model import Model
from sde_diffusion.samplers import RK4, Solver, sample
from sde_diffusion.sdes import SDE, Array, expand

# The steps of the fine solution. On the exact problems its error is then about 1e-5, float32's own.
FINE = 200
# The most numbers of Jacobians that are held at once: 1,000 samples in 64 dimensions.
JACOBIANS = 2**22
# A first run that takes longer than this many seconds is not repeated for its timing.
WARM = 1.0


class Run(NamedTuple):
    """Samples x [num, *event], evaluations nfe [num], seconds, and bytes of the largest call."""

    x: np.ndarray
    nfe: np.ndarray
    seconds: float
    compile_seconds: float
    memory_bytes: int


def run(problem: Problem, candidate: Candidate, key: Array, num: int, batch: int) -> Run:
    """The candidate's samples 0, ..., num - 1, timed without compilation."""
    batch = min(batch, num)
    call = _sampler(problem, candidate.solver, candidate.times, batch, candidate.denoise_last)
    arguments = [*_arguments(problem, problem.model, key, num, batch)]
    clock = time.perf_counter()
    with without_compilation_cache():
        compiled = jax.jit(call).lower(*arguments[0]).compile()
    compile_seconds = time.perf_counter() - clock

    def whole() -> tuple[list[Any], float]:
        clock = time.perf_counter()
        made = jax.block_until_ready([compiled(*given) for given in arguments])
        return made, time.perf_counter() - clock

    made, seconds = whole()
    if seconds < WARM:
        seconds = whole()[1]
    x, nfe = (np.concatenate(parts)[:num] for parts in zip(*made, strict=True))
    return Run(x, nfe, seconds, compile_seconds, _peak(compiled.memory_analysis()))


def log_ratio(
    problem: Problem, candidate: Candidate, key: Array, num: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """log q - log p at the samples of `run`, in nats, and the signs of `pushforward`, each [num].

    q is the density of the candidate's samples and p that of the data.
    """
    batch = min(batch, num, max(1, JACOBIANS // math.prod(problem.event) ** 2))
    made = []
    for given in _arguments(problem, problem.model, key, num, batch):
        model, _, first, cond, _ = given
        at = pushforward(
            key,
            model,
            (batch, *problem.event),
            solver=candidate.solver,
            grid=candidate.times,
            cond=cond,
            first=first,
            denoise_last=candidate.denoise_last,
        )
        made.append((at.log_prob - problem.log_prob(at.x), at.sign))
    ratio, sign = (np.concatenate(parts)[:num] for parts in zip(*made, strict=True))
    return ratio, sign


def fine(
    problem: Problem,
    key: Array,
    num: int,
    batch: int,
    steps: int = FINE,
    start: Array | None = None,
) -> np.ndarray:
    """Where the probability flow of the problem's model takes its starts, to fine accuracy.

    The starts are those of every other run with this key, or `start` [num, *event] at t_max.
    """
    times = fine_grid(problem.sde, steps, t_min=problem.t_min)
    return _ends(problem, problem.model, times, key, num, batch, start)


def fine_exact(
    problem: Problem, key: Array, num: int, batch: int, start: Array | None = None
) -> np.ndarray:
    """As `fine`, with the exact model. With `start` it goes on to t_min / 100, close to t = 0."""
    assert problem.exact is not None
    t_min = problem.t_min if start is None else problem.ends[0] / 100
    times = fine_grid(problem.sde, FINE, t_min=t_min)
    return _ends(problem, problem.exact.model(problem.sde), times, key, num, batch, start)


def own_starts(problem: Problem, key: Array, data: Array) -> Array:
    """x_T = alpha x_0 + sigma z of the data [num, *event], with the z of the other runs' starts."""
    sde, num = problem.sde, len(data)
    z = noise.normal(noise.fold_in(noise.sample_keys(key, num), 0), data)
    t = jnp.asarray(sde.t_max, data.dtype)
    return expand(sde.alpha(t), data) * data + expand(sde.sigma(t), data) * z


def fine_grid(sde: SDE, steps: int, *, t_min: float | None = None) -> Array:
    """A fine grid: dense in log-SNR, and also near t_max, where the log-SNR may be infinite."""
    early = sde.t_min if t_min is None else t_min
    low, high = jnp.maximum(sde.log_snr(sde.t_max), -6.0), sde.log_snr(early)
    dense = sde.t_of_log_snr(jnp.linspace(low, high, steps + 1)[1:-1])
    wide = grids.cosine(sde, steps // 4, t_min=early)
    return jnp.unique(jnp.concatenate([dense, wide]))[::-1]


def _ends(
    problem: Problem,
    model: Model,
    times: Array,
    key: Array,
    num: int,
    batch: int,
    start: Array | None,
) -> np.ndarray:
    batch = min(batch, num)
    # Not jitted as a whole: the program that `sample` compiled serves every model of its kind.
    call = _sampler(problem, RK4(), times, batch)
    made = [call(*given)[0] for given in _arguments(problem, model, key, num, batch, start)]
    return np.concatenate(made)[:num]


def _sampler(
    problem: Problem, solver: Solver, times: Array, batch: int, denoise_last: bool = True
) -> Callable[..., Any]:
    """(model, key, first, cond, start) -> samples [batch, *event], evaluations [batch]."""

    def sampler(model: Model, key: Array, first: Array, cond: Any, start: Any) -> Any:
        made = sample(
            key,
            model,
            (batch, *problem.event),
            solver=solver,
            grid=times,
            cond=cond,
            first=first,
            x_init=start,
            denoise_last=denoise_last,
        )
        return made.x, jnp.broadcast_to(made.nfe, (batch,))

    return sampler


def _arguments(
    problem: Problem,
    model: Model,
    key: Array,
    num: int,
    batch: int,
    start: Array | None = None,
) -> Iterator[tuple[Any, ...]]:
    """The arguments of each call of the sampler, for samples 0, ..., num - 1, `batch` at a time."""
    for first in range(0, num, batch):
        # The last batch repeats the last sample: another batch size would compile another program.
        rows = np.minimum(np.arange(first, first + batch), num - 1)
        cond = problem.conditions(rows) if problem.conditions else None
        yield model, key, jnp.asarray(first), cond, None if start is None else start[rows]


def _peak(memory: Any) -> int:
    """The bytes of arguments, results and temporaries together, by the compiler's own analysis."""
    if memory is None:
        return 0
    sizes = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(sizes + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
