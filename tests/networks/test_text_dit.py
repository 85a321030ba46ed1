"""TextDiT: what it sees of a text, and that without a text it is a network without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.networks import TextDiT

SMALL = TextDiT(vocabulary=9, depth=2, features=16, num_heads=2)
FINE = SMALL.clone(fine_depth=1, fine_features=8)
X = np.random.default_rng(1).standard_normal((3, 4, 8, 3)).astype(np.float32)
T = np.array([0.3, 70.0, 700.0], np.float32)
TOKENS = np.array([[3, 5, 4, 0], [2, 0, 0, 0], [0, 0, 0, 0]])


@functools.cache
def params(network=SMALL):
    """Parameters of the network's tree, none of them zero."""
    cond = {"tokens": jnp.asarray(TOKENS)}
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.asarray(X), jnp.ones(3), cond)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32) / leaf.shape[-2:][0] ** 0.5,
        shapes["params"],
    )


@functools.cache
def applied(network=SMALL):
    return jax.jit(network.apply)


def output(tokens, x=X, network=SMALL):
    cond = None if tokens is None else {"tokens": jnp.asarray(tokens)}
    made = params(FINE if network.fine_depth else SMALL)
    return np.asarray(applied(network)({"params": made}, x, T[: len(x)], cond))


def test_the_output_has_the_shape_of_the_image_and_is_float32():
    y = output(TOKENS)
    assert (y.shape, y.dtype) == (X.shape, np.float32)
    assert np.isfinite(y).all()


def test_padding_is_never_seen():
    longer = np.pad(TOKENS, ((0, 0), (0, 3)))
    np.testing.assert_allclose(output(longer), output(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_text_of_padding_is_no_text():
    none = output(None)
    np.testing.assert_allclose(output(np.zeros_like(TOKENS)), none, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output(TOKENS)[2], none[2], rtol=1e-4, atol=1e-5)
    assert np.abs(output(TOKENS) - none)[:2].max(axis=(1, 2, 3)).min() > 1e-2


def test_the_order_of_the_words_matters():
    turned = TOKENS.copy()
    turned[0, :3] = turned[0, 2::-1]
    change = np.abs(output(turned) - output(TOKENS)).max(axis=(1, 2, 3))
    assert change[0] > 1e-2
    assert change[1:].max() < 1e-5


def test_each_picture_sees_its_own_text_alone():
    alone = output(TOKENS[:1], X[:1])
    np.testing.assert_allclose(output(TOKENS)[:1], alone, rtol=1e-4, atol=1e-5)


def test_the_attention_reads_the_text_beside_the_pooled_vector():
    """Also with the pooled vector cut, words reach the image."""
    cut = dict(params())
    cut["pooled"] = jax.tree.map(np.zeros_like, cut["pooled"])
    apply = applied()
    y, other = (
        apply({"params": cut}, X, T, {"tokens": jnp.asarray(tokens)})
        for tokens in (TOKENS, TOKENS[::-1])
    )
    assert np.abs(y - other)[0].max() > 1e-2


def test_fine_layers_carry_a_pixel_over_the_borders_of_patches():
    """The coarse layers cut off, a change of one pixel reaches every other patch."""
    cut = dict(params(FINE))
    cut["split"] = jax.tree.map(np.zeros_like, cut["split"])
    changed = X.copy()
    changed[:, 0, 0] += 1
    y, other = (applied(FINE)({"params": cut}, x, T, None) for x in (X, changed))
    assert np.abs(y - other).max(axis=(0, 3)).min() > 1e-4


def test_fine_layers_have_the_coarse_ones_between_them():
    """With the merged tokens cut off, a picture is another one."""
    cut = dict(params(FINE))
    cut["merge"] = jax.tree.map(np.zeros_like, cut["merge"])
    y, other = (applied(FINE)({"params": each}, X, T, None) for each in (params(FINE), cut))
    assert (y.shape, y.dtype) == (X.shape, np.float32)
    assert np.abs(y - other).max() > 1e-2


def test_with_fine_layers_padding_is_never_seen():
    longer = np.pad(TOKENS, ((0, 0), (0, 3)))
    y = output(TOKENS, network=FINE)
    np.testing.assert_allclose(output(longer, network=FINE), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[2], output(None, network=FINE)[2], rtol=1e-4, atol=1e-5)
    assert np.abs(y - output(None, network=FINE))[:2].max(axis=(1, 2, 3)).min() > 1e-2


def test_with_a_word_rate_the_same_vectors_have_smaller_parameters():
    """An update of a parameter moves its vector four times as far here."""
    smaller = dict(params())
    smaller["words"] = jax.tree.map(lambda table: table / 4, smaller["words"])
    fast = SMALL.clone(word_rate=4.0)
    y = applied(fast)({"params": smaller}, X, T, {"tokens": jnp.asarray(TOKENS)})
    np.testing.assert_allclose(y, output(TOKENS), rtol=1e-4, atol=1e-5)
    first = jax.jit(fast.init)(jax.random.key(0), X, T, {"tokens": jnp.asarray(TOKENS)})
    assert 0.2 < np.std(first["params"]["words"]["embedding"]) < 0.3


def test_at_first_it_is_zero():
    made = SMALL.init(jax.random.key(0), X, T, {"tokens": jnp.asarray(TOKENS)})
    assert not np.any(applied()(made, X, T, {"tokens": jnp.asarray(TOKENS)}))


def test_states_of_another_encoder_stand_in_for_tokens_and_zeros_are_padding():
    network = TextDiT(
        vocabulary=None, text_features=6, depth=1, text_depth=1, features=16, num_heads=2
    )
    states = np.random.default_rng(2).standard_normal((3, 4, 6)).astype(np.float32)
    states[0, 3:] = states[1, 1:] = states[2] = 0
    shapes = jax.eval_shape(network.init, jax.random.key(0), X, T, {"text": states})
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32) / 4, shapes)
    apply = applied(network)
    y, none = (np.asarray(apply(made, X, T, cond)) for cond in ({"text": states}, None))
    longer = apply(made, X, T, {"text": np.pad(states, ((0, 0), (0, 2), (0, 0)))})
    np.testing.assert_allclose(longer, y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y[2], none[2], rtol=1e-4, atol=1e-4)
    assert np.abs(y - none)[:2].max(axis=(1, 2, 3)).min() > 1e-2


