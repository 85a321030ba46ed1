"""Steps by a model's flow map: one-step, multistep, and consistency sampling."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.model import time_dtype
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, is_off
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import require


class FlowMapState(NamedTuple):
    """The sample, the steps to go, the last time, and whether the last step denoises."""

    x: Array
    left: Array
    end: Array
    denoise: Array


@dataclasses.dataclass(frozen=True)
class FlowMap(Solver):
    """From t to a time u <= s by the model's flow map F, and back to s with new noise z:

        x_u = F(x_t, t, u),    sigma_u / alpha_u = sqrt(1 - gamma^2) sigma_s / alpha_s
        x_s = (alpha_s / alpha_u) x_u + b z,    x_s given x_u as in the forward process

    gamma = 0 is deterministic, u = s: with an exact flow map the result is exact in one step.
    gamma = 1 goes to the last time of the grid and renoises from there, the multistep sampling of
    consistency models (Song et al. 2023, algorithm 1). Between them it is gamma-sampling (Kim et
    al. 2024, CTM). The grid's n steps take n evaluations of a network of two times.

    The last step draws no noise. With `denoise_last` it goes on along its straight line, from x_t
    through x_s, to where no noise is left, which takes no evaluation.

    It needs a model with a flow map: see `sde_diffusion.flow_map`.
    """

    gamma: float = 0.0

    # Exact with an exact map, so there is no order of convergence.
    order = 0
    denoises = True

    def __post_init__(self) -> None:
        message = "FlowMap takes gamma from 0 to 1"
        require(lambda gamma: 0.0 <= gamma <= 1.0, message, gamma=self.gamma)

    @property
    def stochastic(self) -> bool:
        return not is_off(self.gamma)

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> FlowMapState:
        if grid is None:
            raise ValueError("FlowMap needs the grid of its times")
        end = jnp.asarray(grid[-1], time_dtype(x))
        return FlowMapState(x, jnp.int32(len(grid) - 1), end, jnp.asarray(denoise_last))

    def step(
        self, key: Keys, model: Counted, state: FlowMapState, t: Array, s: Array, cond: Any = None
    ) -> FlowMapState:
        x, sde = state.x, model.sde
        last = state.left == 1
        u = s
        if self.stochastic:
            # The square root of 1 - gamma^2 in terms of lambda; infinite for gamma = 1.
            rise = -0.5 * jnp.log1p(-(jnp.asarray(self.gamma, t.dtype) ** 2))
            u = jnp.clip(sde.t_of_log_snr(sde.log_snr(s) + rise), state.end, s)
            u = jnp.where(last, s, u)
        mapped = model.flow_map(x, t, u, cond).x
        sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
        x0 = (sigma_t * mapped - sigma_s * x) / (sde.alpha(s) * sigma_t - sde.alpha(t) * sigma_s)
        if self.stochastic:
            a, b = sde.transition(s, u)
            z = noise.normal(noise.split(key)[0], x)
            mapped = a * mapped + b * z
        new = jnp.where(last & state.denoise, x0, mapped)
        return state._replace(x=new, left=state.left - 1)
