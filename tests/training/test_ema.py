import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_diffusion.training.ema import check_rates, rate_at, update_ema

values = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20)
rates = st.floats(0, 0.99999)


# The first call compiles.
@settings(deadline=None)
@given(values, rates)
def test_the_average_is_the_weighted_sum_of_all_parameters_so_far(params, rate):
    # Unrolled: parameters n have the weight (1 - r_n) r_{n+1} r_{n+2} ..., the start what is left.
    per_step = np.minimum(rate, (1.0 + np.arange(len(params))) / (10.0 + np.arange(len(params))))
    tails = np.cumprod(np.append(per_step, 1.0)[::-1])[::-1]
    expected = np.dot((1 - per_step) * tails[1:], params) + tails[0] * 5.0

    ema = jnp.float32(5.0)
    for step, value in enumerate(params):
        ema = update_ema(ema, jnp.float32(value), rate_at(rate, jnp.int32(step)))

    np.testing.assert_allclose(ema, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6, width=32), rates)
def test_parameters_that_do_not_change_are_their_own_average_exactly(value, rate):
    params = jnp.float32(value)
    assert update_ema(params, params, rate_at(rate, jnp.int32(3))) == params


def test_the_rate_warms_up_from_a_tenth_to_its_value():
    at = [float(rate_at(0.999, jnp.int32(step))) for step in (0, 90, 8989, 100_000)]
    np.testing.assert_allclose(at, [0.1, 0.91, 8990 / 8999, 0.999], rtol=1e-6)


@pytest.mark.parametrize("rate", [1.0, -0.1, 999])
def test_a_rate_outside_0_1_is_named(rate):
    with pytest.raises(ValueError, match=f"ema_rates: {rate}"):
        check_rates([0.9, rate])
