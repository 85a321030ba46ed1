"""The likelihood against closed forms, where the density is known at every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.data.transforms import Scaling, dequantize
from sde_diffusion.density import (
    Exact,
    Hutchinson,
    bits_per_dim,
    decode,
    encode,
    log_likelihood,
    variational_bound,
)
from sde_diffusion.sdes import KINDS

SDES = {name: kind() if name != "flow" else sd.Flow(t_max=0.999) for name, kind in KINDS.items()}
VP = sd.VP()
KEY = jax.random.key(0)


def gaussian(dimension=2):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    covariance = factor @ factor.T + 0.05 * np.eye(dimension)
    return sd.analytic.Gaussian.of(jnp.asarray(rng.normal(size=dimension)), jnp.asarray(covariance))


def mixture(dimension):
    means = np.random.default_rng(1).normal(size=(4, dimension))
    std, weights = jnp.array([0.3, 0.5, 0.2, 0.3]), jnp.array([0.1, 0.4, 0.3, 0.2])
    return sd.analytic.GaussianMixture.of(jnp.asarray(means), std, weights)


def samples(exact, sde, num=4):
    """Samples at t_min."""
    mean, std = sde.marginal_prob(exact.sample(jax.random.key(1), num), sde.t_min)
    return mean + std * jax.random.normal(jax.random.key(2), mean.shape)


def spread(exact, sde):
    """How much the flow of a Gaussian widens each axis from t_min to t_max, [D]."""
    (a, s), (b, r) = ((sde.alpha(t), sde.sigma(t)) for t in (sde.t_min, sde.t_max))
    return jnp.sqrt((b**2 * exact.variances + r**2) / (a**2 * exact.variances + s**2))


def latent_of_gaussian(exact, sde, x):
    """x_t_max: along the flow (x - alpha mean) / std keeps its value on every axis."""
    centred = (x - sde.alpha(sde.t_min) * exact.mean) @ exact.basis
    return sde.alpha(sde.t_max) * exact.mean + (spread(exact, sde) * centred) @ exact.basis.T


def fixed(sde, steps=100):
    """A solver on a fixed grid, as keyword arguments."""
    return {"solver": samplers.RK4(), "grid": grids.log_snr(sde, steps)}


def adaptive(sde, **fields):
    return {"solver": samplers.BlackBox(**fields), "grid": jnp.array([sde.t_max, sde.t_min])}


FIXED = [
    name
    for name, kind in samplers.SOLVERS.items()
    if not kind.adaptive and not samplers.named(name).stochastic
]


class TestClosedForms:
    """To 1e-3 nats, in float32."""

    @staticmethod
    def run(exact, sde, **ways):
        """The likelihood with p_T as the prior, and log p_t_min."""
        x = samples(exact, sde)
        made = log_likelihood(
            KEY,
            exact.model(sde),
            x,
            divergence=Exact(),
            prior=lambda x: exact.log_prob(sde, x, sde.t_max),
            **ways,
        )
        return made, exact.log_prob(sde, x, sde.t_min)

    @pytest.mark.parametrize("name", SDES)
    def test_gaussian_that_starts_from_the_sdes_own_prior(self, name):
        sde, exact = SDES[name], gaussian()
        x = samples(exact, sde)
        expected = sde.prior_log_prob(latent_of_gaussian(exact, sde, x))
        expected += jnp.sum(jnp.log(spread(exact, sde)))
        made = log_likelihood(KEY, exact.model(sde), x, divergence=Exact(), **fixed(sde))
        np.testing.assert_allclose(made.log_prob, expected, atol=1e-3)

    @pytest.mark.parametrize("name", SDES)
    def test_mixture_in_16_dimensions(self, name):
        made, expected = self.run(mixture(16), SDES[name], **fixed(SDES[name], 200))
        np.testing.assert_allclose(made.log_prob, expected, atol=1e-3)
        np.testing.assert_array_equal(made.standard_error, 0.0)

    @pytest.mark.parametrize("name", ["vp", "ve", "flow"])
    def test_mixture_by_an_adaptive_solver(self, name):
        made, expected = self.run(mixture(2), SDES[name], **adaptive(SDES[name]))
        np.testing.assert_allclose(made.log_prob, expected, atol=1e-3)

    @pytest.mark.parametrize("solver", [samplers.DDIM(), samplers.DPMSolverPP2M()])
    def test_every_deterministic_solver_converges(self, solver):
        errors = []
        for steps in (250, 500):
            grid = grids.log_snr(VP, steps)
            made, expected = self.run(mixture(2), VP, solver=solver, grid=grid)
            errors.append(np.max(np.abs(made.log_prob - expected)))
        assert errors[1] < 0.6 * errors[0] < 0.05

    def test_the_density_of_data_at_a_point(self):
        # The flow of x0 = m carries x to m alpha_T + (x - m alpha) sigma_T / sigma: each sample
        # keeps its own condition, whatever the shapes in between.
        def denoise(x, t, cond):
            return jnp.broadcast_to(cond[:, None], x.shape)

        m, x = jnp.array([0.5, -1.0]), jnp.array([[0.51, 0.49, 0.5], [-1.01, -1.0, -0.99]])
        model = sd.from_x0(VP, denoise)
        ends = [(VP.alpha(t), VP.sigma(t)) for t in (VP.t_max, VP.t_min)]
        (b, r), (a, s) = ends
        latent = b * m[:, None] + (x - a * m[:, None]) * r / s
        expected = stats.norm.logpdf(latent).sum(1) + 3 * np.log(r / s)
        for ways in (fixed(VP), adaptive(VP)):
            made = log_likelihood(KEY, model, x, divergence=Exact(), cond=m, **ways)
            np.testing.assert_allclose(made.log_prob, expected, atol=1e-2)


class TestHutchinson:
    """Along the flow of a Gaussian the terms are z . M z, M = basis diag(log spread) basis^T."""

    @pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
    def test_the_estimate_is_that_of_its_probes(self, distribution):
        num, exact, divergence = 4000, gaussian(), Hutchinson(4000, distribution)
        x = samples(exact, VP, 2)
        made = log_likelihood(KEY, exact.model(VP), x, divergence=divergence, **fixed(VP))
        integral = made.log_prob - VP.prior_log_prob(made.latent)
        matrix = (exact.basis * jnp.log(spread(exact, VP))) @ exact.basis.T
        z = divergence.probes(sd.noise.sample_keys(KEY, 2), x)
        terms = np.einsum("bki,ij,bkj->bk", z, matrix, z)
        np.testing.assert_allclose(integral, terms.mean(1), atol=1e-3)
        np.testing.assert_allclose(made.standard_error, stats.sem(terms, axis=1), atol=1e-3)
        # Var(z . M z) = 2 |M|^2 for normal z; for signs the diagonal has none.
        random = matrix - np.diag(np.diag(matrix)) if distribution == "rademacher" else matrix
        error = np.sqrt(2 * np.sum(random**2) / num)
        np.testing.assert_allclose(made.standard_error, error, rtol=0.1)
        assert np.all(np.abs(integral - np.trace(matrix)) < 4 * error)

    def test_signs_are_exact_where_the_dimensions_do_not_interact(self):
        exact = sd.analytic.Gaussian.of(jnp.array([0.7, -0.4]), jnp.array([0.8, 0.1]))
        x = samples(exact, VP)
        made, expected = (
            log_likelihood(KEY, exact.model(VP), x, divergence=divergence, **fixed(VP, 20))
            for divergence in (Hutchinson(), Exact())
        )
        np.testing.assert_allclose(made.log_prob, expected.log_prob, rtol=1e-5)

    def test_one_probe_has_no_standard_error(self):
        mean, error = Hutchinson().total(jnp.array([[3.0], [4.0]]))
        np.testing.assert_array_equal(mean, [3.0, 4.0])
        assert np.all(np.isnan(error))

    def test_the_probes_of_a_sample_do_not_depend_on_the_batch(self):
        model, x = gaussian().model(VP), samples(gaussian(), VP)
        together, alone = (
            log_likelihood(KEY, model, x, divergence=Hutchinson(2), first=first, **fixed(VP, 9))
            for x, first in ((x, 0), (x[3:], 3))
        )
        np.testing.assert_allclose(together.log_prob[3:], alone.log_prob, rtol=1e-5)


@pytest.mark.parametrize(
    ("divergence", "ways"), [(Hutchinson(3), fixed(VP, 10)), (Exact(), adaptive(VP))]
)
def test_one_call_gives_the_velocity_and_every_derivative(divergence, ways):
    calls, exact = [], gaussian().model(VP)

    def counted(params, sde, x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    x = samples(gaussian(), VP)
    nfe = log_likelihood(KEY, sd.Model(VP, counted), x, divergence=divergence, **ways).nfe
    jax.effects_barrier()
    assert np.max(nfe) == len(calls)


def test_a_second_call_compiles_nothing():
    traces, exact = [], gaussian().model(VP)

    def traced(params, sde, x, t, cond):
        traces.append(1)
        return exact(x, t)

    def call(seed):
        x, key = samples(gaussian(), VP) + seed, jax.random.key(seed)
        log_likelihood(key, sd.Model(VP, traced), x, divergence=Hutchinson(), **fixed(VP, 10))
        return len(traces)

    assert call(0) == call(1)


class TestTransformations:
    def run(self, x, shift=0.0, sde=VP):
        exact = gaussian()
        model = sd.analytic.Gaussian(exact.mean + shift, exact.variances, exact.basis).model(sde)
        made = log_likelihood(KEY, model, x, divergence=Exact(), **fixed(sde))
        return made.log_prob

    def test_gradients_in_x_and_in_the_parameters_of_the_model(self):
        x = samples(gaussian(), VP)
        in_x, in_shift = jax.grad(lambda *at: jnp.sum(self.run(*at)), argnums=(0, 1))(x, 0.0)
        # But for the prior in place of p_T, log p is that of x - alpha (mean + shift).
        score = gaussian().score(VP, x, VP.t_min)
        scale = np.max(np.abs(score))
        np.testing.assert_allclose(in_x, score, atol=0.02 * scale)
        expected = -VP.alpha(VP.t_min) * jnp.sum(score)
        np.testing.assert_allclose(in_shift, expected, atol=0.02 * scale)

    def test_jit(self):
        x = samples(gaussian(), VP)
        np.testing.assert_allclose(jax.jit(self.run)(x), self.run(x), rtol=1e-5)

    def test_vmap_over_the_sde(self):
        x, beta_max = samples(gaussian(), VP), jnp.array([20.0, 10.0])
        together = jax.vmap(lambda beta_max: self.run(x, sde=sd.VP(beta_max=beta_max)))(beta_max)
        alone = [self.run(x, sde=sd.VP(beta_max=float(b))) for b in beta_max]
        np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-4)


class TestEncoding:
    @pytest.mark.parametrize("name", ["vp", "edm"])
    def test_latent_of_a_gaussian(self, name):
        sde, exact = SDES[name], gaussian()
        x = samples(exact, sde)
        latent = encode(exact.model(sde), x, **fixed(sde))
        expected = latent_of_gaussian(exact, sde, x)
        np.testing.assert_allclose(latent, expected, atol=1e-4 * sde.sigma(sde.t_max))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", FIXED)
    def test_every_solver_has_its_order_towards_noise_too(self, name):
        exact, errors = gaussian(), []
        with jax.enable_x64(True):
            x = jnp.asarray(samples(exact, VP), float)
            expected = latent_of_gaussian(exact, VP, x)
            for steps in (50, 400):
                ways = {"solver": samplers.named(name), "grid": grids.log_snr(VP, steps)}
                made = encode(exact.model(VP), x, **ways)
                errors.append(float(jnp.max(jnp.abs(made - expected))))
        # A multistep method begins with a step of order 1, so that no more than 2 is asked for.
        assert errors[1] < errors[0] / 8 ** (min(samplers.named(name).order, 2) - 0.3)

    @pytest.mark.parametrize("ways", [fixed, adaptive])
    @pytest.mark.parametrize("name", ["vp", "edm"])
    def test_decode_undoes_encode(self, name, ways):
        sde, model = SDES[name], mixture(2).model(SDES[name])
        x = samples(mixture(2), sde)
        latent = encode(model, x, **ways(sde))
        np.testing.assert_allclose(decode(model, latent, **ways(sde)), x, atol=5e-3)

    def test_decode_samples(self):
        model, latent = mixture(2).model(VP), jax.random.normal(KEY, (4, 2))
        ways = fixed(VP, 20)
        made = sd.sample(KEY, model, (4, 2), x_init=latent, denoise_last=False, **ways).x
        np.testing.assert_allclose(decode(model, latent, **ways), made, rtol=1e-5)


class TestBitsPerDim:
    @given(
        st.integers(2, 1000), st.floats(0.1, 100.0), st.integers(1, 1000), st.floats(-50.0, 50.0)
    )
    def test_a_density_in_any_unit_is_the_same_number_of_bits(self, levels, scale, size, log_prob):
        # In units of one bin the bits are -log2 p / D.
        bins = bits_per_dim(log_prob, size, levels=levels, scale=float(levels))
        assert bins == pytest.approx(-log_prob / size / np.log(2), abs=1e-9)
        scaled = log_prob - size * np.log(scale / levels)
        assert bits_per_dim(scaled, size, levels=levels, scale=scale) == pytest.approx(
            bins, abs=1e-9
        )

    def test_the_bins_are_those_that_dequantized_and_scaled_data_fills(self):
        x = jnp.arange(256, dtype=jnp.uint8)[:, None]
        keys = sd.noise.sample_keys(KEY, 256)
        scaled = Scaling(0.0, 255.0).scale(dequantize(keys, x, 0.0, 255.0))
        np.testing.assert_array_equal(jnp.floor((scaled + 1.0) / (2.0 / 256)), x)

    def test_a_uniform_density_needs_log2_of_the_levels(self):
        log_prob = -12 * np.log(2.0)  # on [-1, 1]^12
        assert bits_per_dim(log_prob, 12, levels=256, scale=2.0) == pytest.approx(8.0)

    def test_a_density_that_is_flat_on_each_bin_needs_the_bits_of_the_values(self):
        values, levels = np.array([0, 1, 3]), 4
        p, width = np.array([0.5, 0.25, 0.0, 0.25]), 2.0 / levels
        bits = bits_per_dim(np.log(p[values] / width), 1, levels=levels, scale=2.0)
        np.testing.assert_allclose(bits, [1.0, 2.0, 2.0])


class TestVariationalBound:
    @pytest.mark.parametrize("name", SDES)
    def test_with_the_exact_score_only_the_noise_at_t_min_is_lost(self, name):
        # The reverse SDE is then the process itself, so that with q(x_s | x) as the decoder
        # bound = D log alpha_s + E log p_s(x_s),  s = t_min, but for the prior in place of p_T.
        sde = SDES[name]
        exact = sd.analytic.Gaussian.of(jnp.array([0.2, -0.1]), jnp.array([1.2, 0.8]))
        x = exact.sample(jax.random.key(1), 4)
        alpha, sigma = sde.alpha(sde.t_min), sde.sigma(sde.t_min)
        blur = sigma**2 * jnp.sum(1 / (alpha**2 * exact.variances + sigma**2))
        log_prob = exact.log_prob(sde, alpha * x, sde.t_min)
        expected = 2 * jnp.log(alpha) + log_prob - 0.5 * blur
        bound = variational_bound(KEY, exact.model(sde), x, num=4000)
        assert np.all(np.abs(bound.log_prob - expected) < 4 * bound.standard_error)
        assert np.all(bound.standard_error < 0.6)

    def test_a_wrong_score_lowers_it(self):
        right, wrong = gaussian(), sd.analytic.Gaussian.of(jnp.zeros(2), jnp.ones(2))
        x = right.sample(jax.random.key(1), 100)
        bounds = [
            np.mean(variational_bound(KEY, exact.model(VP), x, num=100).log_prob)
            for exact in (right, wrong)
        ]
        entropy = float(jnp.mean(right.log_prob(VP, x, 0.0)))
        assert bounds[1] < bounds[0] < entropy + 0.05

    def test_the_prior_loss_is_a_kl_divergence(self):
        # Of N(alpha x, sigma^2) from N(0, 1), in one dimension by quadrature.
        sde, x = sd.VP(beta_max=2.0), 0.7
        bound = variational_bound(KEY, sd.from_x0(sde, lambda x, t: x), jnp.array([[x]]), num=1)
        q = stats.norm(float(sde.alpha(1.0)) * x, float(sde.sigma(1.0)))
        expected = q.expect(lambda y: q.logpdf(y) - stats.norm.logpdf(y))
        np.testing.assert_allclose(bound.prior, expected, rtol=1e-4)

    def test_the_draws_of_a_sample_do_not_depend_on_the_batch(self):
        model, x = gaussian().model(VP), gaussian().sample(KEY, 4)
        together = variational_bound(KEY, model, x, num=10).log_prob
        alone = variational_bound(KEY, model, x[2:3], num=10, first=2).log_prob
        np.testing.assert_allclose(together[2:3], alone, rtol=1e-4)


class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"solver": samplers.EulerMaruyama()}, "deterministic solver, got EulerMaruyama"),
            (
                {"solver": samplers.Fitted((1.0, 0.5), (0.5,), ((0.5,),))},
                "Fitted ends at the denoised sample",
            ),
            ({"grid": jnp.array([1e-3, 1.0])}, "grid must decrease"),
            ({"grid": jnp.array([1.0])}, "at least two times"),
            ({"grid": jnp.array([0.5, 1e-3])}, "starts at 0.5"),
            (
                {"x": jnp.ones((1, 2), jnp.uint8)},
                "floating point, dequantized and scaled, got uint8",
            ),
        ],
    )
    def test_log_likelihood(self, fields, message):
        given = {"x": jnp.zeros((1, 2)), "divergence": Exact(), **fixed(VP, 5), **fields}
        with pytest.raises(ValueError, match=message):
            log_likelihood(KEY, gaussian().model(VP), **given)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Hutchinson(0), "num=0"),
            (lambda: Hutchinson(distribution="gausian"), "did you mean 'gaussian'"),
            (lambda: bits_per_dim(1.0, 2, levels=0, scale=2.0), "levels=0"),
            (
                lambda: variational_bound(
                    KEY, gaussian().model(sd.Flow()), jnp.zeros((1, 2)), num=1
                ),
                "no finite log-SNR at t_max=1",
            ),
            (lambda: variational_bound(KEY, None, jnp.zeros((1, 2)), num=0), "num=0"),
        ],
    )
    def test_others(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()
