"""The likelihood of data under a model, by its probability flow.

Along the probability flow dx/dt = v(x, t) the log density falls at the rate of the divergence, so

    log p(x) = log prior(x_T) + integral of div v(x_t, t) dt from the time of x to T         (1)
    div v = sum_k e_k . (dv/dx e_k) = E[z . (dv/dx z)],   E[z z^T] = I                       (2)

The terms of (2) are integrated together with x, as additional dimensions of one ODE, by any
deterministic solver of `samplers`. One pass through the network gives v and its derivative along
every probe.

Densities are in nats; `bits_per_dim` converts them. Sources: (1) Song et al.
2021, sec. 4.3 and app. D.2, from Chen et al. 2018 (neural ODEs); (2) Hutchinson 1990, with probes
that are kept along the path as in Grathwohl et al. 2019 (FFJORD).
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.density.reductions import mean_and_error, sum_of_event
from sde_diffusion.model import Model, require_model, time_dtype
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import Solver
from sde_diffusion.samplers.sample import require_batch, require_solver
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.selection import require_known

PROBES: dict[str, Callable[..., Array]] = {
    "rademacher": jax.random.rademacher,
    "gaussian": jax.random.normal,
}


class Divergence(Protocol):
    """The directions along which v is differentiated, and the sum of their terms in (2)."""

    def probes(self, keys: Array, x: Array) -> Array:
        """Directions [B, K, *event] for x [B, *event], from the samples' keys [B]."""
        ...

    def total(self, terms: Array) -> tuple[Array, Array]:
        """(divergence [B], its standard error [B]) from the terms of the K directions [B, K]."""
        ...


@dataclasses.dataclass(frozen=True)
class Exact:
    """The sum over all D dimensions: exact, at the cost and the memory of D derivatives."""

    def probes(self, keys: Array, x: Array) -> Array:
        size = math.prod(x.shape[1:])
        basis = jnp.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])
        return jnp.broadcast_to(basis, (len(x), *basis.shape))

    def total(self, terms: Array) -> tuple[Array, Array]:
        return jnp.sum(terms, axis=1), jnp.zeros_like(terms, shape=len(terms))


@dataclasses.dataclass(frozen=True)
class Hutchinson:
    """The mean over `num` random probes of a `distribution`: unbiased, with a standard error.

    "rademacher" (random signs) has no variance if dv/dx is diagonal, and never more variance than
    "gaussian". With one probe the standard error is unknown: NaN. Hutchinson 1990.
    """

    num: int = 1
    distribution: str = "rademacher"

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"Hutchinson needs at least 1 probe, got num={self.num}")
        require_known("distribution", self.distribution, PROBES)

    def probes(self, keys: Array, x: Array) -> Array:
        shape = (self.num, *x.shape[1:])
        return jax.vmap(lambda key: PROBES[self.distribution](key, shape, x.dtype))(keys)

    def total(self, terms: Array) -> tuple[Array, Array]:
        return mean_and_error(terms)


class Likelihood(NamedTuple):
    """log p(x) [B] in nats, its standard error over the probes [B], x_T [B, *event], and nfe.

    nfe, [] or [B], counts calls of the network; each also gives the derivatives along the probes.
    """

    log_prob: Array
    standard_error: Array
    latent: Array
    nfe: Array


def log_likelihood(
    key: Array,
    model: Model,
    x: Array,
    *,
    solver: Solver,
    grid: Array,
    divergence: Divergence,
    cond: Any = None,
    prior: Callable[[Array], Array] | None = None,
    first: Array | int = 0,
) -> Likelihood:
    """log p(x) of x [B, *event] under the probability flow of the model, eq. (1), in nats.

    p is the density of the samples that `sample` draws with this deterministic solver along the
    same decreasing `grid` [n + 1], without the last denoising: x is a sample at time grid[-1], not
    at time 0. `cond` is the condition of each sample, as in `sample`. `prior` is the log density at
    grid[0], [B, *event] -> [B], by default that of the SDE at t_max. `divergence` is Exact() or
    Hutchinson(). The probes of sample i depend on (key, first + i) alone. Compiled once for each
    (shape, structure of solver and model, divergence). Solvers that are not adaptive have
    gradients.

    Raises ValueError for a solver that draws noise, a grid that does not decrease, a grid that
    does not start at t_max where no prior is given, or x that is not floating point.

        grid = grids.log_snr(sde, 100)
        log_likelihood(key, model, x, solver=RK4(), grid=grid, divergence=Exact()).log_prob
    """
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    _check(model, solver, grid, x, cond)
    if prior is None:
        _check_start(model.sde, grid)
        prior = model.sde.prior_log_prob
    keys = noise.sample_keys(key, len(x), first)
    latent, integral, error, nfe = _integrate(
        keys, model, solver, x, grid[::-1], cond, divergence=divergence
    )
    return Likelihood(prior(latent) + integral, error, latent, nfe)


def encode(model: Model, x: Array, *, solver: Solver, grid: Array, cond: Any = None) -> Array:
    """The latent x_T at grid[0] of x [B, *event] at grid[-1], along the probability flow.

    `decode` inverts it, to the accuracy of the solver. Song et al. 2021, sec. 4.3.

    Raises ValueError for a solver that draws noise, a grid that does not decrease, or x that is
    not floating point.
    """
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    _check(model, solver, grid, x, cond)
    return _flow(model, solver, x, grid[::-1], cond)[0]


