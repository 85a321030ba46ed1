"""Exponential integrators of the SDE: SDE-DPM-Solver++(2S, 2M, 3M), SEEDS-3 and SA-Solver.

They are the integrators of the probability flow, applied to equation (3) of `exponential`, which
has the exponential Euler step

    x_s = alpha_s x0 + sigma_s (exp(-eta h) eps + sqrt(1 - exp(-2 eta h)) z)

and the kernel (1 + eta) exp(-(1 + eta) h (1 - u)) in the weights. The noise is additive, so it is
added to the result of the method, at the end of the step and in each stage.

With noise their weak order is 2, whatever the order without it. Their strong order is 1, because
they only use increments of the path.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, ClassVar

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.exponential import (
    Exponential,
    Span,
    between,
)
from sde_diffusion.samplers.multistep import MultistepState
from sde_diffusion.samplers.solver import Counted, State, is_off
from sde_diffusion.sdes import SDE, Array
from sde_diffusion.sdes.base import require


@dataclasses.dataclass(frozen=True)
class Noisy(Exponential):
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
            some = lost != 0.0  # the square root has an infinite slope at 0
            std = jnp.sqrt(-jnp.expm1(-2.0 * jnp.where(some, lost, 1.0)))
            gathered = jnp.exp(-lost) * gathered + jnp.where(some, std, 0.0) * z
            noises.append(sde.sigma(end) * gathered)
        return noises

    def _lost(self, sde: SDE, t: Array, h: Array) -> Array:
        """eta h, which is 0 without noise even if h is infinite."""
        eta = self.eta_at(sde, t)
        return jnp.where(eta > 0.0, eta * h, 0.0)


@dataclasses.dataclass(frozen=True)
class Eta(Noisy):
    eta: float = 1.0

    def __post_init__(self) -> None:
        require(
            lambda eta: eta >= 0.0, f"{type(self).__name__} takes eta of at least 0", eta=self.eta
        )

    @property
    def stochastic(self) -> bool:
        return not is_off(self.eta)

    def eta_at(self, sde: SDE, t: Array) -> Array | float:
        return self.eta


class _Moved(Counted):
    """A counted model that adds the next of the `noises` to x at each call.

    So a method for the probability flow receives the noise of its stages without knowing of it.
    """

    def __init__(self, model: Counted, noises: Iterable[Array | float]):
        super().__init__(model)
        self.noises = iter(noises)

    def __call__(self, x: Array, t: Array, cond: Any = None) -> Prediction:
        return super().__call__(x + next(self.noises), t, cond)


@dataclasses.dataclass(frozen=True)
class NoisyStages(Eta):
    nodes: ClassVar[tuple[float, ...]]

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        sde = model.sde
        stages = [between(sde, t, s, c) for c in self.nodes]
        # From alpha_t = 0 a stage is t itself, so that no derivative in s is multiplied by
        # infinity.
        stages = [jnp.where(u == t, t, u) for u in stages]
        *inner, last = self.noises(key, state.x, sde, t, *stages, s)
        noisy = _Moved(model, (0.0, *inner))
        return State(super().step(key, noisy, state, t, s, cond).x + last)


@dataclasses.dataclass(frozen=True)
class NoisyMultistep(Eta):
    def step(
        self, key: Keys, model: Counted, state: MultistepState, t: Array, s: Array, cond: Any = None
    ) -> MultistepState:
        sde = model.sde
        state = super().step(key, model, state, t, s, cond)
        return state._replace(x=state.x + self.noises(key, state.x, sde, t, s)[0])
