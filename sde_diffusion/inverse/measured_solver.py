"""What the methods share that change a solver's step: they end with the denoised sample."""

from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.inverse.linear_algebra import toward
from sde_diffusion.inverse.measurement import Measurement, measured
from sde_diffusion.inverse.operator import Operator, require_operator
from sde_diffusion.model import Model
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Samples, Solver, Wrapping
from sde_diffusion.sdes import SDE, Array, expand


class MeasuredSolver(Solver):
    """Base of the solvers that read a Measurement as their condition.

    The model is called with the measurement's own `cond`. After the last step they evaluate it once
    more, unless `sample` is told denoise_last=False, and `finish` fits its x0 to the measurement:
    no noise is left in what was not measured.
    """

    operator: Operator | None

    denoises = True
    # The method whose operator must be linear; None where any operator will do.
    linear_for: str | None = None

    def __post_init__(self) -> None:
        if self.operator is not None:
            require_operator(self.operator)
            if self.linear_for is not None:
                self.operator.require_linear(self.linear_for)

    def measured(self, cond: Any, x: Array) -> tuple[Operator, Measurement]:
        """The operator and the measurement, checked; see `measurement.measured`."""
        return measured(self.operator, cond, x, self.linear_for)

    def finish(self, prediction: Prediction, operator: Operator, measurement: Measurement) -> Array:
        """The samples [B, *event] of the last prediction."""
        return prediction.x0

    def solve(
        self,
        keys: Array | noise.BrownianPath,
        model: Model,
        x: Array,
        grid: Array,
        cond: Any = None,
        *,
        denoise_last: bool = True,
        **options: Any,
    ) -> Samples:
        operator, measurement = self.measured(cond, x)
        made = super().solve(keys, model, x, grid, cond, denoise_last=denoise_last, **options)
        if not denoise_last:
            return made
        last = model(made.x, grid[-1], measurement.cond)
        x0 = self.finish(last, operator, measurement).astype(x.dtype)
        return made._replace(x=x0, nfe=made.nfe + last.evaluations)


class MeasuredWrapping(MeasuredSolver, Wrapping):
    """Base of those that take the steps of another solver, their field `solver`."""

    solver: Solver

    # More steps do not converge to the posterior, so there is no order.
    order = 0
    strong_order = None
    denoises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver.denoises or self.solver.adaptive:
            raise ValueError(
                f"{type(self).__name__} needs a solver that keeps to the grid and leaves the last "
                f"evaluation to sample, got {type(self.solver).__name__}"
            )


def unexplained(sde: SDE, measurement: Measurement, x: Array, s: Array) -> Array:
    """sigma^2 - alpha^2 std^2 at time s, [B, 1, ...]: the noise of x_s beyond that of alpha y."""
    return sde.sigma(s) ** 2 - sde.alpha(s) ** 2 * expand(measurement.std, x) ** 2


def where_noiseless(measurement: Measurement, exact: Array, x: Array) -> Array:
    """`exact` for the samples whose measurement has no noise, x for the others."""
    return jnp.where(expand(measurement.std == 0.0, x), exact, x)


def replaced(
    keys: Keys,
    sde: SDE,
    operator: Operator,
    measurement: Measurement,
    x: Array,
    s: Array,
    iterations: int,
) -> Array:
    """x_s with its measured part drawn by y: the sample nearest to x_s whose measurement is

        alpha y + c A z,     c^2 = sigma^2 - alpha^2 std^2,

    which is how A x_s is distributed given y where A A^T = I. Where c^2 < 0, y is noisier than x_s,
    and x_s stays as it is.
    """
    square = unexplained(sde, measurement, x, s)
    scale = expand(jnp.sqrt(jnp.maximum(square, 0.0)).reshape(-1), measurement.y)
    y = expand(jnp.broadcast_to(sde.alpha(s), len(x)), measurement.y) * measurement.y
    known = toward(operator, x, y + scale * operator(noise.normal(keys, x)), iterations)
    return jnp.where(square > 0.0, known, x)
