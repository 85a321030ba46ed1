"""What every score network promises, whatever its switches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks import DDPM, MLP, NCSNpp, build

small = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
NETWORKS = {
    "ddpm": DDPM(**small, init_scale=1.0),
    "ncsnpp": NCSNpp(**small, init_scale=1.0),
    "progressive": NCSNpp(
        **small,
        init_scale=1.0,
        progressive="output_skip",
        progressive_input="input_skip",
        progressive_combine="cat",
    ),
    "mlp": MLP(features=16, embedding_features=8),
}
every = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)

t = jnp.array([0.3, 5.0])


def images(channels=3, size=8):
    return jax.random.normal(jax.random.key(1), (2, size, size, channels))


# These are compiled once to run once: what the optimizer costs, no test gets back.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(network, x, **arguments):
    return jax.eval_shape(partial(network.init, **arguments), jax.random.key(0), x, t)["params"]


def draw(network, x):
    """Parameters of the network's tree, none of them zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32) / np.prod(leaf.shape[:-1]) ** 0.5,
        shapes(network, x),
    )


def apply(network, params, x, **arguments):
    return jit(partial(network.apply, **arguments))({"params": params}, x, t)


@every
def test_the_output_has_the_shape_of_the_input_and_is_float32(network):
    for x in (images(), images(channels=1)):
        y = jax.eval_shape(network.apply, {"params": shapes(network, x)}, x, t)
        assert (y.shape, y.dtype) == (x.shape, jnp.float32)


@pytest.mark.parametrize("nf", [4, 7, 18])
def test_any_number_of_features_will_do(nf):
    network = NCSNpp(**{**small, "nf": nf})
    y = jax.eval_shape(network.apply, {"params": shapes(network, images())}, images(), t)
    assert y.shape == images().shape


@every
def test_the_loss_moves_every_parameter_but_the_fourier_frequencies(network):
    x = images()
    params = draw(network, x)
    gradient = jit(jax.grad(lambda p: jnp.mean(network.apply({"params": p}, x, t) ** 2)))
    still = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradient(params))
        if not np.any(np.abs(g) > 1e-12)
    ]
    assert still == (
        [] if network.embedding_type == "positional" else ["['GaussianFourierProjection_0']['W']"]
    )


@pytest.mark.parametrize("name", ["progressive", "mlp"])
def test_bfloat16_computes_nearly_the_same_with_float32_parameters(name):
    network, x = NETWORKS[name], images()
    params = draw(network, x)
    exact = apply(network, params, x)
    rough = apply(network.clone(dtype="bfloat16"), params, x)
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.05
    leaves = jax.tree.leaves(shapes(network.clone(dtype="bfloat16"), x))
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


def test_rematerialization_changes_neither_tree_nor_output_nor_gradient():
    network, x = NETWORKS["ncsnpp"].clone(dropout=0.5), images()
    params = draw(network, x)

    def loss(network, params):
        rngs = {"dropout": jax.random.key(2)}
        return jnp.mean(network.apply({"params": params}, x, t, train=True, rngs=rngs) ** 2)

    value = jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)
    plain = value(network, params)
    for remat in ("pointwise", "blocks"):
        again = value(network.clone(remat=remat), params)
        assert jax.tree.structure(plain) == jax.tree.structure(again)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6, err_msg=remat)


def test_rematerialization_keeps_less_from_the_forward_for_the_backward_pass():
    network, x = NETWORKS["ncsnpp"].clone(dropout=0.5), images()
    params = draw(network, x)

    def kept(remat):
        def forward(params):
            apply = partial(network.clone(remat=remat).apply, train=True)
            return apply({"params": params}, x, t, rngs={"dropout": jax.random.key(2)})

        residuals = jax.eval_shape(lambda params: jax.vjp(forward, params)[1], params)
        leaves = [leaf for leaf in jax.tree.leaves(residuals) if leaf.dtype == jnp.float32]
        return sum(leaf.size for leaf in leaves) - sum(
            leaf.size for leaf in jax.tree.leaves(params)
        )

    assert kept("pointwise") < 0.6 * kept("none")
    assert kept("blocks") < 0.8 * kept("pointwise")


