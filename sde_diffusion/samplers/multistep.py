"""What the multistep exponential integrators share: DEIS, iPNDM, DPM-Solver++(2M, 3M) and UniPC.

They interpolate a view F, x0 or eps, as a function of the completed part u of the step, through its
values at this time and at the times before, by Newton's formula:

    P(u) = F_i + u d1 + u (1 + q u) d2 + u (1 + q u) (1 + r u) d3
    q = h_i / h_{i-1},   r = h_i / (h_{i-1} + h_{i-2})
    d1 = q (F_i - F_{i-1})
    d2 = h_{i-1} / (h_{i-1} + h_{i-2}) (d1 - d1'),   d1' = h_i / h_{i-2} (F_{i-1} - F_{i-2})
    d3 = (h_{i-1} + h_{i-2}) / (h_{i-1} + h_{i-2} + h_{i-3})
         (d2 - h_{i-1} / (h_{i-2} + h_{i-3}) (d1' - h_i / h_{i-3} (F_{i-2} - F_{i-3})))

The step is therefore that of exponential Euler plus scale h times phi_2 d1,
(phi_2 + 2 q phi_3) d2 and (phi_2 + 2 (q + r) phi_3 + 6 q r phi_4) d3. The first steps have fewer
values and a lower order, as in the papers. The last of few steps have a lower order too, because
their extrapolation is the worst: see `Ending`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from sde_diffusion.noise import Keys
from sde_diffusion.samplers.exponential import (
    Exponential,
    Span,
    phi,
    seen,
)
from sde_diffusion.samplers.solver import Counted
from sde_diffusion.sdes import Array

# DPM-Solver++ lowers the order of the last steps below this number of evaluations.
FEW = 15
# UniPC also lowers the order of the last of many steps to 1 if it is more than this many times as
# long as the step before it. No grid whose steps shrink evenly ends like that, so the measured
# order of the method is the declared one.
LONG = 2.0


class Ending(NamedTuple):
    """The steps at the end of a grid whose order is lowered, each named by the time it ends at.

    A step to one of the times `linear` [2] uses d1 only. The step to the time `single` uses no
    difference, which leaves exponential Euler, if it is more than `longer` times as long in lambda
    as the step before it. A time of -inf stands for no step.

    An evaluation that denoises after the last step is itself a step of order 1, to the data, so the
    last step of the grid has order 2. Without one, the last two steps have orders 2 and 1.
    """

    linear: Array
    single: Array
    longer: Array

    @classmethod
    def of(cls, grid: Array | None, denoise_last: bool, longer: float = -jnp.inf) -> "Ending":
        """The ending of a grid; without a grid no order is lowered."""
        none = jnp.asarray(-jnp.inf)
        if grid is None:
            return cls(jnp.stack([none, none]), none, none)
        before = none if denoise_last else grid[-2]
        single = none if denoise_last else grid[-1]
        return cls(jnp.stack([before, grid[-1]]), jnp.asarray(single), jnp.asarray(longer))


class Past(NamedTuple):
    """The values of the view at earlier times, latest first, and 1 / h of the steps since each.

    A rate of 0 stands for a step that does not exist, and gives its value no weight. In encoding, h
    is negative. `ending` tells where the order falls.
    """

    values: tuple[Array, ...]
    rates: tuple[Array, ...]
    ending: Ending

    @classmethod
    def none(cls, x: Array, size: int, ending: Ending) -> "Past":
        return cls((jnp.zeros_like(x),) * size, (jnp.zeros((), x.dtype),) * size, ending)

    def push(self, value: Array, rate: Array) -> "Past":
        size = len(self.values)
        return Past((value, *self.values)[:size], (rate, *self.rates)[:size], self.ending)

    def linear(self, s: Array) -> Array:
        """Whether the step to s uses d1 only: the second step, and the last ones of `ending`."""
        return (self.rates[1] == 0.0) | jnp.any(s == self.ending.linear)

    def differences(self, value: Array, h: Array, s: Array) -> tuple[Array, ...]:
        """(d1, d2, d3) of Newton's formula for a step to s, as many as there are values."""
        if not self.values:
            return ()
        single = (s == self.ending.single) & (h * self.rates[0] > self.ending.longer)
        return tuple(jnp.where(single, 0.0, d) for d in self._differences(value, h, s))

    def _differences(self, value: Array, h: Array, s: Array) -> tuple[Array, ...]:
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
        """The weights of the differences: h times the integrals of their factors."""
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
        """The factors of the differences at the end of the step, u = 1."""
        return (1.0, 1.0 + span.h * self.rates[0])[: len(self.values)] if self.values else ()


def few(grid: Array | None, denoise_last: bool) -> bool:
    """Whether the steps along a grid, and the denoising after them, are few evaluations."""
    return grid is not None and len(grid) - 1 + denoise_last < FEW


class MultistepState(NamedTuple):
    """The sample and the values before it."""

    x: Array
    past: Past


@dataclasses.dataclass(frozen=True)
class Multistep(Exponential):
    @property
    def kept(self) -> int:
        """The number of values that are kept from earlier steps."""
        return self.order - 1

    def init(
        self, x: Array, grid: Array | None = None, denoise_last: bool = True
    ) -> MultistepState:
        # In eps, a last step of order 1 was measured to be worse than one of order 2, even if long.
        lowered = grid if few(grid, denoise_last) else None
        ending = Ending.of(lowered, denoise_last or self.view == "eps")
        return MultistepState(x, Past.none(x, self.kept, ending))

    def weights(self, past: Past, span: Span, s: Array) -> tuple[Array, ...]:
        return past.weights(span)

    def step(
        self, key: Keys, model: Counted, state: MultistepState, t: Array, s: Array, cond: Any = None
    ) -> MultistepState:
        sde = model.sde
        prediction, span = model(state.x, t, cond), self.span(sde, t, s)
        value = seen(self.view, prediction)
        x = self.euler(prediction, s)
        differences = state.past.differences(value, span.h, s)
        for weight, difference in zip(self.weights(state.past, span, s), differences, strict=True):
            x = x + span.scale * weight * difference
        return MultistepState(x, state.past.push(value, span.rate))
