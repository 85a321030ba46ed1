"""The task of a fit: the model, the family of solvers and the budget, which stay the same."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sde_diffusion.fitting import least_squares, starts
from sde_diffusion.fitting.family import Make
from sde_diffusion.fitting.starts import Starts
from sde_diffusion.model import Model
from sde_diffusion.sdes import Array

# The share of the time that each preparation may take. The preparations are the ranking of standard
# solvers and, both for the starts held out and for those fitted to, the choice of hard starts and
# the fine solution.
PREPARING = 1 / 10
# Steps of the rough solution by which hard starts are found.
ROUGH = 48

Progress = Callable[[float, float], None]


class Task(NamedTuple):
    """A model, the family of solvers that is fitted to it, and the budget.

    make: maps the parameters theta to a solver.
    t_min: the last time of the solutions, None for that of the SDE.
    fine_steps: steps of the fine solution, whose ends are the targets.
    jacobian: number of starts from which the curvature is computed.
    batch: number of starts to which the model is applied at a time.
    began, seconds: start time by `time.monotonic`, and how long the fit may take.
    progress: called with the seconds since the start and the error so far.
    """

    key: Array
    model: Model
    make: Make
    t_min: float | None
    fine_steps: int
    jacobian: int
    batch: int
    began: float
    seconds: float
    progress: Progress

    def spent(self) -> float:
        """The seconds since the fit began."""
        return time.monotonic() - self.began

    def whole(self, num: int) -> int:
        """`num`, rounded up to whole batches."""
        return -(-num // self.batch) * self.batch

    def preparing(self) -> Callable[[], bool]:
        """A function that returns whether time remains for a preparation.

        Its clock starts at its first call, so that compilation is excluded.
        """
        calls: list[float] = []

        def going() -> bool:
            calls.append(self.spent())
            self.progress(calls[-1], math.nan)
            return calls[-1] - calls[0] < PREPARING * self.seconds

        return going

    def finely(self, of: Starts, going: Callable[[], bool] = lambda: True) -> Starts:
        """The starts with targets of the fine solution, as many as time allows."""
        return self._solved(of, self.fine_steps, going)

    def roughly(self, of: Starts) -> Starts:
        """The starts with targets of the rough solution, as many as time allows."""
        return self._solved(of, ROUGH, self.preparing())

    def _solved(self, of: Starts, steps: int, going: Callable[[], bool]) -> Starts:
        return starts.solved(
            self.model, of, steps=steps, size=self.batch, going=going, t_min=self.t_min
        )

    def errors(self, theta: Array, of: Starts) -> np.ndarray:
        """The distance of each sample of the solver theta from its target, [N]."""
        square = least_squares.squares(self.make, self.model, theta, of, size=self.batch)
        return np.sqrt(square)

    def error(self, theta: Array, of: Starts) -> float:
        """The weighted RMS of the errors; infinite if one of them is not finite."""
        error = float(np.sqrt(np.mean(of.weight * self.errors(theta, of) ** 2)))
        return error if np.isfinite(error) else math.inf
