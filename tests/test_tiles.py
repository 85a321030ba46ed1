"""Codecs by tiles: what a tile alone reaches is that tile's, and between tiles there is no seam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_diffusion.codec import Codec
from sde_diffusion.networks.autoencoder_kl import AutoencoderKL
from sde_diffusion.tiles import by_tiles, tiled

KEY = jax.random.key(0)


def doubled(z):
    return jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)


def halved(x):
    return x[:, ::2, ::2]


@pytest.fixture(scope="module")
def codec():
    module = AutoencoderKL(
        latent_channels=2, block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2
    )
    params = module.init(KEY, jnp.zeros((1, 8, 8, 3)))["params"]
    noisy = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), params)
    return Codec(module, scale=0.5, shift=0.1), noisy


@settings(max_examples=8)
@given(st.integers(3, 20), st.integers(3, 20), st.integers(4, 9), st.data())
def test_a_local_function_by_tiles_is_that_of_the_whole(rows, columns, tile, data):
    overlap = data.draw(st.integers(1, tile // 2))
    z = jax.random.normal(KEY, (2, rows, columns, 3))
    made = by_tiles(doubled, z, tile, overlap, outward=2)
    np.testing.assert_allclose(made, doubled(z), rtol=1e-5, atol=1e-6)
    x = doubled(z)
    back = by_tiles(halved, x, tile, overlap, inward=2)
    np.testing.assert_allclose(back, z, rtol=1e-5, atol=1e-6)


def test_what_one_tile_alone_reaches_is_that_tile_decoded(codec):
    codec, params = codec
    z = jax.random.normal(KEY, (1, 20, 12, 2))
    whole = tiled(codec, tile=12, overlap=4).decode(params, z)
    assert whole.shape == (1, 40, 24, 3)
    for rows, alone in ((slice(0, 12), slice(0, 16)), (slice(8, 20), slice(24, 40))):
        part = codec.decode(params, z[:, rows])
        begin = 2 * rows.start
        expected = part[:, alone.start - begin : alone.stop - begin]
        np.testing.assert_allclose(whole[:, alone], expected, rtol=1e-4, atol=1e-5)


def test_an_image_of_one_tile_is_not_changed(codec):
    codec, params = codec
    x = jax.random.normal(KEY, (2, 16, 12, 3))
    cut = tiled(codec, tile=8)
    np.testing.assert_allclose(
        cut.encode(params, KEY, x), codec.encode(params, KEY, x), rtol=1e-4, atol=1e-5
    )
    z = codec.encode(params, None, x)
    np.testing.assert_allclose(cut.decode(params, z), codec.decode(params, z), rtol=1e-4, atol=1e-5)


def test_tiles_that_differ_fade_into_each_other():
    def brightness_of_the_tile(z):
        return jnp.broadcast_to(z.mean(axis=(1, 2), keepdims=True), z.shape)

    z = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 64)[None, :, None, None], (1, 64, 8, 1))
    made = by_tiles(brightness_of_the_tile, z, 16, 8)[0, :, 0, 0]
    steps = jnp.diff(made)
    between = 8 / 63  # of the means of two neighbouring tiles
    assert steps.min() > -1e-6
    assert steps.max() < 1.5 * between / 8  # spread over the overlap, in place of one step


def test_memory_is_that_of_a_tile(codec):
    codec, params = codec
    z = jax.ShapeDtypeStruct((1, 128, 128, 2), jnp.float32)

    def temporaries(codec):
        compiled = jax.jit(codec.decode).lower(params, z).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(tiled(codec, tile=16)) < 0.2 * temporaries(codec)


def test_an_overlap_must_fit_the_tile(codec):
    with pytest.raises(ValueError, match="tiles of 8 latents must overlap by 1 to 4, got 5"):
        tiled(codec[0], tile=8, overlap=5)
