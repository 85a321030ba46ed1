"""What a fit has to do, and for how long: what stays the same from its start to its end."""

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

# The share of the time that each of the preparations may take: which standard solver is the best,
# and of the starts held out, and of those fitted to, which are hard, and the fine solutions.
PREPARING = 1 / 10
# Steps of the solution that tells which starts are hard.
ROUGH = 48

Progress = Callable[[float, float], None]


class Task(NamedTuple):
    """A model, the family of solvers that is fitted to it, and the budget.

    make: what parameters theta stand for.
    fine_steps: of the solution that says where starts should end.
    jacobian: how many starts give the curvature.
    batch: how many go through the model at a time.
    began, seconds: when the fit began, by `time.monotonic`, and how long it may take.
    progress: called with the seconds since then and the error so far.
    """

    key: Array
    model: Model
    make: Make
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
        """Says whether there is time for more of a preparation.

        The time counts from the first call on, since what comes before that is compilation.
        """
        calls: list[float] = []

        def going() -> bool:
            calls.append(self.spent())
            self.progress(calls[-1], math.nan)
            return calls[-1] - calls[0] < PREPARING * self.seconds

        return going

    def finely(self, of: Starts, going: Callable[[], bool] = lambda: True) -> Starts:
        """The starts with the ends of the fine solution, as many as there is time for."""
        return starts.solved(self.model, of, steps=self.fine_steps, size=self.batch, going=going)

    def roughly(self, of: Starts) -> Starts:
        """The starts with rough ends, as many as there is time for."""
        going = self.preparing()
        return starts.solved(self.model, of, steps=ROUGH, size=self.batch, going=going)

    def errors(self, theta: Array, of: Starts) -> np.ndarray:
        """How far from its target the solver theta takes each start, [N]."""
        square = least_squares.squares(self.make, self.model, theta, of, size=self.batch)
        return np.sqrt(square)

    def error(self, theta: Array, of: Starts) -> float:
        """The weighted RMS of the errors; infinite where one is not finite."""
        error = float(np.sqrt(np.mean(of.weight * self.errors(theta, of) ** 2)))
        return error if np.isfinite(error) else math.inf
