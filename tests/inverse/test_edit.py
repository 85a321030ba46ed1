"""SDEdit: strength is the share of the steps, and no more of x is lost than they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.analytic import Gaussian
from sde_diffusion.inverse import sdedit

SDE = sd.VP()
MODEL = Gaussian.of(jnp.array([1.0, -1.0]), 0.25).model(SDE)
X = jnp.tile(jnp.array([[3.0, 3.0]]), (400, 1))


def edited(strength, **options):
    options = {"solver": samplers.DDIM(), "grid": grids.uniform(SDE, 20)} | options
    return sdedit(jax.random.key(0), MODEL, X, strength=strength, **options)


def test_strength_goes_from_x_to_a_fresh_sample():
    nothing, all_steps = edited(0.0), edited(1.0)
    np.testing.assert_array_equal(nothing.x, X)
    assert nothing.nfe == 0
    np.testing.assert_allclose(all_steps.x.mean(0), [1.0, -1.0], atol=0.15)
    far = [float(jnp.mean((edited(s).x - X) ** 2)) for s in (0.2, 0.5, 1.0)]
    assert far[0] < far[1] < far[2]
    assert edited(0.5).nfe == 11


def test_it_starts_at_x_with_the_noise_of_that_time():
    # A model that knows x leaves the noise at its level, whatever the time it starts from.
    known, grid = sd.from_x0(SDE, lambda x, t: X), grids.uniform(SDE, 20)
    options = {"solver": samplers.DDIM(), "grid": grid[:11], "denoise_last": False}
    made = sdedit(jax.random.key(0), known, X, strength=0.5, **options).x
    alpha, sigma = SDE.alpha(grid[10]), SDE.sigma(grid[10])
    np.testing.assert_allclose(made.mean(0), alpha * X[0], atol=4 * sigma / np.sqrt(len(X)))
    np.testing.assert_allclose(made.std(0), sigma, rtol=0.15)


def test_a_sample_depends_on_its_own_number():
    part = sdedit(
        jax.random.key(0),
        MODEL,
        X[:2],
        strength=0.5,
        solver=samplers.DDIM(),
        grid=grids.uniform(SDE, 20),
        first=3,
    )
    np.testing.assert_allclose(part.x, edited(0.5).x[3:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_out_of_range_is_named(strength):
    with pytest.raises(ValueError, match="strength must be a number from 0 to 1"):
        edited(strength)
