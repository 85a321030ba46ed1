"""Per-sample keys and noise, and Brownian paths that do not depend on the steps taken."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sde_diffusion as sd
from sde_diffusion import grids, noise, samplers
from sde_diffusion.sdes import KINDS

LIKE = jnp.zeros((4000, 2))
KEYS = noise.sample_keys(jax.random.key(0), len(LIKE))


@jax.jit
def on_path(start, end):
    return noise.increments(KEYS, LIKE, start, end)[0]


def scale(h):
    """The standard deviation of a step's noise over sigma_s, h being its length in lambda."""
    return np.sqrt(-np.expm1(-2.0 * h))


def test_a_samples_key_depends_on_its_index_alone():
    key = jax.random.key(0)
    many = jax.random.key_data(noise.sample_keys(key, 8))
    np.testing.assert_array_equal(jax.random.key_data(noise.sample_keys(key, 3)), many[:3])
    np.testing.assert_array_equal(jax.random.key_data(noise.sample_keys(key, 3, first=5)), many[5:])


def test_old_style_keys_are_taken_too():
    new = noise.sample_keys(jax.random.key(7), 2)
    old = noise.sample_keys(jax.random.PRNGKey(7), 2)
    np.testing.assert_array_equal(jax.random.key_data(new), jax.random.key_data(old))


def test_noise_is_standard_normal_and_independent_between_samples_and_steps():
    keys = noise.sample_keys(jax.random.key(0), 2000)
    like = jnp.zeros((2000, 3))
    first, second = (noise.normal(noise.fold_in(keys, i), like) for i in (1, 2))
    assert abs(float(np.mean(first))) < 0.05
    assert abs(float(np.std(first)) - 1) < 0.05
    correlation = np.corrcoef(np.concatenate([first, second], axis=1).T)
    np.testing.assert_allclose(correlation, np.eye(6), atol=0.1)


@given(st.lists(st.floats(-7.0, 7.0, width=32), min_size=3, max_size=3, unique=True))
@example([0.0, 1e-45, 1.0])  # float32 flushes the first step to none
def test_the_noise_of_a_path_adds_up_however_a_step_is_divided(times):
    a, b, c = sorted(times)
    parts = np.exp(b - c) * scale(b - a) * on_path(a, b) + scale(c - b) * on_path(b, c)
    np.testing.assert_allclose(parts, scale(c - a) * on_path(a, c), atol=1e-5)


@pytest.mark.parametrize("log_snr", [-np.inf, 0.3, np.inf])
def test_a_step_of_no_length_has_no_noise_where_lambda_is_infinite_too(log_snr):
    np.testing.assert_array_equal(on_path(log_snr, log_snr), 0.0)


def test_the_noise_of_a_path_is_standard_normal_and_independent_between_samples_and_steps():
    ends = [-np.inf, -4.0, -3.999, 0.0, 2.5, 6.9, 6.9001]
    steps = [on_path(start, end) for start, end in itertools.pairwise(ends)]
    assert np.max(np.abs(np.mean(steps, axis=1))) < 0.06
    np.testing.assert_allclose(np.std(steps, axis=1), 1.0, atol=0.05)
    correlation = np.corrcoef(np.concatenate(steps, axis=1).T)
    np.testing.assert_allclose(correlation, np.eye(12), atol=0.1)


@pytest.mark.parametrize("name", KINDS)
def test_a_thousand_even_steps_in_float32_have_noise_of_variance_one(name):
    sde = KINDS[name]()
    grid = grids.uniform(sde, 1000)
    for i in (0, 1, 500, 998, 999):
        step = noise.step_keys(noise.BrownianPath(KEYS), i, sde, grid[i], grid[i + 1])
        assert np.std(on_path(step.start, step.end)) == pytest.approx(1.0, abs=0.05)


def test_parts_of_a_step_are_those_of_its_path():
    step = noise.step_keys(noise.BrownianPath(KEYS[:3]), 1, sd.EDM(), 2.0, 1.0)
    middle = -jnp.log(1.5)
    first, second = noise.normals(step, LIKE[:3], step.start, middle, step.end)
    h1, h2 = float(middle - step.start), float(step.end - middle)
    together = np.exp(-h2) * scale(h1) * first + scale(h2) * second
    np.testing.assert_allclose(together / scale(h1 + h2), noise.normal(step, LIKE[:3]), atol=1e-5)


def test_parts_of_a_step_without_a_path_are_independent():
    parts = noise.normals(KEYS, LIKE, *jnp.arange(4.0))
    correlation = np.corrcoef(np.concatenate(parts, axis=1).T)
    np.testing.assert_allclose(correlation, np.eye(6), atol=0.1)


def test_a_path_starts_where_its_key_does():
    def start(key):
        exact, sde = sd.analytic.Gaussian.of(jnp.zeros(2), 1.0), sd.VP()
        options = {"solver": samplers.EulerMaruyama(), "grid": grids.uniform(sde, 2)}
        return sd.sample(key, exact.model(sde), (3, 2), trajectory=True, **options)

    key = jax.random.key(0)
    on_path, off_path = start(noise.BrownianPath(key)), start(key)
    np.testing.assert_array_equal(on_path.trajectory[0], off_path.trajectory[0])
    assert not np.allclose(on_path.x, off_path.x)


def test_a_corrector_leaves_the_predictor_its_path():
    step = noise.step_keys(noise.BrownianPath(KEYS), 1, sd.EDM(), 2.0, 1.0)
    aside, own = noise.split(step)
    np.testing.assert_array_equal(noise.normal(own, LIKE), noise.normal(step, LIKE))
    both = np.concatenate([noise.normal(aside, LIKE), noise.normal(own, LIKE)], axis=1)
    np.testing.assert_allclose(np.corrcoef(both.T), np.eye(4), atol=0.1)


SEEDS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]


def test_every_seed_of_64_bits_has_a_key_of_its_own():
    keys = {tuple(np.asarray(jax.random.key_data(noise.key(seed)))) for seed in SEEDS}
    assert len(keys) == len(SEEDS)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_seed_of_32_bits_is_jaxs_own(seed):
    assert noise.key(seed) == jax.random.key(seed)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7"])
def test_any_other_seed_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be .*, got {seed!r}"):
        noise.key(seed)
