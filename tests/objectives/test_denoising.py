"""Losses against the minimum that Gaussian data gives in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import sde_diffusion as sd
from sde_diffusion import objectives, prediction, training
from sde_diffusion.objectives import time_density, weighting
from sde_diffusion.sdes import KINDS

SDES = {name: kind() for name, kind in KINDS.items()} | {
    "flow": sd.Flow(t_max=0.99),
    "tabulated": sd.sdes.tabulated("squared_cosine", num_scales=8),  # integrated piece by piece
}
DATA = sd.analytic.Gaussian.of(jnp.array([0.7, -0.4]), jnp.array([0.8, 0.1]))
WEIGHTINGS = {name: make() for name, make in objectives.WEIGHTINGS.items()} | {
    view: weighting.constant(view) for view in ("velocity", "v")
}
NUM = 100_000


def x0():
    return DATA.sample(jax.random.key(1), NUM)


def on_eps(weight, sde, t):
    """The weight on the squared error of eps that a weighting of another view amounts to."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    ratio = {  # of the view's error to that of eps
        "eps": 1.0,
        "x0": sigma / alpha,
        "score": 1.0 / sigma,
        "v": (alpha**2 + sigma**2) / alpha,
        "velocity": 0.5 * sde.diffusion(t) ** 2 / sigma,
    }[weight.on]
    return weight.weight(sde, t) * ratio**2


def minimum(sde, weight):
    """The average over uniform t of w(t) E ||eps - E[eps | x_t]||^2 / D, by quadrature."""
    low, high = float(sde.t_min), float(sde.t_max)

    def integrand(log_t):
        t = jnp.exp(log_t)
        return float(on_eps(weight, sde, t) * DATA.loss(sde, t) * t)

    with jax.enable_x64(True):
        start = max(low, 1e-6 * high)  # no loss that counts is before
        ends = np.log(start), np.log(high)
        return quad(integrand, *ends, limit=200, epsrel=1e-5)[0] / (high - low)


@pytest.mark.parametrize("kind", ["constant", "edm", "min_snr", "sigmoid", "velocity", "v"])
@pytest.mark.parametrize("name", ["vp", "subvp", "cosine", "flow"])
def test_the_exact_model_reaches_the_minimum(name, kind):
    sde, weight = SDES[name], WEIGHTINGS[kind]
    values = objectives.denoising_loss(
        jax.random.key(0),
        DATA.model(sde),
        x0(),
        weighting=weight,
        draw=time_density.stratified,
    )
    error = 4.0 * float(np.std(values)) / np.sqrt(NUM)
    assert float(np.mean(values)) == pytest.approx(minimum(sde, weight), abs=error)


@pytest.mark.parametrize("name", SDES)
def test_importance_sampling_leaves_the_likelihood_objective_as_it_is(name):
    # uniform t would need far more samples: the weight g^2 / sigma^2 diverges at t = 0
    sde = SDES[name]
    values = objectives.denoising_loss(
        jax.random.key(0),
        DATA.model(sde),
        x0(),
        weighting=weighting.likelihood(),
        times=time_density.importance(),
    )
    error = 4.0 * float(np.std(values)) / np.sqrt(NUM) + 1e-3
    assert float(np.mean(values)) == pytest.approx(minimum(sde, weighting.likelihood()), abs=error)


def test_any_other_model_is_worse():
    sde = sd.VP()
    exact = DATA.model(sde)
    loss = partial(objectives.denoising_loss, jax.random.key(0), x0=x0())
    best = np.mean(loss(exact))
    for factor in (0.9, 1.1):
        other = sd.from_eps(sde, lambda x, t, factor=factor: factor * exact(x, t).eps)
        assert np.mean(loss(other)) > best