def decode(model: Model, latent: Array, *, solver: Solver, grid: Array, cond: Any = None) -> Array:
    """The x at grid[-1] whose latent is x_T [B, *event] at grid[0]; see `encode`."""
    latent, grid = jnp.asarray(latent), jnp.asarray(grid)
    _check(model, solver, grid, latent, cond)
    return _flow(model, solver, latent, grid, cond)[0]


def bits_per_dim(log_prob: Array, dimension: int, *, levels: int, scale: float) -> Array:
    """-log2 P(data) / D, P = p(x) (scale / levels)^D, from the log density in nats of any shape.

    For data with `levels` whole values that were dequantized with uniform noise, so that each value
    is a bin, and then scaled so that all bins together are `scale` wide: 256 and 2 for 8-bit images
    in [-1, 1]. The mean over the noise is an upper bound on the bits/dim of the whole values.
    Without dequantization the result is meaningless. Theis et al. 2016.

    Raises ValueError unless levels, scale and dimension are positive.
    """
    if not (levels > 0 and scale > 0 and dimension > 0):
        raise ValueError(
            "bits_per_dim needs dimension, levels and scale above 0, "
            f"got dimension={dimension}, levels={levels}, scale={scale}"
        )
    return -(log_prob / dimension + math.log(scale / levels)) / math.log(2.0)


@partial(jax.jit, static_argnames=("divergence",))
def _integrate(
    keys: Array,
    model: Model,
    solver: Solver,
    x: Array,
    times: Array,
    cond: Any,
    *,
    divergence: Divergence,
) -> tuple[Array, Array, Array, Array]:
    """x_T [B, *event], the integral of (1) and its standard error [B], and the evaluations."""
    x = x.astype(time_dtype(x))
    probes = divergence.probes(keys, x)
    start = jnp.concatenate([_flat(x), jnp.zeros_like(x, shape=probes.shape[:2])], axis=1)
    # The probes belong to the samples, so they are a condition.
    augmented = Model(model.sde, _with_divergence, model)
    end, nfe = _flow(augmented, solver, start, times, (cond, probes))
    latent, terms = _split(end, probes)
    return latent, *divergence.total(terms), nfe


@jax.jit
def _flow(model: Model, solver: Solver, x: Array, times: Array, cond: Any) -> tuple[Array, Array]:
    """x carried along the times [n + 1], in either direction, and the evaluations, [] or [B]."""
    # A deterministic solver draws nothing from its keys.
    keys = noise.sample_keys(jax.random.key(0), len(x))
    made = solver.solve(keys, model, x, times, cond)
    return made.x, made.nfe


def _with_divergence(
    model: Model, sde: SDE, z: Array, t: Array, cond: tuple[Any, Array]
) -> Prediction:
    """The velocity of z [B, D + K]: x, and the integrals of the terms of (2) along it."""
    own, probes = cond
    x, _ = _split(z, probes)
    fixed: list[int] = []

    def velocity_of(x: Array) -> tuple[Array, Array]:
        prediction = model(x, t, own)
        if isinstance(prediction.evaluations, int):  # a Python number stays one
            fixed.append(prediction.evaluations)
        return prediction.velocity, jnp.asarray(prediction.evaluations)

    def along(probe: Array) -> tuple[Array, Array, Array]:
        velocity, change, evaluations = jax.jvp(velocity_of, (x,), (probe,), has_aux=True)
        return velocity, sum_of_event(probe * change), evaluations

    # The velocity is the same for every probe, so it is evaluated once.
    over_probes = jax.vmap(along, in_axes=1, out_axes=(None, 1, None))
    velocity, terms, evaluations = over_probes(probes)
    slope = jnp.concatenate([_flat(velocity), terms], axis=1)
    return Prediction("velocity", slope, z, t, sde, fixed[0] if fixed else evaluations)


def _split(z: Array, probes: Array) -> tuple[Array, Array]:
    """x [B, *event] and the K terms [B, K] that z [B, D + K] holds."""
    size = math.prod(probes.shape[2:])
    return z[:, :size].reshape(len(z), *probes.shape[2:]), z[:, size:]


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _check(model: Model, solver: Solver, grid: Array, x: Array, cond: Any) -> None:
    require_model(model)
    require_solver(solver)
    require_batch(cond, len(x))
    if solver.stochastic:
        raise ValueError(f"the probability flow needs a deterministic solver, got {solver}")
    if solver.denoises:
        raise ValueError(f"{type(solver).__name__} ends at the denoised sample, off the flow")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be floating point, dequantized and scaled, got {x.dtype}")
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"grid must hold at least two times, got shape {grid.shape}")
    if not isinstance(grid, jax.core.Tracer) and not np.all(np.diff(grid) < 0):
        raise ValueError(f"grid must decrease from noise to data, got {grid}")


def _check_start(sde: SDE, grid: Array) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((grid, sde))):
        return
    start = np.asarray(grid)[0]  # numpy, so that it is a number inside the caller's jit too
    if not np.isclose(start, sde.t_max):
        raise ValueError(
            f"the prior of {type(sde).__name__} is at t_max={sde.t_max:g}, but the grid starts at "
            f"{start:g}: start it there, or give the log density at its start as prior"
        )
