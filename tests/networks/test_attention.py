"""Every implementation of attention is softmax(q k^T / sqrt(H)) v, here in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

from sde_diffusion.distributed import make_mesh
from sde_diffusion.layerwise import over
from sde_diffusion.networks import attention as module
from sde_diffusion.networks.attention import attention, suitable

rng = np.random.default_rng(0)
B, T, S, N, H = 2, 13, 7, 3, 8
QUERY, KEY, VALUE = (
    rng.standard_normal((B, length, N, H)).astype(np.float32) for length in (T, S, S)
)
# Which keys a query sees; every query sees the first.
SEEN = (rng.random((B, N, T, S)) < 0.5) | (np.arange(S) == 0)
MASKS = {
    "none": None,
    "of keys": SEEN[:, :1, :1],
    "of queries and keys": SEEN[:1, :1],
    "of all": SEEN,
}
# On this machine; cuDNN's needs a GPU, and that of a TPU is interpreted below.
HERE = [name for name in module.IMPLEMENTATIONS if name not in ("cudnn", "flash")]


def exact(query, key, value, mask):
    query, key, value = (array.astype(np.float64) for array in (query, key, value))
    logits = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(H)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "LOGITS", 4 * S)  # four queries at a time


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("implementation", ["auto", *HERE])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_attention_is_the_softmax_of_the_products_over_the_keys_that_are_seen(mask, implementation):
    got = jax.jit(attention, static_argnums=4)(QUERY, KEY, VALUE, mask, implementation)
    np.testing.assert_allclose(got, exact(QUERY, KEY, VALUE, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_have_the_gradients_of_the_whole():
    def gradients(implementation):
        def total(*args):
            return jnp.sum(jnp.sin(attention(*args, SEEN, implementation)))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(QUERY, KEY, VALUE)

    for ours, theirs in zip(gradients("chunked"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("implementation", HERE)
def test_bfloat16_stays_bfloat16_with_a_softmax_in_float32(implementation):
    narrow = [array.astype(jnp.bfloat16) for array in map(jnp.asarray, (QUERY, KEY, VALUE))]
    got = jax.jit(attention, static_argnums=4)(*narrow, None, implementation)
    assert got.dtype == jnp.bfloat16
    expected = exact(*(np.asarray(array, np.float64) for array in narrow), None)
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=0.01)


def memory(length, implementation):
    """Bytes of temporaries of attention and its gradients, one head of 8 features."""
    shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)

    def total(query, key, value):
        return jnp.sum(attention(query, key, value, None, implementation))

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(shape, shape, shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_on_a_cpu_long_attention_takes_the_memory_of_a_chunk():
    logits = 4 * 8192**2
    assert memory(8192, "xla") > 2 * logits
    assert memory(8192, "auto") < logits + 2**24  # four chunks of a quarter of the logits


@pytest.mark.parametrize(
    ("platform", "length", "dtype", "features", "expected"),
    [
        ("cpu", 512, "bfloat16", 64, "xla"),
        ("cpu", 1024, "float32", 64, "chunked"),
        ("tpu", 512, "bfloat16", 64, "xla"),
        ("tpu", 4096, "bfloat16", 64, "flash"),
        ("gpu", 256, "bfloat16", 72, "cudnn"),
        ("gpu", 256, "float32", 72, "xla"),  # what cuDNN does not compute
        ("gpu", 256, "bfloat16", 36, "xla"),
        ("gpu", 256, "bfloat16", 256, "xla"),
    ],
)
def test_auto_suits_the_platform_the_length_and_the_types(
    monkeypatch, platform, length, dtype, features, expected
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x = jax.ShapeDtypeStruct((1, length, 1, features), dtype)
    assert suitable(x, x, None) == expected


def test_auto_takes_the_kernel_of_a_tpu_where_each_device_is_known_to_have_whole_samples(
    monkeypatch,
):
    monkeypatch.setattr(module, "_platform", lambda: "tpu")
    eight, four = (jax.ShapeDtypeStruct((num, 1024, 1, 64), "bfloat16") for num in (8, 4))
    assert suitable(eight, eight, None) == "xla"  # eight devices, and no ambient mesh
    with over(make_mesh()):
        assert suitable(eight, eight, None) == "flash"
        assert suitable(four, four, None) == "xla"
        with pytest.raises(ValueError, match=r"each of 8 devices whole samples, .* are 2"):
            attention(QUERY, KEY, VALUE, None, "flash")
    with pytest.raises(ValueError, match="'flash' has no mask and no bias"):
        attention(QUERY, KEY, VALUE, SEEN, "flash")


@pytest.mark.parametrize("lengths", [(200, 150), (128, 256)], ids=["filled up", "whole blocks"])
def test_the_kernel_of_a_tpu_has_the_values_and_the_gradients_of_the_products(lengths):
    query, key, value = (
        jnp.asarray(rng.standard_normal((1, length, 1, 8)), jnp.float32)
        for length in (lengths[0], lengths[1], lengths[1])
    )

    def made(implementation):
        def total(*args):
            return jnp.sum(jnp.sin(attention(*args, None, implementation)))

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(query, key, value)

    with tpu.force_tpu_interpret_mode():
        ours = made("flash")
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(made("xla")), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_what_is_chosen_can_be_observed():
    x = jax.ShapeDtypeStruct((1, 13, 1, 8), "float32")
    with module.chosen() as found:
        jax.eval_shape(lambda x: attention(x, x, x), x)
        jax.eval_shape(lambda x: attention(x, x[:, :7], x[:, :7]), x)
        jax.eval_shape(lambda x: attention(x, x[:, :7], x[:, :7], None, "chunked"), x)
    assert found == {(13, 13, "xla"), (13, 7, "xla"), (13, 7, "chunked")}


def test_a_program_for_devices_that_are_not_here_has_the_implementation_that_suits_them(
    monkeypatch,
):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    x = jax.ShapeDtypeStruct((1, 4096, 1, 64), "float32")
    with over(make_mesh()):  # a mesh of CPU devices
        assert suitable(x, x, None) == "chunked"


def test_an_unknown_implementation_is_named():
    with pytest.raises(ValueError, match="implementation 'cudn'; did you mean 'cudnn'"):
        attention(QUERY, KEY, VALUE, None, "cudn")
