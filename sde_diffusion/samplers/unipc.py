"""UniPC: a multistep predictor with a corrector that needs no additional evaluation."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers.exponential import Exponential, Span, phi
from sde_diffusion.samplers.multistep import LONG, Ending, Past, few
from sde_diffusion.samplers.solver import Counted
from sde_diffusion.sdes import Array
from sde_diffusion.selection import unknown


class UniPCState(NamedTuple):
    """The predicted sample, the earlier values, and what corrects the sample in the next step.

    The corrected sample is base + weight (x0 - expected). `base` is the integral of a polynomial,
    and `expected` is the value of that polynomial at this time.
    """

    x: Array
    past: Past
    base: Array
    weight: Array
    expected: Array


@dataclasses.dataclass(frozen=True)
class MultistepPC(Exponential):
    """Base of UniPC and SA-Solver: a multistep step in x0, corrected once x0 at its end is known.

        predictor   the multistep step through x0 at this and the p - 1 times before
        corrector   the same step through these and the x0 predicted at its end, taken afterwards

    x0 is evaluated at the predicted sample and not again after the correction. The last sample is
    not corrected. The first steps have fewer values and a lower p. The last step has a p of at most
    2, as in the papers' code, for any number of steps. Its error of h^3 remains in the result, so
    the order is min(p + corrector, 3). If no evaluation denoises after the last step, the last two
    steps have a p of at most 2 and 1, as in the papers' code; of 15 or more evaluations, the last
    step has a p of 1 only if it is more than twice as long as the one before it.
    """

    view = "x0"
    p: int = 3
    corrector: bool = True

    def __post_init__(self) -> None:
        if self.p not in (1, 2, 3):
            raise ValueError(f"{type(self).__name__} takes p 1, 2 or 3, got {self.p}")

    def half(self, span: Span) -> Array:
        """The weight of a single difference, h / 2 + O(h^2)."""
        raise NotImplementedError

    @property
    def order(self) -> int:  # type: ignore[override]
        return min(self.p + self.corrector, 3)

    def init(self, x: Array, grid: Array | None = None, denoise_last: bool = True) -> UniPCState:
        longer = -jnp.inf if few(grid, denoise_last) else LONG
        past = Past.none(x, self.p - 1, Ending.of(grid, denoise_last, longer))
        return UniPCState(x, past, x, jnp.zeros((), x.dtype), jnp.zeros_like(x))

    def step(
        self, key: Keys, model: Counted, state: UniPCState, t: Array, s: Array, cond: Any = None
    ) -> UniPCState:
        sde = model.sde
        x0 = model(state.x, t, cond).x0
        x = state.base + state.weight * (x0 - state.expected) if self.corrector else state.x
        span, past = self.span(sde, t, s), state.past
        half = self.half(span)

        base, expected = self.euler(Prediction("x0", x0, x, t, sde), s), x0
        differences, weights = past.differences(x0, span.h, s), past.weights(span)
        for weight, difference, end in zip(weights, differences, past.ends(span), strict=True):
            base = base + span.scale * weight * difference
            expected = expected + end * difference

        predicted = base
        if differences:
            single = True if self.p == 2 else past.linear(s)
            simpler = jnp.where(single, half - weights[0], 0.0)
            predicted = base + span.scale * simpler * differences[0]
        weight = span.scale * self._corrector_weight(past, span, half, s)
        return UniPCState(predicted, past.push(x0, span.rate), base, weight, expected)

    def moved(self, state: UniPCState, x: Array) -> UniPCState:
        # The correction starts from the moved sample.
        return state._replace(x=x, base=state.base + x - state.x)

    def _corrector_weight(self, past: Past, span: Span, half: Array, s: Array) -> Array:
        """h times the integral of the polynomial that is 1 at the end and 0 at the times known."""
        if self.p == 1:
            return half
        q = span.h * past.rates[0]
        # 1 / (r0 + r1) with the paper's r; 0 if that time does not exist or is not used
        q2 = jnp.where(past.linear(s), 0.0, q * past.share) if self.p == 3 else 0.0
        integral = phi(2, span.z) + 2.0 * (q + q2) * phi(3, span.z)
        integral = integral + 6.0 * q * q2 * phi(4, span.z)
        return jnp.where(q == 0.0, half, span.h * integral / ((1.0 + q) * (1.0 + q2)))


@dataclasses.dataclass(frozen=True)
class UniPC(MultistepPC):
    """UniP-p and, with the `corrector`, UniC-p after it, in x0, with one evaluation a step.

    UniC raises the order from p to p + 1 in every step except the last, which is UniP-2 at most and
    not corrected, as in the authors' code. The order is therefore at most 3. The weight of a single
    known difference is B / 2, with B = h (`variant` "bh1") or 1 - exp(-h) ("bh2"). Other weights do
    not depend on B. Zhao et al. 2023 (UniPC), condition 5, theorem 3.1 (UniC) and corollary 3.2
    (UniP).
    """

    variant: str = "bh2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(unknown("variant", self.variant, ("bh1", "bh2")))

    def half(self, span: Span) -> Array:
        return 0.5 * span.h * (1.0 if self.variant == "bh1" else phi(1, span.z))
