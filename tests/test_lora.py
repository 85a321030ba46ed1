"""Low-rank adapters on trees of parameters."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from sde_diffusion import lora
from sde_diffusion.tree_names import named

SHAPES = {
    "block": {
        "attention": {"kernel": (6, 4), "bias": (4,)},
        "conv": {"kernel": (3, 3, 4, 5)},
    },
    "scanned_layers": {
        "mlp": {"kernel": (7, 4, 8), "bias": (7, 8)},
        "conv": {"w": (7, 3, 3, 2, 5)},
    },
    "word.embedding": {"table": (10, 4)},
}
NAMES = "block/attention/*,scanned*"
merge = jax.jit(lora.merge)
unmerge = jax.jit(lora.unmerge)


def normal(rng, shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def network(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: normal(rng, shape, dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def adapters(params, rank=2, names="*", seed=0):
    """Adapters that change something: `up` is random too."""
    made = jax.eval_shape(lambda: lora.init(jax.random.key(seed), params, rank, names))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: normal(rng, leaf.shape), made)


def equal(a, b):
    return all(
        jax.tree.leaves(
            jax.tree.map(lambda x, y: np.array_equal(x, y) and x.dtype == y.dtype, a, b)
        )
    )


def test_every_matrix_gets_a_pair_and_no_vector_does():
    made = lora.by_name(adapters(network()))
    assert {name: (p["down"].shape, p["up"].shape) for name, p in made.items()} == {
        "block/attention/kernel": ((6, 2), (2, 4)),
        "block/conv/kernel": ((3, 3, 4, 2), (1, 1, 2, 5)),
        "scanned_layers/conv/w": ((7, 3, 3, 2, 2), (7, 1, 1, 2, 5)),
        "scanned_layers/mlp/kernel": ((7, 4, 2), (7, 2, 8)),
        "word.embedding/table": ((10, 2), (2, 4)),
    }


def test_down_keeps_the_variance_of_its_inputs_and_every_pair_has_its_own_numbers():
    shapes = {"a": (64, 8), "b": (64, 8), "scanned_conv": (3, 2, 2, 4, 2)}
    params = {name: np.zeros(shape, jnp.bfloat16) for name, shape in shapes.items()}
    made = jax.jit(lambda: lora.init(jax.random.key(0), params, 64))()
    for name, inputs in {"a": 64, "b": 64, "scanned_conv": 16}.items():
        assert np.var(made[name]["down"]) == pytest.approx(1 / inputs, rel=0.1)
        assert made[name]["down"].dtype == made[name]["up"].dtype == jnp.float32
        assert not np.any(made[name]["up"])
    assert not equal(made["a"]["down"], made["b"]["down"])


def test_a_new_adapter_changes_nothing():
    params = {"w": network()["block"]["attention"], "half": np.ones((6, 4), jnp.bfloat16)}
    merged = jax.jit(lambda: lora.merge(params, lora.init(jax.random.key(1), params, 3)))()
    assert equal(merged, params)


def test_what_is_merged_computes_the_network_with_its_adapters_beside_it():
    params = network()
    made = adapters(params)
    merged = merge(params, made)
    x = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)
    pair = made["block"]["attention"]["kernel"]
    beside = x @ params["block"]["attention"]["kernel"] + x @ pair["down"] @ pair["up"]
    np.testing.assert_allclose(x @ merged["block"]["attention"]["kernel"], beside, rtol=1e-4)
    assert equal(merged["block"]["attention"]["bias"], params["block"]["attention"]["bias"])

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x = np.random.default_rng(4).standard_normal((2, 6, 6, 4)).astype(np.float32)
    pair, kernel = made["block"]["conv"]["kernel"], params["block"]["conv"]["kernel"]
    beside = conv(x, kernel) + conv(conv(x, pair["down"]), pair["up"])
    np.testing.assert_allclose(
        conv(x, merged["block"]["conv"]["kernel"]), beside, rtol=1e-4, atol=1e-4
    )


def test_each_scanned_layer_has_an_adapter_of_its_own():
    params = network()
    made = adapters(params, names="scanned*")
    merged = merge(params, made)["scanned_layers"]
    for module, leaf in (("mlp", "kernel"), ("conv", "w")):
        for layer in range(7):
            pair = {k: v[layer] for k, v in made["scanned_layers"][module][leaf].items()}
            alone = merge({"w": params["scanned_layers"][module][leaf][layer]}, {"w": pair})
            np.testing.assert_allclose(merged[module][leaf][layer], alone["w"], rtol=1e-5)


@hypothesis.given(
    seed=st.integers(0, 1000),
    rank=st.sampled_from([1, 3]),
    weight=st.floats(-2, 2),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
@hypothesis.settings(max_examples=15, deadline=None)
def test_unmerging_is_exact_up_to_rounding(seed, rank, weight, dtype):
    params = network(seed, dtype)
    made = adapters(params, rank, NAMES, seed)
    made = jax.tree.map(lambda leaf: np.float32(weight) * leaf, made)
    merged = merge(params, made)
    back = named(unmerge(merged, made))
    for name, leaf in named(params).items():
        assert back[name].dtype == leaf.dtype
        begun, end = np.asarray(leaf, np.float64), np.asarray(back[name], np.float64)
        largest = np.abs(np.asarray(named(merged)[name], np.float64)).max() + np.abs(begun).max()
        assert np.abs(end - begun).max() <= 2 * float(jnp.finfo(dtype).eps) * largest


def test_several_adapters_add_up_with_their_weights():
    params = network()
    a, b = adapters(params, 2, NAMES), adapters(params, 3, "block/attention/*", seed=1)
    both = jax.jit(lambda: lora.merge(params, lora.scale(a, 0.5), lora.scale(b, -2.0)))()
    change_a, change_b = lora.by_name(a), lora.by_name(b)
    for name, leaf in named(params).items():
        wanted = leaf
        for weight, change in ((0.5, change_a.get(name)), (-2.0, change_b.get(name))):
            if change is not None:
                wanted = wanted + weight * change["down"] @ change["up"]
        np.testing.assert_allclose(named(both)[name], wanted, rtol=1e-5, atol=1e-5)


def test_patterns_select_what_is_adapted():
    made = adapters(network(), 2, "block/*,scanned*,!*conv*,!*/bias")
    assert [*lora.by_name(made)] == ["block/attention/kernel", "scanned_layers/mlp/kernel"]


@pytest.mark.parametrize(
    ("rank", "names", "message"),
    [
        (0, "*", "rank of an adapter must be a whole number from 1, got 0"),
        (-1, "*", "got -1"),
        (True, "*", "got True"),
        (2.0, "*", "got 2.0"),
        (2, "*attn*", "unknown pattern of parameters '\\*attn\\*'"),
        (
            2,
            "*/bias",
            "no matrix has a name that matches '\\*/bias', only block/attention/bias, sc",
        ),
    ],
)
def test_ranks_and_patterns_that_make_no_adapter_are_refused(rank, names, message):
    with pytest.raises(ValueError, match=message):
        lora.init(jax.random.key(0), network(), rank, names)


def test_adapters_of_another_network_are_refused():
    made = adapters({"block": {"kernel": jnp.zeros((6, 4))}})
    with pytest.raises(ValueError, match="has no parameter 'block/kernel', only other"):
        lora.merge({"other": jnp.zeros((6, 4))}, made)
    with pytest.raises(ValueError, match=r"'block/kernel' is \(6, 2\) and \(2, 4\), .* \(6, 5\)"):
        lora.merge({"block": {"kernel": jnp.zeros((6, 5))}}, made)
    with pytest.raises(ValueError, match="adapter of 'block/kernel' has down, not down and up"):
        lora.by_name({"block": {"kernel": {"down": jnp.zeros((6, 2))}}})


def test_merging_can_be_compiled_and_differentiated():
    params = network()
    made = adapters(params, 2, "block/attention/*")
    pair = made["block"]["attention"]["kernel"]
    pair["up"] = np.zeros_like(pair["up"])

    def loss(adapters):
        return jnp.sum(lora.merge(params, adapters)["block"]["attention"]["kernel"] ** 2)

    pair = jax.jit(jax.grad(loss))(made)["block"]["attention"]["kernel"]
    assert not pair["down"].any()  # since `up` is zero
    assert pair["up"].any()
