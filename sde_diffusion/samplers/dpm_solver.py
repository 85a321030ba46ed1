"""Multistep exponential integrators in the data prediction: DPM-Solver++."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from sde_diffusion.samplers.solver import Model, Solver
from sde_diffusion.sdes import SDE, Array


class MultistepState(NamedTuple):
    """The sample, the data prediction of the step before, and that step's length in lambda."""

    x: Array
    x0: Array
    h: Array


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M(Solver):
    """DPM-Solver++(2M), order 2 with one evaluation a step.

        h_i = lambda_s - lambda_t,  r = h_{i-1} / h_i
        D = (1 + 1 / (2 r)) x_0(t) - 1 / (2 r) x_0(the time before)
        x_s = sigma_s / sigma_t x_t - alpha_s (exp(-h_i) - 1) D

    The first step has no step before it and is of order 1. Lu et al. 2022 (DPM-Solver++),
    algorithm 2.
    """

    order = 2

    def init(self, x: Array) -> MultistepState:
        # An infinitely long step before the first gives x_0 of that time no weight.
        return MultistepState(x, jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype))

    def step(
        self, key: Array, model: Model, sde: SDE, state: MultistepState, t: Array, s: Array
    ) -> MultistepState:
        x0 = model(state.x, t).x0
        h = sde.log_snr(s) - sde.log_snr(t)
        # Where alpha_t = 0 the step itself is infinitely long, and of order 1.
        weight = jnp.where(jnp.isinf(h), 0.0, 0.5 * h / state.h)
        data = x0 + weight * (x0 - state.x0)
        x = sde.sigma(s) / sde.sigma(t) * state.x - sde.alpha(s) * jnp.expm1(-h) * data
        return MultistepState(x, x0, h)
