"""Group normalization against its formula in float64, and against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from sde_diffusion.networks.normalization import GroupNorm, LayerNorm, num_groups, standardized

rng = np.random.default_rng(0)
x = (3 * rng.standard_normal((2, 5, 6, 12)) + 2).astype(np.float32)
shift = rng.standard_normal((2, 12)).astype(np.float32)
params = {
    "scale": rng.standard_normal(12).astype(np.float32),
    "bias": rng.standard_normal(12).astype(np.float32),
}


@pytest.mark.parametrize(
    ("channels", "min_group_size", "groups"),
    [(16, 4, 4), (48, 4, 12), (128, 4, 32), (384, 4, 32), (32, 1, 32), (192, 1, 32), (3, 4, 1)],
)
def test_group_norm_has_as_many_groups_as_the_reference(channels, min_group_size, groups):
    assert num_groups(channels, min_group_size) == groups


@given(st.integers(1, 2000), st.integers(1, 8))
def test_the_groups_of_group_norm_divide_any_number_of_channels(channels, min_group_size):
    groups = num_groups(channels, min_group_size)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= min_group_size


def apply(params, x, shift=None):
    return GroupNorm(4).apply({"params": params}, x, shift)


def test_the_groups_of_each_sample_are_normalized():
    groups = x.astype(np.float64).reshape(2, 5, 6, 4, 3)
    moments = {"axis": (1, 2, 4), "keepdims": True}
    expected = (groups - groups.mean(**moments)) / np.sqrt(groups.var(**moments) + 1e-6)
    expected = expected.reshape(x.shape) * params["scale"] + params["bias"]
    np.testing.assert_allclose(apply(params, x), expected, atol=1e-5)


def test_a_shift_is_what_is_added_to_every_pixel():
    together = apply(params, x + shift[:, None, None])
    np.testing.assert_allclose(apply(params, x, shift), together, atol=1e-5)


def test_the_gradients_are_those_of_flax_with_the_shift_added_before():
    def flax(params, x, shift):
        return nn.GroupNorm(4).apply({"params": params}, x + shift[:, None, None])

    def gradients(norm):
        def loss(*arguments):
            return jnp.sum(jnp.sin(norm(*arguments)))

        return jax.grad(loss, argnums=(0, 1, 2))(params, x, shift)

    for ours, theirs in zip(
        jax.tree.leaves(gradients(apply)), jax.tree.leaves(gradients(flax)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_gradient_of_a_shift_takes_no_pass_over_the_image():
    def program(argument):
        def loss(x, shift):
            return jnp.sum(jnp.sin(apply(params, x, shift)))

        return str(jax.make_jaxpr(jax.grad(loss, argnums=argument))(x, shift))

    # The sums over pixels that there are without it: two moments, the loss, and of the gradient
    # those that belong to a and b.
    assert program(1).count("axes=(1, 2)") == program(0).count("axes=(1, 2)")


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_bfloat16_images_are_normalized_and_activated_in_float32(offset):
    rounded = jnp.asarray(x + offset, jnp.bfloat16)
    exact = nn.swish(apply(params, rounded.astype(jnp.float32)))
    made = GroupNorm(4, nn.swish).apply({"params": params}, rounded)
    assert made.dtype == jnp.bfloat16
    np.testing.assert_array_equal(made, exact.astype(jnp.bfloat16))


def test_activated_it_has_the_derivatives_of_norm_and_activation_apart():
    def at_once(params, x, shift):
        return GroupNorm(4, nn.swish).apply({"params": params}, x, shift)

    def apart(params, x, shift):
        return nn.swish(nn.GroupNorm(4).apply({"params": params}, x + shift[:, None, None]))

    def derivatives(norm):
        towards = jax.tree.map(jnp.cos, (params, x, shift))
        _, forward = jax.jvp(norm, (params, x, shift), towards)
        y, pull = jax.vjp(norm, params, x, shift)
        return jax.tree.leaves([forward, pull(jnp.sin(y))])

    for ours, theirs in zip(derivatives(at_once), derivatives(apart), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_layer_norm_by_definition():
    x = jax.random.normal(jax.random.key(0), (2, 3, 8)) * 5 + 3
    scale, bias = jax.random.normal(jax.random.key(1), (2, 8))
    y = LayerNorm(epsilon=0.1).apply({"params": {"scale": scale, "bias": bias}}, x)
    for b in range(2):
        for t in range(3):
            row = np.asarray(x[b, t], np.float64)
            wanted = (row - row.mean()) / np.sqrt(row.var() + 0.1) * scale + bias
            np.testing.assert_allclose(y[b, t], wanted, rtol=1e-5, atol=1e-5)


def test_group_norm_adds_its_epsilon_to_the_variance():
    x = jnp.asarray([1.0, 3.0]).reshape(1, 2, 1, 1)
    params = {"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}}
    y = GroupNorm(1, epsilon=3.0).apply(params, x)
    np.testing.assert_allclose(y.ravel(), [-0.5, 0.5], rtol=1e-6)


def test_a_program_stores_the_matrices_of_its_groups_once():
    def size(layers):
        def run(x):
            for _ in range(layers):
                x = GroupNorm(32).apply({"params": {"scale": x[0, 0, 0], "bias": x[0, 0, 0]}}, x)
            return x

        return len(jax.jit(run).lower(jnp.ones((1, 2, 2, 640))).as_text())

    assert size(3) < 1.2 * size(1)


def test_derivatives_of_what_is_standardized_are_those_of_the_formula():
    def plainly(x):
        centered = x - x.mean(-1, keepdims=True)
        return centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + 0.1)

    x = jax.random.normal(jax.random.key(0), (3, 7)) * 2 + 1
    for derivative in (jax.jacfwd, jax.jacrev, lambda f: jax.jacfwd(jax.jacrev(f))):
        ours = derivative(lambda x: standardized(x, 0.1))(x)
        np.testing.assert_allclose(ours, derivative(plainly)(x), rtol=1e-4, atol=1e-5)


def test_standardized_bfloat16_is_computed_in_float32():
    x = (jax.random.normal(jax.random.key(0), (3, 64)) + 30).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    y = standardized(x, 0.0)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-4)
