"""Conditions that are left out in training."""

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise
from sde_diffusion.objectives import drop_conditions

NUM = 20_000
KEYS = noise.sample_keys(jax.random.key(0), NUM)
COND = {
    "label": jnp.ones(NUM, jnp.int32),
    "tokens": jnp.full((NUM, 3), 7),
    "image": jnp.full((NUM, 2, 1), 0.5),
}
NULL = {"label": -1, "tokens": jnp.array([1, 2, 0]), "image": jnp.nan}


def dropped(rates):
    """Which samples have their null, for each condition; a sample has all of it or none."""
    made = drop_conditions(KEYS, COND, rates, NULL)
    found = {}
    for name, value in made.items():
        null = np.broadcast_to(NULL[name], value.shape)
        is_null = np.isclose(value, null, equal_nan=True).reshape(NUM, -1)
        kept = np.isclose(value, COND[name]).reshape(NUM, -1)
        assert np.all(is_null.all(1) ^ kept.all(1))
        assert value.dtype == COND[name].dtype
        found[name] = is_null.all(1)
    return found


def test_each_condition_is_dropped_at_its_own_rate_and_independently():
    rates = {"label": 0.1, "tokens": 0.3, "image": 0.5}
    found = dropped(rates)
    for name, rate in rates.items():
        assert abs(found[name].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / NUM)
    together = (found["label"] & found["tokens"] & found["image"]).mean()
    assert abs(together - 0.015) < 4 * np.sqrt(0.015 / NUM)


def test_without_a_rate_nothing_is_dropped():
    found = dropped({"image": 0.0})
    assert not any(np.any(mask) for mask in found.values())


def test_a_sample_is_dropped_by_its_own_key_whatever_its_batch():
    rates = {"label": 0.5}
    whole = drop_conditions(KEYS[:64], {"label": COND["label"][:64]}, rates, NULL)["label"]
    half = drop_conditions(KEYS[32:64], {"label": COND["label"][32:64]}, rates, NULL)["label"]
    np.testing.assert_array_equal(half, whole[32:])
