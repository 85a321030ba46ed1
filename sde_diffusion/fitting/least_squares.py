"""Gauss-Newton with damping (Levenberg-Marquardt) on the end points of a solver's samples.

The loss is the weighted mean over starts of rho(|x - target|^2) with rho(q) = m log(1 + q / m). For
large m, rho(q) is q. A small m gives little weight to samples that end in another mode of the data,
where a linear model of the solver is wrong. The gradient is computed over all starts in reverse
mode. The curvature needs the Jacobian, which is computed in forward mode, a column for each of the
few parameters. It uses only some of the starts, drawn by their errors, because few starts carry
most of the curvature.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.fitting.family import Make
from sde_diffusion.fitting.starts import Starts
from sde_diffusion.model import Model
from sde_diffusion.sdes import Array

FIRST_MU = 1e-2


def end(make: Make, model: Model, theta: Array, starts: Starts) -> Array:
    """The samples [N, *event] of the solver that theta parametrizes."""
    sde = model.sde
    solver = make(sde, theta)
    times = jnp.asarray(solver.times)
    # As in `sample`, the solver starts from noise of its own first time.
    x = starts.x * (sde.sigma(times[0]) / sde.sigma(sde.t_max))
    # `solve` requires keys, but a fitted solver draws no noise.
    keys = noise.sample_keys(jax.random.key(0), len(x))
    # Recomputing a step is 2 to 6 times faster than storing its intermediate values (on mixtures).
    x = solver.solve(keys, model, x, times, starts.cond, remat=True).x
    return x if solver.denoises else model(x, times[-1], starts.cond).x0


def _square(x: Array) -> Array:
    return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))


@partial(jax.jit, static_argnames="make")
def _squares(make: Make, model: Model, theta: Array, chunk: Starts) -> Array:
    return _square(end(make, model, theta, chunk) - chunk.target)


def squares(make: Make, model: Model, theta: Array, starts: Starts, *, size: int) -> np.ndarray:
    """|x - target|^2 [N], `size` starts at a time."""
    made = [_squares(make, model, theta, chunk) for chunk in starts.chunks(size)]
    return np.concatenate(made)


def _rho(square: Any, m: float) -> Any:
    return m * jnp.log1p(square / m)


@partial(jax.jit, static_argnames="make")
def _gradient(
    make: Make, model: Model, theta: Array, chunk: Starts, m: float
) -> tuple[Array, Array]:
    """(gradient [P] of the weighted sum of rho, |x - target|^2 [size])."""

    def loss(theta: Array) -> tuple[Array, Array]:
        square = _square(end(make, model, theta, chunk) - chunk.target)
        return jnp.sum(chunk.weight * _rho(square, m)), square

    return jax.grad(loss, has_aux=True)(theta)


@partial(jax.jit, static_argnames="make")
def _curvature(make: Make, model: Model, theta: Array, chunk: Starts, weight: Array) -> Array:
    """J^T diag(weight) J, [P, P], for the weights [size] of the starts."""
    jacobian = jax.jacfwd(lambda theta: end(make, model, theta, chunk))(theta)
    jacobian = jacobian.reshape(len(weight), -1, len(theta))
    return jnp.einsum("b,bdp,bdq->pq", weight, jacobian, jacobian, precision="highest")


def _drawn(
    rng: np.random.Generator, starts: Starts, square: np.ndarray, m: float, num: int, size: int
) -> Iterator[tuple[Starts, np.ndarray]]:
    """`num` starts drawn by their losses, in chunks, with weights for 2 J^T diag(w rho') J / N."""
    # In proportion to the root of their loss plus its mean, so that those of little loss occur too.
    error = np.sqrt(starts.weight * _rho(square, m))
    likely = (error + error.mean()) / np.sum(error + error.mean())
    rows = rng.choice(len(square), num, p=likely)
    slope = starts.weight[rows] / (1.0 + square[rows] / m)
    weight = 2.0 * slope / (likely[rows] * len(square) * num)
    for i in range(0, num, size):
        yield starts.rows(rows[i : i + size]), weight[i : i + size]


def descend(
    key: Array,
    make: Make,
    model: Model,
    theta: Array,
    choose: Callable[[int, Array], Starts | None],
    *,
    m: float,
    num: int,
    size: int,
    tolerance: float = 3e-3,
    patience: int = 10,
    lap: int = 10,
) -> Iterator[Array]:
    """Yields theta after each step, until `patience` steps in a row gain less than `tolerance`.

    A step solves (H + mu diag(H)) d = -gradient, where H is a running mean of the curvatures of
    `num` starts each. mu grows until the loss over all starts falls, and shrinks afterwards. If the
    loss does not fall for any mu, the running mean is out of date and is started again, once. The
    starts are choose(number, theta), called again after every `lap` steps; None ends the descent.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    mean: Any = None
    mu, poor = FIRST_MU, 0
    for number in range(1000):
        if number % lap == 0:
            chosen = choose(number // lap, theta)
            if chosen is None:
                return
            starts = chosen
        square, slope = _slope(make, model, theta, starts, m, size)
        if _loss(starts, square, m) == 0.0:
            return
        drawn = _drawn(rng, starts, square, m, num, size)
        products = [_curvature(make, model, theta, *chunk) for chunk in drawn]
        curvature = np.sum(products, axis=0, dtype=float)
        new = mean is None
        mean = curvature if new else mean + 0.3 * (curvature - mean)
        # Not finite, or no dependence on theta: then all shares of steps are at their bounds.
        if not (np.isfinite(mean).all() and np.isfinite(slope).all() and mean.any()):
            return
        step = _damped_step(make, model, theta, starts, square, slope, mean, mu, m=m, size=size)
        if step is None:
            if new:
                return
            mean, mu = None, FIRST_MU
            continue
        theta, gain = step.theta, step.gain
        mu = max(step.mu / 5.0, 1e-9)
        yield theta
        poor = poor + 1 if gain < tolerance else 0
        if poor == patience:
            return


def _loss(starts: Starts, square: np.ndarray, m: float) -> float:
    return float(np.mean(starts.weight * _rho(square, m)))


def _slope(
    make: Make, model: Model, theta: Array, starts: Starts, m: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(|x - target|^2 [N], gradient [P] of the loss)."""
    parts = [_gradient(make, model, theta, chunk, m) for chunk in starts.chunks(size)]
    square = np.concatenate([square for _, square in parts])
    return square, np.sum([slope for slope, _ in parts], axis=0, dtype=float) / len(square)


class _Step(NamedTuple):
    """theta after a step, the relative decrease of the loss, and the damping of the step."""

    theta: Array
    gain: float
    mu: float


def _damped_step(
    make: Make,
    model: Model,
    theta: Array,
    starts: Starts,
    square: np.ndarray,
    slope: np.ndarray,
    mean: np.ndarray,
    mu: float,
    *,
    m: float,
    size: int,
) -> _Step | None:
    """The first step that decreases the loss as mu grows; None if none of ten does."""
    before = _loss(starts, square, m)
    diagonal = np.diag(mean) + 1e-6 * np.diag(mean).max()
    for _ in range(10):
        move = np.linalg.solve(mean + mu * np.diag(diagonal), -slope)
        near = theta + jnp.asarray(move, theta.dtype)
        gain = 1.0 - _loss(starts, squares(make, model, near, starts, size=size), m) / before
        if gain > 0.0:
            return _Step(near, gain, mu)
        mu *= 4.0
    return None