@every
def test_classes_add_one_table_of_parameters_and_nothing_else(network):
    without, tree = shapes(network, images()), shapes(network.clone(num_classes=5), images())
    assert set(tree) - set(without) == {"ClassEmbedding_0"}
    del tree["ClassEmbedding_0"]
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, without)


@every
def test_no_class_is_a_negative_label_or_no_condition(network):
    network, x = network.clone(num_classes=5), images()
    params = draw(network, x)
    free = apply(network, params, x)
    negative = apply(network, params, x, cond=jnp.array([-1, -1]))
    half = apply(network, params, x, cond=jnp.array([3, -1]))
    np.testing.assert_allclose(negative, free, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(half[1], free[1], rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(half[0] - free[0])) > 1e-3


@every
def test_a_condition_without_classes_is_an_error(network):
    with pytest.raises(ValueError, match=r"cond has 'label', .* set num_classes"):
        shapes(network, images(), cond=jnp.array([0, 1]))


def test_without_conditioning_the_time_is_ignored():
    network, x = NETWORKS["ddpm"].clone(conditional=False), images()
    params = draw(network, x)
    y = jit(network.apply)
    np.testing.assert_array_equal(y({"params": params}, x, t), y({"params": params}, x, 100 * t))


def test_the_output_is_divided_by_the_noise_level():
    x = images()
    fourier = NETWORKS["ncsnpp"].clone(scale_by_sigma=False)
    params = draw(fourier, x)
    scaled = apply(fourier.clone(scale_by_sigma=True), params, x)
    np.testing.assert_allclose(
        scaled, apply(fourier, params, x) / t[:, None, None, None], rtol=1e-5, atol=1e-6
    )
    # Labels of discrete noise levels: 50 (0.01 / 50)^(i / 9), i = 0 and 5, truncated from 5.0.
    indexed = NETWORKS["ddpm"].clone(scale_by_sigma=True, num_scales=10)
    params = draw(indexed, x)
    plain = apply(indexed.clone(scale_by_sigma=False), params, x)
    sigma = np.array([50.0, 50.0 * (0.01 / 50) ** (5 / 9)])[:, None, None, None]
    np.testing.assert_allclose(apply(indexed, params, x), plain / sigma, rtol=1e-4)


def test_uncentered_data_are_mapped_to_minus_one_to_one():
    network, x = NETWORKS["ddpm"], images()
    params = draw(network, x)
    uncentered = apply(network.clone(centered=False), params, (x + 1) / 2)
    np.testing.assert_allclose(uncentered, apply(network, params, x), rtol=1e-3, atol=1e-3)


def test_dropout_acts_in_training_alone():
    network, x = NETWORKS["ddpm"].clone(dropout=0.5), images()
    params = draw(network, x)
    calm = apply(network, params, x)
    trained = [
        apply(network, params, x, train=True, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.allclose(trained[0], trained[2])
    assert not np.allclose(trained[0], calm)


def test_an_image_that_cannot_be_halved_often_enough_is_an_error():
    with pytest.raises(ValueError, match="images of 7x7 cannot be halved 1 times"):
        shapes(NETWORKS["ddpm"], images(size=7))


def test_build_makes_the_network_of_a_name():
    assert build("ddpm", nf=8) == DDPM(nf=8)
    assert build("ncsnpp", ch_mult=(1, 1)) == NCSNpp(ch_mult=(1, 1))
    assert build("mlp") == MLP()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ncsn++", {}, "unknown network 'ncsn.*; did you mean 'ncsnpp'.*ddpm, ncsnpp, mlp"),
        ("ddpm", {"chmult": (1,)}, "unknown field of network 'ddpm' 'chmult'; .*'ch_mult'"),
        ("ddpm", {"name": "x"}, "unknown field of network 'ddpm' 'name'"),
        ("ncsnpp", {"progressive": "skip"}, "progressive 'skip'.*output_skip, residual"),
        ("ncsnpp", {"nonlinearity": "swich"}, "nonlinearity 'swich'; did you mean 'swish'"),
        ("ncsnpp", {"dtype": "float16"}, "dtype 'float16'.*float32, bfloat16"),
        ("mlp", {"embedding_type": "furier"}, "did you mean 'fourier'"),
    ],
)
def test_an_unknown_name_field_or_value_is_an_error_with_the_nearest(name, fields, message):
    with pytest.raises(ValueError, match=message):
        build(name, **fields)
