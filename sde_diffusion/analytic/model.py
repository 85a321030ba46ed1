"""An exact distribution as a model(x, t) -> Prediction like any other."""

from typing import Protocol

import jax.numpy as jnp
from jax.tree_util import Partial

from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import SDE, Array, Time


class Exact(Protocol):
    """A distribution that knows its optimal denoiser at every t."""

    def denoise(self, sde: SDE, x: Array, t: Time) -> Array: ...


def exact_model(exact: Exact, sde: SDE) -> Partial:
    """The exact model of a distribution under an SDE; the distribution must be a pytree."""
    return Partial(_predict, exact, sde)


def _predict(exact: Exact, sde: SDE, x: Array, t: Time) -> Prediction:
    # The denoised sample, not the score: it stays accurate where sigma vanishes.
    t = jnp.asarray(t, x.dtype)
    return Prediction("x0", exact.denoise(sde, x, t), x, t, sde)
