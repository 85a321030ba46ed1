"""An image condition is a part of the sample in training, and a user's measurement afterwards."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import noise, objectives
from sde_diffusion.data.images import Decoder

KEYS = noise.sample_keys(jax.random.key(0), 400)
X0 = jax.random.normal(jax.random.key(1), (400, 4, 6, 3))


def test_a_low_resolution_is_the_mean_of_each_block_repeated_over_it():
    image = objectives.low_resolution(factor=2).of_sample(KEYS, X0)
    means = np.asarray(X0).reshape(400, 2, 2, 3, 2, 3).mean(axis=(2, 4))
    expected = np.kron(means.transpose(0, 3, 1, 2), np.ones((2, 2))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_the_level_of_the_noise_that_is_added_is_told_and_uniform():
    condition = objectives.low_resolution(factor=2, noise=0.5)
    plain = objectives.low_resolution(factor=2).of_sample(KEYS, X0)
    image = condition.of_sample(KEYS, X0)
    level = image[:, 0, 0, -1]
    np.testing.assert_array_equal(
        image[..., -1], np.broadcast_to(level[:, None, None], (400, 4, 6))
    )
    assert 0.0 <= level.min() < 0.05 < 0.45 < level.max() <= 0.5
    assert jnp.mean(level) == pytest.approx(0.25, abs=0.03)
    normal = ((image[..., :3] - plain) / level[:, None, None, None])[:, ::2, ::2]
    assert jnp.std(normal) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_measurement_is_what_training_shows_without_noise(noise):
    condition = objectives.low_resolution(factor=2, noise=noise)
    small = jnp.mean(X0.reshape(400, 2, 2, 3, 2, 3), axis=(2, 4))
    image = condition.of_measurement(small)
    assert image.shape == (400, 4, 6, condition.channels(3))
    plain = objectives.low_resolution(factor=2).of_sample(KEYS, X0)
    np.testing.assert_allclose(image[..., :3], plain, atol=1e-6)
    np.testing.assert_array_equal(image[..., 3:], 0)
    assert condition.measured((4, 6, 3)) == small.shape[1:]


def test_gray_is_the_gray_of_an_image_file():
    pixels = np.random.default_rng(0).integers(256, size=(4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    read = Decoder(channels=1).decode(file.getvalue(), "colors.png")
    made = objectives.gray().of_sample(KEYS[:1], jnp.asarray(pixels, jnp.float32)[None])[0]
    np.testing.assert_allclose(made, read, atol=1.0)  # files are in whole numbers


def test_a_hidden_rectangle_is_0_and_the_last_channel_says_what_is_known():
    image = objectives.hidden(least=0.5, most=0.5).of_sample(KEYS, X0)
    known = image[..., 3:] == 1
    np.testing.assert_array_equal(image[..., :3], np.where(known, X0, 0))
    assert jnp.all(jnp.sum(~known, axis=(1, 2, 3)) == 2 * 3)
    share = jnp.mean(~known, axis=(0, 3))  # every pixel is hidden for some samples
    assert jnp.all((share > 0.05) & (share < 0.6))


def test_a_hidden_part_of_a_measurement_is_nan():
    condition = objectives.hidden()
    image = X0.at[:, 1, 2].set(jnp.nan)
    told = condition.of_measurement(image)
    assert jnp.all(told[:, 1, 2] == 0)
    np.testing.assert_array_equal(told[:, 0, :, :3], X0[:, 0])
    assert jnp.all(told[:, 0, :, 3] == 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: objectives.low_resolution(factor=1), "factor must be at least 2"),
        (lambda: objectives.low_resolution(noise=-1.0), "noise at least 0"),
        (lambda: objectives.low_resolution(4).of_sample(KEYS, X0), "a size that 4 divides"),
        (lambda: objectives.gray().measured((3,)), r"images \[H, W, C\]"),
        (lambda: objectives.hidden(least=0.0), "0 < least"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
