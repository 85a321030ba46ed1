"""Stochastic solvers and correctors against their formulas and what they must leave invariant."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, noise, samplers
from sde_diffusion.sdes import expand

SDE = sd.VP()
MIXTURE = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
KEYS = noise.sample_keys(jax.random.key(0), 2)
X = jnp.array([[0.4, -1.1, 2.0], [1.0, 0.2, -0.3]])


def take(solver, model, times, x=X, sde=SDE):
    """The solver's sample after these times, in x0 = model(x, t), on a path."""

    @jax.jit
    def run(times):
        state, path = solver.init(x), noise.BrownianPath(KEYS)
        for i in range(len(times) - 1):
            t, s = times[i], times[i + 1]
            counted = samplers.Counted(sd.from_x0(sde, model))
            state = solver.step(noise.step_keys(path, i, sde, t, s), counted, state, t, s)
        return state.x

    return np.asarray(run(jnp.array(times)))


def gathered(t, s, sde=SDE):
    """What the noise of a path adds to x from t to s, where x0 is constant."""
    t, s = jnp.float32(t), jnp.float32(s)
    z = noise.normal(noise.step_keys(noise.BrownianPath(KEYS), 0, sde, t, s), X)
    return sde.sigma(s) * jnp.sqrt(-jnp.expm1(2 * (sde.log_snr(t) - sde.log_snr(s)))) * z


