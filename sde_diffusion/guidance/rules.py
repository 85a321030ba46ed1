"""Rules: how a positive and a negative prediction are combined under a weight.

Each is a value `rule(positive, negative, weight, fixed) -> Prediction` with a weight [] or [B];
`fixed` tells that the weight does not change with time.
"""

import dataclasses

import jax.numpy as jnp

from sde_diffusion.guidance.combine import extrapolated
from sde_diffusion.prediction import NO_CORRECTION, PREDICTIONS, Prediction
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import Array, expand
from sde_diffusion.sdes.base import require
from sde_diffusion.selection import require_known


@pytree
class Linear:
    """negative + w (positive - negative): w = 0 is the negative, w = 1 the positive branch."""

    def __call__(
        self, positive: Prediction, negative: Prediction, weight: Array, fixed: bool
    ) -> Prediction:
        return extrapolated(negative, [(weight, positive)], fixed)


@pytree
class Rescaled:
    """`Linear`, a share of which is scaled to the standard deviation of the positive branch.

        y = linear (share std(positive) / std(linear) + 1 - share)

    The standard deviations are those of a sample's own values, in one view: large weights raise
    them, which overexposes images. The paper scales the network's output, which there is v; here
    the `view` is named, so that the result does not depend on what the network predicts. Lin et
    al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", sec. 3.4, who use a
    share of 0.7.
    """

    share: Array | float = 0.7
    view: str = dataclasses.field(default="v", metadata={"static": True})

    def __post_init__(self) -> None:
        require_known("view", self.view, PREDICTIONS)
        require(
            lambda share: 0 <= share <= 1, "Rescaled takes a share from 0 to 1", share=self.share
        )

    def __call__(
        self, positive: Prediction, negative: Prediction, weight: Array, fixed: bool
    ) -> Prediction:
        linear = extrapolated(negative, [(weight, positive)], fixed)
        guided, wanted = linear.view(self.view), _std(positive.view(self.view))
        std = _std(guided)
        ratio = jnp.where(std > 0.0, wanted / jnp.where(std > 0.0, std, 1.0), 1.0)
        value = expand(self.share * ratio + 1.0 - self.share, guided) * guided
        return dataclasses.replace(linear, kind=self.view, value=value, correction=NO_CORRECTION)


@pytree
class Projected:
    """Adaptive projected guidance: less of the change that is parallel to the positive x0.

        d = positive.x0 - negative.x0,   scaled down to |d| <= bound
        x0 = positive.x0 + (w - 1) (d orthogonal + parallel d parallel)

    "Parallel" and "orthogonal" are to positive.x0, over a sample's values. parallel = 1 without a
    bound is `Linear`. Sadat et al. 2025, "Eliminating Oversaturation and Artifacts of High Guidance
    Scales in Diffusion Models", who also average d over the steps; a Model has no memory, so that
    average is left out.
    """

    parallel: Array | float = 0.0
    bound: Array | float | None = None

    def __post_init__(self) -> None:
        if self.bound is not None:
            require(lambda bound: bound > 0, "Projected takes a bound above 0", bound=self.bound)

    def __call__(
        self, positive: Prediction, negative: Prediction, weight: Array, fixed: bool
    ) -> Prediction:
        del fixed
        axes = tuple(range(1, positive.x.ndim))
        wanted = positive.x0
        change = wanted - negative.x0
        if self.bound is not None:
            length = jnp.sqrt(jnp.sum(change**2, axis=axes, keepdims=True))
            change = change * (self.bound / jnp.maximum(length, self.bound))
        square = jnp.sum(wanted**2, axis=axes, keepdims=True)
        along = jnp.sum(change * wanted, axis=axes, keepdims=True)
        parallel = along / jnp.where(square > 0.0, square, 1.0) * wanted
        kept = change - (1.0 - self.parallel) * parallel
        moved = positive.with_x0_moved(expand(weight - 1.0, kept) * kept)
        return dataclasses.replace(moved, evaluations=positive.evaluations + negative.evaluations)


Rule = Linear | Rescaled | Projected


def _std(value: Array) -> Array:
    """The standard deviation of each sample's values, [B]."""
    return jnp.std(value, axis=tuple(range(1, value.ndim)))