@pytest.mark.parametrize("kind", prediction.PREDICTIONS)
@pytest.mark.parametrize("name", SDES)
def test_every_kind_of_prediction_has_the_same_loss(name, kind):
    sde, data = SDES[name], DATA.sample(jax.random.key(1), 500)
    exact = DATA.model(sde)

    def wrong(x, t):  # the same wrong eps, told in another way
        given = exact(x, t)
        told = sd.from_eps(sde, lambda x, t: 1.1 * given.eps)(x, t)
        return getattr(told, kind)

    with jax.enable_x64(True):
        data = data.astype(jnp.float64)
        model = getattr(sd, f"from_{kind}")(sde, wrong)
        loss = objectives.denoising_loss(jax.random.key(0), model, data)
        eps = sd.from_eps(sde, lambda x, t: 1.1 * exact(x, t).eps)
        expected = objectives.denoising_loss(jax.random.key(0), eps, data)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_weights_are_those_of_the_papers():
    # each as a weight on the error of x0 or of the score, from (sigma / alpha)^2 and 1 / sigma^2
    sde, t = sd.VP(), jnp.array([0.1, 0.5, 0.9])
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    snr, s = (alpha / sigma) ** 2, sigma / alpha

    def weight(of):
        return on_eps(of, sde, t)

    on_x0 = snr  # ||eps error||^2 = SNR ||x0 error||^2
    edm = (s**2 + 0.25) / (0.5 * s) ** 2
    np.testing.assert_allclose(weight(weighting.edm(0.5)) * on_x0, edm, rtol=1e-5)
    np.testing.assert_allclose(
        weight(weighting.min_snr(5.0)) * on_x0, np.minimum(snr, 5.0), rtol=1e-5
    )
    on_score = sigma**2  # ||eps error||^2 = sigma^2 ||score error||^2
    np.testing.assert_allclose(
        weight(weighting.likelihood()) * on_score, sde.diffusion(t) ** 2, rtol=1e-5
    )
    np.testing.assert_allclose(weight(weighting.constant("eps")) * on_score, sigma**2, rtol=1e-5)
    rate = jax.vmap(jax.grad(lambda t: -2.0 * sde.log_snr(t)))(t)
    np.testing.assert_allclose(
        weight(weighting.sigmoid(1.0)), rate / (1 + np.exp(np.log(snr) - 1.0)), rtol=1e-4
    )


def test_the_error_of_a_velocity_counts_in_full_where_alpha_is_0():
    sde = sd.Flow()
    exact = DATA.model(sde)
    wrong = sd.from_velocity(sde, lambda x, t: exact(x, t).velocity + jnp.array([0.3, -0.4]))

    def excess(view):
        """The loss at t = 1 beyond that of the exact model, by the same noise."""
        options = {"times": lambda sde, u: (jnp.ones_like(u), u**0)}
        options["weighting"] = weighting.constant(view)
        loss = partial(objectives.denoising_loss, jax.random.key(0), x0=x0(), **options)
        return float(np.mean(loss(wrong)) - np.mean(loss(exact)))

    assert excess("velocity") == pytest.approx((0.3**2 + 0.4**2) / 2, rel=0.02)
    assert excess("eps") == 0.0


@pytest.mark.parametrize("name", objectives.WEIGHTINGS)
def test_weightings_on_x0_v_and_velocity_are_finite_where_alpha_is_0(name):
    given = objectives.WEIGHTINGS[name]()
    weight = given.weight(sd.Flow(), jnp.array([1.0]))
    assert np.isfinite(weight).all() or given.on == "eps"


def test_an_unknown_view_is_named():
    with pytest.raises(ValueError, match="'velocty'; did you mean 'velocity'"):
        weighting.constant("velocty")


def trained_velocity_error(view):
    """The root mean square error of the velocity at t = 1, after training by the loss on a view.

    The model is linear in x, with coefficients that are polynomials of cos(pi t).
    """
    sde = sd.Flow()

    def model(params, key=None):
        def velocity(x, t):
            cosines = jnp.cos(jnp.pi * t[:, None] * jnp.arange(8))
            linear = jnp.einsum("bk,kij,bi->bj", cosines, params["slope"], x)
            return linear + cosines @ params["shift"]

        return sd.from_velocity(sde, velocity)

    rate = training.make_schedule("cosine", lr=1e-2, total_steps=1000)
    recipe = training.Recipe(
        lambda key: {"slope": jnp.zeros((8, 2, 2)), "shift": jnp.zeros((8, 2))},
        objectives.denoising_objective(
            model,
            lambda key, batch, frozen: (batch, None),
            partial(objectives.denoising_loss, weighting=weighting.constant(view)),
        ),
        training.make_optimizer(learning_rate=rate),
        ema_rates=(),
    )
    batches = DATA.sample(jax.random.key(1), 1000 * 256).reshape(1000, 256, 2)
    state = training.init_state(recipe, jax.random.key(0))
    state, _ = training.make_step(recipe)(state, jax.random.key(2), batches)
    x, t = sde.prior_sample(jax.random.key(3), (10_000, 2)), jnp.ones(10_000)
    error = model(state.params)(x, t).velocity - DATA.model(sde)(x, t).velocity
    return float(jnp.sqrt(jnp.mean(error**2)))


def test_flow_matching_learns_the_velocity_where_sampling_begins():
    assert trained_velocity_error("velocity") < 0.05
    assert trained_velocity_error("eps") > 0.5


def test_reductions():
    squares = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(objectives.mean(squares), [2.5, 8.5])
    np.testing.assert_allclose(objectives.half_sum(squares), [7.5, 25.5])


def test_smld_is_the_objective_of_its_paper():
    # sigma_i^2 ||score + z / sigma_i||^2 with a score of zero is ||z||^2, whatever i is
    sde, data = sd.VE(), jnp.zeros((NUM, 3))
    zero = sd.from_score(sde, lambda x, t: jnp.zeros_like(x))
    values = objectives.smld_loss(jax.random.key(0), zero, data)
    assert float(np.mean(values)) == pytest.approx(1.0, abs=0.01)
    assert values.shape == (NUM,)


