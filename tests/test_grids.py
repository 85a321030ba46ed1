"""Time grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids
from sde_diffusion.sdes import KINDS

FINITE = {name: kind() if name != "flow" else sd.Flow(t_max=0.999) for name, kind in KINDS.items()}

CHAIN = ["leading", "trailing", "linspace"]
OTHER_NAMES = {"exponential": "log_snr"}
NAMES = [name for name in grids.GRIDS if name not in OTHER_NAMES]
CONTINUOUS = [name for name in NAMES if name not in CHAIN]


@pytest.mark.parametrize("grid", CONTINUOUS)
@pytest.mark.parametrize("name", FINITE)
def test_falls_from_t_max_to_t_min_exactly(name, grid):
    sde = FINITE[name]
    for t_min, t_max in ((None, None), (0.1 * sde.t_max, 0.7 * sde.t_max)):
        times = np.asarray(grids.named(grid, sde, 17, t_min=t_min, t_max=t_max))
        assert len(times) == 18
        assert times[0] == np.float32(t_max or sde.t_max)
        assert times[-1] == np.float32(t_min or sde.t_min)
        assert np.all(np.diff(times) < 0)


@pytest.mark.parametrize("grid", CONTINUOUS)
def test_ends_are_those_of_the_sde_unless_they_are_given(grid):
    given = grids.named(grid, sd.VP(), 9, t_min=0.01, t_max=0.8)
    np.testing.assert_array_equal(given, grids.named(grid, sd.VP(t_min=0.01, t_max=0.8), 9))


@pytest.mark.parametrize("grid", CHAIN)
def test_ends_of_a_chain_leave_times_out_and_raise_the_last(grid):
    made = np.asarray(grids.named(grid, sd.VP(), 9, num_scales=101, t_min=0.025, t_max=0.604))
    assert made[0] == np.float32({"leading": 0.54}.get(grid, 0.6))
    assert made[-1] == np.float32({"trailing": 0.05}.get(grid, 0.025))
    np.testing.assert_allclose(made[:-1] * 100, np.round(made[:-1] * 100), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"t_max": 1.5}, "t_max must be from 0 to the t_max of VP, 1, got 1.5"),
        ({"t_min": -0.1}, "t_min must be from 0 to the t_max of VP, 1, got -0.1"),
        ({"t_min": 0.5, "t_max": 0.5}, "t_min must be below t_max, got 0.5 and 0.5"),
    ],
)
@pytest.mark.parametrize("grid", NAMES)
def test_ends_outside_the_process_are_an_error(grid, fields, message):
    with pytest.raises(ValueError, match=message):
        grids.named(grid, sd.VP(), 10, **fields)


@sd.kind
class Squared(sd.SDE):
    """alpha is 1.9e-15 at t = 1 in float32, and its log-SNR -34."""

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * jnp.asarray(t)) ** 2

    def sigma(self, t):
        return jnp.sqrt(1.0 - self.alpha(t) ** 2)


@pytest.mark.parametrize("grid", CONTINUOUS)
def test_times_that_float32_cannot_tell_apart_are_refused(grid):
    if grid in ("log_snr", "karras"):
        with pytest.raises(ValueError, match=f"{grid} with 40 steps on .* cannot tell apart"):
            grids.named(grid, Squared(), 40)
    for sde, t_max in ((Squared(), 0.999), (sd.Flow(t_max=0.9999999), 0.999999)):
        times = np.asarray(grids.named(grid, sde, 40, t_max=t_max))
        assert np.all(np.diff(times) < 0)
    if grid not in ("log_snr", "karras"):
        assert np.all(np.diff(grids.named(grid, Squared(), 40)) < 0)


@pytest.mark.parametrize(("other", "name"), OTHER_NAMES.items())
def test_a_grid_of_two_names_is_one_function(other, name):
    assert grids.GRIDS[other] is grids.GRIDS[name]


@pytest.mark.parametrize("name", FINITE)
def test_log_snr_is_uniform_in_log_snr(name):
    sde = FINITE[name]
    steps = np.diff(sde.log_snr(grids.log_snr(sde, 10)))
    np.testing.assert_allclose(steps, steps.mean(), rtol=2e-3)


@pytest.mark.parametrize("name", ["vp", "ve", "edm"])
def test_log_snr_is_the_exponential_spacing_of_sigma(name):
    sde = FINITE[name]
    made = sde.sigma(times := grids.log_snr(sde, 10)) / sde.alpha(times)
    expected = np.exp(np.linspace(np.log(made[0]), np.log(made[-1]), 11))
    np.testing.assert_allclose(made, expected, rtol=1e-3)


def test_karras_is_equation_5_of_the_paper():
    i = np.arange(19)
    expected = (80 ** (1 / 7) + i / 18 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(grids.karras(sd.EDM(), 18), expected, rtol=1e-4)


def test_quadratic_is_uniform_in_the_root():
    steps = np.diff(np.sqrt(grids.quadratic(sd.VP(), 10)))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_cosine_is_uniform_in_the_angle(name):
    sde = KINDS[name]()
    times = grids.cosine(sde, 10)
    steps = np.diff(np.arctan2(sde.sigma(times), sde.alpha(times)))
    np.testing.assert_allclose(steps, steps.mean(), rtol=2e-3)


def test_beta_is_uniform_in_its_quantiles():
    # 1/2, 1/2 is the arcsine distribution, whose quantiles are sin^2(pi u / 2)
    expected = np.sin(0.5 * np.pi * np.linspace(1.0, 0.0, 11)) ** 2
    made = grids.beta(sd.VP(t_min=0.0), 10, a=0.5, b=0.5)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_spacings_of_a_chain_are_those_of_their_table():
    # Lin et al. 2024, table 2, ten of a thousand steps, which they count from 1
    leading, trailing = grids.leading(sd.VP(), 9), grids.trailing(sd.VP(), 9)
    np.testing.assert_allclose(leading[:-1] * 999 + 1, np.arange(901, 1, -100), rtol=1e-5)
    np.testing.assert_allclose(trailing * 999 + 1, np.arange(1000, 0, -100), rtol=1e-5)
    assert leading[-1] == np.float32(sd.VP().t_min)
    made = grids.linspace(sd.VP(t_min=0.0), 9) * 999
    np.testing.assert_allclose(made, np.linspace(0, 999, 10)[::-1], atol=1e-4)


def test_an_offset_moves_every_time_of_leading():
    times = np.asarray(grids.leading(sd.VP(), 9, steps_offset=1), np.float64) * 999
    np.testing.assert_allclose(times, np.arange(901, 0, -100), atol=1e-3)
    with pytest.raises(ValueError, match="leading with 9 steps and steps_offset=100 leaves the"):
        grids.leading(sd.VP(), 9, steps_offset=100)


def test_to_first_ends_at_the_first_time_in_as_many_steps():
    sde = sd.VP(t_min=0.0)
    leading = np.asarray(grids.leading(sde, 10, steps_offset=1, to_first=True), np.float64) * 999
    np.testing.assert_allclose(leading, [*np.arange(901, 0, -100), 0], atol=1e-3)
    trailing = np.asarray(grids.trailing(sde, 10, to_first=True), np.float64) * 999
    np.testing.assert_allclose(trailing, [*np.arange(999, 0, -100), 0], atol=1e-3)
    with pytest.raises(ValueError, match="ends at the chain's first time already"):
        grids.leading(sde, 10, to_first=True)


@pytest.mark.parametrize("grid", CHAIN)
@pytest.mark.parametrize("steps", [10, 50, 499, 999])
def test_a_grid_of_a_chain_falls_within_it(grid, steps):
    sde = sd.EDM()
    times = np.asarray(grids.named(grid, sde, steps))
    assert np.all(np.diff(times) < 0)
    assert times[0] <= np.float32(sde.t_max)
    assert times[-1] >= np.float32(sde.t_min)


@pytest.mark.parametrize("grid", ["trailing", "linspace"])
def test_trailing_and_linspace_start_at_t_max_exactly(grid):
    for sde in FINITE.values():
        assert grids.named(grid, sde, 10)[0] == np.float32(sde.t_max)


@pytest.mark.parametrize("grid", CHAIN)
def test_more_steps_than_a_chain_has_are_an_error(grid):
    with pytest.raises(ValueError, match=f"{grid} takes at most 999 steps .* got 1000"):
        grids.named(grid, sd.VP(), 1000)
    assert len(grids.named(grid, sd.VE(), 1000, num_scales=1001)) == 1001


def test_leading_that_would_leave_out_a_great_part_is_an_error():
    with pytest.raises(ValueError, match="600 steps leaves out the noisiest 399 of 1000"):
        grids.leading(sd.VP(), 600)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 12, 14, 19, 29, 39])
def test_leading_covers_three_quarters_of_its_chain(steps):
    # one more of its steps from where it starts would be at or beyond 3/4 of 40 times
    times = np.asarray(grids.leading(sd.VE(), steps, num_scales=40)) * 39
    assert times[0] + times[-2] >= 0.75 * 40 - 1e-3


@pytest.mark.parametrize("grid", CHAIN)
def test_times_of_a_chain_up_to_t_min_are_an_error(grid):
    with pytest.raises(ValueError, match=f"{grid} with 999 steps has more than one time up to"):
        grids.named(grid, sd.VP(t_min=0.01), 999)


@pytest.mark.parametrize("grid", CHAIN)
def test_a_grid_of_a_chain_can_be_traced(grid):
    made = jax.jit(lambda t_min: grids.named(grid, sd.VP(t_min=t_min), 10))(1e-3)
    np.testing.assert_allclose(made, grids.named(grid, sd.VP(), 10), rtol=1e-6)


def test_can_be_traced():
    slope = jax.grad(lambda t_max: jnp.sum(grids.uniform(sd.VP(t_max=t_max), 4)))(1.0)
    np.testing.assert_allclose(slope, 0.0 + 0.25 + 0.5 + 0.75 + 1.0)


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown grid 'karas'; did you mean 'karras'\?"):
        grids.named("karas", sd.VP(), 10)


@pytest.mark.parametrize("grid", NAMES)
def test_no_steps_is_an_error(grid):
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        grids.named(grid, sd.VP(), 0)


@pytest.mark.parametrize("grid", ["log_snr", "karras"])
def test_a_grid_of_log_snr_needs_a_finite_one(grid):
    with pytest.raises(ValueError, match=r"Flow has no finite log-SNR at t_max=1"):
        grids.named(grid, sd.Flow(), 10)
    with pytest.raises(ValueError, match=r"EDM has no finite log-SNR at t_min=0"):
        grids.named(grid, sd.EDM(t_min=0.0), 10)


@pytest.mark.parametrize(
    ("sde", "times", "message"),
    [
        (sd.VP(), [1.0, 0.5, -0.1], "between 0 and t_max=1, got times from 1 to -0.1"),
        (sd.VP(), [1.2, 0.5], "between 0 and t_max=1, got times from 1.2 to 0.5"),
        (sd.EDM(), [80.0, 1.0, 0.0], "EDM has no noise at t = 0: end the grid above it"),
    ],
)
def test_a_grid_by_hand_that_leaves_the_process_is_an_error(sde, times, message):
    model = sd.from_x0(sde, lambda x, t: x)
    with pytest.raises(ValueError, match=message):
        sd.sample(
            jax.random.key(0), model, (1, 2), solver=sd.samplers.DDIM(), grid=jnp.array(times)
        )


def test_a_grid_may_end_at_0_where_there_is_noise_left():
    sde = sd.VE()
    model = sd.analytic.Gaussian.of(jnp.zeros(2), jnp.array(1.0)).model(sde)
    grid = jnp.array([1.0, 0.5, 0.0])
    made = sd.sample(jax.random.key(0), model, (4, 2), solver=sd.samplers.DDIM(), grid=grid)
    assert np.all(np.isfinite(made.x))
