"""The contract of a solver: a frozen value whose `step` goes from time t to s < t."""

import dataclasses
from collections.abc import Hashable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.model import Model, time_dtype
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Mapped, Prediction
from sde_diffusion.sdes import SDE, Array


class State(NamedTuple):
    """What a one-step solver carries: the sample [B, *event]."""

    x: Array


class Samples(NamedTuple):
    """Samples x [B, *event]; network evaluations nfe, [] or [B]; trajectory [n + 1, B, *event].

    The trajectory, where asked for, is x at the n + 1 times of the grid, before denoising. A
    particle method also returns its `samplers.particles.Particles`.
    """

    x: Array
    nfe: Array
    trajectory: Array | None = None
    particles: Any = None


class Counted:
    """A model that counts its evaluations; called like the model.

    `calls`, [] or [B], is the sum of the predictions' `evaluations` so far. A loop is traced once
    but runs many times. A solver with a loop therefore evaluates `uncounted` inside, counts there,
    and adds the result to `calls` itself.
    """

    def __init__(self, model: Model | Any):
        self.uncounted = model
        self.calls: Array | int = 0

    @property
    def sde(self) -> SDE:
        return self.uncounted.sde

    def __call__(self, x: Array, t: Array, cond: Any = None) -> Prediction:
        prediction = self.uncounted(x, t, cond)
        self.calls = self.calls + prediction.evaluations
        return prediction

    def flow_map(self, x: Array, t: Array, s: Array, cond: Any = None) -> Mapped:
        mapped = self.uncounted.flow_map(x, t, s, cond)
        self.calls = self.calls + mapped.evaluations
        return mapped


