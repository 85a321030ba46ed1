"""Classes of a mixture: their scores, the exact classifier, and samples of guided densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion.analytic import Gaussian, GaussianMixture, Labelled

SDE = sd.VP()
WEIGHTS = np.array([0.2, 0.5, 0.3])
PARTS = [
    Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[0.3, 0.2], [0.2, 0.25]])),
    Gaussian.of(jnp.array([-0.5, 0.6]), jnp.array([[0.2, -0.1], [-0.1, 0.15]])),
    Gaussian.of(jnp.array([0.0, 1.0]), jnp.array([[0.1, 0.0], [0.0, 0.5]])),
]
CLASSES = Labelled.of(PARTS, WEIGHTS)
KEY = jax.random.key(0)
X, T = jax.random.normal(KEY, (5, 2)), jnp.float32(0.3)


def test_the_model_has_the_score_of_each_samples_class_or_of_all():
    labels = jnp.array([0, 1, 2, 3, 1])
    made = CLASSES.model(SDE)(X, T, labels)
    for i, label in enumerate(labels):
        exact = CLASSES if label == 3 else PARTS[label]
        np.testing.assert_allclose(made.score[i], exact.score(SDE, X, T)[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(made.x0[i], exact.denoise(SDE, X, T)[i], rtol=1e-4, atol=1e-5)
    without = CLASSES.model(SDE)(X, T).score
    np.testing.assert_allclose(without, CLASSES.score(SDE, X, T), rtol=1e-4, atol=1e-5)


def test_class_probabilities_obey_bayes_rule():
    joint = np.stack([np.exp(p.log_prob(SDE, X, T)) for p in PARTS], axis=1) * WEIGHTS
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(CLASSES.log_class(SDE, X, T)), expected, rtol=1e-4)


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_guided_samples_have_the_density_on_a_grid(weight):
    ticks = np.linspace(-3.0, 3.5, 200)
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    log_p = CLASSES.log_prob(sd.EDM(), jnp.asarray(points, jnp.float32), 0.0)
    log_c = CLASSES.log_class(sd.EDM(), jnp.asarray(points, jnp.float32), 0.0)[:, 1]
    density = np.exp(np.asarray(log_p + weight * log_c, float))
    density /= density.sum()
    mean = density @ points
    covariance = (density * (points - mean).T) @ (points - mean)
    x = np.asarray(CLASSES.sample_guided(KEY, 1, weight, 20_000))
    std = np.sqrt(np.diag(covariance) / len(x))
    np.testing.assert_array_less(abs(x.mean(axis=0) - mean), 4 * std)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.015)


def test_a_class_may_be_a_mixture_itself():
    halves = [
        GaussianMixture.of([[0.0, 1.0], [1.0, 0.0]], 0.1),
        GaussianMixture.of([[2.0, 2.0]] * 2, 0.1),
    ]
    labelled = Labelled.of(halves)
    made = labelled.model(SDE)(X, T, jnp.zeros(5, int))
    np.testing.assert_allclose(made.score, halves[0].score(SDE, X, T), rtol=1e-4, atol=1e-4)
    assert labelled.given(1).sample(KEY, 3).shape == (3, 2)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        CLASSES.sample_guided(KEY, 0, -1.0, 2)
