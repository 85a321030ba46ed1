"""A function of your own after every step of a solver."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from sde_diffusion.model import as_pytree
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, Wrapping
from sde_diffusion.sdes import Array


class HookedState(NamedTuple):
    """The state of the wrapped solver, and the number of steps that it has taken."""

    inner: Any
    i: Array

    @property
    def x(self) -> Array:
        return self.inner.x


@dataclasses.dataclass(frozen=True)
class Hooked(Wrapping):
    """`solver`, with hook(i, t, state, cond) -> state after each of its steps.

    i = 1, 2, ... is the number of the step, t the time that it has reached, `state` the solver's
    own state, with the sample [B, *event] as `state.x`, and cond the condition of the samples. The
    hook is pure and is traced once for all steps. `solver.moved(state, x)` is the state with
    another sample; for most solvers it is `state._replace(x=x)`. The hook must treat every sample
    by itself, if samples are not to depend on their batch.

    Arrays that the hook needs belong into a `jax.tree_util.Partial`, so that other values of them
    compile nothing. The last evaluation, which denoises, comes after the last call of the hook.

        def pinned(value, i, t, state, cond):
            return state._replace(x=state.x.at[:, 0].set(value))

        solver = Hooked(DDIM(), Partial(pinned, jnp.asarray(0.5)))

    Raises TypeError where the hook is no function.
    """

    solver: Solver
    hook: Callable[[Array, Array, Any, Any], Any]

    # What it does to the order is unknown.
    order = 0
    strong_order = None

    def __post_init__(self) -> None:
        if not callable(self.hook):
            raise TypeError(f"hook must be a function (i, t, state, cond), got {self.hook!r}")
        object.__setattr__(self, "hook", as_pytree(self.hook))

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> HookedState:
        return HookedState(self.solver.init(x, grid, denoise_last), jnp.zeros((), jnp.int32))

    def step(
        self, key: Keys, model: Counted, state: HookedState, t: Array, s: Array, cond: Any = None
    ) -> HookedState:
        i = state.i + 1
        stepped = self.solver.step(key, model, state.inner, t, s, cond)
        return HookedState(self.hook(i, s, stepped, cond), i)

    def moved(self, state: HookedState, x: Array) -> HookedState:
        return state._replace(inner=self.solver.moved(state.inner, x))
