"""Conditions of a network: what is missing, and what it takes the place of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sde_diffusion.networks import MLP, NCSNpp
from sde_diffusion.networks.conditions import Conditions

ALL = {"num_classes": 3, "vocabulary": 20, "image_channels": 2}
NULLS = {"label": -1, "tokens": 0, "image": jnp.nan}
X = jnp.zeros((4, 8, 8, 1))


class Reader(nn.Module):
    conditions: Conditions

    @nn.compact
    def __call__(self, cond):
        return self.conditions.vector(cond, len(X), 6), self.conditions.image(cond, X)


def given(**changes):
    key = jax.random.key(0)
    tokens = jax.random.randint(key, (4, 5), 1, 20)
    image = jax.random.normal(key, (4, 8, 8, 2))
    return {"label": jnp.array([0, 1, 2, 1]), "tokens": tokens, "image": image} | changes


def read(cond, conditions):
    reader = Reader(conditions)
    params = reader.init(jax.random.key(0), None)
    # What is zero at the start is not after training.
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    return reader.apply(params, cond)


def test_a_network_without_conditions_has_no_layer_for_them():
    assert Reader(Conditions()).init(jax.random.key(0), None) == {}
    assert Reader(Conditions()).apply({}, None) == (None, None)


@pytest.mark.parametrize("learned", [(), ("label", "tokens", "image")])
def test_what_is_missing_is_the_same_whether_left_out_or_marked(learned):
    conditions = Conditions(**ALL, learned_null=learned)
    cond = given()
    marked = {name: jnp.full_like(cond[name], null) for name, null in NULLS.items()}
    for name in cond:
        rest = {other: value for other, value in cond.items() if other != name}
        for a, b in zip(
            read(rest, conditions), read({**cond, name: marked[name]}, conditions), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    for a, b in zip(read(None, conditions), read(marked, conditions), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_condition_is_zeros():
    vector, image = read(None, Conditions(**ALL))
    assert not np.any(vector)
    assert not np.any(image)


@pytest.mark.parametrize("name", ["label", "tokens"])
def test_a_learned_null_is_a_vector_that_no_sample_has(name):
    conditions = Conditions(**ALL, learned_null=(name,))
    null, _ = read(None, conditions)
    assert np.ptp(null, axis=0).max() == 0
    assert np.abs(null).min() > 0


def test_a_learned_null_of_an_image_is_a_colour():
    _, image = read(None, Conditions(**ALL, learned_null=("image",)))
    np.testing.assert_array_equal(image, np.full((4, 8, 8, 2), 0.5))


def test_samples_with_and_without_a_condition_may_share_a_batch():
    conditions, cond = Conditions(**ALL), given()
    some = {**cond, "label": cond["label"].at[1].set(-1), "tokens": cond["tokens"].at[1].set(0)}
    mixed, _ = read(some, conditions)
    whole, _ = read(cond, conditions)
    np.testing.assert_allclose(mixed[jnp.array([0, 2, 3])], whole[jnp.array([0, 2, 3])], rtol=1e-6)
    assert not np.any(mixed[1])


def test_padding_at_the_end_of_a_text_changes_nothing():
    conditions, cond = Conditions(vocabulary=20), given()
    longer = jnp.pad(cond["tokens"], ((0, 0), (0, 3)))
    short, _ = read({"tokens": cond["tokens"]}, conditions)
    padded, _ = read({"tokens": longer}, conditions)
    np.testing.assert_allclose(padded, short, rtol=1e-5)


def test_the_order_of_a_texts_tokens_matters():
    conditions, cond = Conditions(vocabulary=20), given()
    forwards, _ = read({"tokens": cond["tokens"]}, conditions)
    backwards, _ = read({"tokens": cond["tokens"][:, ::-1]}, conditions)
    assert np.abs(forwards - backwards).max() > 1e-3


def test_an_array_alone_is_the_label():
    conditions, label = Conditions(num_classes=3), given()["label"]
    np.testing.assert_array_equal(read(label, conditions)[0], read({"label": label}, conditions)[0])


@pytest.mark.parametrize(
    ("conditions", "cond", "message"),
    [
        (Conditions(), jnp.zeros(4, int), "'label', which the network does not take: set num_cl"),
        (Conditions(num_classes=3), given(), "'tokens', .* set vocabulary"),
        (Conditions(**ALL), {"lable": jnp.zeros(4)}, "'lable'; did you mean 'label'"),
        (
            Conditions(image_channels=1),
            {"image": jnp.zeros((4, 8, 4, 1))},
            r"image must have the shape \(4, 8, 8, 1\)",
        ),
    ],
)
def test_a_condition_that_is_not_taken_is_named(conditions, cond, message):
    with pytest.raises(ValueError, match=message):
        Reader(conditions).init(jax.random.key(0), cond)


def test_a_learned_null_of_a_condition_that_is_not_taken_is_named():
    with pytest.raises(ValueError, match=r"learned_null has 'tokens', .* set vocabulary"):
        Conditions(num_classes=3, learned_null=("tokens",)).check()


NETWORKS = {
    "mlp": MLP(features=16, num_blocks=1, **ALL),
    "ncsnpp": NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=1, fir=False, dropout=0.0, **ALL),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_condition_reaches_the_output(name):
    net, t, key = NETWORKS[name], jnp.full(4, 0.5), jax.random.key(1)
    leaves, tree = jax.tree.flatten(jax.eval_shape(net.init, key, X, t))
    keys = jax.random.split(key, len(leaves))
    drawn = [0.3 * jax.random.normal(keys[i], leaf.shape) for i, leaf in enumerate(leaves)]
    apply = jax.jit(functools.partial(net.apply, tree.unflatten(drawn), X + 1.0, t))
    whole = apply(given())
    assert whole.shape == X.shape
    for condition, null in NULLS.items():
        missing = apply(given(**{condition: jnp.full_like(given()[condition], null)}))
        assert np.abs(missing - whole).max() > 1e-3
