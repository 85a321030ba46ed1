"""First-order steps of the reverse SDE and of the probability-flow ODE."""

import dataclasses

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Model, Solver, State
from sde_diffusion.sdes import SDE, Array


@dataclasses.dataclass(frozen=True)
class Euler(Solver):
    """Euler on the probability flow: x_s = x_t - (t - s) dx/dt. Song et al. 2021, eq. 13."""

    order = 1

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        return State(state.x - (t - s) * model(state.x, t).velocity)


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

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        x, dt = state.x, t - s
        drift, g = sde.sde(x, t)
        mean = x - dt * (drift - g**2 * model(x, t).score)
        return State(mean + g * jnp.sqrt(dt) * noise.normal(key, x))


@dataclasses.dataclass(frozen=True)
class ReverseDiffusion(Solver):
    """The reverse SDE discretized as the forward one is; weak order 1.

    With the forward transition x_t = a x_s + b z:  x_s = (2 - a) x_t + b^2 score + b z.
    Song et al. 2021, eq. 46, for VE and VP the predictors of their algorithms 2 and 3; here a and b
    come from the time grid.
    """

    order = 1
    strong_order = 1

    @property
    def stochastic(self) -> bool:
        return True

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        x = state.x
        a, b = sde.transition(t, s)
        mean = (2.0 - a) * x + b**2 * model(x, t).score
        return State(mean + b * noise.normal(key, x))
