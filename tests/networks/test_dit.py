"""DiT against its equations in numpy, its published sizes, and what is in bfloat16."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks import DiT, build
from sde_diffusion.networks.dit import SIZES
from sde_diffusion.networks.scan import REMAT

SMALL = DiT(depth=2, features=16, num_heads=2, num_classes=5, learned_null=("label",))
X = np.random.default_rng(1).standard_normal((2, 4, 8, 3)).astype(np.float32)
T = np.array([0.3, 700.0], np.float32)
LABELS = np.array([3, -1])


def shapes(network, x=X):
    key = jax.random.key(0)
    return jax.eval_shape(network.init, key, jnp.asarray(x), jnp.ones(len(x)))["params"]


def drawn(network, x=X):
    """Parameters of the network's tree, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32) / leaf.shape[-2:][0] ** 0.5,
        shapes(network, x),
    )


@pytest.fixture(scope="module")
def params():
    return drawn(SMALL)


def apply(network, params, *args):
    return jax.jit(network.apply)({"params": params}, *args)


# ---- The network in numpy, in float64.


def reference(network, params, x, t, labels):
    """models.py of https://github.com/facebookresearch/DiT, for images [B, H, W, C]."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    batch, height, width, channels = x.shape
    size, rows, columns = (
        network.patch_size,
        height // network.patch_size,
        width // network.patch_size,
    )

    def linear(h, p):
        return h @ p["kernel"] + p["bias"]

    def silu(h):
        return h / (1 + np.exp(-h))

    def modulate(h, shift, scale):
        normal = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
        return normal * (1 + scale[:, None]) + shift[:, None]

    def modulation(p, parts):
        return np.split(linear(silu(c), p["linear"]), parts, axis=1)

    angles = t[:, None] * np.exp(-math.log(10_000) * np.arange(128) / 128)
    level = linear(np.concatenate([np.cos(angles), np.sin(angles)], 1), p["level"]["first"])
    c = linear(silu(level), p["level"]["second"]) + p["ClassEmbedding_0"]["embedding"][labels]

    tokens = np.empty((batch, rows * columns, size * size * channels))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
            tokens[:, i * columns + j] = patch.reshape(batch, -1)
    quarter = network.features // 4
    omega = 1 / 10_000 ** (np.arange(quarter) / quarter)
    places = [
        np.concatenate([f(place * omega) for place in (j, i) for f in (np.sin, np.cos)])
        for i in range(rows)
        for j in range(columns)
    ]
    h = linear(tokens, p["patches"]) + np.array(places)
    for layer in range(network.depth):
        b = jax.tree.map(lambda leaf: leaf[layer], p["scanned_blocks"])  # noqa: B023
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(b["modulation"], 6)
        q, k, v = np.split(linear(modulate(h, shift1, scale1), b["qkv"]), 3, axis=-1)
        mixed = np.empty_like(h)
        for head in np.split(np.arange(network.features), network.num_heads):
            weights = np.exp(q[..., head] @ k[..., head].swapaxes(1, 2) / math.sqrt(len(head)))
            mixed[..., head] = weights / weights.sum(-1, keepdims=True) @ v[..., head]
        h = h + gate1[:, None] * linear(mixed, b["attended"])
        inner = linear(modulate(h, shift2, scale2), b["hidden"])
        inner *= 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        h = h + gate2[:, None] * linear(inner, b["output"])
    y = linear(modulate(h, *modulation(p["last"]["modulation"], 2)), p["last"]["output"])
    y = y.reshape(batch, rows, columns, size, size, -1)
    return np.einsum("nhwpqc->nhpwqc", y).reshape(batch, height, width, -1)


def test_the_network_is_that_of_its_equations(params):
    got = apply(SMALL, params, X, T, LABELS)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, reference(SMALL, params, X, T, LABELS), rtol=2e-4, atol=2e-4)


def test_the_outputs_of_a_variance_are_left_out():
    network = SMALL.clone(learn_sigma=True, depth=1)
    params = drawn(network)
    got = apply(network, params, X, T, LABELS)
    expected = reference(network, params, X, T, LABELS)
    assert (got.shape, expected.shape) == (X.shape, (*X.shape[:-1], 6))
    np.testing.assert_allclose(got, expected[..., :3], rtol=2e-4, atol=2e-4)


# The table of the paper's appendix, in millions, with the classes and variances of its networks.
@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_the_sizes_are_the_published_ones(size, millions):
    network = DiT(
        size=size, patch_size=2, num_classes=1000, learned_null=("label",), learn_sigma=True
    )
    leaves = jax.tree.leaves(shapes(network, np.zeros((1, 32, 32, 4))))
    assert sum(leaf.size for leaf in leaves) == pytest.approx(millions * 1e6, rel=0.01)
    assert {leaf.shape[0] for leaf in leaves if len(leaf.shape) == 3} == {SIZES[size]["depth"]}


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_patch_of_any_published_size_leaves_the_shape_of_the_image(size):
    x = jax.ShapeDtypeStruct((2, 16, 8, 1), jnp.float32)
    network = SMALL.clone(patch_size=size)
    y = jax.eval_shape(network.apply, {"params": shapes(network, np.zeros(x.shape))}, x, T, LABELS)
    assert (y.shape, y.dtype) == (x.shape, jnp.float32)


def test_an_image_condition_is_more_channels_of_the_input():
    network = SMALL.clone(image_channels=2, depth=1)
    params, rng = drawn(network), np.random.default_rng(2)
    beside = rng.standard_normal((*X.shape[:-1], 2)).astype(np.float32)
    got = apply(network, params, X, T, {"label": LABELS, "image": beside})
    expected = reference(network, params, np.concatenate([X, beside], -1), T, LABELS)
    np.testing.assert_allclose(got, expected[..., :3], rtol=2e-4, atol=2e-4)


def test_a_new_network_gives_zero_and_its_layers_change_nothing():
    new = jax.jit(SMALL.init)(jax.random.key(0), X, T)["params"]
    np.testing.assert_array_equal(apply(SMALL, new, X, T), 0.0)
    # with another last layer, what comes out does not depend on the layers
    new["last"] = jax.tree.map(lambda leaf: leaf + 1.0, new["last"])
    without = new | {"scanned_blocks": jax.tree.map(lambda leaf: leaf[:1], new["scanned_blocks"])}
    y = apply(SMALL, new, X, T)
    assert np.std(y) > 0
    np.testing.assert_allclose(apply(SMALL.clone(depth=1), without, X, T), y, rtol=1e-6)


def loss(network, params):
    return jnp.mean(network.apply({"params": params}, X, T, LABELS) ** 2)


def test_rematerialization_changes_neither_value_nor_gradient_and_keeps_less(params):
    def of(remat):
        return jax.jit(jax.value_and_grad(partial(loss, SMALL.clone(remat=remat))))(params)

    def kept(remat):
        """Numbers that the forward pass keeps for the backward pass."""
        network = SMALL.clone(remat=remat, depth=8)
        residuals = jax.eval_shape(lambda p: jax.vjp(partial(loss, network), p)[1], shapes(network))
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    plain = of("none")
    for remat in ("pointwise", "gated", "blocks"):
        again = of(remat)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes(SMALL.clone(depth=8))))
    none, pointwise, gated, blocks = (
        kept(remat) - parameters for remat in ("none", "pointwise", "gated", "blocks")
    )
    assert pointwise < 0.6 * none
    assert gated < 0.5 * pointwise
    assert blocks < 0.5 * gated


def test_no_weights_of_a_layer_are_kept_beside_the_parameters():
    def shapes_kept(network):
        residuals = jax.eval_shape(lambda p: jax.vjp(partial(loss, network), p)[1], shapes(network))
        return [leaf.shape for leaf in jax.tree.leaves(residuals)]

    network = SMALL.clone(remat="none", depth=3)
    features = network.features
    kept = shapes_kept(network)
    # Those of `attended`; query, key and value are parts of one parameter.
    assert kept.count((3, features, features)) == 1
    assert kept.count((3, features, 3 * features)) == 1


def test_a_bfloat16_network_computes_nearly_the_same_with_float32_parameters(params):
    rough = apply(SMALL.clone(dtype="bfloat16"), params, X, T, LABELS)
    exact = apply(SMALL, params, X, T, LABELS)
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.05
    leaves = jax.tree.leaves(shapes(SMALL.clone(dtype="bfloat16")))
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


@pytest.mark.parametrize("remat", REMAT)
def test_every_product_of_a_bfloat16_network_and_of_its_gradient_is_in_bfloat16(remat):
    network = SMALL.clone(dtype="bfloat16", remat=remat)
    gradient = jax.jit(jax.grad(partial(loss, network)))
    text = gradient.lower(shapes(network)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    # Ten affine maps have two gradients each, except in the data; attention has six products.
    assert len(products) >= 3 * 10 - 2 + 6
    # JAX's attention says of some products of float32 that bfloat16 is what is multiplied.
    algorithm = "algorithm = <lhs_precision_type = bf16, rhs_precision_type = bf16"
    for line in products:
        factors = re.findall(r"x([a-z]+\d+)>", line.split(" : ")[-1])[:2]
        assert algorithm in line or factors == ["bf16", "bf16"], line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "XXL"}, "unknown size 'XXL'; did you mean 'XL'"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"remat": "all"}, "unknown remat 'all'"),
        ({"attention": "flesh"}, "unknown attention 'flesh'"),
        ({"pach_size": 2}, "unknown field of network 'dit' 'pach_size'; did you mean 'patch_size'"),
    ],
)
def test_an_unknown_choice_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        build("dit", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 8}, "patches of 8x8 do not divide images of 4x8"),
        ({"num_heads": 3}, "features: 16 is not a multiple of num_heads = 3"),
    ],
)
def test_what_does_not_divide_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        shapes(SMALL.clone(**fields))
