"""DiffPIR: the denoised sample is fitted to the measurement before it is noised again."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.inverse.linear_algebra import weighted_back
from sde_diffusion.inverse.measured_solver import MeasuredSolver
from sde_diffusion.inverse.measurement import Measurement
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Counted, State
from sde_diffusion.sdes import Array, expand
from sde_diffusion.sdes.base import require


def fitted(
    prediction: Prediction,
    operator: Operator,
    measurement: Measurement,
    strength: Array | float,
    iterations: int,
) -> Array:
    """The x, [B, *event], of least |y - A x|^2 / std^2 + strength alpha^2 / sigma^2 |x - x0|^2.

    = x0 + A^T (A A^T + std^2 strength alpha^2 / sigma^2 I)^-1 (y - A x0)
    """
    x0 = prediction.x0
    ratio = jnp.exp(2.0 * prediction.sde.log_snr(prediction.t))  # alpha^2 / sigma^2
    ones = jnp.ones(len(x0), x0.dtype)
    weight = measurement.std**2 * strength * ratio
    residual = measurement.y - operator(x0)
    return x0 + weighted_back(operator, residual, x0, ones, weight, iterations)


@dataclasses.dataclass(frozen=True)
class DiffPIR(MeasuredSolver):
    """Each step fits x0 to y, and noises the result to s with a share zeta of fresh noise.

        x0' = argmin_x |y - A x|^2 / std^2 + strength alpha_t^2 / sigma_t^2 |x - x0|^2
        eps' = (x_t - alpha_t x0') / sigma_t
        x_s = alpha_s x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z)

    `strength` is lambda of the paper. A must be linear; the minimum is found by conjugate
    gradients. One evaluation a step and no backward pass. Biased: x_0 given x_t is taken for an
    isotropic Gaussian, and x0' for its mean given y. Samples fit a measurement without noise
    exactly. Source: Zhu et al. 2023, algorithm 1.
    """

    operator: Operator | None = None
    strength: float = 1.0
    zeta: float = 1.0
    iterations: int = 20

    order = 0
    linear_for = "DiffPIR"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(lambda lam: lam > 0.0, "DiffPIR needs strength > 0", strength=self.strength)
        require(lambda zeta: 0.0 <= zeta <= 1.0, "DiffPIR takes zeta from 0 to 1", zeta=self.zeta)

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        operator, measurement = self.measured(cond, state.x)
        sde, prediction = model.sde, model(state.x, t, measurement.cond)
        x0 = fitted(prediction, operator, measurement, self.strength, self.iterations)
        eps = (state.x - expand(sde.alpha(t), x0) * x0) / expand(sde.sigma(t), x0)
        z = noise.normal(key, state.x)
        mixed = jnp.sqrt(1.0 - self.zeta) * eps + jnp.sqrt(self.zeta) * z
        return State(sde.alpha(s) * x0 + sde.sigma(s) * mixed)

    def finish(self, prediction: Prediction, operator: Operator, measurement: Measurement) -> Array:
        return fitted(prediction, operator, measurement, self.strength, self.iterations)
