"""Multistep exponential integrators: DEIS, iPNDM and DPM-Solver++(2M, 3M).

They interpolate a view F, x0 or eps, in the part u of the step done, through its values at this
time and the ones before, by Newton's formula:

    P(u) = F_i + u d1 + u (1 + q u) d2 + u (1 + q u) (1 + r u) d3
    q = h_i / h_{i-1},   r = h_i / (h_{i-1} + h_{i-2})
    d1 = q (F_i - F_{i-1})
    d2 = h_{i-1} / (h_{i-1} + h_{i-2}) (d1 - d1'),   d1' = h_i / h_{i-2} (F_{i-1} - F_{i-2})
    d3 = (h_{i-1} + h_{i-2}) / (h_{i-1} + h_{i-2} + h_{i-3})
         (d2 - h_{i-1} / (h_{i-2} + h_{i-3}) (d1' - h_i / h_{i-3} (F_{i-2} - F_{i-3})))

so that the step is that of exponential Euler, plus scale h times phi_2 d1,
(phi_2 + 2 q phi_3) d2 and (phi_2 + 2 (q + r) phi_3 + 6 q r phi_4) d3. The first steps have fewer
values and a lower order, as in the papers; and where there are few, the last one, which
ends at grid[-1], has d1 alone: its extrapolation is the worst, and one step of order 2 costs a
method of order 3 nothing.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import Exponential, Span, phi, seen
from sde_diffusion.samplers.solver import Model
from sde_diffusion.sdes import SDE, Array

# DPM-Solver++ lowers the order of the last step below this number of times.
FEW = 15


class Past(NamedTuple):
    """The view's values before this time, the latest first, and 1 / h of the steps since each.

    Where there is no step yet the rate is 0, which leaves that value without weight; towards noise,
    as in encoding, h is negative. `end` is the time at which the last step ends.
    """

    values: tuple[Array, ...]
    rates: tuple[Array, ...]
    end: Array

    @classmethod
    def none(cls, x: Array, size: int, grid: Array | None) -> "Past":
        end = jnp.asarray(-jnp.inf if grid is None else grid[-1])
        return cls((jnp.zeros_like(x),) * size, (jnp.zeros((), x.dtype),) * size, end)

    def push(self, value: Array, rate: Array) -> "Past":
        size = len(self.values)
        return Past((value, *self.values)[:size], (rate, *self.rates)[:size], self.end)

    def linear(self, s: Array) -> Array:
        """Whether the step to s has d1 alone: the second one, and the last."""
        return (self.rates[1] == 0.0) | (s == self.end)

    def differences(self, value: Array, h: Array, s: Array) -> tuple[Array, ...]:
        """(d1, d2, d3) of Newton's formula for a step to s, as many as there are values."""
        values = (value, *self.values)
        slopes = [
            h * rate * (later - earlier)
            for rate, later, earlier in zip(self.rates, values, values[1:], strict=False)
        ]
        if len(slopes) < 2:
            return tuple(slopes)
        linear = self.linear(s)
        d2 = jnp.where(linear, 0.0, self.share) * (slopes[0] - slopes[1])
        if len(slopes) == 2:
            return slopes[0], d2
        known = (self.rates[2] != 0.0) & ~linear
        h1, h2, h3 = (1.0 / jnp.where(known, rate, 1.0) for rate in self.rates)
        d3 = (h1 + h2) / (h1 + h2 + h3) * (d2 - h1 / (h2 + h3) * (slopes[1] - slopes[2]))
        return slopes[0], d2, jnp.where(known, d3, 0.0)

    @property
    def share(self) -> Array:
        """h_{i-1} / (h_{i-1} + h_{i-2}), and 0 where there is no h_{i-2}."""
        near, far = self.rates[:2]
        return far / jnp.where(far != 0.0, near + far, 1.0)

    def weights(self, span: Span) -> tuple[Array, ...]:
        """The integrals of what multiplies the differences, times h."""
        if not self.values:
            return ()
        first = span.h * phi(2, span.z)
        if len(self.values) == 1:
            return (first,)
        q, third = span.h * self.rates[0], 2.0 * span.h * phi(3, span.z)
        second = first + q * third
        if len(self.values) == 2:
            return first, second
        r = q * self.share
        return first, second, second + r * (third + 6.0 * span.h * q * phi(4, span.z))

    def ends(self, span: Span) -> tuple[Array | float, ...]:
        """What multiplies the differences at the end of the step, u = 1."""
        return (1.0, 1.0 + span.h * self.rates[0])[: len(self.values)] if self.values else ()


