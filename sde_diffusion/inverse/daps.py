"""DAPS: at each time a sample of x_0 given x_t and y, which is noised to the next time."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.inverse.diffpir import fitted
from sde_diffusion.inverse.linear_algebra import weighted_back
from sde_diffusion.inverse.measured_solver import MeasuredWrapping
from sde_diffusion.inverse.measurement import Measurement
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Counted, Solver
from sde_diffusion.sdes import Array, expand
from sde_diffusion.sdes.base import require


class DAPSState(NamedTuple):
    """The sample [B, *event] and the last time of the grid."""

    x: Array
    end: Array


@dataclasses.dataclass(frozen=True)
class DAPS(MeasuredWrapping):
    """Decoupled annealing: x_s is noised from a draw of x_0 given x_t and y, not stepped from x_t.

        m: x_0 of the probability flow from x_t, by `ode_steps` steps of the solver
        x_0 ~ N(x_0; m, r^2 I) N(y; A(x_0), std^2 I),     x_s = alpha_s x_0 + sigma_s z
        r^2 = sigma^2 c / (alpha^2 c + sigma^2),     c = prior_variance

    For a linear A the draw of x_0 is exact, by conjugate gradients. For any other A it is the end
    of `langevin_steps` steps of Langevin dynamics from m, of size h = size / (1 / r^2 + steepness /
    std^2), where steepness is about the largest |A'|^2; for a std below `least_std` that is taken.

    ode_steps + 1 evaluations a step, no backward pass through the model. Biased: x_0 given x_t is
    taken for an isotropic Gaussian around a draw of it. Source: Zhang et al. 2025 (DAPS), whose r
    is sigma / alpha, without a prior variance.
    """

    solver: Solver
    operator: Operator | None = None
    ode_steps: int = 5
    prior_variance: float = 1.0
    iterations: int = 20
    langevin_steps: int = 50
    size: float = 0.2
    steepness: float = 1.0
    least_std: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ode_steps", "langevin_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"DAPS needs {name} >= 1, got {getattr(self, name)}")
        for name in ("prior_variance", "size", "steepness", "least_std"):
            require(lambda v: v > 0.0, f"DAPS needs {name} > 0", v=getattr(self, name))

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.ode_steps * self.solver.evaluations + 1

    @property
    def stochastic(self) -> bool:
        return True

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> DAPSState:
        if grid is None:
            raise ValueError("DAPS needs the grid when it starts")
        return DAPSState(x, grid[-1])

    def moved(self, state: Any, x: Array) -> Any:
        return state._replace(x=x)

    def step(
        self, key: Keys, model: Counted, state: DAPSState, t: Array, s: Array, cond: Any = None
    ) -> DAPSState:
        operator, measurement = self.measured(cond, state.x)
        sde, keys = model.sde, [noise.fold_in(key, i) for i in range(3)]
        # Square roots of times are equally spaced, so that the last steps are short.
        roots = jnp.sqrt(t) + jnp.linspace(0.0, 1.0, self.ode_steps + 1) * (
            jnp.sqrt(state.end) - jnp.sqrt(t)
        )
        times = (roots**2).at[0].set(t)
        flow = self.solver.solve(keys[0], model.uncounted, state.x, times, measurement.cond)
        last = model(flow.x, state.end, measurement.cond)
        model.calls = model.calls + flow.nfe
        square = sde.sigma(t) ** 2 * self.prior_variance
        variance = square / (sde.alpha(t) ** 2 * self.prior_variance + sde.sigma(t) ** 2)
        draw = self._exactly if operator.linear else self._by_langevin
        x0 = draw(keys[1], operator, measurement, last.x0, variance)
        return DAPSState(sde.alpha(s) * x0 + sde.sigma(s) * noise.normal(keys[2], x0), state.end)

    def finish(self, prediction: Prediction, operator: Operator, measurement: Measurement) -> Array:
        if not operator.linear:
            return prediction.x0
        return fitted(prediction, operator, measurement, 1.0, self.iterations)

    def _exactly(
        self,
        keys: Array,
        operator: Operator,
        measurement: Measurement,
        mean: Array,
        variance: Array,
    ) -> Array:
        """Draws of N(mean, variance I) given y: a draw of x and y, moved by the residual's gain."""
        x = mean + jnp.sqrt(variance) * noise.normal(noise.fold_in(keys, 0), mean)
        std = expand(measurement.std, measurement.y)
        y = operator(x) + std * noise.normal(noise.fold_in(keys, 1), measurement.y)
        ones = jnp.ones(len(x), x.dtype)
        noise_ratio = measurement.std**2 / variance
        residual = operator.seen(measurement.y - y)
        return x + weighted_back(operator, residual, x, ones, noise_ratio, self.iterations)

    def _by_langevin(
        self,
        keys: Array,
        operator: Operator,
        measurement: Measurement,
        mean: Array,
        variance: Array,
    ) -> Array:
        std = jnp.maximum(measurement.std, self.least_std)
        h = expand(self.size / (1.0 / variance + self.steepness / std**2), mean)

        def step(i: Array, x: Array) -> Array:
            made, back = jax.vjp(operator, x)
            (fit,) = back((measurement.y - made) / expand(std, made) ** 2)
            z = noise.normal(noise.fold_in(keys, i), x)
            return (x + h * (fit + (mean - x) / variance) + jnp.sqrt(2.0 * h) * z).astype(x.dtype)

        return jax.lax.fori_loop(0, self.langevin_steps, step, mean)
