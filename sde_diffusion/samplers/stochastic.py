"""Exponential integrators of the SDE: SDE-DPM-Solver++(2S, 2M, 3M), SEEDS-3 and SA-Solver.

They are those of the probability flow, for equation (3) of `exponential`: its exponential Euler

    x_s = alpha_s x0 + sigma_s (exp(-eta h) eps + sqrt(1 - exp(-2 eta h)) z)

and its kernel (1 + eta) exp(-(1 + eta) h (1 - u)) in the weights. The noise is additive, so that it
can be added to what the method itself gives, at the end and in each stage.

With noise they are of order 2 in the moments, whatever the order without it, and of order 1 along
a path, of which they see no more than increments.
"""

import dataclasses
import itertools
import math
from typing import ClassVar

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.exponential import Exponential, Span, between, phi
from sde_diffusion.samplers.multistep import DPMSolverPP2M, DPMSolverPP3M, MultistepState
from sde_diffusion.samplers.singlestep import DPMSolver3S, DPMSolverPP2S
from sde_diffusion.samplers.solver import Model, State
from sde_diffusion.samplers.unipc import MultistepPC, UniPCState
from sde_diffusion.sdes import SDE, Array


@dataclasses.dataclass(frozen=True)
class _Noisy(Exponential):
    view = "x0"
    strong_order = 1

    def eta_at(self, sde: SDE, t: Array) -> Array | float:
        """eta of the step from t."""
        raise NotImplementedError

    def span(self, sde: SDE, t: Array, s: Array) -> Span:
        return Span.of_sde(self.eta_at(sde, t), sde, t, s)

    def euler(self, prediction: Prediction, s: Array) -> Array:
        sde, t = prediction.sde, prediction.t
        kept = jnp.exp(-self._lost(sde, t, sde.log_snr_rise(t, s)))
        return sde.alpha(s) * prediction.x0 + sde.sigma(s) * kept * prediction.eps

    def noises(self, key: Keys, x: Array, sde: SDE, t: Array, *times: Array) -> list[Array]:
        """The noise in x at each of the times after t, one after the other."""
        parts = itertools.pairwise((t, *times))
        draws = noise.normals(key, x, *(sde.log_snr(time) for time in (t, *times)))
        gathered, noises = jnp.zeros_like(x), []
        for (start, end), z in zip(parts, draws, strict=True):
            lost = self._lost(sde, t, sde.log_snr_rise(start, end))
            some = lost != 0.0  # the square root has no slope at 0
            std = jnp.sqrt(-jnp.expm1(-2.0 * jnp.where(some, lost, 1.0)))
            gathered = jnp.exp(-lost) * gathered + jnp.where(some, std, 0.0) * z
            noises.append(sde.sigma(end) * gathered)
        return noises

    def _lost(self, sde: SDE, t: Array, h: Array) -> Array:
        """eta h, and 0 without noise though h be infinite."""
        eta = self.eta_at(sde, t)
        return jnp.where(eta > 0.0, eta * h, 0.0)


