"""Heun's method on the reverse SDE."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import Array, expand


def euler_and_heun(
    model: Counted, x: Array, t: Array, s: Array, z: Array, cond: Any
) -> tuple[Array, Array]:
    """x_s by Euler-Maruyama and by Heun with the same noise z; t and s are [] or [B]."""
    sde = model.sde
    dt = expand(t - s, x)

    def change(x: Array, t: Array) -> Array:
        drift, g = sde.sde(x, t)
        g = expand(g, x)
        return g * jnp.sqrt(dt) * z - dt * (drift - g**2 * model(x, t, cond).score)

    first = change(x, t)
    return x + first, x + 0.5 * (first + change(x + first, s))


@dataclasses.dataclass(frozen=True)
class StochasticHeun(Solver):
    """Heun's method on the reverse SDE, of weak order 2 and strong order 1.

        D(x, t) = (t - s) [f x - g^2 score] - g sqrt(t - s) z
        x_e = x_t - D(x_t, t);   x_s = x_t - (D(x_t, t) + D(x_e, s)) / 2

    Since the noise is additive, the Ito and the Stratonovich reading are one. Ruemelin 1982; it is
    the step x'' of Jolicoeur-Martineau et al. 2021, algorithm 1.
    """

    order = 2
    strong_order = 1
    evaluations = 2
    reads_diffusion = True

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        return State(euler_and_heun(model, state.x, t, s, noise.normal(key, state.x), cond)[1])
