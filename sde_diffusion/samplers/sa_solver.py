"""SA-Solver: stochastic Adams methods."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import (
    Span,
    phi,
)
from sde_diffusion.samplers.noisy import Noisy
from sde_diffusion.samplers.solver import Counted, is_off
from sde_diffusion.samplers.unipc import MultistepPC, UniPCState
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require


@dataclasses.dataclass(frozen=True)
class SASolver(Noisy, MultistepPC):
    """SA-Solver: stochastic Adams methods in x0, with one evaluation a step.

        x_s = exponential Euler with noise + (1 + eta) alpha_s h times the integrals of `multistep`
        through p values and, in the corrector, x0 at the end as well;  eta = tau^2

    The corrector, in PEC form, keeps the predictor's noise. tau acts in steps that start where
    sigma / alpha is between `tau_min` and `tau_max`, like the authors' tau(t). Elsewhere the step
    is that of the probability flow. With noise the weak order is 2 (1 for p = 1 without the
    corrector) and the strong order 1. At tau = 0 the order is p, or p + 1 with the corrector, but
    at most 3, because the last step has p of at most 2 and no correction. Xue et al. 2023
    (SA-Solver), eqs. 15 and 18 for the integrals.
    """

    tau: float = 1.0
    tau_min: float = 0.0
    tau_max: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        require(lambda tau: tau >= 0.0, "SASolver takes tau of at least 0", tau=self.tau)

    @property
    def order(self) -> int:  # type: ignore[override]
        return min(2, super().order) if self.stochastic else super().order

    @property
    def stochastic(self) -> bool:
        return not is_off(self.tau)

    def eta_at(self, sde: SDE, t: Array) -> Array | float:
        ratio = jnp.exp(-sde.log_snr(t))
        inside = (self.tau_min <= ratio) & (ratio <= self.tau_max)
        return jnp.where(inside, self.tau**2, 0.0)

    def half(self, span: Span) -> Array:
        return span.h * phi(2, span.z)

    def step(
        self, key: Keys, model: Counted, state: UniPCState, t: Array, s: Array, cond: Any = None
    ) -> UniPCState:
        sde = model.sde
        state = super().step(key, model, state, t, s, cond)
        (added,) = self.noises(key, state.x, sde, t, s)
        return state._replace(x=state.x + added, base=state.base + added)
