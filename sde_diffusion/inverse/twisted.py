"""Particle methods for a measurement or any reward: twisted diffusion, Feynman-Kac steering.

The target is the sampler's own distribution of x_0, tilted by a reward r:

    p(x_0) exp(r(x_0)) / Z,     r = log p(y | x_0) for a measurement                         (1)

Particles move by a law q, and are weighted by intermediate rewards L_t(x_t) = r(E[x_0 | x_t]):

    log weight of a step from t to s = L_s - L_t + log p(x_s | x_t) - log q(x_s | x_t)       (2)

The weights of all steps add up to r, so with many particles the result is (1) whatever L_t and q
are; they decide how many are enough.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion import noise
from sde_diffusion.inverse.dps import Noted
from sde_diffusion.inverse.linear_algebra import dot
from sde_diffusion.inverse.measurement import Measurement, measured
from sde_diffusion.inverse.operator import Operator, require_operator
from sde_diffusion.model import LEAST_SIGNAL, Model, as_pytree
from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.particles import Particles, ParticleSolver, ParticleState
from sde_diffusion.samplers.solver import Counted, Samples, Solver
from sde_diffusion.sdes import Array, expand
from sde_diffusion.sdes.base import require

Reward = Callable[[Array, Array, Any], Array]


def likelihood(operator: Operator | None = None, gamma: float = 1.0) -> Partial:
    """The reward log p(y | x_0) of a measurement, which is the condition of the samples.

    At noise level sigma / alpha it is log N(y; A(x_0), v I), v = std^2 + gamma sigma^2 / alpha^2,
    as in `sda`; at the end it is exact, which takes std > 0. The weights tell the value of gamma
    from another only by how many particles are needed.
    """
    if operator is not None:
        require_operator(operator)
    require(lambda gamma: gamma > 0.0, "likelihood needs gamma > 0", gamma=gamma)
    return Partial(_likelihood, operator, jnp.asarray(gamma))


def _likelihood(
    operator: Operator | None, gamma: Array, x0: Array, level: Array, cond: Any
) -> Array:
    A, measurement = measured(operator, cond, x0)
    residual = measurement.y - A(x0)
    variance = measurement.std**2 + gamma * level**2
    size = math.prod(residual.shape[1:])
    return -0.5 * (dot(residual, residual) / variance + size * jnp.log(2.0 * math.pi * variance))


class Twisted(NamedTuple):
    """A particle [B, *event]; what its next log weight begins with, [B]: log p - log q - L_t."""

    x: Array
    pending: Array


@dataclasses.dataclass(frozen=True)
class Steered(ParticleSolver):
    """Base of the particle methods with a reward(x0 [B, *event], sigma / alpha [], cond) -> [B].

    A reward is a function of your own, or `likelihood(operator)`. The arrays that it needs belong
    into a `jax.tree_util.Partial`, or into cond. The condition is that of the model too, unless it
    is a Measurement, whose own `cond` the model receives.

    L_t is known when the model is next evaluated, so a step takes one evaluation for each particle;
    the last one denoises, and weights by the reward itself, at sigma = 0.
    """

    reward: Reward | None = None

    order = 0
    denoises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.reward):
            raise TypeError(
                f"{type(self).__name__} needs a reward, such as likelihood(operator), got "
                f"{self.reward!r}"
            )
        object.__setattr__(self, "reward", as_pytree(self.reward))

    def begin(self, x: Array, grid: Array | None, denoise_last: bool) -> Any:
        return Twisted(x, jnp.zeros(len(x), x.dtype))

    def rewarded(self, x0: Array, level: Array, cond: Any) -> Array:
        """The reward [B]; ValueError for another shape."""
        assert self.reward is not None
        made = self.reward(x0, level, cond)
        if made.shape != x0.shape[:1]:
            raise ValueError(
                f"the reward returned shape {made.shape} for {len(x0)} samples: it must be [B]"
            )
        return made

    def solve(
        self,
        keys: Any,
        model: Model,
        x: Any,
        grid: Array,
        cond: Any = None,
        *,
        denoise_last: bool = True,
        **options: Any,
    ) -> Samples:
        state, nfe, xs = self.walk(keys, model, x, grid, cond, denoise_last=denoise_last, **options)

        def end(particle: Twisted) -> tuple[Array, Array, Array]:
            last = model(particle.x, grid[-1], own_cond(cond))
            reward = self.rewarded(last.x0, jnp.zeros(()), cond)
            denoised = last.x0.astype(particle.x.dtype)
            evaluations = jnp.asarray(last.evaluations)
            made = denoised if denoise_last else particle.x
            return made, particle.pending + reward, evaluations

        xs0, moved, calls = jax.vmap(end)(self._particles(state))
        log_weights = state.log_weights + moved
        total = jax.nn.logsumexp(log_weights, axis=0)
        log_weights = log_weights - total
        last = noise.fold_in(keys, len(grid))
        chosen = jax.vmap(jax.random.categorical)(last, log_weights.T)
        x = jax.vmap(lambda each, k: each[k], (1, 0))(xs0, chosen)
        x = jnp.where(expand(jnp.isfinite(total), x), x, jnp.nan)
        told = Particles(
            jnp.swapaxes(xs0, 0, 1), log_weights.T, state.ess, state.log_evidence + total
        )
        return Samples(x, nfe + jnp.sum(calls, axis=0), xs, told)

    def _particles(self, state: ParticleState) -> Twisted:
        return state.states


@dataclasses.dataclass(frozen=True)
class TDS(Steered):
    """Twisted diffusion sampling: ancestral steps guided by the gradient of L_t, weighted by (2).

        p(x_s | x_t) = N(m(E[x_0 | x_t]), c^2 I), the ancestral step
        q(x_s | x_t) = N(m(E[x_0 | x_t] + sigma^2 / alpha grad L_t), c^2 I)

    The reward must be differentiable. One forward and one backward pass a step and particle. With
    1 particle it is guidance without correction; the error falls as 1 / particles. Source: Wu et
    al. 2023 (TDS), algorithm 1.

        TDS(particles=16, reward=likelihood(operator))
    """

    def move(
        self, key: Keys, model: Counted, state: Twisted, t: Array, s: Array, cond: Any = None
    ) -> tuple[Twisted, Array]:
        sde = model.sde

        def twist(x: Array) -> tuple[Array, tuple[Prediction, Array]]:
            prediction = model.uncounted(x, t, own_cond(cond))
            reward = self.rewarded(prediction.x0, jnp.exp(-sde.log_snr(t)), cond)
            return jnp.sum(reward), (prediction, reward)

        gradient, (prediction, reward) = jax.grad(twist, has_aux=True)(state.x)
        model.calls = model.calls + prediction.evaluations
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        signal = alpha > LEAST_SIGNAL * sigma
        shift = jnp.where(signal, sigma**2 / jnp.where(signal, alpha, 1.0), 0.0) * gradient
        # Where alpha = 0 there is no guidance yet: the reward of an infinite level is no number.
        reward = jnp.where(signal, reward, 0.0)
        a, b = sde.transition(t, s)
        of_x, of_x0 = a * (sde.sigma(s) / sigma) ** 2, sde.alpha(s) * (b / sigma) ** 2
        std = b * sde.sigma(s) / sigma
        z, moved = noise.normal(key, state.x), of_x0 * jnp.where(signal, shift, 0.0)
        x = of_x * state.x + of_x0 * prediction.x0 + moved + std * z
        # log p - log q of x_s, which is std z from q's mean and std z + moved from p's.
        ratio = -0.5 * (2.0 * dot(z, moved) / std + dot(moved, moved) / std**2)
        x = x.astype(state.x.dtype)
        return Twisted(x, ratio - reward), state.pending + reward


@dataclasses.dataclass(frozen=True)
class FKSteering(Steered):
    """Feynman-Kac steering: particles of any stochastic solver, weighted by the rise of L_t.

    q is the solver's own law, so the reward needs no derivative: a count, or the score of a judge.
    One evaluation a step and particle, and no backward pass. It needs more particles than `TDS`.
    Source: Singhal et al. 2025 (Feynman-Kac steering), with the potential of differences.

        FKSteering(particles=64, reward=reward, solver=Ancestral())

    Raises ValueError for a solver that draws no noise, whose particles would stay equal, that
    keeps more than the sample, or that chooses its own steps.
    """

    solver: Solver | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self.solver).__name__
        if self.solver is None or not self.solver.stochastic or self.solver.adaptive:
            raise ValueError(f"FKSteering needs a solver that draws noise on the grid, got {name}")
        if self.solver.denoises:
            raise ValueError(f"FKSteering needs a solver that does not denoise itself, got {name}")

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        assert self.solver is not None
        return self.solver.evaluations

    def begin(self, x: Array, grid: Array | None, denoise_last: bool) -> Any:
        assert self.solver is not None
        inner = self.solver.init(x, grid, denoise_last)
        return Steady(inner.x, jnp.zeros(len(x), x.dtype), inner)

    def move(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> tuple[Any, Array]:
        assert self.solver is not None
        noted: Any = Noted(model)
        inner = self.solver.step(key, noted, state.inner, t, s, own_cond(cond))
        inner = jax.tree.map(lambda new, old: new.astype(old.dtype), inner, state.inner)
        level = jnp.exp(-model.sde.log_snr(t))
        reward = self.rewarded(noted.first[0], level, cond)
        reward = jnp.where(level < 1.0 / LEAST_SIGNAL, reward, 0.0)
        return Steady(inner.x, -reward, inner), state.pending + reward


class Steady(NamedTuple):
    """A particle [B, *event], what its next log weight begins with, and the solver's state."""

    x: Array
    pending: Array
    inner: Any


def own_cond(cond: Any) -> Any:
    """What the model is called with: the measurement's own condition, or the condition itself."""
    return cond.cond if isinstance(cond, Measurement) else cond
