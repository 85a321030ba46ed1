"""ParaDiGMS: many steps of a solver in parallel, by Picard iteration."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.model import Model, time_dtype
from sde_diffusion.samplers.per_sample import OneSample
from sde_diffusion.samplers.solver import Counted, Samples, Solver, Wrapping
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import require


class _Window(NamedTuple):
    """The states at the W + 1 times from each sample's `position` [B] on; the first one is final.

    Leaves of the states are [W + 1, B, ...]; nfe is [B]; xs is the trajectory so far.
    """

    states: Any
    position: Array
    nfe: Array
    xs: Array | None


@dataclasses.dataclass(frozen=True)
class ParaDiGMS(Wrapping):
    """The result of a deterministic `solver`, in rounds of `window` parallel steps.

        x_{i+1} <- x_a + sum_{j = a, ..., i} (step(x_j) - x_j),   i = a, ..., a + window - 1

    x_a is the last final point. Each round makes x_{a+1} final, and also the points after it up to
    the first one that the round moved by more than tolerance / n, where n is the number of steps
    and the distance is a root mean square in units of sqrt(alpha^2 + sigma^2). The window then
    slides past the final points, for each sample at its own pace. Other parts of a solver's state
    come from the step before and must have settled too. Shih et al. 2023 (ParaDiGMS), eq. 5 and
    algorithm 1, with the steps of any solver.

    The distance that a final point would still have moved is an error of its step. Over n steps
    these errors add up to at most `tolerance`. Where the flow contracts, every sample is that close
    to the sequential solver's at every time (up to float32's rounding). Between modes of the data
    the flow expands, and the error grows: of 500 samples of 25 modes, by 10 solvers, the largest
    distance was 0.63 tolerance, and nine of ten were within 0.01.

    The network receives `window` times the batch at once, and `nfe` [B] counts all of these
    evaluations. The number of rounds, at most that of the steps, is nfe / (window evaluations). A
    loop of unknown length has no gradient in reverse mode. `step` takes a single step.

    Raises ValueError for a solver that is stochastic or adaptive, or has its own grid.

        ParaDiGMS(DDIM(), window=32)
    """

    solver: Solver
    window: int = 16
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.solver.stochastic or self.solver.adaptive or self.solver.times is not None:
            raise ValueError(
                f"ParaDiGMS takes a deterministic solver for any grid, got {self.solver}"
            )
        if self.window < 1:
            raise ValueError(f"ParaDiGMS takes a window of at least 1, got {self.window}")
        require(
            lambda tolerance: tolerance >= 0.0,
            "ParaDiGMS takes a tolerance of at least 0",
            tolerance=self.tolerance,
        )

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
        sde, dtype = model.sde, x.dtype
        x, grid = x.astype(time_dtype(x)), grid.astype(time_dtype(x))
        n, batch = len(grid) - 1, len(x)
        width = min(self.window, n)
        offset, sample = jnp.arange(width + 1)[:, None], jnp.arange(batch)
        # The errors of n points add up to the tolerance. (With the whole tolerance for each point,
        # samples between two modes ended at 14 times that.)
        bound = self.tolerance / n * jnp.sqrt(sde.alpha(grid) ** 2 + sde.sigma(grid) ** 2)
        one = OneSample(batch, model)
        conds = jax.tree.map(lambda leaf: leaf[:, None], cond)
        # A deterministic solver ignores its keys.
        key = noise.sample_keys(jax.random.key(0), 1)

        def advance(state: Any, t: Array, s: Array, cond: Any) -> tuple[Any, Array]:
            counted = Counted(one)
            state = self.solver.step(key, counted, state, t, s, cond)
            return state, jnp.asarray(counted.calls)

        over_window = jax.vmap(jax.vmap(advance), in_axes=(0, 0, 0, None))

        # The leaf that starts as the sample is the sample: it moves by the sum of the changes.
        summed = jax.tree.map(lambda leaf: leaf is x, self.init(x, grid, denoise_last))

        def replace(is_sample: bool, old: Array, stepped: Array) -> Array:
            if is_sample:
                stepped = old[:1] + jnp.cumsum(stepped - old[:-1], axis=0)
            return jnp.concatenate([old[:1], stepped])

        def round_(window: _Window) -> _Window:
            old, position = window.states, window.position
            # Positions beyond the end repeat the last step, without effect.
            i = jnp.minimum(position + offset[:-1], n - 1)
            before = jax.tree.map(lambda leaf: leaf[:-1], old)
            stepped, calls = over_window(before, grid[i], grid[i + 1], conds)
            new = jax.tree.map(replace, summed, old, stepped)

            still = _moved(old, new) <= bound[i + 1]
            final = jnp.maximum(jnp.sum(jnp.cumprod(still, axis=0), axis=0), 1)
            final = jnp.minimum(final, n - position)

            xs = window.xs
            if xs is not None:
                xs = xs.at[position + offset, sample].set(new.x[:, :, 0], mode="drop")
            # The window starts at the last final point. Points that are new in it start from the
            # last point of the old window.
            kept = jnp.minimum(offset + final, width)
            return _Window(
                jax.tree.map(lambda leaf: leaf[kept, sample], new),
                position + final,
                window.nfe + jnp.where(position < n, jnp.sum(calls, axis=0), 0),
                xs,
            )

        # Solvers step batches: here, one batch of size 1 for each sample.
        states = jax.vmap(lambda each: self.init(each[None], grid, denoise_last))(x)
        window = _Window(
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (width + 1, *leaf.shape)), states),
            jnp.zeros(batch, int),
            jnp.zeros(batch, int),
            jnp.zeros((n + 1, *x.shape), x.dtype) if trajectory else None,
        )
        window = jax.lax.while_loop(lambda w: jnp.any(w.position < n), round_, window)
        xs = None if window.xs is None else window.xs.astype(dtype)
        return Samples(window.states.x[0, :, 0].astype(dtype), window.nfe, xs)


def _moved(old: Any, new: Any) -> Array:
    """The largest root mean square change of a part of the state, [W, B]."""

    def change(a: Array, b: Array) -> Array:
        if b.shape != new.x.shape:  # coefficients, which have settled or not
            settled = jnp.all(a == b, axis=tuple(range(2, b.ndim)))
            return jnp.where(settled, 0.0, jnp.inf)[1:]
        return jnp.sqrt(jnp.mean((b - a)[1:] ** 2, axis=tuple(range(2, b.ndim))))

    changes = jax.tree.leaves(jax.tree.map(change, old, new))
    return jnp.max(jnp.stack(changes), axis=0)
