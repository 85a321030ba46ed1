"""PLMS: PNDM without its Runge-Kutta steps, as the schedulers of Stable Diffusion 1.x have it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.exponential import exponential_euler, has_signal
from sde_diffusion.samplers.solver import Counted, Solver
from sde_diffusion.sdes import Array, expand
from sde_diffusion.sdes.base import is_known

# The weights of this value and of those before it, by the number of steps that were taken.
WEIGHTS = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
VIEWS = ("eps", "v")


class PLMSState(NamedTuple):
    """The sample, the values of the three steps before, latest first, and how many were taken."""

    x: Array
    before: tuple[Array, Array, Array]
    taken: Array


@dataclasses.dataclass(frozen=True)
class PLMS(Solver):
    """Adams-Bashforth's weights for equal steps on what the network predicts, and DDIM's step.

        F' = (55 F_i - 59 F_{i-1} + 37 F_{i-2} - 9 F_{i-3}) / 24,   x_s = alpha_s x0 + sigma_s eps

    with x0 and eps of x_t and F', which is eps or v. The second and third step have the weights of
    two and three values. The first one is repeated: F' = (F_i + F(x', s)) / 2 with x' of DDIM's
    step, so that it takes 2 evaluations, and n steps take n + 1. The weights are those of equal
    steps in the variable of integration, sigma / alpha for eps. Other steps leave an error of
    order 2; `IPNDM` has the weights of the actual steps.

    Liu et al. 2022 (PNDM), eqs. 9 and 12; the first step as `PNDMScheduler(skip_prk_steps=True)` of
    diffusers has it.
    """

    order = 2
    extra_evaluations = 1
    view: str = "eps"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"PLMS takes the view {' or '.join(VIEWS)}, got {self.view!r}")

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> PLMSState:
        return PLMSState(x, (jnp.zeros_like(x),) * 3, jnp.zeros((), jnp.int32))

    def step(
        self, key: Keys, model: Counted, state: PLMSState, t: Array, s: Array, cond: Any = None
    ) -> PLMSState:
        made = model(state.x, t, cond)
        value, taken = getattr(made, self.view), state.taken
        weights = jnp.asarray(WEIGHTS, value.dtype)[jnp.minimum(taken, 3)]
        values = (value, *state.before)
        combined = sum(w * each for w, each in zip(weights, values, strict=True))

        def repeated() -> tuple[Array, Array]:
            end = self._step(made, value, s).astype(state.x.dtype)
            second = model.uncounted(end, s, cond)
            count = jnp.broadcast_to(jnp.asarray(second.evaluations, jnp.int32), counts)
            return (0.5 * (value + getattr(second, self.view))).astype(value.dtype), count

        def kept() -> tuple[Array, Array]:
            return combined.astype(value.dtype), jnp.zeros(counts, jnp.int32)

        counts = jnp.shape(made.evaluations)
        if is_known(taken):
            combined, count = repeated() if taken == 0 else kept()
        else:
            combined, count = jax.lax.cond(taken == 0, repeated, kept)
        model.calls = model.calls + count
        return PLMSState(self._step(made, combined, s), values[:3], taken + 1)

    def _step(self, made: Prediction, value: Array, s: Array) -> Array:
        """DDIM's step to s with another value in the place of the predicted one.

        The step is linear in the value. From an alpha_t that is 0, where eps says nothing about x0,
        it is the step with the prediction itself.
        """
        sde, t = made.sde, made.t
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        if self.view == "v":
            slope = sde.sigma(s) * alpha - sde.alpha(s) * sigma
        else:
            known = has_signal(sde.log_snr(t))
            ratio = sigma / jnp.where(known, alpha, 1.0)
            slope = jnp.where(known, sde.sigma(s) - sde.alpha(s) * ratio, 0.0)
        change = value - getattr(made, self.view)
        return exponential_euler(made, s) + expand(slope, change) * change