@dataclasses.dataclass(frozen=True)
class _Eta(_Noisy):
    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.eta < 0.0:
            raise ValueError(f"{type(self).__name__} takes eta of at least 0, got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0.0

    def eta_at(self, sde: SDE, t: Array) -> Array | float:
        return self.eta


@dataclasses.dataclass(frozen=True)
class _NoisyStages(_Eta):
    nodes: ClassVar[tuple[float, ...]]

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        stages = [between(sde, t, s, c) for c in self.nodes]
        # From alpha_t = 0 a stage is t itself: no derivative by s is multiplied with infinity.
        stages = [jnp.where(u == t, t, u) for u in stages]
        *inner, last = self.noises(key, state.x, sde, t, *stages, s)
        waiting = iter((0.0, *inner))
        noisy = Model(lambda x, u: model(x + next(waiting), u))
        return State(super().step(key, noisy, sde, state, t, s).x + last)


@dataclasses.dataclass(frozen=True)
class _NoisyMultistep(_Eta):
    def step(
        self, key: Keys, model: Model, sde: SDE, state: MultistepState, t: Array, s: Array
    ) -> MultistepState:
        state = super().step(key, model, sde, state, t, s)
        return state._replace(x=state.x + self.noises(key, state.x, sde, t, s)[0])


@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP2S(_NoisyStages, DPMSolverPP2S):
    """DPM-Solver++(2S) of the SDE, of weak order 2 and strong order 1.

        x_u = exponential Euler with noise, lambda_u halfway;  D = x0(x_u, u) - x0(x_t, t)
        x_s = exponential Euler with noise + alpha_s (1 - exp(-(1 + eta) h)) D

    The noise of x_s contains that of x_u. As `dpmpp_sde` of k-diffusion; it is SEEDS-2 in x0, but
    for higher powers of h (Gonzalez et al. 2023, whose algorithms 2 to 4 are in eps), and
    DPM-Solver++(2S) at eta = 0.
    """

    nodes = (0.5,)


@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP2M(_NoisyMultistep, DPMSolverPP2M):
    """SDE-DPM-Solver++(2M), of weak order 2 and strong order 1 with one evaluation a step.

        x_s = exponential Euler with noise + alpha_s (1 - exp(-(1 + eta) h)) d1 / 2

    d1 is that of `multistep`; eta = 0 is DPM-Solver++(2M). Lu et al. 2022 (DPM-Solver++), sec. 5,
    who have eta = 1; with eta as `sample_dpmpp_2m_sde` of k-diffusion has it.
    """


@dataclasses.dataclass(frozen=True)
class SDEDPMSolverPP3M(_NoisyMultistep, DPMSolverPP3M):
    """DPM-Solver++(3M) of the SDE, of weak order 2 and strong order 1 with one evaluation a step.

    x_s = exponential Euler with noise + (1 + eta) alpha_s h (phi_2 (d1 + d2) + q phi_3 d2), with
    phi at -(1 + eta) h: like `DPMSolverPP3M`, which it is at eta = 0. No paper has it: it is
    `sample_dpmpp_3m_sde` of k-diffusion.
    """


@dataclasses.dataclass(frozen=True)
class SEEDS3(_NoisyStages, DPMSolver3S):
    """SEEDS-3 in x0, of weak order 2 and strong order 1 with three evaluations a step.

        x_2 = exponential Euler with noise to a third of the step in lambda
        x_3 = the same to two thirds + 2 (1 + eta) alpha h phi_2(2 z / 3) D_2 2 / 3
        x_s = the same to the end + 3 / 2 (1 + eta) alpha_s h phi_2(z) D_3,   z = -(1 + eta) h

    D_i = x0(x_i) - x0(x_t), and each noise contains the one before. At eta = 0 of order 3.
    Gonzalez et al. 2023 (SEEDS), whose algorithms 2 to 4 are in eps.
    """

    order = 2
    nodes = (1 / 3, 2 / 3)


@dataclasses.dataclass(frozen=True)
class SASolver(_Noisy, MultistepPC):
    """SA-Solver: stochastic Adams methods in x0, with one evaluation a step.

        x_s = exponential Euler with noise + (1 + eta) alpha_s h times the integrals of `multistep`
        through p values and, in the corrector, x0 at the end as well;  eta = tau^2

    The corrector, in PEC form, keeps the predictor's noise. tau acts in steps that start where
    sigma / alpha is between `tau_min` and `tau_max`, as the authors' tau(t) does; elsewhere the
    step is that of the probability flow. Of weak order 2 (1 for p = 1 without the corrector) and
    strong order 1 with noise; at tau = 0 of order p, or p + 1 with the corrector, up to the 3 that
    the last step, with p of at most 2 and not corrected, leaves.
    Xue et al. 2023 (SA-Solver), eqs. 15 and 18 for the integrals.
    """

    tau: float = 1.0
    tau_min: float = 0.0
    tau_max: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau < 0.0:
            raise ValueError(f"SASolver takes tau of at least 0, got {self.tau}")

    @property
    def order(self) -> int:  # type: ignore[override]
        return min(2, super().order) if self.stochastic else super().order

    @property
    def stochastic(self) -> bool:
        return self.tau > 0.0

    def eta_at(self, sde: SDE, t: Array) -> Array | float:
        ratio = jnp.exp(-sde.log_snr(t))
        inside = (self.tau_min <= ratio) & (ratio <= self.tau_max)
        return jnp.where(inside, self.tau**2, 0.0)

    def half(self, span: Span) -> Array:
        return span.h * phi(2, span.z)

    def step(
        self, key: Keys, model: Model, sde: SDE, state: UniPCState, t: Array, s: Array
    ) -> UniPCState:
        state = super().step(key, model, sde, state, t, s)
        (added,) = self.noises(key, state.x, sde, t, s)
        return state._replace(x=state.x + added, base=state.base + added)
