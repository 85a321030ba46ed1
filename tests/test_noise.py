"""Per-sample keys and noise."""

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion import noise


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
