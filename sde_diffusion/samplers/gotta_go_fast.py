"""Gotta Go Fast: stochastic Heun with adaptive step sizes for each sample."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.model import time_dtype
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.samplers.stochastic_heun import euler_and_heun
from sde_diffusion.sdes import Array, expand
from sde_diffusion.sdes.base import require


class _Progress(NamedTuple):
    """The samples x [B, *event] at their times [B], with what determines their next steps h [B]."""

    x: Array
    before: Array
    time: Array
    h: Array
    tried: Array
    calls: Array


@dataclasses.dataclass(frozen=True)
class GottaGoFast(Solver):
    """Stochastic Heun with adaptive steps, by its distance to Euler-Maruyama, for each sample.

        x', x'' = Euler-Maruyama and Heun from t to t - h with the same noise
        E = rms of (x' - x'') / max(atol, rtol |x'|, rtol |x' of the step before|)
        E <= 1: t <- t - h, x <- x'';    h <- safety h E^(-exponent)

    Jolicoeur-Martineau et al. 2021, algorithm 1, with their defaults (atol for data in [-1, 1]).
    They draw new noise after a rejection, which favours noise with a small error. Here the noise
    comes from a Brownian path: the given one, or one for each sample. h is rounded down to a power
    of 2^(1/4), because a rounding error in the time is a much larger error, its square root, in
    the noise.

    On mixtures in two dimensions, Euler-Maruyama on an even grid is mostly closer to the path with
    the same number of evaluations. The gain that the paper reports is in the quality of images.

    `first` is the first h as a part of t - s. The grid `[t_max, t_min]` leaves all steps to the
    solver. nfe is [B]. A sample that has not arrived after max_steps steps is returned as NaN. A
    loop of unknown length has no gradient in reverse mode. The order is that of its step.
    """

    order = 2
    strong_order = 1
    evaluations = 2
    reads_diffusion = True
    adaptive = True

    rtol: float = 0.01
    atol: float = 0.0078
    first: float = 0.01
    safety: float = 0.9
    exponent: float = 0.9
    max_steps: int = 4096

    def __post_init__(self) -> None:
        require(
            lambda rtol, atol: rtol > 0.0 and atol > 0.0,
            "GottaGoFast takes rtol and atol above 0",
            rtol=self.rtol,
            atol=self.atol,
        )

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        sde = model.sde

        def under_way(now: _Progress) -> Array:
            return (now.time > s) & (now.tried < self.max_steps)

        def attempt(now: _Progress) -> _Progress:
            x, event = now.x, tuple(range(1, now.x.ndim))
            last = now.time - now.h <= s
            end = jnp.where(last, s, now.time - now.h)
            # A sample that has arrived is stepped too, without effect, from t, so that its step has
            # a length.
            start = jnp.where(under_way(now), now.time, t)
            z = noise.increments(key, x, sde.log_snr(start), sde.log_snr(end))[0]
            counted = Counted(model.uncounted)
            euler, heun = euler_and_heun(counted, x, start, end, z, cond)

            size = jnp.maximum(jnp.abs(euler), jnp.abs(now.before))
            scaled = (euler - heun) / jnp.maximum(self.atol, self.rtol * size)
            error = jnp.sqrt(jnp.mean(scaled**2, axis=event))
            accepted = under_way(now) & (error <= 1.0)
            h = self.safety * now.h * jnp.maximum(error, 1e-6) ** -self.exponent
            return _Progress(
                jnp.where(expand(accepted, x), heun, x),
                jnp.where(expand(accepted, x), euler, now.before),
                jnp.where(accepted, end, now.time),
                jnp.minimum(_rounded_down(h), t - s),
                now.tried + under_way(now),
                now.calls + jnp.where(under_way(now), counted.calls, 0),
            )

        x, batch = state.x.astype(time_dtype(state.x)), state.x.shape[0]
        none = jnp.zeros(batch, jnp.int32)
        first = jnp.full(batch, self.first * (t - s))
        start = _Progress(x, x, jnp.full(batch, t), first, none, none)
        end = jax.lax.while_loop(lambda now: jnp.any(under_way(now)), attempt, start)
        model.calls = model.calls + end.calls
        return State(jnp.where(expand(end.time <= s, x), end.x, jnp.nan))


def _rounded_down(h: Array) -> Array:
    return jnp.exp2(jnp.floor(4.0 * jnp.log2(h)) / 4.0)