@pytest.mark.parametrize(("sde", "t"), [(SDE, 0.7), (sd.Flow(), 1.0)], ids=["vp", "alpha-zero"])
@pytest.mark.parametrize(
    "solver",
    [
        samplers.SDEDPMSolverPP2S(),
        samplers.SDEDPMSolverPP2M(),
        samplers.SDEDPMSolverPP3M(),
        samplers.SEEDS3(),
        samplers.SASolver(),
        samplers.DDIM(eta=1.0),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_where_x0_is_constant_any_steps_are_exact(solver, sde, t):
    # x_s = alpha_s x0 + (sigma_s^2 / alpha_s) / (sigma_t^2 / alpha_t) (x_t - alpha_t x0) + noise
    s, x0 = 0.3, 0.25
    kept = (sde.sigma(s) / sde.sigma(t)) ** 2 * sde.alpha(t) / sde.alpha(s)
    exact = sde.alpha(s) * x0 + kept * (X - sde.alpha(t) * x0) + gathered(t, s, sde)
    made = take(solver, lambda x, t: jnp.full_like(x, x0), [t, 0.52, 0.5, s], sde=sde)
    np.testing.assert_allclose(made, exact, atol=1e-4)


@pytest.mark.parametrize(
    "solver",
    [samplers.SDEDPMSolverPP2S(), samplers.EDMSampler(churn=0.1)],
    ids=lambda solver: type(solver).__name__,
)
def test_from_alpha_zero_the_times_after_it_have_a_gradient(solver):
    flow = sd.Flow()
    with jax.enable_x64(True):

        @jax.jit
        @jax.value_and_grad
        def end(middle):
            model = sd.from_x0(flow, lambda x, t: jnp.tanh(x) * expand(t, x))
            grid = jnp.array([1.0, 0.6, 0.3]).at[1].set(middle)
            options = {"solver": solver, "grid": grid, "x_init": jnp.float64(X)}
            return jnp.mean(sd.sample(jax.random.key(0), model, X.shape, **options).x ** 2)

        difference = (end(0.6 + 1e-5)[0] - end(0.6 - 1e-5)[0]) / 2e-5
        assert np.isfinite(difference)
        np.testing.assert_allclose(end(0.6)[1], difference, rtol=1e-4)


def test_churn_beyond_its_bounds_leaves_the_gradient_by_the_sde_alone():
    # There it raises the time to itself, a transition of no length.
    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def slope(beta_max, solver):
        sde = sd.VP(beta_max=beta_max)
        model = sd.from_x0(sde, lambda x, t: jnp.tanh(x))
        options = {"solver": solver, "grid": jnp.array([1.0, 0.5, 0.1]), "x_init": X}
        return jnp.mean(sd.sample(jax.random.key(0), model, X.shape, **options).x ** 2)

    churned = slope(20.0, samplers.EDMSampler(churn=0.1, churn_max=1e-3))
    np.testing.assert_allclose(churned, slope(20.0, samplers.EDMSampler()), rtol=1e-4)


@pytest.mark.parametrize(
    ("noisy", "quiet"),
    [
        (samplers.SDEDPMSolverPP2S(eta=0.0), samplers.DPMSolverPP2S()),
        (samplers.SDEDPMSolverPP2M(eta=0.0), samplers.DPMSolverPP2M()),
        (samplers.SDEDPMSolverPP3M(eta=0.0), samplers.DPMSolverPP3M()),
        (samplers.SASolver(p=3, corrector=False, tau=0.0), samplers.UniPC(p=3, corrector=False)),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_without_noise_they_are_the_solvers_of_the_probability_flow(noisy, quiet):
    # from the third step on for SA-Solver, whose single difference has no B
    times = [0.7, 0.6, 0.5, 0.4] if "DPM" in type(quiet).__name__ else [0.7, 0.6]
    ends = [
        take(solver, lambda x, t: jnp.tanh(x) * expand(t, x), times) for solver in (noisy, quiet)
    ]
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_sde_dpm_solver_2m_is_that_of_k_diffusion():
    eta, times = 0.5, [0.7, 0.5, 0.35]
    made = take(
        samplers.SDEDPMSolverPP2M(eta=eta), lambda x, t: jnp.zeros_like(x) + expand(t, x), times
    )
    alpha, sigma, lam = ([float(f(t)) for t in times] for f in (SDE.alpha, SDE.sigma, SDE.log_snr))
    h = np.diff(lam)
    draws = [
        noise.normal(noise.step_keys(noise.BrownianPath(KEYS), 0, SDE, *map(jnp.float32, ends)), X)
        for ends in itertools.pairwise(times)
    ]
    x = X
    for i in range(2):
        x = sigma[i + 1] / sigma[i] * np.exp(-h[i] * eta) * x
        x = x - alpha[i + 1] * np.expm1(-h[i] * (1 + eta)) * times[i]
        if i:
            slope = (times[1] - times[0]) * h[1] / h[0]
            x = x - 0.5 * alpha[2] * np.expm1(-h[1] * (1 + eta)) * slope
        x = x + sigma[i + 1] * np.sqrt(-np.expm1(-2 * h[i] * eta)) * draws[i]
    np.testing.assert_allclose(made, x, rtol=1e-4)


def test_sa_solver_draws_noise_between_its_bounds_only():
    def model(x, t):
        return jnp.tanh(x)

    outside = take(samplers.SASolver(tau_max=0.01), model, [0.7, 0.5])
    np.testing.assert_allclose(outside, take(samplers.SASolver(tau=0.0), model, [0.7, 0.5]))
    assert not np.allclose(outside, take(samplers.SASolver(), model, [0.7, 0.5]))


def follow(solver, grid, sde=SDE):
    """Samples of the mixture along one path for each."""
    return sd.sample(
        noise.BrownianPath(jax.random.key(0)),
        MIXTURE.model(sde),
        (64, 2),
        solver=solver,
        grid=grid,
        denoise_last=False,
    )


@pytest.mark.slow
def test_gotta_go_fast_comes_nearer_to_the_path_as_its_tolerance_falls():
    exact = follow(samplers.StochasticHeun(), grids.uniform(SDE, 2000)).x
    whole, errors, spent = jnp.array([SDE.t_max, SDE.t_min]), [], []
    for tolerance in (0.1, 0.01):
        made = follow(samplers.GottaGoFast(rtol=tolerance, atol=tolerance), whole)
        errors.append(float(np.sqrt(np.mean((made.x - exact) ** 2))))
        spent.append(float(np.mean(made.nfe)))
    assert errors[1] < 0.5 * errors[0] < 0.2
    assert spent[0] < 0.5 * spent[1]


def test_gotta_go_fast_has_a_count_of_its_own_for_each_sample():
    nfe = follow(samplers.GottaGoFast(), jnp.array([SDE.t_max, SDE.t_min])).nfe
    assert nfe.shape == (64,)
    assert len(set(np.asarray(nfe).tolist())) > 1


def test_gotta_go_fast_that_needs_more_steps_than_allowed_is_nan():
    made = follow(samplers.GottaGoFast(max_steps=5), jnp.array([SDE.t_max, SDE.t_min]))
    assert np.all(np.isnan(made.x))


def correct(corrector, exact, t=0.1, num=8000):
    """Exact samples at t, corrected; and the same before."""
    sde = sd.VE()
    noisy = sde.sigma(t) * jax.random.normal(jax.random.key(1), (num, 1))
    before = exact.sample(jax.random.key(2), num) + noisy
    made = sd.sample(
        jax.random.key(0),
        exact.model(sde),
        before.shape,
        solver=corrector,
        grid=jnp.array([t, t - 1e-3]),
        x_init=before,
        denoise_last=False,
    )
    return np.asarray(made.x), np.asarray(before)


def test_ula_has_the_variance_of_its_step_size():
    # x <- (1 - h / v) x + sqrt(2 h) z settles at v / (1 - h / (2 v))
    point, h = sd.analytic.Gaussian.of(jnp.zeros(1), 0.0), 0.5
    made, before = correct(samplers.ULA(h=h, steps=6), point)
    assert np.var(made) / np.var(before) == pytest.approx(1 / (1 - h / 2), rel=0.03)


def test_mala_leaves_a_mixture_as_it_is_at_a_step_size_where_ula_does_not():
    sde, h = sd.VE(), 1.0
    mixture = sd.analytic.GaussianMixture.of(sde.sigma(0.1) * jnp.array([[1.5], [-1.5]]), 0.0)
    adjusted = samplers.MALA(lambda x, t: mixture.log_prob(sde, x, t), h=h, steps=5)
    quantiles = np.linspace(0.05, 0.95, 10)
    distances = []
    for corrector in (adjusted, samplers.ULA(h=h, steps=5)):
        made, before = (np.quantile(x, quantiles) for x in correct(corrector, mixture))
        distances.append(np.max(np.abs(made - before)) / sde.sigma(0.1))
    assert distances[0] < 0.1 < 0.2 < distances[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.SDEDPMSolverPP2M(eta=-1.0), "eta of at least 0, got eta=-1.0"),
        (lambda: samplers.SASolver(tau=-1.0), "tau of at least 0, got tau=-1.0"),
        (lambda: samplers.SASolver(p=4), "SASolver takes p 1, 2 or 3, got 4"),
        (lambda: samplers.GottaGoFast(rtol=0.0), "rtol and atol above 0, got rtol=0.0"),
        (lambda: samplers.ULA(h=0.0), "ULA needs h > 0 and steps >= 1, got h=0.0"),
    ],
)
def test_a_bad_value_of_a_stochastic_solver_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
