"""Conditions left out at random in training, so that guidance can ask for a model without them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.sdes import Array


def drop_conditions(
    keys: Array, cond: Mapping[str, Array], rates: Mapping[str, float], null: Mapping[str, Any]
) -> dict[str, Array]:
    """Each condition of each sample, with probability `rates[name]` its null instead.

    Conditions are dropped independently of each other; a name without a rate, or with a rate of 0,
    is kept. Classifier-free guidance needs it: Ho & Salimans 2022.

    Args:
        keys: [B], one for each sample.
        cond: arrays [B, ...] by name.
        rates: probabilities by name.
        null: by name what takes the place of a condition: a number, or an array [...].
    """
    kept = dict(cond)
    for i, name in enumerate(sorted(cond)):
        if rates.get(name, 0.0) == 0.0:
            continue
        value = cond[name]
        dropped = jax.vmap(lambda key, rate=rates[name]: jax.random.bernoulli(key, rate))(
            noise.fold_in(keys, i)
        )
        dropped = dropped.reshape(dropped.shape + (1,) * (value.ndim - 1))
        kept[name] = jnp.where(dropped, jnp.asarray(null[name], value.dtype), value)
    return kept
