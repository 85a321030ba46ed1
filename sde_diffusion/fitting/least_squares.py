"""Gauss-Newton with damping (Levenberg-Marquardt) on the ends that a solver's samples reach.

The loss is the mean over starts of rho(|x - target|^2), rho(q) = m log(1 + q / m), which for large
m is q and for small m lets go of the samples that end in another mode of the data, through which
no linear model sees. Its gradient is taken over all starts, backward. Its curvature takes the
Jacobian forward, a column for each of the few parameters, and so comes from a part of the starts,
drawn by their errors: few of them carry most of the curvature.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.fitting.family import Make
from sde_diffusion.prediction import Prediction, with_condition
from sde_diffusion.sdes import SDE, Array

Model = Callable[..., Prediction]


class Starts(NamedTuple):
    """Starts x and where they should end, [N, *event], and conditions, arrays [N, ...]."""

    x: Array
    target: Array
    condition: Mapping[str, Array]

    def chunks(self, size: int) -> "Starts":
        """The same, [N / size, size, ...]."""
        return jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), self)


def end(make: Make, model: Model, sde: SDE, theta: Array, starts: Starts) -> Array:
    """The samples [N, *event] that the solver of theta makes."""
    solver = make(sde, theta)
    if starts.condition:
        model = with_condition(model, **starts.condition)
    times = jnp.asarray(solver.times)
    # As `sample` starts it, with the noise of its own first time.
    x = starts.x * (sde.sigma(times[0]) / sde.sigma(sde.t_max))
    # The keys are the contract's; what is fitted draws no noise.
    keys = noise.sample_keys(jax.random.key(0), len(x))
    # Recomputing a step costs less than its insides do in memory: 2 to 6 times on exact mixtures.
    x = solver.solve(keys, model, sde, x, times, remat=True).x
    return x if solver.denoises else model(x, times[-1]).x0


def _square(x: Array) -> Array:
    return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))


@partial(jax.jit, static_argnames=("make", "size"))
def squares(
    make: Make, model: Model, sde: SDE, theta: Array, starts: Starts, *, size: int
) -> Array:
    """|x - target|^2 [N], `size` starts at a time."""

    def of(part: Starts) -> Array:
        return _square(end(make, model, sde, theta, part) - part.target)

    return jax.lax.map(of, starts.chunks(size)).reshape(-1)


def _rho(square: Array, m: Array) -> Array:
    return m * jnp.log1p(square / m)


@partial(jax.jit, static_argnames=("make", "size"))
def _gradient(
    make: Make, model: Model, sde: SDE, theta: Array, starts: Starts, m: Array, *, size: int
) -> tuple[Array, Array]:
    """(gradient [P] of the loss, |x - target|^2 [N])."""

    def of(part: Starts) -> tuple[Array, Array]:
        def loss(theta: Array) -> tuple[Array, Array]:
            square = _square(end(make, model, sde, theta, part) - part.target)
            return jnp.sum(_rho(square, m)), square

        return jax.grad(loss, has_aux=True)(theta)

    gradient, square = jax.lax.map(of, starts.chunks(size))
    return jnp.sum(gradient, axis=0) / square.size, square.reshape(-1)


@partial(jax.jit, static_argnames=("make", "num", "size"))
def _curvature(
    key: Array,
    make: Make,
    model: Model,
    sde: SDE,
    theta: Array,
    starts: Starts,
    square: Array,
    m: Array,
    *,
    num: int,
    size: int,
) -> Array:
    """2 J^T diag(rho') J / N, [P, P], from `num` starts drawn by their errors."""
    error = jnp.sqrt(square)
    likely = (error + jnp.mean(error)) / jnp.sum(error + jnp.mean(error))
    rows = jax.random.choice(key, len(square), (num,), p=likely)
    weight = 2.0 / (1.0 + square[rows] / m) / (likely[rows] * len(square) * num)

    def of(part: tuple[Starts, Array]) -> Array:
        starts, weight = part
        jacobian = jax.jacfwd(lambda theta: end(make, model, sde, theta, starts))(theta)
        jacobian = jacobian.reshape(len(weight), -1, len(theta))
        return jnp.einsum("b,bdp,bdq->pq", weight, jacobian, jacobian)

    drawn = jax.tree.map(lambda leaf: leaf[rows], starts).chunks(size)
    return jnp.sum(jax.lax.map(of, (drawn, weight.reshape(-1, size))), axis=0)


def descend(
    key: Array,
    make: Make,
    model: Model,
    sde: SDE,
    theta: Array,
    starts: Starts,
    *,
    m: float,
    num: int,
    size: int,
    tolerance: float = 2e-3,
    patience: int = 3,
) -> Iterator[Array]:
    """Ever better theta, until `patience` steps together gain less than each `tolerance`.

    A step solves (H + mu diag(H)) d = -gradient, where H is a running mean of the curvatures, which
    cost most and change least: after the first few steps only every fourth takes one more. mu grows
    until the loss over all starts falls, and shrinks after.
    """
    bound = jnp.asarray(m, starts.x.dtype)
    mu, poor = 1e-2, 0
    mean: Any = None
    for step in range(1000):
        gradient, square = _gradient(make, model, sde, theta, starts, bound, size=size)
        if step < 4 or step % 4 == 0:
            args = (make, model, sde, theta, starts, square, bound)
            drawn = _curvature(jax.random.fold_in(key, step), *args, num=num, size=size)
            curvature = np.asarray(drawn, float)
            mean = curvature if mean is None else mean + 0.3 * (curvature - mean)
        slope = np.asarray(gradient, float)
        if not (np.isfinite(mean).all() and np.isfinite(slope).all()):
            return
        loss = float(jnp.mean(_rho(square, bound)))
        diagonal = np.diag(mean) + 1e-6 * np.diag(mean).max()
        for _ in range(10):
            move = np.linalg.solve(mean + mu * np.diag(diagonal), -slope)
            near = theta + jnp.asarray(move, theta.dtype)
            square = squares(make, model, sde, near, starts, size=size)
            gain = 1.0 - float(jnp.mean(_rho(square, bound))) / loss
            if gain > 0.0:
                break
            mu *= 4.0
        else:
            return
        theta, mu = near, max(mu / 5.0, 1e-9)
        yield theta
        poor = poor + 1 if gain < tolerance else 0
        if poor == patience:
            return
