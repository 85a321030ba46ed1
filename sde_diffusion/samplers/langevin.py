"""Langevin correctors, whose step stays at t: ULA, MALA, and those of the score-SDE papers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Solver, State
from sde_diffusion.sdes import SDE, Array, expand
from sde_diffusion.sdes.base import require
from sde_diffusion.selection import require_known


class _Corrector(Solver):
    """`steps` times x <- x + h score + sqrt(2 h) z at time t."""

    order = 1
    steps: int

    def _check(self, **size: float) -> None:
        for name, given in size.items():
            require(
                lambda given, steps: given > 0 and steps >= 1,
                f"{type(self).__name__} needs {name} > 0 and steps >= 1",
                **{name: given, "steps": self.steps},
            )

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.steps

    @property
    def stochastic(self) -> bool:
        return True

    def size(self, sde: SDE, score: Array, z: Array, t: Array, s: Array) -> Array:
        """h, [] or [B]."""
        raise NotImplementedError

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        x, sde = state.x, model.sde
        for i in range(self.steps):
            score = model(x, t, cond).score
            z = noise.normal(noise.fold_in(key, i), x)
            h = expand(self.size(sde, score, z, t, s), x)
            x = x + h * score + jnp.sqrt(2.0 * h) * z
        return State(x)


@dataclasses.dataclass(frozen=True)
class _BySNR(_Corrector):
    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        self._check(snr=self.snr)

    def scale(self, sde: SDE, t: Array, s: Array) -> Array:
        """alpha_i = 1 - beta_i of DDPM for VP, and 1 for VE: the square of the forward scale."""
        return (sde.alpha(t) / sde.alpha(s)) ** 2


@dataclasses.dataclass(frozen=True)
class Langevin(_BySNR):
    """Langevin corrector with h = 2 alpha_i (snr |z| / |score|)^2.

    By default the norms are those of each sample. norms="batch" takes their means over the batch,
    as the paper does, so every sample depends on its neighbours. Norms of single samples need many
    dimensions: in two, a score close to 0 makes a step that throws its sample far away; use "batch"
    or `ULA` there. Song et al. 2021, algorithms 4 and 5.
    """

    norms: str = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("norms", self.norms, ("sample", "batch"))

    def size(self, sde: SDE, score: Array, z: Array, t: Array, s: Array) -> Array:
        z_norm, score_norm = _norm(z), _norm(score)
        if self.norms == "batch":
            z_norm, score_norm = jnp.mean(z_norm), jnp.mean(score_norm)
        return 2.0 * self.scale(sde, t, s) * (self.snr * z_norm / score_norm) ** 2


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(_BySNR):
    """Annealed Langevin corrector with h = 2 alpha_i (snr sigma_t)^2.

    Song & Ermon 2019, algorithm 1, with the step size of Song et al. 2021's code.
    """

    def size(self, sde: SDE, score: Array, z: Array, t: Array, s: Array) -> Array:
        return 2.0 * self.scale(sde, t, s) * (self.snr * sde.sigma(t)) ** 2


@dataclasses.dataclass(frozen=True)
class ULA(_Corrector):
    """Unadjusted Langevin with the fixed step size h sigma_t^2.

    `steps` times x <- x + h sigma_t^2 score + sqrt(2 h) sigma_t z, which preserves p_t to the
    first order in h. Roberts & Tweedie 1996.
    """

    h: float = 0.05
    steps: int = 1

    def __post_init__(self) -> None:
        self._check(h=self.h)

    def size(self, sde: SDE, score: Array, z: Array, t: Array, s: Array) -> Array:
        return self.h * sde.sigma(t) ** 2


@dataclasses.dataclass(frozen=True)
class MALA(_Corrector):
    """Metropolis-adjusted Langevin: preserves p_t for any step size h sigma_t^2.

        x' = x + h sigma_t^2 score(x) + sqrt(2 h) sigma_t z,   a draw of q(x' | x)
        x <- x' with probability min(1, p_t(x') q(x | x') / (p_t(x) q(x' | x)))

    `log_prob(x, t) -> [B]` is log p_t up to a constant, and the model's score must be its gradient.
    It is a function, so passing another one compiles again. `steps` steps take `steps` + 1
    evaluations. Roberts & Tweedie 1996.
    """

    log_prob: Callable[[Array, Array], Array]
    h: float = 0.25
    steps: int = 1

    def __post_init__(self) -> None:
        self._check(h=self.h)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.steps + 1

    def step(
        self, key: Keys, model: Counted, state: State, t: Array, s: Array, cond: Any = None
    ) -> State:
        sde = model.sde
        x, h = state.x, self.h * sde.sigma(t) ** 2
        score, log_p = model(x, t, cond).score, self.log_prob(x, t)
        for i in range(self.steps):
            to_move, to_accept = (noise.fold_in(key, 2 * i + j) for j in range(2))
            move = h * score + jnp.sqrt(2.0 * h) * noise.normal(to_move, x)
            new = x + move
            new_score, new_log_p = model(new, t, cond).score, self.log_prob(new, t)
            back, forth = _norm(move + h * new_score) ** 2, _norm(move - h * score) ** 2
            log_ratio = new_log_p - log_p + (forth - back) / (4.0 * h)
            accepted = jnp.log(jax.vmap(jax.random.uniform)(to_accept)) < log_ratio
            chosen = expand(accepted, x)
            x, score = jnp.where(chosen, new, x), jnp.where(chosen, new_score, score)
            log_p = jnp.where(accepted, new_log_p, log_p)
        return State(x)


def _norm(x: Array) -> Array:
    """The Euclidean norm of each sample, [B]."""
    return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim))))
