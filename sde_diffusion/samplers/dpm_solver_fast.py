"""DPM-Solver-fast: singlestep solvers of orders 3, 2 and 1, combined to use a budget exactly."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import Exponential, has_signal, phi
from sde_diffusion.samplers.solver import Counted
from sde_diffusion.sdes import Array


class FastState(NamedTuple):
    """The sample, eps at the start of its block, and the last bend B, all [B, *event]; the grid."""

    x: Array
    eps: Array
    bend: Array
    grid: Array


@dataclasses.dataclass(frozen=True)
class DPMSolverFast(Exponential):
    """DPM-Solver-3 in blocks of three steps of the grid, and lower orders at the end.

        orders of n steps: 3, ..., 3, 1 or 3, ..., 3, 2, and 3, ..., 3, 2, 1 where 3 divides n
        x_s = exponential Euler with eps_b + B_s,   B_s = scale h w (eps(x_t, t) - eps_b) / r
        w = phi_2(h), but phi_1(h) / 2 at the end of a block of two

    Here b is the time at which the block began, eps_b = eps(x_b, b), h the step in lambda from b to
    s, scale = -sigma_s, and r the part of h that is complete at t. The inner nodes of a block are
    times of the grid, so each step has one evaluation and any budget can be used. The exponential
    Euler step starts from x_t - B_t. This equals the step from x_b, and it keeps the changes of a
    corrector. If the steps are equal in lambda, a block is one step of `DPMSolver3S`, `DPMSolver2S`
    or `DDIM` over its whole length. A sample inside a block is a stage, of lower order. The last
    step, of order 1, limits the method to order 2. Lu et al. 2022 (DPM-Solver), sec. 3.3; with
    lengths of the steps as their code has them on grids uniform in time.
    """

    view = "eps"
    order = 2

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> FastState:
        if grid is None:
            raise ValueError("DPMSolverFast needs the grid: its last steps differ from the others")
        return FastState(x, jnp.zeros_like(x), jnp.zeros_like(x), grid)

    def step(
        self, key: Keys, model: Counted, state: FastState, t: Array, s: Array, cond: Any = None
    ) -> FastState:
        sde = model.sde
        grid, prediction = state.grid, model(state.x, t, cond)
        # The index of t is looked up, not counted, because the steps of ParaDiGMS start anywhere.
        i, n = jnp.argmax(grid == t), jnp.argmax(grid == grid[-1])
        alone = n % 3 == 0  # then the last step is alone, after a block of two
        done = jnp.where(alone & (i == n - 1), 0, i % 3)
        first, pair = done == 0, (done == 1) & (i == n - 1 - alone)

        eps = jnp.where(first, prediction.eps, state.eps)
        alpha = jnp.where(first, 1.0, sde.alpha(t))
        x0 = (state.x - state.bend - sde.sigma(t) * eps) / alpha
        x = sde.alpha(s) * jnp.where(first, prediction.x0, x0) + sde.sigma(s) * eps

        begin = grid[i - done]
        span = self.span(sde, begin, s)
        gap = sde.log_snr(t) - sde.log_snr(begin)
        known = ~first & jnp.isfinite(gap) & has_signal(sde.log_snr(begin))
        part = jnp.where(known, gap, 1.0) * jnp.where(known, span.rate, 1.0)
        weight = jnp.where(pair, 0.5 * phi(1, span.z), phi(2, span.z)) / part
        bend = span.scale * span.h * weight * (prediction.eps - eps)
        return FastState(x + bend, eps, bend, grid)
