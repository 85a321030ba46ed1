"""Euler on the probability-flow ODE, and Euler-Maruyama on the reverse SDE."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class Euler(Solver):
    """Euler on the probability flow: x_s = x_t - (t - s) dx/dt. Song et al. 2021, eq. 13."""

    order = 1

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        return State(state.x - (t - s) * model(state.x, t, cond).velocity)


@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama on the reverse SDE; weak order 1.

    x_s = x_t - (t - s) [f x_t - g^2 score] + g sqrt(t - s) z. Song et al. 2021, eq. 6 and sec. 4.1.
    """

    order = 1
    strong_order = 1
    reads_diffusion = True

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        sde = model.sde
        x, dt = state.x, t - s
        drift, g = sde.sde(x, t)
        mean = x - dt * (drift - g**2 * model(x, t, cond).score)
        return State(mean + g * jnp.sqrt(dt) * noise.normal(key, x))
