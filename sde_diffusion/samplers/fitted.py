"""Solvers that were fitted to a model, with their own times and coefficients for each step."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, Wrapping
from sde_diffusion.sdes import Array


class FittedState(NamedTuple):
    """The sample, the x0 predicted so far [n, B, *event] (0 later), and their number []."""

    x: Array
    past: Array
    done: Array


@dataclasses.dataclass(frozen=True)
class Fitted(Solver):
    """A non-stationary multistep solver, with its own linear combination at each of n steps:

        x_{i+1} = a_i x_i + sum_{j <= i} c_ij x0_j,     x0_j the x0 predicted at times[j]

    `times` are the n + 1 times, `a` the n factors of x_i, and `c` the n rows of c_ij, of which row
    i has i + 1 numbers. With a_i = sigma_{i+1} / sigma_i and sum_j c_ij = alpha_{i+1} - a_i alpha_i
    it is an exponential integrator, which is exact for a constant prediction. With few steps other
    values are better. Sampling starts from x ~ N(0, sigma(times[0])^2 I). The last step goes to
    alpha = 1 and sigma = 0, the denoised sample, so `sample` adds no evaluation and a sample takes
    n evaluations.

    `sde_diffusion.fit` finds the numbers. The family is that of Shaul et al. 2024 (Bespoke
    Non-Stationary Solvers), for predictions of x0.
    """

    times: tuple[float, ...] = dataclasses.field()  # type: ignore[misc]
    a: tuple[float, ...]
    c: tuple[tuple[float, ...], ...]

    # The grid is fixed, so there is no order of convergence.
    order = 0
    denoises = True

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> FittedState:
        return FittedState(x, jnp.zeros((len(self.a), *x.shape), x.dtype), jnp.zeros((), jnp.int32))

    def step(
        self, key: Keys, model: Counted, state: FittedState, t: Array, s: Array, cond: Any = None
    ) -> FittedState:
        x, past, i = state
        past = past.at[i].set(model(x, t, cond).x0)
        a, c = jnp.asarray(self.a, x.dtype), _square(self.c, x.dtype)
        # The default precision of accelerators has three digits.
        combined = jnp.tensordot(c[i], past, 1, precision="highest")
        return FittedState(a[i] * x + combined, past, i + 1)


def _square(rows: Any, dtype: Any) -> Array:
    """Rows of 1, 2, ..., n numbers as [n, n], with 0 above the diagonal."""
    if isinstance(rows, jax.Array):  # while it is being fitted
        return rows
    return jnp.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows], dtype)


@dataclasses.dataclass(frozen=True)
class FittedGrid(Wrapping):
    """Any solver with n + 1 times that were fitted to it."""

    solver: Solver
    times: tuple[float, ...] = dataclasses.field()  # type: ignore[misc]