class MultistepState(NamedTuple):
    """The sample and the values before it."""

    x: Array
    past: Past


@dataclasses.dataclass(frozen=True)
class _Multistep(Exponential):
    @property
    def kept(self) -> int:
        """Values that are kept of the steps before."""
        return self.order - 1

    def init(self, x: Array, grid: Array | None = None) -> MultistepState:
        few = grid is not None and len(grid) < FEW
        return MultistepState(x, Past.none(x, self.kept, grid if few else None))

    def weights(self, past: Past, span: Span, s: Array) -> tuple[Array, ...]:
        return past.weights(span)

    def step(
        self, key: Keys, model: Model, sde: SDE, state: MultistepState, t: Array, s: Array
    ) -> MultistepState:
        prediction, span = model(state.x, t), self.span(sde, t, s)
        value = seen(self.view, prediction)
        x = self.euler(prediction, s)
        differences = state.past.differences(value, span.h, s)
        for weight, difference in zip(self.weights(state.past, span, s), differences, strict=True):
            x = x + span.scale * weight * difference
        return MultistepState(x, state.past.push(value, span.rate))


@dataclasses.dataclass(frozen=True)
class DEIS(_Multistep):
    """Exponential Adams-Bashforth in eps, of order 1 (DDIM), 2 or 3, with one evaluation a step.

        x_s = alpha_s / alpha_t x_t - sigma_s h (phi_1 eps + phi_2 d1 + (phi_2 + 2 q phi_3) d2)

    with phi_k at h; without d2 for order 2, without d1 and d2 for order 1. The polynomial is in
    lambda, as in diffusers' DEIS, where the paper's tAB is in t. Zhang & Chen 2023 (DEIS), eq. 14.
    """

    view = "eps"
    order: int = 3  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"DEIS takes order 1, 2 or 3, got {self.order}")


@dataclasses.dataclass(frozen=True)
class IPNDM(_Multistep):
    """Adams-Bashforth in eps over rho = sigma / alpha, of order 1 (DDIM) to 4.

        d(x / alpha) / d rho = eps:   x_s = alpha_s / alpha_t x_t + alpha_s int P d rho

    The polynomial is in rho, with coefficients for the steps at hand. Where these are equal in rho
    they are the constants of iPNDM, (55, -59, 37, -9) / 24 for order 4, which are of order 2 on any
    other grid. Liu et al. 2022 (PNDM), eqs. 9, 12 and 13; Zhang & Chen 2023 (DEIS), whose rhoAB
    this is, of their eq. 18.
    """

    view = "eps"
    order: int = 4  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"IPNDM takes order 1, 2, 3 or 4, got {self.order}")

    def span(self, sde: SDE, t: Array, s: Array) -> Span:
        return Span.of_ratio(sde, t, s)


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M(_Multistep):
    """DPM-Solver++(2M), order 2 in x0 with one evaluation a step.

    Like Adams-Bashforth, but with (1 - exp(-h)) / 2 in place of h phi_2(-h):
    x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) (x0 + d1 / 2). Lu et al. 2022
    (DPM-Solver++), algorithm 2.
    """

    view = "x0"
    order = 2

    def weights(self, past: Past, span: Span, s: Array) -> tuple[Array, ...]:
        return (0.5 * span.h * phi(1, span.z),)


@dataclasses.dataclass(frozen=True)
class DPMSolverPP3M(_Multistep):
    """DPM-Solver++(3M) as its authors published it, of order 2 with one evaluation a step.

    x_s = sigma_s / sigma_t x_t + alpha_s h (phi_1 x0 + phi_2 (d1 + d2) + q phi_3 d2): the square in
    P(u) has half of its integral 2 q phi_3, so the third order that the name promises is not there
    (2.08 is measured), yet on few steps, where extrapolation is the danger, the smaller weight has
    the smaller error. The exact weight is `UniPC(p=3, corrector=False)`, of order 3. The second
    and the last step are those of 2M. Lu et al. 2022 (DPM-Solver++), as
    `multistep_dpm_solver_third_update` of its authors' code has it.
    """

    view = "x0"
    order = 2
    kept = 2

    def weights(self, past: Past, span: Span, s: Array) -> tuple[Array, ...]:
        first, second = past.weights(span)
        alone = 0.5 * span.h * phi(1, span.z)
        return jnp.where(past.linear(s), alone, first), 0.5 * (first + second)