class Solver:
    """Base of the solvers; a subclass is a frozen dataclass, and every one is a pytree.

    `order` is the declared order of convergence in the largest step: of the global error for a
    deterministic solver, of the moments (weak order) for a stochastic one. `evaluations` is the
    number of times that a step calls its model, and `extra_evaluations` how many more calls the
    first step makes. The tests measure them.

    A field that holds a number (a float), an array, or a pytree such as another solver or a
    `jax.tree_util.Partial` is a part of the pytree: its leaves can be traced and differentiated,
    and other values of them compile nothing. Whatever else a
    field holds belongs to the structure: counts, names, functions. So does the number 0, which
    switches a term off: DDIM(eta=0.0) draws no noise and is another program than DDIM(eta=0.5).

    A step calls its model plainly, not inside a `lax.cond` or a loop, where the call is traced once
    for any number of runs and the count would be wrong.
    """

    order: ClassVar[int]
    # The order of a stochastic solver's error along a Brownian path.
    strong_order: ClassVar[int | None] = None
    evaluations: ClassVar[int] = 1
    # How many more its first step takes: n steps take n evaluations + extra_evaluations.
    extra_evaluations: ClassVar[int] = 0
    # Whether it uses g(t), which is infinite for Flow at t = 1.
    reads_diffusion: ClassVar[bool] = False
    # The n + 1 times of a fitted solver, which has a grid of its own.
    times: ClassVar[tuple[float, ...] | None] = None
    # Whether its last step ends at the denoised sample.
    denoises: ClassVar[bool] = False
    # Whether it chooses its own steps between the times of the grid. Its nfe is then [B].
    adaptive: ClassVar[bool] = False
    # Whether it steps in lambda from the start, where Flow at t = 1 has -inf.
    reads_log_snr: ClassVar[bool] = False
    # A package that it needs, and the extra that installs it.
    needs: ClassVar[tuple[str, str] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten_with_keys, lambda structure, leaves: _unflatten(cls, structure, leaves)
        )

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return False

    def draw(
        self,
        keys: Array | noise.BrownianPath,
        model: Model,
        grid: Array,
        shape: tuple[int, ...],
        cond: Any = None,
    ) -> Any:
        """Where `solve` starts by default: x ~ N(0, sigma(grid[0])^2 I) of shape [B, *event]."""
        return draw_start(keys, model.sde, grid, shape)

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> Any:
        """The state that the first step receives; anything with the sample as `.x`.

        `grid` holds the times to come, and `denoise_last` tells whether an evaluation denoises
        after them, for a solver whose last steps differ from the others.
        """
        return State(x)

    def step(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> Any:
        """The state at s from the state at t.

        `key` [B] is a key for each sample, t and s are [], and `cond`, a pytree of arrays [B, ...]
        or None, is what the model is called with beside x. The SDE is `model.sde`.
        """
        raise NotImplementedError

    def moved(self, state: Any, x: Array) -> Any:
        """The state after something else, such as a corrector, has moved its sample to x."""
        return state._replace(x=x)

    def solve(
        self,
        keys: Array | noise.BrownianPath,
        model: Model,
        x: Array,
        grid: Array,
        cond: Any = None,
        *,
        denoise_last: bool = True,
        trajectory: bool = False,
        remat: bool = False,
    ) -> Samples:
        """x [B, *event] carried along the times of the grid [n + 1], by one lax.scan of `step`."""
        state, nfe, xs = self.walk(
            keys,
            model,
            x,
            grid,
            cond,
            denoise_last=denoise_last,
            trajectory=trajectory,
            remat=remat,
        )
        return Samples(state.x, nfe, xs)

    def walk(
        self,
        keys: Array | noise.BrownianPath,
        model: Model,
        x: Array,
        grid: Array,
        cond: Any = None,
        *,
        denoise_last: bool = True,
        trajectory: bool = False,
        remat: bool = False,
    ) -> tuple[Any, Array, Array | None]:
        """(the last state, nfe, the trajectory or None): what `solve` computes.

        The key of step i = 1, ..., n is the sample's, of keys [B], folded with i; on a Brownian
        path it is the path over that step. The state keeps the dtype of x; times and coefficients
        are at least float32.
        """
        grid = grid.astype(time_dtype(x))
        start = self.init(x, grid, denoise_last)

        def step(state: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, Any]:
            i, t, s = inputs
            counted = Counted(model)
            drawn = noise.step_keys(keys, i, model.sde, t, s)
            stepped = self.step(drawn, counted, state, t, s, cond)
            # Float32 coefficients promote the state; it is rounded to its own dtypes again.
            stepped = jax.tree.map(lambda new, old: new.astype(old.dtype), stepped, state)
            return stepped, (counted.calls, stepped.x if trajectory else None)

        steps = (jnp.arange(1, len(grid)), grid[:-1], grid[1:])
        state, (calls, xs) = jax.lax.scan(jax.checkpoint(step) if remat else step, start, steps)
        xs = jnp.concatenate([start.x[None], xs]) if trajectory else None
        return state, jnp.sum(calls, axis=0), xs


def draw_start(
    keys: Array | noise.BrownianPath, sde: SDE, grid: Array, shape: tuple[int, ...]
) -> Array:
    """x ~ N(0, sigma(grid[0])^2 I), a sample for each of the keys [B]."""
    # 0 draws the start; the steps draw on 1, 2, ...
    return sde.sigma(grid[0]) * noise.normal(noise.fold_in(keys, 0), jnp.zeros(shape))


def is_off(value: Any) -> bool:
    """Whether a field's value is the plain number 0, which switches a term of a solver off."""
    return isinstance(value, int | float) and value == 0


def _is_leaf_or_tree(value: Any) -> bool:
    """Whether a field's value is a part of the pytree rather than of its structure."""
    if isinstance(value, float):
        return value != 0.0
    # A pytree of a class of its own: a solver, a Partial of a function, a measurement's operator.
    of_own = value is not None and not isinstance(value, tuple | list | dict)
    if of_own and not jax.tree_util.treedef_is_leaf(jax.tree.structure(value)):
        return True
    return any(
        isinstance(leaf, jax.Array | np.ndarray | np.floating) for leaf in jax.tree.leaves(value)
    )


# The attribute with the names of the fields that are children. A solver that was made from a
# structure keeps that structure, whatever its leaves are.
_CHILDREN = "_children"


def _flatten_with_keys(solver: Any) -> tuple[tuple[tuple[Any, Any], ...], Hashable]:
    values = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
    children = getattr(solver, _CHILDREN, None)
    if children is None:
        children = tuple(name for name, value in values.items() if _is_leaf_or_tree(value))
    fixed = tuple((name, value) for name, value in values.items() if name not in children)
    keyed = tuple((jax.tree_util.GetAttrKey(name), values[name]) for name in children)
    return keyed, (children, fixed)


def _unflatten(cls: type, structure: Any, leaves: Any) -> Any:
    children, fixed = structure
    # Not cls(...), whose checks must not see what a transformation puts in place of numbers.
    solver: Any = object.__new__(cls)
    for name, value in (*zip(children, leaves, strict=True), *fixed):
        object.__setattr__(solver, name, value)
    object.__setattr__(solver, _CHILDREN, children)
    return solver


def _of_solver(name: str) -> Any:
    return property(lambda self: getattr(self.solver, name))


class Wrapping(Solver):
    """Base of the solvers that take the steps of their field `solver`.

    Every declared property is the wrapped solver's, except `times`, which may be a field.
    """

    solver: Solver

    order = _of_solver("order")
    strong_order = _of_solver("strong_order")
    evaluations = _of_solver("evaluations")
    extra_evaluations = _of_solver("extra_evaluations")
    reads_diffusion = _of_solver("reads_diffusion")
    reads_log_snr = _of_solver("reads_log_snr")
    needs = _of_solver("needs")
    denoises = _of_solver("denoises")
    adaptive = _of_solver("adaptive")
    stochastic = _of_solver("stochastic")

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> Any:
        return self.solver.init(x, grid, denoise_last)

    def step(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> Any:
        return self.solver.step(key, model, state, t, s, cond)

    def moved(self, state: Any, x: Array) -> Any:
        return self.solver.moved(state, x)
