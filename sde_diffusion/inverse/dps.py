"""DPS: after each step of a solver, a gradient step on the distance to the measurement."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.inverse.linear_algebra import dot
from sde_diffusion.inverse.measured_solver import MeasuredWrapping
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Counted, Solver
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require


@dataclasses.dataclass(frozen=True)
class DPS(MeasuredWrapping):
    """DPS as published: after the step of any solver, a gradient step on the residual's norm.

        x_s = solver's x_s - zeta grad_{x_t} |y - A(E[x_0 | x_t])|

    The size of this step belongs to one step of the solver, so the best zeta depends on the number
    of steps; the paper takes 1,000 of `Ancestral`. The gradient is that of the solver's first
    evaluation: one backward pass for each step.

    Biased: the residual's norm is not a likelihood, so std is ignored. Source: Chung et al. 2023
    (DPS), algorithm 1, with the step size of its appendix.
    """

    solver: Solver
    operator: Operator | None = None
    zeta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(lambda zeta: zeta > 0.0, "DPS needs zeta > 0", zeta=self.zeta)

    def step(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> Any:
        operator, measurement = self.measured(cond, state.x)
        noted: Any = Noted(model)
        stepped = self.solver.step(key, noted, state, t, s, measurement.cond)
        x0, pull = noted.first

        def distance(x0: Array) -> Array:
            residual = measurement.y - operator(x0)
            # The norm has no derivative at 0.
            return jnp.sum(jnp.sqrt(dot(residual, residual) + jnp.finfo(x0.dtype).tiny))

        gradient = pull(jax.grad(distance)(x0))
        return self.solver.moved(stepped, stepped.x - self.zeta * gradient)


class Noted:
    """A counted model that keeps (x0, its backward pass) of its first call as `first`."""

    def __init__(self, model: Counted):
        self.model = model
        self.first: Any = None

    @property
    def sde(self) -> SDE:
        return self.model.sde

    @property
    def uncounted(self) -> Any:
        return self.model.uncounted

    def __call__(self, x: Array, t: Array, cond: Any = None) -> Prediction:
        if self.first is not None:
            return self.model(x, t, cond)

        def predict(x: Array) -> tuple[Array, Prediction]:
            prediction = self.uncounted(x, t, cond)
            return prediction.x0, prediction

        x0, pull, prediction = jax.vjp(predict, x, has_aux=True)
        self.model.calls = self.model.calls + prediction.evaluations
        self.first = (x0, lambda v: pull(v)[0])
        return prediction
