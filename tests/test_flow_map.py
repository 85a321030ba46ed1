"""Flow maps: exact where known, the identity at s = t, and composed of their parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import flow_map, parameterization
from sde_diffusion.analytic import Gaussian, GaussianMixture

GAUSSIAN = Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[0.3, 0.2], [0.2, 0.25]]))
MIXTURE = GaussianMixture.of(jnp.array([[0.8, 0.0], [-0.8, 0.3]]), 0.2)
SDES = {
    "vp": sd.VP(),
    "subvp": sd.SubVP(),
    "ve": sd.VE(),
    "edm": sd.EDM(t_min=0.02),
    "cosine": sd.Cosine(),
    "flow": sd.Flow(),
}


def starts(sde, num=16):
    return sde.sigma(sde.t_max) * jax.random.normal(jax.random.key(0), (num, 2))


@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_a_fine_solution_is_the_linear_map_of_a_gaussian(name):
    sde = SDES[name]
    x, low = starts(sde), sde.t_min + 0.05 * (sde.t_max - sde.t_min)
    t, s = jnp.full(len(x), sde.t_max), jnp.linspace(low, 0.6 * sde.t_max, len(x))
    model = GAUSSIAN.model(sde)
    exact = model.flow_map(x, t, s)
    fine = jax.jit(lambda x: flow_map.solved(model).flow_map(x, t, s))(x)
    scale = float(jnp.max(jnp.abs(exact.x)))
    np.testing.assert_allclose(fine.x, exact.x, atol=2e-5 * scale)
    assert np.all(exact.error == 0.0)
    assert fine.evaluations == 6 * 64
    # The estimate covers the error, up to what float32 rounds.
    off = np.sqrt(np.mean((fine.x - exact.x) ** 2, axis=-1))
    assert np.all(off <= 10.0 * fine.error + 2e-6 * scale)


def test_the_map_of_a_mixture_goes_back_and_is_made_of_its_parts():
    sde = sd.VP()
    model, x = MIXTURE.model(sde), starts(sde)
    whole = model.flow_map(x, 1.0, 0.1)
    middle = model.flow_map(x, 1.0, 0.5).x
    np.testing.assert_allclose(model.flow_map(middle, 0.5, 0.1).x, whole.x, atol=1e-4)
    np.testing.assert_allclose(model.flow_map(whole.x, 0.1, 1.0).x, x, atol=2e-4)
    assert np.max(whole.error) < 1e-4


@pytest.mark.parametrize("name", SDES)
def test_a_networks_map_is_the_identity_at_equal_times(name):
    sde = SDES[name]
    model = sd.from_flow_map_network(sde, wild, 3.0, "v")
    x = starts(sde)
    for t in (sde.t_max, 0.5 * sde.t_max):
        np.testing.assert_array_equal(model.flow_map(x, t, t).x, x)


def wild(scale, x, t, s, *cond):
    return scale * jnp.sin(3.0 * x + (t - s)[:, None]) + sum(cond)


def test_the_prediction_of_a_network_of_two_times_is_that_towards_its_own_time():
    sde = sd.VP()
    model = sd.from_flow_map_network(sde, wild, 1.0, "v")
    one_time = sd.from_network(sde, lambda scale, x, t: wild(scale, x, t, t), 1.0, "v")
    x = starts(sde)
    np.testing.assert_allclose(model(x, 0.5).x0, one_time(x, 0.5).x0, rtol=1e-6)
    given = model.flow_map(x, 0.5, 0.2, jnp.ones((len(x), 1)))
    assert given.evaluations == 1
    assert not np.allclose(given.x, model.flow_map(x, 0.5, 0.2, jnp.zeros((len(x), 1))).x)


def test_the_average_velocity_of_the_straight_path_is_that_of_meanflow():
    sde = sd.Flow()
    model = sd.from_flow_map_network(sde, wild, 1.0, parameterization.Flow())
    x, t, s = starts(sde), 0.8, 0.3
    u = flow_map.predicted_towards(model, x, t, s).velocity
    np.testing.assert_allclose(model.flow_map(x, t, s).x, x - (t - s) * u, rtol=1e-5, atol=1e-6)


def test_below_t_min_the_label_stays_and_the_noise_goes():
    sde = sd.EDM(t_min=0.02)
    model = sd.from_flow_map_network(sde, wild, 1.0)
    x = starts(sde)
    prediction = flow_map.predicted_towards(model, x, 2.0, sde.t_min)
    np.testing.assert_allclose(model.flow_map(x, 2.0, 0.0).x, prediction.x0, rtol=1e-6)


def test_a_consistency_model_of_one_time_is_exact_to_the_data_and_minimizes_its_losses():
    sde = sd.EDM(t_min=0.02, t_max=10.0)
    exact = GAUSSIAN.model(sde)

    def x0(x, t):
        """The x0 whose line from x ends where the flow does."""
        ratio = sde.t_min / t[:, None]
        return (exact.flow_map(x, t, sde.t_min).x - ratio * x) / (1.0 - ratio)

    model = flow_map.to_the_data(sd.from_x0(sde, x0))
    x = starts(sde)
    end = exact.flow_map(x, sde.t_max, sde.t_min).x
    np.testing.assert_allclose(model.flow_map(x, sde.t_max, sde.t_min).x, end, atol=1e-4)
    np.testing.assert_allclose(model.flow_map(x, 5.0, 5.0).x, x, rtol=1e-5)
    towards = [flow_map.predicted_towards(model, x, jnp.full(16, 5.0), s).x0 for s in (0.1, 1.0)]
    np.testing.assert_array_equal(*towards)

    wrong = flow_map.to_the_data(exact)
    for loss, options in (
        (sd.objectives.trajectory_loss, {"steps": 16, "to_end": 1.0, "pairs": 1}),
        (sd.objectives.consistency_loss, {"schedule": sd.objectives.SCHEDULES["karras"](64)}),
    ):
        function = partial(loss, jax.random.key(1), x0=x, teacher=exact, **options)
        mean = jax.jit(lambda student, function=function: jnp.mean(function(student=student)))
        values = [mean(student) for student in (model, wrong)]
        assert values[0] < 0.02 * values[1]


def test_what_is_refused():
    plain = sd.from_x0(sd.VP(), lambda x, t: x)
    with pytest.raises(ValueError, match="the model has no flow map"):
        plain.flow_map(jnp.ones((2, 2)), 1.0, 0.5)
    with pytest.raises(ValueError, match="no prediction towards a second time"):
        flow_map.predicted_towards(flow_map.solved(plain), jnp.ones((2, 2)), 1.0, 0.5)
    with pytest.raises(ValueError, match="even number of steps of at least 2, got 3"):
        flow_map.solved(plain, steps=3)
    with pytest.raises(ValueError, match="does not fit Flow"):
        sd.from_flow_map_network(sd.Flow(), wild, 1.0, "ddpm")
    shaped = sd.from_flow_map_network(sd.VP(), lambda v, x, t, s: x[:1], 1.0, "v")
    with pytest.raises(ValueError, match=r"returned shape \(1, 2\)"):
        shaped.flow_map(jnp.ones((2, 2)), 1.0, 0.5)
