"""Black-box ODE solvers for the probability flow, from diffrax, with step sizes by sample."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from sde_diffusion.choices import require_known
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.one import predict_one
from sde_diffusion.samplers.solver import Model, Solver, State
from sde_diffusion.sdes import SDE, Array

# Evaluations of an attempted step, besides one that chooses the first step size. diffrax reports
# steps only; tests/samplers/test_blackbox.py counts the calls themselves.
_EVALUATIONS = {"tsit5": 6, "dopri5": 6, "dopri8": 13}


@dataclasses.dataclass(frozen=True)
class BlackBox(Solver):
    """Integrates the probability flow to the tolerances rtol and atol; needs the extra `ode`.

    The times of the grid are where it must stop: `[t_max, t_min]` leaves the steps to it. Each
    sample has its own step sizes, so that it does not depend on its neighbours, and its own count
    of evaluations; the network runs on the whole batch until the last sample is done. Song et al.
    2021, sec. 4.3 and app. D.4, who use rtol = atol = 1e-5.
    """

    adaptive = True
    methods: ClassVar[tuple[str, ...]] = tuple(_EVALUATIONS)

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096

    def __post_init__(self) -> None:
        require_known("method", self.method, self.methods)

    @property
    def order(self) -> int:  # type: ignore[override]
        return 8 if self.method == "dopri8" else 5

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        import diffrax

        solver = {
            "tsit5": diffrax.Tsit5,
            "dopri5": diffrax.Dopri5,
            "dopri8": diffrax.Dopri8,
        }[self.method]()

        predict = predict_one(len(state.x))

        def velocity(t: Any, x: Array, model: Callable[..., Prediction]) -> Array:
            return predict(model, x[None], t).velocity[0]

        def solve(x: Array) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),
                solver,
                t0=t,
                t1=s,
                dt0=None,
                y0=x,
                args=model.uncounted,
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
                max_steps=self.max_steps,
                # A sample that needs more steps comes out as it is where it stopped: as NaN.
                throw=False,
            )

        solution = jax.vmap(solve)(state.x)
        model.calls += 1 + _EVALUATIONS[self.method] * solution.stats["num_steps"]
        reached = solution.result == diffrax.RESULTS.successful
        reached = reached.reshape(reached.shape + (1,) * (state.x.ndim - 1))
        return State(jnp.where(reached, solution.ys[:, 0], jnp.nan))
