"""Sums over axes and the repetition along them, how a TPU computes the sums, and gated changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks.dit import add_gated
from sde_diffusion.networks.sums import by_product, spread, total

X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
AXES = [(1,), (-1,), (0, 2)]


@pytest.mark.parametrize("axes", AXES)
def test_a_total_is_the_sum_over_the_axes(axes):
    np.testing.assert_allclose(total(X, axes, "float32"), X.sum(axes), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axes", AXES)
def test_what_is_spread_is_repeated_along_the_new_axes(axes):
    v = X.mean(axes)
    sizes = tuple(X.shape[axis] for axis in axes)
    expected = np.broadcast_to(np.expand_dims(v, axes), X.shape)
    np.testing.assert_array_equal(spread(v, axes, sizes, "float32"), expected)


@pytest.mark.parametrize("axes", AXES)
def test_each_is_the_gradient_of_the_other(axes):
    sizes = tuple(X.shape[axis] for axis in axes)
    v = X.mean(axes)
    _, of_total = jax.vjp(lambda x: total(x, axes, "float32"), X)
    _, of_spread = jax.vjp(lambda v: spread(v, axes, sizes, "float32"), v)
    np.testing.assert_array_equal(of_total(v)[0], spread(v, axes, sizes, "float32"))
    np.testing.assert_array_equal(of_spread(X)[0], total(X, axes, "float32"))


def test_they_have_forward_derivatives_and_second_ones():
    def f(x):
        return jnp.sum(jnp.sin(spread(total(x, (1,), "float32") ** 2, (1,), (4,), "float32")))

    def plainly(x):
        return jnp.sum(jnp.sin(jnp.broadcast_to((x.sum(1) ** 2)[:, None], x.shape)))

    x = X / 4
    for derivative in (jax.jacfwd, jax.grad, lambda f: jax.jacfwd(jax.grad(f))):
        np.testing.assert_allclose(derivative(f)(x), derivative(plainly)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mapped", [0, 2])
def test_vmap_maps_any_axis(mapped):
    ours = jax.vmap(lambda x: total(x, (-1,), "float32"), mapped)(X)
    theirs = jax.vmap(lambda x: x.sum(-1), mapped)(X)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    ours = jax.vmap(lambda v: spread(v, (1,), (7,), "float32"), mapped)(X)
    theirs = jax.vmap(lambda v: jnp.repeat(v[:, None], 7, 1), mapped)(X)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("axes", AXES)
def test_a_product_with_ones_sums_what_was_rounded_to_bfloat16(axes):
    axes = tuple(axis % 3 for axis in axes)
    rounded = np.asarray(X.astype(jnp.bfloat16), np.float32)
    sums = by_product(X, axes=axes, factors=jnp.dtype("bfloat16"))
    assert sums.dtype == jnp.float32
    np.testing.assert_allclose(sums, rounded.sum(axes), rtol=1e-6, atol=1e-6)


def test_a_product_with_ones_rounds_nothing_in_float32():
    sums = by_product(X, axes=(1,), factors=jnp.dtype("float32"))
    np.testing.assert_allclose(sums, X.sum(1), rtol=1e-6, atol=1e-6)


def test_a_tpu_computes_totals_in_bfloat16_by_products():
    def lowered(dtype):
        x = jax.ShapeDtypeStruct((8, 16, 32), jnp.float32)
        traced = jax.jit(lambda x: total(x, (1,), dtype)).trace(x)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    assert "dot_general" in lowered("bfloat16")
    assert "dot_general" not in lowered("float32")


def test_a_bias_joins_the_gated_change():
    h, change = X, X[::-1]
    gate, bias = X[:, :1] + 1, X[0, 0]
    expected = h + gate * (change + bias)
    np.testing.assert_allclose(add_gated(h, gate, change, bias), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(add_gated(h, gate, change), h + gate * change, rtol=1e-6, atol=1e-6)
