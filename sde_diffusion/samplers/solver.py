"""The contract of a solver: a frozen value whose `step` goes from time t to s < t."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array


class State(NamedTuple):
    """What a one-step solver carries: the sample [B, *event]."""

    x: Array


class Model:
    """A model(x, t) -> Prediction that counts its evaluations where they happen.

    `calls` is the number so far. A solver that hides its evaluations in another library's loop,
    which is traced once and run many times, adds what that library counted.
    """

    def __init__(self, model: Callable[..., Prediction]):
        self.uncounted = model
        self.calls: Array | int = 0

    def __call__(self, x: Array, t: Array) -> Prediction:
        self.calls += 1
        return self.uncounted(x, t)


class Solver:
    """Base of the solvers; a subclass is a frozen dataclass, so that an equal one does not retrace.

    `order` is the declared order of convergence in the largest step: of the global error for a
    deterministic solver, of the moments (weak order) for a stochastic one. `evaluations` is the
    number of network evaluations a step makes. The tests measure both.

    A model is evaluated by plain calls, not inside a `lax.cond` or a loop of the step: there it is
    traced once for any number of runs, and the count would be wrong.
    """

    order: ClassVar[int]
    evaluations: ClassVar[int] = 1
    # Euler-Maruyama reads g(t) itself, which Flow does not have at t = 1.
    reads_diffusion: ClassVar[bool] = False

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return False

    def init(self, x: Array) -> Any:
        """The state that the first step receives; anything with the sample as `.x`."""
        return State(x)

    def step(self, key: Array, model: Model, sde: SDE, state: Any, t: Array, s: Array) -> Any:
        """The state at s from the state at t; key [B] is a key for each sample, t and s are []."""
        raise NotImplementedError
