"""Replacement: the measured part of each x_s is replaced by the noised measurement; and RePaint."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.inverse.linear_algebra import toward
from sde_diffusion.inverse.measured_solver import (
    MeasuredWrapping,
    replaced,
    unexplained,
    where_noiseless,
)
from sde_diffusion.inverse.measurement import Measurement
from sde_diffusion.inverse.operator import Operator
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.solver import Counted, Solver
from sde_diffusion.sdes import Array


@dataclasses.dataclass(frozen=True)
class Replacement(MeasuredWrapping):
    """After each step of the solver, the measured part of x_s is drawn anew from q(x_s | y).

    For inpainting that is the known region, alpha_s y + sigma_s z. For any other linear A, x_s
    moves to the nearest sample whose measurement is that of a noised y; `iterations` of conjugate
    gradients find it. The samples fit a measurement without noise exactly. Where the rows of A are
    far from orthonormal, as for a blur, the pseudoinverse amplifies the noise of y without bound.

    Costs no more evaluations than the solver. Biased: the hidden part of x_t is denoised beside a
    known part that was drawn at each time by itself, so hidden and known parts agree too little.
    Source: Song et al. 2021, appendix I.2 (imputation).
    """

    solver: Solver
    operator: Operator | None = None
    iterations: int = 20

    linear_for = "Replacement"

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> Any:
        operator, measurement = self.measured(cond, state.x)
        aside, own = noise.split(key)
        stepped = self.solver.step(own, model, state, t, s, measurement.cond)
        x = replaced(aside, model.sde, operator, measurement, stepped.x, s, self.iterations)
        return self.solver.moved(stepped, x)

    def finish(self, prediction: Prediction, operator: Operator, measurement: Measurement) -> Array:
        exact = toward(operator, prediction.x0, measurement.y, self.iterations)
        return where_noiseless(measurement, exact, prediction.x0)


@dataclasses.dataclass(frozen=True)
class RePaint(Replacement):
    """Replacement, with each step taken `repeats` times: between two of them x_s is noised to t.

    The repetitions let the hidden part adapt to the known one, which lowers the bias of
    `Replacement`; they multiply its evaluations. Where y is noisier than x_s, nothing is replaced,
    and the first repetition stands. The jumps of the paper are of one step here. A multistep solver
    keeps the past that it had at t. Source: Lugmayr et al. 2022, algorithm 1.
    """

    repeats: int = 10

    linear_for = "RePaint"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1:
            raise ValueError(f"RePaint needs repeats >= 1, got {self.repeats}")

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.repeats * self.solver.evaluations

    def step(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> Any:
        a, b = model.sde.transition(t, s)
        drawn = unexplained(model.sde, self.measured(cond, state.x)[1], state.x, s) > 0.0

        def repeat(carry: tuple[Array, Any], i: Array) -> tuple[tuple[Array, Any], Any]:
            x, before = carry
            counted, keys = Counted(model.uncounted), noise.fold_in(key, i)
            stepped = super(RePaint, self).step(
                noise.fold_in(keys, 1), counted, self.solver.moved(state, x), t, s, cond
            )
            stepped = jax.tree.map(lambda new, old: new.astype(old.dtype), stepped, state)
            # What is not drawn by y would only forget it by being repeated.
            kept = jnp.where(drawn | (i == 0), stepped.x, before.x)
            stepped = self.solver.moved(stepped, kept)
            z = noise.normal(noise.fold_in(keys, 0), stepped.x)
            renoised = (a * stepped.x + b * z).astype(x.dtype)
            return (renoised, stepped), jnp.asarray(counted.calls)

        (_, stepped), calls = jax.lax.scan(repeat, (state.x, state), jnp.arange(self.repeats))
        model.calls = model.calls + jnp.sum(calls, axis=0)
        return stepped
