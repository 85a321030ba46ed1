"""A corrector at t, then a predictor from t to s."""

import dataclasses
from typing import Any

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State, Wrapping
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Wrapping):
    """The corrector at t, then the predictor from t to s. Song et al. 2021, algorithm 1.

    The correction comes first, as in that paper's code, so the corrector never acts on the sample
    that is returned. The state is that of the predictor.
    """

    predictor: Solver
    corrector: Solver

    strong_order = None  # the corrector's noise does not come from the path

    @property
    def solver(self) -> Solver:  # type: ignore[override]
        return self.predictor

    @property
    def times(self) -> tuple[float, ...] | None:  # type: ignore[override]
        return self.predictor.times

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.predictor.evaluations + self.corrector.evaluations

    @property
    def stochastic(self) -> bool:
        return self.predictor.stochastic or self.corrector.stochastic

    def step(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> Any:
        aside, own = noise.split(key)
        corrected = self.corrector.step(aside, model, State(state.x), t, s, cond)
        moved = self.predictor.moved(state, corrected.x)
        return self.predictor.step(own, model, moved, t, s, cond)
