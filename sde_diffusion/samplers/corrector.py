"""Langevin correctors, whose step stays at t, and their combination with a predictor."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.choices import require_known
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Model, Solver, State
from sde_diffusion.sdes import SDE, Array, expand


@dataclasses.dataclass(frozen=True)
class _Corrector(Solver):
    """`steps` times x <- x + h score + sqrt(2 h) z at time t."""

    order = 1
    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        if self.snr <= 0 or self.steps < 1:
            raise ValueError(
                f"{type(self).__name__} needs snr > 0 and steps >= 1, "
                f"got snr={self.snr}, steps={self.steps}"
            )

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.steps

    @property
    def stochastic(self) -> bool:
        return True

    def size(self, sde: SDE, score: Array, z: Array, t: Array) -> Array:
        """h without the factor alpha_i, [] or [B]."""
        raise NotImplementedError

    def step(self, key: Keys, model: Model, sde: SDE, state: State, t: Array, s: Array) -> State:
        x = state.x
        # alpha_i = 1 - beta_i of DDPM for VP, and 1 for VE: the square of the forward scale.
        scale = (sde.alpha(t) / sde.alpha(s)) ** 2
        for i in range(self.steps):
            score = model(x, t).score
            z = noise.normal(noise.fold_in(key, i), x)
            h = expand(scale * self.size(sde, score, z, t), x)
            x = x + h * score + jnp.sqrt(2.0 * h) * z
        return State(x)


@dataclasses.dataclass(frozen=True)
class Langevin(_Corrector):
    """Langevin corrector with h = 2 alpha_i (snr |z| / |score|)^2.

    The norms are each sample's own; norms="batch" takes their means over the batch, as the paper
    does, which makes every sample depend on its neighbours. Song et al. 2021, algorithms 4 and 5.
    """

    norms: str = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("norms", self.norms, ("sample", "batch"))

    def size(self, sde: SDE, score: Array, z: Array, t: Array) -> Array:
        z_norm, score_norm = _norm(z), _norm(score)
        if self.norms == "batch":
            z_norm, score_norm = jnp.mean(z_norm), jnp.mean(score_norm)
        return 2.0 * (self.snr * z_norm / score_norm) ** 2


@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(_Corrector):
    """Annealed Langevin corrector with h = 2 alpha_i (snr sigma_t)^2.

    Song & Ermon 2019, algorithm 1, with the step size of Song et al. 2021's code.
    """

    def size(self, sde: SDE, score: Array, z: Array, t: Array) -> Array:
        return 2.0 * (self.snr * sde.sigma(t)) ** 2


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Solver):
    """The corrector at t, then the predictor from t to s. Song et al. 2021, algorithm 1.

    Corrected first and predicted last, as in that paper's code, so that the corrector never acts
    on the sample that is returned. The state is the predictor's own.
    """

    predictor: Solver
    corrector: Solver

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.predictor.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.predictor.evaluations + self.corrector.evaluations

    @property
    def reads_diffusion(self) -> bool:  # type: ignore[override]
        return self.predictor.reads_diffusion

    @property
    def stochastic(self) -> bool:
        return self.predictor.stochastic or self.corrector.stochastic

    def init(self, x: Array, grid: Array | None = None) -> Any:
        return self.predictor.init(x, grid)

    def step(self, key: Keys, model: Model, sde: SDE, state: Any, t: Array, s: Array) -> Any:
        aside, own = noise.split(key)
        corrected = self.corrector.step(aside, model, sde, State(state.x), t, s)
        state = state._replace(x=corrected.x)
        return self.predictor.step(own, model, sde, state, t, s)


def _norm(x: Array) -> Array:
    """The Euclidean norm of each sample, [B]."""
    return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim))))
