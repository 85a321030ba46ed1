"""How likely data is under a model: by the probability flow, or by a variational bound.

Along the probability flow dx/dt = v(x, t) the log density falls at the rate of the divergence, so

    log p(x) = log prior(x_T) + integral of div v(x_t, t) dt from the time of x to T         (1)
    div v = sum_k e_k . (dv/dx e_k) = E[z . (dv/dx z)],   E[z z^T] = I                       (2)

The terms of (2) are integrated beside x, as further dimensions of one ODE, by any deterministic
solver of `samplers`; one pass through the network gives v and its derivative along every probe.

All is in nats; a density becomes bits/dim through `bits_per_dim` alone. Sources: (1) Song et al.
2021, sec. 4.3 and app. D.2, from Chen et al. 2018 (neural ODEs); (2) Hutchinson 1990, with probes
that are kept along the path as in Grathwohl et al. 2019 (FFJORD).
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sde_diffusion import noise
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import Solver
from sde_diffusion.sdes import SDE, Array, expand
from sde_diffusion.selection import require_known

PROBES: dict[str, Callable[..., Array]] = {
    "rademacher": jax.random.rademacher,
    "gaussian": jax.random.normal,
}


class Divergence(Protocol):
    """The directions along which v is differentiated, and what their terms in (2) add up to."""

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

    "rademacher" (signs) has no variance where dv/dx is diagonal, so never more than "gaussian".
    With one probe the standard error cannot be told, and is NaN. Hutchinson 1990.
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
        return _mean_and_error(terms)


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
    model: Callable[..., Prediction],
    sde: SDE,
    x: Array,
    *,
    solver: Solver,
    grid: Array,
    divergence: Divergence,
    prior: Callable[[Array], Array] | None = None,
    first: Array | int = 0,
) -> Likelihood:
    """log p(x) of x [B, *event] under the probability flow of the model, eq. (1), in nats.

    p is the density of what `sample` makes along the same decreasing `grid` [n + 1], with a
    deterministic solver and without denoising: x is taken as a sample at grid[-1], not at time 0.
    `prior` is the log density at grid[0], [B, *event] -> [B]; by default that of the SDE at t_max.
    `divergence` is Exact() or Hutchinson(); the probes of sample i depend on (key, first + i)
    alone. Compiled once for each (shape, solver, divergence, structure of the model). Has
    gradients with every solver that is not adaptive.

    Raises ValueError for a solver that draws noise, a grid that does not decrease, a grid that
    does not start at t_max where no prior is given, or x that is not floating point.

        grid = grids.log_snr(sde, 100)
        log_likelihood(key, model, sde, x, solver=RK4(), grid=grid, divergence=Exact()).log_prob
    """
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    _check(solver, grid, x)
    if prior is None:
        _check_start(sde, grid)
        prior = sde.prior_log_prob
    keys = noise.sample_keys(key, len(x), first)
    latent, integral, error, nfe = _integrate(
        keys, _as_pytree(model), sde, x, grid[::-1], solver=solver, divergence=divergence
    )
    return Likelihood(prior(latent) + integral, error, latent, nfe)


def encode(
    model: Callable[..., Prediction], sde: SDE, x: Array, *, solver: Solver, grid: Array
) -> Array:
    """The latent x_T at grid[0] of x [B, *event] at grid[-1], along the probability flow.

    Undone by `decode`, to the accuracy of the solver. Song et al. 2021, sec. 4.3.

    Raises ValueError for a solver that draws noise, a grid that does not decrease, or x that is
    not floating point.
    """
    x, grid = jnp.asarray(x), jnp.asarray(grid)
    _check(solver, grid, x)
    return _flow(_as_pytree(model), sde, x, grid[::-1], solver=solver)[0]


def decode(
    model: Callable[..., Prediction], sde: SDE, latent: Array, *, solver: Solver, grid: Array
) -> Array:
    """The x at grid[-1] whose latent is x_T [B, *event] at grid[0]; see `encode`."""
    latent, grid = jnp.asarray(latent), jnp.asarray(grid)
    _check(solver, grid, latent)
    return _flow(_as_pytree(model), sde, latent, grid, solver=solver)[0]


def bits_per_dim(log_prob: Array, dimension: int, *, levels: int, scale: float) -> Array:
    """-log2 P(data) / D, P = p(x) (scale / levels)^D, from the log density in nats of any shape.

    For data of `levels` whole values that were dequantized with uniform noise, so that each value
    is a bin, and scaled so that all bins together are `scale` wide: 256 and 2 for 8-bit images
    in [-1, 1]. The mean over the noise is an upper bound on the bits/dim of the whole values;
    without dequantization the number means nothing. Theis et al. 2016.

    Raises ValueError unless levels, scale and dimension are positive.
    """
    if not (levels > 0 and scale > 0 and dimension > 0):
        raise ValueError(
            "bits_per_dim needs dimension, levels and scale above 0, "
            f"got dimension={dimension}, levels={levels}, scale={scale}"
        )
    return -(log_prob / dimension + math.log(scale / levels)) / math.log(2.0)


class Bound(NamedTuple):
    """The three losses of the variational bound and the diffusion loss's standard error, [B], nats.

    The standard error is that of independent draws; as they are spread evenly, the true one is
    smaller.
    """

    prior: Array
    reconstruction: Array
    diffusion: Array
    standard_error: Array

    @property
    def log_prob(self) -> Array:
        """The lower bound on log p(x), [B] in nats."""
        return -(self.prior + self.reconstruction + self.diffusion)


def variational_bound(
    key: Array,
    model: Callable[..., Prediction],
    sde: SDE,
    x: Array,
    *,
    num: int,
    first: Array | int = 0,
) -> Bound:
    """A lower bound on log p(x_0 = x), x [B, *event], in continuous time; `num` draws a sample.

        prior            KL(q(x_T | x) || prior)
        reconstruction   E[-log N(x; x_s / alpha_s, (sigma_s / alpha_s)^2)],   s = t_min
        diffusion        (lambda_s - lambda_T) E || eps - eps_model(x_t, t) ||^2

    with lambda uniform, and evenly spaced with one random shift over the draws of a sample. The
    decoder is q(x_s | x) itself, normalized in x, whose loss has a closed form. Unlike the
    probability flow, this is of x at time 0 and of the reverse SDE. The draws of sample i depend
    on (key, first + i) alone. Kingma et al. 2021 (variational diffusion models).

    Raises ValueError for num below 1, or an SDE with an infinite log-SNR at t_max.
    """
    if num < 1:
        raise ValueError(f"variational_bound needs at least 1 draw, got num={num}")
    low = sde.log_snr(sde.t_max)
    if not isinstance(low, jax.core.Tracer) and not jnp.isfinite(low):
        raise ValueError(
            f"{type(sde).__name__} has no finite log-SNR at t_max={sde.t_max:g}: "
            "use a smaller t_max such as 0.999"
        )
    keys = noise.sample_keys(key, len(x), first)
    return _bound(keys, _as_pytree(model), sde, jnp.asarray(x), num=num)


@partial(jax.jit, static_argnames=("num",))
def _bound(keys: Array, model: Callable[..., Prediction], sde: SDE, x: Array, *, num: int) -> Bound:
    high, low = sde.log_snr(sde.t_min), sde.log_snr(sde.t_max)
    shift = jax.vmap(jax.random.uniform)(noise.fold_in(keys, num))

    def draw(_: None, i: Array) -> tuple[None, Array]:
        t = sde.t_of_log_snr(low + (i + shift) / num * (high - low))
        t = jnp.clip(t, sde.t_min, sde.t_max)
        mean, std = sde.marginal_prob(x, t)
        eps = noise.normal(noise.fold_in(keys, i), x)
        error = model(mean + expand(std, x) * eps, t).noise_error(x, eps)
        return None, (high - low) * _sum(error**2)

    _, terms = jax.lax.scan(draw, None, jnp.arange(num))
    diffusion, error = _mean_and_error(terms.T)
    size = math.prod(x.shape[1:])
    mean, std = sde.marginal_prob(x, sde.t_max)
    variance = (std / sde.prior_std) ** 2
    return Bound(
        prior=0.5 * _sum((mean / sde.prior_std) ** 2)
        + 0.5 * size * (variance - 1.0 - jnp.log(variance)),
        reconstruction=jnp.full_like(diffusion, size * (0.5 + 0.5 * math.log(2 * math.pi) - high)),
        diffusion=diffusion,
        standard_error=error,
    )


@partial(jax.jit, static_argnames=("solver", "divergence"))
def _integrate(
    keys: Array,
    model: Callable[..., Prediction],
    sde: SDE,
    x: Array,
    times: Array,
    *,
    solver: Solver,
    divergence: Divergence,
) -> tuple[Array, Array, Array, Array]:
    """x_T [B, *event], the integral of (1) and its standard error [B], and the evaluations."""
    probes = divergence.probes(keys, x)
    start = jnp.concatenate([_flat(x), jnp.zeros_like(x, shape=probes.shape[:2])], axis=1)
    augmented = Partial(_with_divergence, model, sde, probes)
    end, nfe = _flow(augmented, sde, start, times, solver=solver)
    latent, terms = _split(end, probes)
    return latent, *divergence.total(terms), nfe


@partial(jax.jit, static_argnames=("solver",))
def _flow(
    model: Callable[..., Prediction], sde: SDE, x: Array, times: Array, *, solver: Solver
) -> tuple[Array, Array]:
    """x carried along the times [n + 1], in either direction, and the evaluations, [] or [B]."""
    # A deterministic solver draws nothing from its keys.
    keys = noise.sample_keys(jax.random.key(0), len(x))
    made = solver.solve(keys, model, sde, x, times)
    return made.x, made.nfe


def _with_divergence(
    model: Callable[..., Prediction], sde: SDE, probes: Array, z: Array, t: Array
) -> Prediction:
    """The velocity of z [B, D + K]: x, and the integrals of the terms of (2) along it."""
    # A black-box solver first asks about one sample alone, for the shape of the answer.
    batch = len(probes)
    z, t = jnp.broadcast_to(z, (batch, z.shape[1])), jnp.broadcast_to(t, (batch,))
    x, _ = _split(z, probes)

    def along(probe: Array) -> tuple[Array, Array]:
        velocity, change = jax.jvp(lambda x: model(x, t).velocity, (x,), (probe,))
        return velocity, _sum(probe * change)

    # The velocity is the same for every probe, so it is evaluated once.
    velocity, terms = jax.vmap(along, in_axes=1, out_axes=(None, 1))(probes)
    return Prediction("velocity", jnp.concatenate([_flat(velocity), terms], axis=1), z, t, sde)


def _split(z: Array, probes: Array) -> tuple[Array, Array]:
    """x [B, *event] and the K terms [B, K] that z [B, D + K] holds."""
    size = math.prod(probes.shape[2:])
    return z[:, :size].reshape(len(z), *probes.shape[2:]), z[:, size:]


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _sum(x: Array) -> Array:
    """The sum over a sample's dimensions, [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _mean_and_error(terms: Array) -> tuple[Array, Array]:
    """The mean of terms [B, n] and its standard error, each [B]; that of one term is unknown."""
    mean, num = jnp.mean(terms, axis=1), terms.shape[1]
    if num == 1:
        return mean, jnp.full_like(mean, jnp.nan)
    return mean, jnp.std(terms, axis=1, ddof=1) / math.sqrt(num)


def _as_pytree(model: Callable[..., Prediction]) -> Partial:
    # A plain function is its own structure: the same one does not retrace.
    return model if isinstance(model, Partial) else Partial(model)


def _check(solver: Solver, grid: Array, x: Array) -> None:
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
    start = np.asarray(grid)[0]  # by numpy, so that it is a number under the caller's jit too
    if not np.isclose(start, sde.t_max):
        raise ValueError(
            f"the prior of {type(sde).__name__} is at t_max={sde.t_max:g}, but the grid starts at "
            f"{start:g}: start it there, or give the log density at its start as prior"
        )
