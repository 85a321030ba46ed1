"""Feynman-Kac correctors against products, powers and guided densities known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guided_problem import CLASSES, KEY, LABELS, MODEL, NULL, SDE, B, X

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.analytic import Gaussian
from sde_diffusion.guidance import (
    FeynmanKac,
    Rescaled,
    autoguidance,
    classifier_free,
    compose,
    interval,
    power,
    product,
    static_threshold,
)
from sde_diffusion.samplers import sample

T = jnp.float32(0.4)
GRID = grids.cosine(SDE, 40)
FIRST = Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))
SECOND = Gaussian.of(jnp.array([-0.4, 0.6]), jnp.array([0.4, 0.8]))
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def square(x):
    return jnp.sum(x**2, axis=-1)


class TestRate:
    def test_of_guidance(self):
        made = classifier_free(MODEL, 2.5, null=NULL)(X, T, LABELS).correction
        close(made.rate, 2.5 * 1.5 * square(MODEL(X, T, LABELS).eps - MODEL(X, T).eps))
        assert float(made.power) == 1.0

    def test_of_a_power(self):
        made = power(MODEL, 3.0)(X, T, LABELS).correction
        close(made.rate, 6.0 * square(MODEL(X, T, LABELS).eps))
        assert float(made.power) == 3.0

    def test_of_products_and_compositions_is_the_definition(self):
        other = sd.from_eps(SDE, lambda x, t, cond: 0.3 * x)
        for made, parts in (
            (
                product([MODEL, other], [0.5, 2.0])(X, T, LABELS),
                [(0.5, MODEL(X, T, LABELS)), (2.0, other(X, T, LABELS))],
            ),
            (
                compose(MODEL, {"a": 2.0, "b": -1.5}, null=NULL)(
                    X, T, {"a": LABELS, "b": 1 - LABELS}
                ),
                [(0.5, MODEL(X, T)), (2.0, MODEL(X, T, LABELS)), (-1.5, MODEL(X, T, 1 - LABELS))],
            ),
        ):
            close(made.correction.rate, square(made.eps) - sum(b * square(p.eps) for b, p in parts))
            close(made.correction.power, sum(b for b, _ in parts))

    def test_of_nested_models_is_that_of_the_whole(self):
        twice = power(power(MODEL, 2.0), 1.5)(X, T, LABELS).correction
        close(twice.rate, power(MODEL, 3.0)(X, T, LABELS).correction.rate)
        close(twice.power, 3.0)
        inner = classifier_free(MODEL, 2.0, null=NULL)
        nested = classifier_free(inner, 1.5, null=NULL)(X, T, LABELS).correction
        close(nested.rate, classifier_free(MODEL, 3.0, null=NULL)(X, T, LABELS).correction.rate)

    def test_it_follows_the_density_of_the_path(self):
        """d log pi_t is what transport by the flow and the rate make it, at the points that flow.

        Along the probability flow of the score of pi, d log pi = -div(velocity) dt + rate dlambda
        up to a constant, for pi = p^(1 - w) p_c^w in closed form.
        """
        w, model = 2.0, classifier_free(MODEL, 2.0, null=NULL)
        cond = jnp.zeros(B, int)

        def log_pi(x, t):
            class_ = CLASSES.given(0).log_prob(SDE, x, t)
            return w * class_ + (1.0 - w) * CLASSES.log_prob(SDE, x, t)

        def velocity(x, t):
            return model(x, t, cond).velocity

        _, along = jax.jvp(log_pi, (X, T), (velocity(X, T), jnp.ones_like(T)))
        jacobian = jax.vmap(jax.jacfwd(lambda x: model(x[None], T, cond[:1]).velocity[0]))(X)
        divergence = jnp.trace(jacobian, axis1=1, axis2=2)
        slope = jax.grad(SDE.log_snr)(T)
        transported = -divergence + slope * model(X, T, cond).correction.rate
        difference = along - transported
        close(difference - difference.mean(), 0.0, atol=1e-3)


@functools.partial(jax.jit, static_argnames=("num", "particles", "grid"))
def drawn(model, num, particles, label=0, grid=40):
    solver = FeynmanKac(particles=particles, solver=samplers.StochasticHeun())
    cond = jnp.full(num, label)
    return sample(KEY, model, (num, 2), solver=solver, grid=grids.cosine(SDE, grid), cond=cond)


def assert_moments(made, mean, covariance, plain):
    """The particles' mean and covariance are exact up to the spread over the samples' clouds.

    Particles of one cloud depend on each other, and clouds do not. Without weights, the samples
    `plain` are off by several times that spread.
    """
    weights = np.exp(made.particles.log_weights)
    distance = np.asarray(made.particles.x) - np.asarray(mean)
    first = np.einsum("bk,bki->bi", weights, distance)
    second = np.einsum("bk,bki,bkj->bij", weights, distance, distance) - np.asarray(covariance)
    errors = np.concatenate([first, second.reshape(len(first), -1)], axis=1)
    spread = errors.std(axis=0) / np.sqrt(len(errors))
    assert np.all(abs(errors.mean(axis=0)) < 4 * spread)
    off = np.asarray(plain) - np.asarray(mean)
    off = np.concatenate([off.mean(axis=0), (off.T @ off / len(off) - covariance).ravel()])
    assert np.max(abs(off) / spread) > 10


def unweighted(model):
    """Samples that follow the model's score alone."""
    cond = jnp.zeros(4000, int)
    return sample(KEY, model, (4000, 2), solver=samplers.Heun(), grid=GRID, cond=cond).x