def test_smld_takes_each_of_the_noise_levels():
    sde, seen = sd.VE(), []

    def score(x, t):
        seen.append(sde.sigma(t))
        return jnp.zeros_like(x)

    objectives.smld_loss(
        jax.random.key(0), sd.from_score(sde, score), jnp.zeros((1000, 1)), num_scales=10
    )
    levels = np.unique(np.round(np.log(seen[0]), 3))
    np.testing.assert_allclose(levels, np.log(np.geomspace(0.01, 50.0, 10)), atol=2e-3)


def test_ddpm_noises_by_the_product_of_its_own_betas():
    # With x0 = 0 the model sees sqrt(1 - abar_i) eps at t = i / (N - 1).
    sde, num_scales, seen = sd.VP(), 50, []

    def eps(x, t):
        seen.append((x, t))
        return jnp.zeros_like(x)

    objectives.ddpm_loss(
        jax.random.key(0),
        sd.from_eps(sde, eps),
        jnp.zeros((NUM, 1)),
        num_scales=num_scales,
    )
    x, t = seen[0]
    betas = np.linspace(0.1 / num_scales, 20.0 / num_scales, num_scales)
    std = np.sqrt(1 - np.cumprod(1 - betas))
    for i in range(0, num_scales, 7):
        picked = np.asarray(x)[np.isclose(t, i / (num_scales - 1))]
        assert np.std(picked) == pytest.approx(std[i], rel=0.08)


def test_ddpm_is_near_its_limit_in_continuous_time():
    sde = sd.VP()
    values = objectives.ddpm_loss(jax.random.key(0), DATA.model(sde), x0())
    assert float(np.mean(values)) == pytest.approx(
        minimum(sde, weighting.constant("eps")), rel=0.02
    )


class TestTimes:
    @pytest.mark.parametrize("draw", time_density.DRAWS)
    def test_draws_are_uniform_and_inside(self, draw):
        u = np.asarray(time_density.DRAWS[draw](jax.random.key(0), 10_000))
        assert np.all((u > 0) & (u < 1))
        histogram = np.histogram(u, 10, (0, 1))[0] / 1000
        np.testing.assert_allclose(histogram, 1.0, atol=0.15)

    def test_stratified_draws_are_evenly_spaced(self):
        u = np.sort(time_density.stratified(jax.random.key(0), 64))
        np.testing.assert_allclose(np.diff(u), 1 / 64, atol=1e-5)

    @pytest.mark.parametrize("name", SDES)
    @pytest.mark.parametrize("kind", time_density.TIMES)
    def test_times_stay_between_t_min_and_t_max(self, kind, name):
        sde = SDES[name]
        u = time_density.stratified(jax.random.key(0), 1000)
        for t_min, t_max in ((None, None), (0.1 * sde.t_max, 0.7 * sde.t_max)):
            t, ratio = time_density.TIMES[kind](t_min=t_min, t_max=t_max)(sde, u)
            low, high = np.float32(t_min or sde.t_min), np.float32(t_max or sde.t_max)
            assert np.all((t >= low * (1 - 1e-6)) & (t <= high))
            assert np.all(np.isfinite(ratio))

    def test_log_normal_is_that_of_edm(self):
        u = time_density.stratified(jax.random.key(0), 10_000)
        log_sigma = np.log(time_density.log_normal(-1.2, 1.2)(sd.EDM(), u)[0])
        assert np.mean(log_sigma) == pytest.approx(-1.2, abs=0.01)
        assert np.std(log_sigma) == pytest.approx(1.2, abs=0.02)

    def test_logit_normal(self):
        u = time_density.stratified(jax.random.key(0), 10_000)
        t = np.asarray(time_density.logit_normal(0.5, 0.8)(sd.Flow(), u)[0], np.float64)
        logit = np.log(t / (1 - t))
        assert np.mean(logit) == pytest.approx(0.5, abs=0.01)
        assert np.std(logit) == pytest.approx(0.8, abs=0.02)

    def test_importance_is_uniform_in_log_snr(self):
        sde = sd.VP()
        t, _ = time_density.importance()(sde, jnp.linspace(0.01, 0.99, 50))
        steps = np.diff(sde.log_snr(t))
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)

    def test_those_of_a_chain_are_all_of_its_times_equally_often(self):
        u = jnp.linspace(0.0005, 0.9995, 1000)
        t, ratio = time_density.chain(num_scales=10)(sd.VP(t_min=0.0), u)
        times, counts = np.unique(np.asarray(t) * 9, return_counts=True)
        np.testing.assert_allclose(times, np.arange(10), atol=1e-5)
        np.testing.assert_array_equal(counts, 100)
        np.testing.assert_array_equal(ratio, 1.0)
