"""The product of activations with parameters, and its gradients, in the narrower dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks.product import product

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4, 5)).astype(np.float32)
W = rng.standard_normal((5, 6)).astype(np.float32)


def curved(multiply):
    return lambda x, w: jnp.sum(jnp.sin(multiply(x, w)))


@pytest.mark.parametrize(
    "derivative",
    [
        jax.grad,
        jax.jacfwd,
        lambda f, argnums: jax.jacrev(jax.grad(f, 1), argnums),
        lambda f, argnums: jax.jacfwd(jax.grad(f, 0), argnums),
    ],
    ids=["reverse", "forward", "reverse of reverse", "forward of reverse"],
)
def test_derivatives_are_those_of_the_matrix_product(derivative):
    ours = jax.jit(derivative(curved(product), (0, 1)))(X, W)
    theirs = jax.jit(derivative(curved(jnp.matmul), (0, 1)))(X, W)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axes", "x", "w"), [((0, None), X, W), ((None, 0), X, W[None])])
def test_vmap_maps_either_factor(axes, x, w):
    ours = jax.vmap(product, axes)(x, w)
    np.testing.assert_allclose(ours, jax.vmap(jnp.matmul, axes)(x, w), rtol=1e-5)


def test_bfloat16_factors_have_float32_sums_and_both_gradients_have_bfloat16_factors():
    x = jnp.asarray(X, jnp.bfloat16)
    assert product(x, W).dtype == jnp.float32
    exact = np.asarray(x, np.float64) @ np.asarray(jnp.asarray(W, jnp.bfloat16), np.float64)
    np.testing.assert_allclose(product(x, W), exact, rtol=1e-6, atol=1e-6)

    gradients = jax.grad(curved(product), (0, 1))
    assert [g.dtype for g in gradients(x, W)] == [jnp.bfloat16, jnp.float32]
    text = jax.jit(gradients).lower(x, W).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert all(line.split(" : ")[-1].split("->")[0].count("xbf16>") == 2 for line in products)


def test_on_a_cpu_every_bfloat16_product_is_one_of_matrices_with_a_float32_result():
    """The kernel for AMX takes nothing else."""
    x = jnp.asarray(X, jnp.bfloat16)
    text = jax.jit(jax.grad(curved(product), (0, 1))).lower(x, W).as_text()
    for line in text.splitlines():
        if "dot_general" in line:
            signature = line.split(" : ")[-1]
            assert signature.split("->")[1].strip().endswith("xf32>"), line
            assert all(part.count("x") == 2 for part in signature.split("tensor<")[1:]), line
            assert "contracting_dims = [1] x" in line, line
