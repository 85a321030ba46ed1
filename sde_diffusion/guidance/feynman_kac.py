"""Feynman-Kac correctors: particles that sample a product of powers of densities exactly.

A guided, composed, multiplied or cooled model follows the score of a path pi_t that no diffusion
has. Particles of its reverse SDE, or of its probability flow, have the law pi_t at every t if their
log weights change by

    d log weight = rate dlambda,      rate from the model's `Correction`, eq. (2) of `combine`

Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of
Experts".
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sde_diffusion.model import Model
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Correction, Prediction
from sde_diffusion.samplers.ancestral import Ancestral
from sde_diffusion.samplers.edm import EDMSampler
from sde_diffusion.samplers.particles import ParticleSolver, Starts
from sde_diffusion.samplers.solver import Counted, Solver
from sde_diffusion.sdes import Array, expand


class _State(NamedTuple):
    """The solver's state, the length of the step before in lambda, and where the grid ends."""

    inner: Any
    before: Array
    end: Array

    @property
    def x(self) -> Array:
        return self.inner.x


class _Recorded(Counted):
    """A counted model that keeps the correction of its first prediction, the one at x and t."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.first: Correction | None = None

    def __call__(self, x: Array, t: Array, cond: Any = None) -> Prediction:
        made = super().__call__(x, t, cond)
        self.first = self.first or required(made)
        return made


@dataclasses.dataclass(frozen=True)
class FeynmanKac(ParticleSolver):
    """K particles of `solver` with the weights that make its guided model exact, resampled.

    The error has two parts: the steps', as for any solver, and the particles', of order 1 / K. The
    weights' integral is the trapezoidal rule over the steps. How many particles are needed depends
    on how much the path's densities differ from what the score transports: `Samples.particles.ess`
    shows it. Any solver on a grid will do, as the weights are the same for every share of the
    reverse SDE's noise; one with noise separates the copies of a particle again.

    The model must be made by `classifier_free`, `autoguidance`, `compose`, `product` or `power`, or
    be nested of these, with weights that do not change with time and the rule `Linear()`. The start
    is N(0, sigma_T^2 / b), b the sum of the exponents.

        cold = FeynmanKac(particles=64)
        sample(key, power(model, 2.0), shape, solver=cold, grid=grid).particles.ess

    Raises ValueError for an adaptive or fitted solver or one that adds noise before it evaluates
    the model, and, when it runs, for a model without a correction.
    """

    solver: Solver = dataclasses.field(default_factory=Ancestral)

    order = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        solver = self.solver
        churned = isinstance(solver, EDMSampler) and solver.stochastic
        if solver.adaptive or solver.times is not None or churned:
            raise ValueError(
                f"FeynmanKac takes a solver that steps along any grid from x as it is, got {solver}"
            )

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.particles * self.solver.evaluations

    @property
    def reads_diffusion(self) -> bool:  # type: ignore[override]
        return self.solver.reads_diffusion

    @property
    def reads_log_snr(self) -> bool:  # type: ignore[override]
        return self.solver.reads_log_snr

    def draw(
        self, keys: Any, model: Model, grid: Array, shape: tuple[int, ...], cond: Any = None
    ) -> Starts:
        x = super().draw(keys, model, grid, shape, cond).x
        # Only the exponents of this prediction are read: under jit it costs no evaluation.
        total = required(model(x[0], grid[0], cond)).power
        return Starts(x / expand(jnp.sqrt(jnp.asarray(total)), x[0]))

    def begin(self, x: Array, grid: Array | None, denoise_last: bool) -> _State:
        end = jnp.asarray(-jnp.inf) if grid is None else grid[-1]
        return _State(self.solver.init(x, grid, denoise_last), jnp.zeros(()), end)

    def move(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> tuple[_State, Array]:
        recorded = _Recorded(model.uncounted)
        inner = self.solver.step(key, recorded, state.inner, t, s, cond)
        model.calls = model.calls + recorded.calls
        assert recorded.first is not None
        # From pure noise lambda is infinite, and there the branches agree: the rate is 0.
        h = model.sde.log_snr_rise(t, s)
        h = jnp.where(jnp.isfinite(h), h, 0.0)
        # Trapezoidal rule: each rate belongs to half of both steps that meet at t.
        length = 0.5 * (state.before + h) + jnp.where(s == state.end, 0.5 * h, 0.0)
        log_weight = jnp.broadcast_to(length * jnp.asarray(recorded.first.rate), state.x.shape[:1])
        return _State(inner, h, state.end), log_weight


def required(made: Prediction) -> Correction:
    """The prediction's correction; ValueError where it has none."""
    if made.correction is None or made.correction.rate is None:
        raise ValueError(
            "FeynmanKac needs a model that is a product of powers of densities: one made by "
            "classifier_free, autoguidance, compose, product or power, whose weights do not change "
            "with time, with the rule Linear()"
        )
    return made.correction
