"""Layers and blocks against their formulas, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks.blocks import AttnBlock, Combine, ResnetBlock
from sde_diffusion.networks.conditions import ClassEmbedding
from sde_diffusion.networks.embeddings import (
    GaussianFourierProjection,
    positional_embedding,
)
from sde_diffusion.networks.layers import NIN, Conv, Dense, add_skip

rng = np.random.default_rng(0)


def randomized(params):
    """Parameters of that tree with every entry drawn anew, so that none is zero."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves])


def correlate(x, kernel, bias):
    """3x3 or 1x1 correlation of x [B, H, W, C], zeros outside."""
    edge = len(kernel) // 2
    _, height, width, _ = x.shape
    x = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    window = range(len(kernel))
    return bias + sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j] for i in window for j in window
    )


def test_dense_takes_arrays_side_by_side():
    x, z = rng.standard_normal((2, 3, 4)).astype(np.float32), rng.standard_normal((2, 3, 5))
    both = np.concatenate([x, z], axis=-1, dtype=np.float32)
    params = {"params": randomized(Dense(6).init(jax.random.key(0), both)["params"])}
    y, bias = Dense(6).apply(params, x, z.astype(np.float32), method="apart")
    np.testing.assert_allclose(y + bias, Dense(6).apply(params, both), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_conv_correlates_with_its_kernel(size):
    x = rng.standard_normal((2, 4, 5, 3)).astype(np.float32)
    conv = Conv(6, kernel_size=size)
    params = randomized(conv.init(jax.random.key(0), x)["params"])
    expected = correlate(x, params["kernel"], params["bias"])
    np.testing.assert_allclose(conv.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("layer", [Conv(4), NIN(4), AttnBlock(min_group_size=1)])
def test_a_layer_computes_in_the_dtype_of_its_input_with_float32_parameters(layer):
    x = jnp.ones((1, 4, 4, 4), jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_rescaled_skips_keep_unit_variance():
    x, h = jax.random.normal(jax.random.key(0), (2, 10_000))
    assert np.std(add_skip(x, h, rescale=True)) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(add_skip(x, h, rescale=False), x + h)


def test_positional_features_are_sines_and_cosines_of_geometric_frequencies():
    t = np.array([0.0, 0.5, 999.0], np.float32)
    y = positional_embedding(jnp.asarray(t), 9)
    angles = t[:, None].astype(np.float64) * [1, 1e-4 ** (1 / 3), 1e-4 ** (2 / 3), 1e-4]
    expected = np.concatenate([np.sin(angles), np.cos(angles), np.zeros((3, 1))], axis=1)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_fourier_features_are_of_unit_length_and_have_fixed_frequencies():
    layer = GaussianFourierProjection(8, scale=16.0)
    t = jnp.array([0.1, 2.0])
    y, variables = layer.init_with_output(jax.random.key(0), t)
    np.testing.assert_allclose(np.sum(y**2, axis=-1), 8.0, rtol=1e-5)
    gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, t) ** 3))(variables)
    np.testing.assert_array_equal(gradient["params"]["W"], 0.0)


def test_a_class_is_a_row_and_a_negative_label_is_zero():
    layer = ClassEmbedding(3, features=4)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.array([2, -1, 0]))
    table = variables["params"]["embedding"]
    np.testing.assert_array_equal(y, np.stack([table[2], np.zeros(4), table[0]]))


def test_attention_mixes_all_pixels_by_softmax():
    x = rng.standard_normal((2, 3, 2, 4)).astype(np.float32)
    block = AttnBlock(min_group_size=4)
    params = randomized(block.init(jax.random.key(0), x)["params"])
    pixels = x.reshape(2, 6, 4)
    normal = (pixels - pixels.mean((1, 2), keepdims=True)) / pixels.std((1, 2), keepdims=True)
    normal = normal * params["GroupNorm_0"]["scale"] + params["GroupNorm_0"]["bias"]
    q, k, v = (normal @ params[f"NIN_{i}"]["W"] + params[f"NIN_{i}"]["b"] for i in range(3))
    weights = np.exp(np.einsum("bqc,bkc->bqk", q, k) / np.sqrt(4))
    weights /= weights.sum(-1, keepdims=True)
    mixed = weights @ v @ params["NIN_3"]["W"] + params["NIN_3"]["b"]
    expected = (pixels + mixed).reshape(x.shape)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("nin_shortcut", [True, False])
@pytest.mark.parametrize("features", [4, 6])
def test_a_residual_block_is_its_formula(features, nin_shortcut):
    x = rng.standard_normal((2, 4, 4, 4)).astype(np.float32)
    embedding = rng.standard_normal((2, 5)).astype(np.float32)
    block = ResnetBlock(
        features,
        act=jnp.tanh,
        dropout=0.5,
        train=False,
        min_group_size=100,
        skip_rescale=True,
        nin_shortcut=nin_shortcut,
    )
    p = randomized(block.init(jax.random.key(0), x, embedding)["params"])

    def norm(h, name):
        h = (h - h.mean((1, 2, 3), keepdims=True)) / h.std((1, 2, 3), keepdims=True)
        return h * p[name]["scale"] + p[name]["bias"]

    h = correlate(np.tanh(norm(x, "GroupNorm_0")), p["Conv_0"]["kernel"], p["Conv_0"]["bias"])
    h += (embedding @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])[:, None, None]
    h = correlate(np.tanh(norm(h, "GroupNorm_1")), p["Conv_1"]["kernel"], p["Conv_1"]["bias"])
    skip = x
    if features != 4 and nin_shortcut:
        skip = x @ p["NIN_0"]["W"] + p["NIN_0"]["b"]
    elif features != 4:
        skip = x @ p["Conv_2"]["kernel"][0, 0] + p["Conv_2"]["bias"]
    expected = (skip + h) / np.sqrt(2)
    np.testing.assert_allclose(block.apply({"params": p}, x, embedding), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["sum", "cat"])
def test_combine_projects_the_image_and_adds_or_concatenates(method):
    image, h = (rng.standard_normal((1, 2, 2, c)).astype(np.float32) for c in (3, 4))
    block = Combine(method)
    p = randomized(block.init(jax.random.key(0), image, h)["params"])["Conv_0"]
    projected = image @ p["kernel"][0, 0] + p["bias"]
    expected = projected + h if method == "sum" else np.concatenate([projected, h], axis=-1)
    got = block.apply({"params": {"Conv_0": p}}, image, h)
    np.testing.assert_allclose(got, expected, atol=1e-5)
