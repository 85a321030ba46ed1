"""A config that trains on the chain of a published schedule, in plain values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion.config import build, choice, default, schema

STABLE_DIFFUSION = choice("sde", "tabulated", schedule="scaled_linear", zero_terminal_snr=True)


def config(**fields):
    made = default()
    made.sde = STABLE_DIFFUSION
    made.loss.times = choice("loss.times", "chain")
    made.parameterization = choice("parameterization", "v", **fields)
    return made


def test_a_chain_is_a_choice_of_plain_values_that_go_through_json():
    read = schema.from_json(schema.to_json(config()))
    assert build.sde(read) == sd.sdes.tabulated("scaled_linear", zero_terminal_snr=True)


def test_its_times_and_labels_are_those_of_the_chain():
    made = config()
    times = sd.objectives.time_density.TIMES[made.loss.times.name]()
    t, _ = times(build.sde(made), jax.random.uniform(jax.random.key(0), (64,)))
    label = build.parameterization(made).label(build.sde(made), t)
    np.testing.assert_array_equal(label, np.round(label))
    assert label.min() >= 0
    assert label.max() <= 999


def test_labels_of_another_number_than_the_chain_has_times_are_an_error():
    message = "config.parameterization.num_scales is 500, but config.sde has a chain of 1000 times"
    with pytest.raises(ValueError, match=message):
        build.parameterization(config(num_scales=500))


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="unknown schedule 'cosine'"):
        build.sde(schema.override(config(), {"sde.schedule": "cosine"}))


def test_a_grid_has_no_ends_of_its_own_in_a_config():
    assert not {"t_min", "t_max"} & set(choice("sampling.grid", "karras"))
    made = schema.override(config(), {"sampling.grid.name": "trailing", "sampling.steps": "9"})
    np.testing.assert_array_equal(build.grid(made), jnp.arange(999, 0, -100))