@pytest.mark.parametrize("remat", ["pointwise", "blocks"])
def test_rematerialization_changes_no_gradient(remat):
    def gradient(network):
        def loss(params):
            return jnp.sum(network.apply({"params": params}, X, T, {"tokens": TOKENS}) ** 2)

        return jax.jit(jax.grad(loss))(params())

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
        gradient(SMALL),
        gradient(SMALL.clone(remat=remat)),
    )


def test_bfloat16_is_near_float32():
    exact = output(TOKENS)
    rounded = output(TOKENS, network=SMALL.clone(dtype="bfloat16"))
    assert rounded.dtype == np.float32
    assert np.sqrt(np.mean((rounded - exact) ** 2)) < 0.05 * np.sqrt(np.mean(exact**2))


def test_other_conditions_are_told_beside_the_text():
    network = TextDiT(
        vocabulary=9, depth=1, features=16, num_heads=2, num_classes=3, image_channels=1
    )
    tokens = jnp.asarray(TOKENS)
    made = params(network)
    told = {"tokens": tokens, "label": jnp.array([0, 1, 2]), "image": X[..., :1]}
    y = applied(network)({"params": made}, X, T, told)
    for name in told:
        rest = {other: value for other, value in told.items() if other != name}
        assert np.abs(applied(network)({"params": made}, X, T, rest) - y)[0].max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"vocabulary": None}, "so one of them must be None"),
        ({"text_features": 6}, "so one of them must be None"),
        ({"learned_null": ("tokens",)}, "without a text, no text is seen"),
        ({"learned_null": ("label",)}, "set num_classes"),
        ({"word_rate": 0.0}, "word_rate: 0.0 is not positive"),
        ({"fine_depth": 1, "patch_size": 3}, "patch_size: 3 is odd"),
        ({"fine_depth": 1, "fine_features": 96}, "not a multiple of a head's 64 features"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        TextDiT(**fields)


def test_patches_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="patches of 3x3 do not divide images of 4x8"):
        SMALL.clone(patch_size=3).init(jax.random.key(0), X, T)
