"""The uniform distribution against scipy, far outside its box and with next to no noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_diffusion as sd
from sde_diffusion.analytic import Uniform


def box():
    """In the precision that is on."""
    return Uniform.of([-1.0], [2.0])


@functools.partial(jax.jit, static_argnums=1)
def evaluate(exact, method, sde, x, t):
    return getattr(exact, method)(sde, x, t)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("x", [-3.0, -1.0, 0.4, 1.99, 2.5])
def test_given_x_the_noise_is_a_truncated_normal(x, sigma):
    noise = stats.truncnorm((x - 2) / sigma, (x + 1) / sigma)
    at = jnp.array([[x]]), sigma  # of EDM, where t is sigma and alpha is one
    density = noise.logpdf(noise.mean()) - stats.norm.logpdf(noise.mean())  # -log of its mass
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            evaluate(box(), "log_prob", sd.EDM(), *at), -density - np.log(3), rtol=1e-5
        )
        np.testing.assert_allclose(
            evaluate(box(), "score", sd.EDM(), *at), -noise.mean() / sigma, rtol=1e-5, atol=1e-9
        )
        np.testing.assert_allclose(
            evaluate(box(), "noise_variance", sd.EDM(), *at), noise.var(), rtol=1e-4
        )


@pytest.mark.parametrize("sigma", [1e-5, 1e-3, 0.1])
def test_far_outside_the_score_leads_to_the_nearest_face_in_float32(sigma):
    # The noise is the distance d to the face, and a little more: d + sigma^2 / d
    x = jnp.array([[-1001.0], [1002.0]])
    np.testing.assert_allclose(
        evaluate(box(), "denoise", sd.EDM(), x, sigma), [[-1.0], [2.0]], atol=1e-4
    )
    score = evaluate(box(), "score", sd.EDM(), x, sigma)
    np.testing.assert_allclose(score * sigma**2, [[1000.0], [-1000.0]], rtol=1e-6)


def test_deep_inside_nothing_is_known_of_the_noise():
    x = jnp.array([[0.3]])
    np.testing.assert_allclose(evaluate(box(), "denoise", sd.EDM(), x, 1e-4), x, atol=1e-6)
    np.testing.assert_allclose(evaluate(box(), "noise_variance", sd.EDM(), x, 1e-4), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        evaluate(box(), "log_prob", sd.EDM(), x, 1e-4), -np.log(3), rtol=1e-5
    )


def test_without_noise_the_density_is_the_datas():
    log_prob = evaluate(box(), "log_prob", sd.EDM(), jnp.array([[0.5], [2.5], [-1.5]]), 0.0)
    np.testing.assert_allclose(log_prob[0], -np.log(3), rtol=1e-5)
    assert np.all(np.exp(log_prob[1:]) == 0)


def test_on_the_very_edge_the_density_is_the_half_of_that_within():
    for noise in (0.0, 1e-3):
        log_prob = evaluate(box(), "log_prob", sd.EDM(), jnp.array([[-1.0], [2.0]]), noise)
        np.testing.assert_allclose(log_prob, -np.log(6), rtol=1e-4)


def test_without_data_left_it_is_the_noise():
    # Flow has alpha = 0 at t = 1
    x = jnp.array([[0.7]])
    np.testing.assert_allclose(
        evaluate(box(), "log_prob", sd.Flow(), x, 1.0), stats.norm.logpdf(x[:, 0]), rtol=1e-6
    )
    np.testing.assert_allclose(evaluate(box(), "denoise", sd.Flow(), x, 1.0), [[0.5]], rtol=1e-6)


def test_a_flat_side_is_a_point():
    flat = Uniform.of([-1.0, 0.5], [2.0, 0.5])
    x = jnp.array([[0.3, 0.9]])
    expected = evaluate(box(), "log_prob", sd.EDM(), x[:, :1], 0.2) + stats.norm(0.5, 0.2).logpdf(
        0.9
    )
    np.testing.assert_allclose(evaluate(flat, "log_prob", sd.EDM(), x, 0.2), expected, rtol=1e-5)
    np.testing.assert_allclose(evaluate(flat, "denoise", sd.EDM(), x, 0.2)[0, 1], 0.5)


@pytest.mark.parametrize(("low", "high"), [([0.0, 1.0], [1.0, 0.0]), (0.0, 1.0)])
def test_a_box_inside_out_or_without_axes_is_refused(low, high):
    with pytest.raises(ValueError, match=r"low and high must be \[D\] with low <= high, got"):
        Uniform.of(low, high)
