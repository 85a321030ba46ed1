"""The contract of a solver: a frozen value whose `step` goes from time t to s < t."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array


class State(NamedTuple):
    """What a one-step solver carries: the sample [B, *event]."""

    x: Array


class Samples(NamedTuple):
    """Samples x [B, *event]; network evaluations nfe, [] or [B]; trajectory [n + 1, B, *event].

    The trajectory, where asked for, is x at the n + 1 times of the grid, before denoising.
    """

    x: Array
    nfe: Array
    trajectory: Array | None = None


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
    # Of a stochastic solver, the order of its error along a Brownian path.
    strong_order: ClassVar[int | None] = None
    evaluations: ClassVar[int] = 1
    # Euler-Maruyama reads g(t) itself, which Flow does not have at t = 1.
    reads_diffusion: ClassVar[bool] = False
    # The one grid of a solver that was fitted: its n + 1 times.
    times: ClassVar[tuple[float, ...] | None] = None
    # Whether its last step ends at the denoised sample, so that nothing is left to denoise.
    denoises: ClassVar[bool] = False
    # Whether it chooses its own steps between the times of the grid; its nfe is then [B].
    adaptive: ClassVar[bool] = False
    # An adaptive step in lambda has no start at -inf, which is Flow's lambda at t = 1.
    reads_log_snr: ClassVar[bool] = False

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return False

    def init(self, x: Array, grid: Array | None = None) -> Any:
        """The state that the first step receives; anything with the sample as `.x`.

        `grid` holds the times to come, for a solver whose last step differs from the others.
        """
        return State(x)

    def step(self, key: Keys, model: Model, sde: SDE, state: Any, t: Array, s: Array) -> Any:
        """The state at s from the state at t; key [B] is a key for each sample, t and s are []."""
        raise NotImplementedError

    def moved(self, state: Any, x: Array) -> Any:
        """The state whose sample something else, such as a corrector, has moved to x."""
        return state._replace(x=x)

    def solve(
        self,
        keys: Array | noise.BrownianPath,
        model: Callable[..., Prediction],
        sde: SDE,
        x: Array,
        grid: Array,
        *,
        trajectory: bool = False,
        remat: bool = False,
    ) -> Samples:
        """x [B, *event] carried along the times of the grid [n + 1], by one lax.scan of `step`.

        The key of step i = 1, ..., n is the sample's, of keys [B], folded with i; on a Brownian
        path it is the path over that step.
        """

        def step(state: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, Any]:
            i, t, s = inputs
            counted = Model(model)
            drawn = noise.step_keys(keys, i, sde, t, s)
            state = self.step(drawn, counted, sde, state, t, s)
            return state, (counted.calls, state.x if trajectory else None)

        steps = (jnp.arange(1, len(grid)), grid[:-1], grid[1:])
        state, (calls, xs) = jax.lax.scan(
            jax.checkpoint(step) if remat else step, self.init(x, grid), steps
        )
        xs = jnp.concatenate([x[None], xs]) if trajectory else None
        return Samples(state.x, jnp.sum(calls, axis=0), xs)


def _of_solver(name: str) -> Any:
    return property(lambda self: getattr(self.solver, name))


class Wrapping(Solver):
    """Base of the solvers that step as their field `solver` does.

    All that a solver says of itself is that one's, but `times`, which may be a field.
    """

    solver: Solver

    order = _of_solver("order")
    strong_order = _of_solver("strong_order")
    evaluations = _of_solver("evaluations")
    reads_diffusion = _of_solver("reads_diffusion")
    reads_log_snr = _of_solver("reads_log_snr")
    denoises = _of_solver("denoises")
    adaptive = _of_solver("adaptive")
    stochastic = _of_solver("stochastic")

    def init(self, x: Array, grid: Array | None = None) -> Any:
        return self.solver.init(x, grid)

    def step(self, key: Keys, model: Model, sde: SDE, state: Any, t: Array, s: Array) -> Any:
        return self.solver.step(key, model, sde, state, t, s)

    def moved(self, state: Any, x: Array) -> Any:
        return self.solver.moved(state, x)
