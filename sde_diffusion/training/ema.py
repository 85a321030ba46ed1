"""Exponential moving averages (EMA) of the parameters, with a warm-up."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def check_rates(rates: Sequence[float]) -> tuple[float, ...]:
    """The rates as a tuple; ValueError unless each is in [0, 1)."""
    for rate in rates:
        if not 0 <= rate < 1:
            raise ValueError(f"ema_rates: {rate} is not in [0, 1)")
    return tuple(rates)


def rate_at(rate: float, step: jax.Array) -> jax.Array:
    """The rate of the update after `step` earlier ones: min(rate, (1 + step) / (10 + step)).

    Early in a run the average covers about the last tenth of the updates. It so forgets the initial
    parameters even if the rate is close to 1. `tf.train.ExponentialMovingAverage(num_updates=...)`
    has the same rule.
    """
    return jnp.minimum(rate, (1.0 + step) / (10.0 + step))


def update_ema(ema: Any, params: Any, rate: jax.Array) -> Any:
    """rate * ema + (1 - rate) * params, leaf by leaf."""
    # Written as an increment, so that an ema equal to params stays exactly equal.
    return jax.tree.map(lambda e, p: e + (1 - rate) * (p - e), ema, params)
