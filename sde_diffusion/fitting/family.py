"""The families of solvers that are fitted, each parametrized by a vector theta.

Either the times of a given solver, or the times and coefficients of `Fitted`. Times are
parametrized by the shares of their steps in the whole change of lambda = log(alpha / sigma).
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import Fitted, FittedGrid, Solver
from sde_diffusion.samplers.solver import Counted
from sde_diffusion.sdes import SDE, Array

# Times are parametrized above this lambda, because lambda may be infinite at t_max.
LOWEST = -8.0
# The least share of a step, so that times remain distinct in float32.
LEAST = 1e-3

Make = Callable[[SDE, Array], Solver]


def ends(sde: SDE, t_min: float | None = None) -> tuple[Array, Array]:
    """lambda at t_max, or LOWEST if that is larger, and at t_min, by default that of the SDE."""
    last = sde.t_min if t_min is None else t_min
    return jnp.maximum(sde.log_snr(sde.t_max), LOWEST), sde.log_snr(last)


def times_of(sde: SDE, logits: Array, t_min: float | None = None) -> Array:
    """n times, whose steps from t_max on have shares softmax(0, logits [n])[:-1] of lambda's range.

    The last share is the remainder to t_min. The first time is free as well, because near t_max
    every prediction is about the data's mean, and few evaluations are better spent elsewhere.
    """
    low, high = ends(sde, t_min)
    least = _least(len(logits))
    shares = jax.nn.softmax(jnp.concatenate([jnp.zeros(1, logits.dtype), logits]))
    shares = least + (1.0 - least * len(shares)) * shares
    times = sde.t_of_log_snr(low + (high - low) * jnp.cumsum(shares)[:-1])
    return times.astype(logits.dtype)


def logits_of(sde: SDE, times: Array, t_min: float | None = None) -> Array:
    """The inverse of `times_of`, except that shares below twice the least are raised to it."""
    low, high = ends(sde, t_min)
    lambdas = jnp.concatenate([low[None], jnp.maximum(sde.log_snr(times), low), high[None]])
    least = _least(len(times))
    shares = jnp.maximum(jnp.diff(lambdas) / (high - low), 2.0 * least) - least
    return jnp.log(shares[1:] / shares[0])


def _least(times: int) -> float:
    return min(LEAST, 0.1 / (times + 1))


# Cached, because a new function object would be compiled again.
@functools.cache
def grid_of(solver: Solver, t_min: float | None = None) -> Make:
    """theta [n] -> the solver on the times that theta parametrizes."""

    def make(sde: SDE, theta: Array) -> Solver:
        return FittedGrid(solver, times_of(sde, theta, t_min))  # type: ignore[arg-type]

    return make


@functools.cache
def multistep(nfe: int, t_min: float | None = None) -> Make:
    """theta -> `Fitted` with n = nfe steps.

    theta holds n logits of the times, the n factors a, n row sums of c, and c below its diagonal.
    A row sum is stored as the difference from the sum that keeps a constant prediction unchanged,
    so that the solver stays consistent when only a time moves. The diagonal of c follows.
    """

    def make(sde: SDE, theta: Array) -> Solver:
        logits, a, beyond, below = jnp.split(theta, [nfe, 2 * nfe, 3 * nfe])
        times = times_of(sde, logits, t_min)
        # The last step ends at the denoised sample, where alpha = 1.
        alpha = jnp.append(sde.alpha(times), 1.0)
        c = jnp.zeros((nfe, nfe), theta.dtype).at[np.tril_indices(nfe, -1)].set(below)
        c = c + jnp.diag(beyond + alpha[1:] - a * alpha[:-1] - jnp.sum(c, axis=1))
        last = sde.t_min if t_min is None else t_min
        times = jnp.append(times, jnp.asarray(last, times.dtype))
        return Fitted(times, a, c)  # type: ignore[arg-type]

    return make


def as_multistep(
    solver: Solver,
    sde: SDE,
    times: Array,
    *,
    denoise_last: bool = True,
    t_min: float | None = None,
) -> Array:
    """The theta of `multistep` with the same samples as `sample` with a solver on these times.

    For a deterministic solver whose steps are linear combinations of x and the x0 predicted so far,
    with coefficients that depend on the times only. The coefficients are read from the inputs of
    the model when x_T and the predictions are unit vectors. Without `denoise_last` the last step of
    `multistep` is the solver's own step to times[-1].
    """
    asked = times if denoise_last else times[:-1]
    asked = times_of(sde, logits_of(sde, asked, t_min), t_min)
    times = jnp.concatenate([asked, times[len(asked) :]])
    nfe = (len(times) - 1) * solver.evaluations + solver.extra_evaluations + denoise_last
    unit = jnp.eye(nfe + 1, dtype=times.dtype)
    called: list[tuple[Array, Array]] = []

    def unit_vectors(params: None, sde: SDE, x: Array, t: Array, cond: None) -> Prediction:
        called.append((x[0], t))
        return Prediction("x0", unit[len(called)][None], x, called[-1][1], sde)

    model = Model(sde, unit_vectors)
    state = solver.init(unit[:1], times, denoise_last)
    for t, s in itertools.pairwise(times):
        state = solver.step(jax.random.key(0)[None], Counted(model), state, t, s)
    end, end_sigma = (unit[-1:], 0.0) if denoise_last else (state.x, sde.sigma(times[-1]))
    if denoise_last:
        model(state.x, times[-1])
    x = jnp.concatenate([jnp.stack([x for x, _ in called]), end])
    at = jnp.stack([t for _, t in called])
    sigma = jnp.append(sde.sigma(at), end_sigma)
    a = sigma[1:] / sigma[:-1]
    c = (x[1:] - a[:, None] * x[:-1])[:, 1:]
    alpha = jnp.append(sde.alpha(at), 1.0)
    beyond = jnp.sum(c, axis=1) - alpha[1:] + a * alpha[:-1]
    below = c[np.tril_indices(nfe, -1)]
    return jnp.concatenate([logits_of(sde, at, t_min), a, beyond, below])


def settle(solver: Solver) -> Solver:
    """The solver with Python numbers instead of arrays, so that it can be hashed and saved."""
    times = tuple(np.asarray(solver.times, float).tolist())
    if isinstance(solver, FittedGrid):
        return FittedGrid(solver.solver, times)
    assert isinstance(solver, Fitted)
    c = np.asarray(solver.c, float)
    rows = tuple(tuple(row[: i + 1].tolist()) for i, row in enumerate(c))
    return Fitted(times, tuple(np.asarray(solver.a, float).tolist()), rows)
