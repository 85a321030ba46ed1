"""EDM's sampler: Heun's method in the noise level, with churn."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import (
    Span,
    exponential_euler,
)
from sde_diffusion.samplers.solver import Counted, Solver, State, is_off
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require


@dataclasses.dataclass(frozen=True)
class EDMSampler(Solver):
    """EDM's sampler: Heun's step in rho = sigma / alpha, after an optional rise of the noise.

        t' with rho raised by 1 + churn;  x' = x scaled to t', with the noise added
        y = x / alpha, dy / d rho = eps:
        y_e = y' + (rho_s - rho') eps';  y_s = y' + (rho_s - rho') (eps' + eps_e) / 2

    Without churn the method has order 2 with two evaluations, and its samples are the same for
    every SDE. A step from alpha = 0 is an Euler step. `churn` is gamma = S_churn / steps of the
    paper, at most sqrt(2) - 1. It acts where rho is between `churn_min` and `churn_max`, and
    `churn_noise` scales the noise. Karras et al. 2022, algorithms 1 (with sigma(t) = t, s(t) = 1)
    and 2.

    With a churn proportional to 1 / steps the weak order is 2. With a constant churn the order is
    0: every step, however short, descends by the ratio 1 + churn, which leaves an error of
    O(churn^2) in the variance. There is no strong order, because more steps add more noise and the
    samples follow no path.
    """

    evaluations = 2
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        require(
            lambda churn: 0.0 <= churn <= math.sqrt(2.0) - 1.0,
            "EDMSampler takes churn from 0 to sqrt(2) - 1",
            churn=self.churn,
        )

    @property
    def order(self) -> int:  # type: ignore[override]
        return 0 if self.stochastic else 2

    @property
    def stochastic(self) -> bool:
        return not is_off(self.churn)

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x, sde = state.x, model.sde
        if self.stochastic:
            t, x = self._raise_noise(key, sde, x, t)
        prediction, span = model(x, t, cond), Span.of_ratio(sde, t, s)
        euler = exponential_euler(prediction, s)
        change = model(euler, s, cond).eps - prediction.eps
        return State(euler + 0.5 * span.scale * span.h * change)

    def _raise_noise(self, key: Keys, sde: SDE, x: Array, t: Array) -> tuple[Array, Array]:
        ratio = jnp.exp(-sde.log_snr(t))
        inside = (self.churn_min <= ratio) & (ratio <= self.churn_max)
        raised = sde.t_of_log_snr(sde.log_snr(t) - jnp.log1p(self.churn))
        # The noise cannot be raised above that at t_max.
        higher = jnp.where(inside, jnp.minimum(raised, sde.t_max), t)
        higher = jnp.maximum(higher, t)
        a, b = sde.transition(higher, t)
        return higher, a * x + self.churn_noise * b * noise.normal(key, x)
