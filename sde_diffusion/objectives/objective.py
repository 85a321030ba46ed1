"""Objective: what a step of training minimizes, whatever is trained.

    objective(params, key, batch, *, frozen, ema, step) -> (loss [B], metrics)

The mean of the loss is minimized with respect to `params` alone. A loss of a few lines that needs
none of the keyword arguments becomes an objective by `of_loss`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sde_diffusion.sdes import Array

Metrics = Mapping[str, Array]


class Objective(Protocol):
    """objective(params, key, batch, *, frozen, ema, step) -> (loss [B], metrics).

    Args:
        params: what is trained.
        key: the source of all randomness of this update.
        batch: a pytree of arrays [B, ...].
        frozen: a pytree that is used and not trained (a teacher, the base under an adapter, a
            codec, a text encoder), or None.
        ema: the moving averages of the parameters before this update, one for each rate.
        step: the number of earlier updates, an int32 scalar.

    Returns:
        The loss of each sample, and scalars by name, which are reported beside the loss. The names
        of what every record has ("loss", "grad_norm", "learning_rate", ...) are taken.
    """

    def __call__(
        self, params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]: ...


def of_loss(loss: Callable[[Any, Array, Any], Array]) -> Objective:
    """The objective of a function loss(params, key, batch) -> [B], without metrics."""

    def objective(
        params: Any, key: Array, batch: Any, *, frozen: Any, ema: tuple[Any, ...], step: Array
    ) -> tuple[Array, Metrics]:
        del frozen, ema, step
        return loss(params, key, batch), {}

    return objective
