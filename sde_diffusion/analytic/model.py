"""An exact distribution as a model(x, t) -> Prediction like any other."""

from typing import Protocol

import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array, Time, expand


class Exact(Protocol):
    """A distribution that knows its score and its optimal denoiser at every t."""

    def score(self, sde: SDE, x: Array, t: Time) -> Array: ...
    def denoise(self, sde: SDE, x: Array, t: Time) -> Array: ...


def exact_model(exact: Exact, sde: SDE) -> Partial:
    """The exact model of a distribution under an SDE; the distribution must be a pytree."""
    return Partial(_predict, exact, sde)


def _predict(exact: Exact, sde: SDE, x: Array, t: Time) -> Prediction:
    # As v = alpha eps - sigma x0, from which every view keeps its digits in float32: the score
    # that follows from x0 loses them at small sigma, and the x0 from the score at large sigma.
    t = jnp.asarray(t, x.dtype)
    sigma = expand(sde.sigma(t), x)
    eps = -sigma * exact.score(sde, x, t)
    v = expand(sde.alpha(t), x) * eps - sigma * exact.denoise(sde, x, t)
    return Prediction("v", v, x, t, sde)