def unlabelled(exact):
    return sd.from_v(SDE, lambda x, t, cond: exact.model(SDE)(x, t).v)


class TestTargets:
    def test_a_power_of_a_gaussian_is_one_of_less_variance(self):
        model = power(unlabelled(FIRST), 3.0)
        made = drawn(model, 80, 200, grid=100)
        assert_moments(made, FIRST.mean, FIRST.covariance / 3.0, unweighted(model))

    def test_a_product_of_gaussians(self):
        inverse = jnp.linalg.inv(FIRST.covariance), jnp.diag(1.0 / SECOND.variances)
        covariance = jnp.linalg.inv(inverse[0] + inverse[1])
        mean = covariance @ (inverse[0] @ FIRST.mean + inverse[1] @ SECOND.mean)
        model = product([unlabelled(FIRST), unlabelled(SECOND)])
        assert_moments(drawn(model, 80, 200, grid=100), mean, covariance, unweighted(model))

    def test_guidance_samples_p_times_the_class_probability_to_a_power(self):
        w = 2.0
        exact = CLASSES.sample_guided(KEY, 0, w, 100_000)
        model = classifier_free(MODEL, w, null=NULL)
        made = drawn(model, 80, 200, grid=100)
        assert_moments(made, exact.mean(axis=0), np.cov(exact.T), unweighted(model))
        # The evidence is the integral of p^(1 - w) p_c^w = E_{p_c}[(p(c | x) / p(c))^(w - 1)].
        x = CLASSES.given(0).sample(KEY, 20_000)
        ratio = jnp.exp(CLASSES.log_class(sd.EDM(), x, 0.0)[:, 0]) / CLASSES.weights[0]
        evidence = np.mean(np.exp(made.particles.log_evidence))
        assert evidence == pytest.approx(float(jnp.mean(ratio ** (w - 1.0))), rel=0.1)

    @pytest.mark.slow
    def test_the_squared_error_falls_as_one_over_the_particles(self):
        w, errors = 1.5, []
        exact = np.asarray(CLASSES.sample_guided(KEY, 0, w, 200_000)).mean(axis=0)
        numbers = (8, 32, 128)
        for particles in numbers:
            made = drawn(classifier_free(MODEL, w, null=NULL), 300, particles)
            weights = np.exp(made.particles.log_weights)[..., None]
            means = np.sum(weights * made.particles.x, axis=1)
            errors.append(np.mean(np.sum((means - exact) ** 2, axis=1)))
        order = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
        assert order == pytest.approx(1.0, abs=0.2)

    def test_weights_of_each_sample_and_no_effect_without_guidance(self):
        weight = jnp.array([1.0, 2.0, 1.0, 3.0])
        made = drawn(classifier_free(MODEL, weight, null=NULL), 4, 16)
        ess = np.min(np.asarray(made.particles.ess), axis=0)
        np.testing.assert_allclose(ess[[0, 2]], 16, rtol=1e-4)
        assert np.all(ess[[1, 3]] < 15)
        assert np.all(np.asarray(made.nfe) == 16 * 2 * 2 * 40 + 2)

    @pytest.mark.parametrize(
        "solver",
        [samplers.DPMSolverPP3M(), samplers.SDEDPMSolverPP2M()],
        ids=lambda solver: type(solver).__name__,
    )
    def test_a_sample_keeps_its_history_when_it_is_resampled(self, solver):
        """With weights that are equal up to rounding, resampling whatever they are changes nothing

        but the order of the particles: so each keeps the values of its own earlier steps.
        """
        model = power(unlabelled(FIRST), 1.0 + 1e-6)
        cond = jnp.zeros(3)

        def draw(threshold):
            correct = FeynmanKac(particles=4, solver=solver, threshold=threshold)
            made = sample(KEY, model, (3, 2), solver=correct, grid=grids.cosine(SDE, 8), cond=cond)
            return np.sort(np.asarray(made.particles.x), axis=1)

        np.testing.assert_allclose(draw(0.0), draw(1.0), atol=1e-4)


class TestBadInput:
    @pytest.mark.parametrize(
        "model",
        [
            MODEL,
            classifier_free(MODEL, lambda t: 1.0 + t, null=NULL),
            classifier_free(MODEL, 2.0, null=NULL, rule=Rescaled()),
            interval(classifier_free(MODEL, 2.0, null=NULL), MODEL, 0.3, 2.0),
            static_threshold(MODEL),
            autoguidance(static_threshold(MODEL), MODEL, 2.0),
        ],
    )
    def test_a_model_that_is_no_product_of_powers_is_refused(self, model):
        with pytest.raises(ValueError, match="needs a model that is a product of powers"):
            drawn(model, 2, 4)

    @pytest.mark.parametrize(
        "solver", [samplers.EDMSampler(churn=0.2), samplers.AdaptiveDPMSolver()]
    )
    def test_a_solver_that_moves_x_first_or_chooses_its_steps_is_refused(self, solver):
        with pytest.raises(ValueError, match="steps along any grid from x as it is"):
            FeynmanKac(solver=solver)
