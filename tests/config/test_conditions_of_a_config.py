"""Conditions of a config: read from a record, dropped in training, and told to the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion import data
from sde_diffusion.config import build, choice, conditions, default
from sde_diffusion.data import Feature, Features

FEATURES = Features(
    {
        "image": Feature((4, 4, 1), "uint8", 0, 255),
        "label": Feature((), "int32", classes=tuple("abc")),
        "caption": Feature((5,), "int32", 0, 256),
        "sketch": Feature((4, 4, 2), "float32", 0.0, 2.0),
    }
)
NUM = 400
RNG = np.random.default_rng(0)
RECORDS = {
    "image": RNG.integers(256, size=(NUM, 4, 4, 1), dtype=np.uint8),
    "label": RNG.integers(3, size=NUM, dtype=np.int32),
    "caption": RNG.integers(1, 257, size=(NUM, 5), dtype=np.int32),
    "sketch": RNG.uniform(0.0, 2.0, size=(NUM, 4, 4, 2)).astype(np.float32),
}


def config_of(**network):
    config = default()
    config.network = choice("network", "mlp", features=8, num_blocks=1, **network)
    config.conditions.tokens.field = "caption"
    config.conditions.image.field = "sketch"
    return config


def all_three():
    return config_of(num_classes=3, vocabulary=257, image_channels=2)


def samples(config, seed=0):
    return build.samples(config, FEATURES)(jax.random.key(seed), RECORDS, None)


def test_a_network_without_conditions_is_told_nothing():
    config = config_of()
    assert conditions.names(config) == ()
    assert samples(config)[1] is None
    assert build.record_names(config, FEATURES) == ["image"]


def test_a_label_alone_is_an_array():
    config = config_of(num_classes=3)
    np.testing.assert_array_equal(samples(config)[1], RECORDS["label"])
    assert build.record_names(config, FEATURES) == ["image", "label"]


def test_several_are_told_by_name_from_the_entries_of_the_config():
    config = all_three()
    cond = samples(config)[1]
    np.testing.assert_array_equal(cond["label"], RECORDS["label"])
    np.testing.assert_array_equal(cond["tokens"], RECORDS["caption"])
    np.testing.assert_allclose(cond["image"], RECORDS["sketch"] - 1.0, atol=1e-6)
    assert build.record_names(config, FEATURES) == ["image", "label", "caption", "sketch"]


def test_each_is_dropped_at_its_own_rate_for_its_own_null():
    config = all_three()
    config.conditions.label.update(drop=0.2, null=2)
    config.conditions.image.drop = 0.5
    x, cond = samples(config)
    undropped = samples(all_three())
    np.testing.assert_array_equal(x, undropped[0])
    np.testing.assert_array_equal(cond["tokens"], RECORDS["caption"])
    changed = np.asarray(cond["label"] != RECORDS["label"])
    assert set(np.asarray(cond["label"])[changed]) == {2}
    assert changed.sum() / np.sum(RECORDS["label"] != 2) == pytest.approx(0.2, abs=0.08)
    assert np.isnan(cond["image"]).all(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.1)


def test_an_image_is_mirrored_when_the_sample_is():
    config = all_three()
    plain, before = samples(config)
    config.data.flip = True
    x, cond = samples(config)
    flipped = np.all(x == plain[:, :, ::-1], axis=(1, 2, 3)) & np.any(x != plain, axis=(1, 2, 3))
    assert 0.3 < flipped.mean() < 0.7
    mirrored = np.where(flipped[:, None, None, None], before["image"][:, :, ::-1], before["image"])
    np.testing.assert_array_equal(cond["image"], mirrored)


def test_the_objective_trains_every_parameter_of_the_conditions():
    config = all_three()
    config.network.learned_null = ("label", "tokens", "image")
    for name in conditions.names(config):
        config.conditions[name].drop = 0.5
    recipe = build.recipe(config, FEATURES)
    params = recipe.init_params(jax.random.key(0))
    # What is zero at the start would keep the gradient from the rest.
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    few = {name: array[:16] for name, array in RECORDS.items()}

    def loss(params):
        key, ema, step = jax.random.key(1), (), jnp.int32(0)
        return recipe.objective(params, key, few, frozen=None, ema=ema, step=step)[0].mean()

    grads = jax.jit(jax.grad(loss))(params)
    names = {"ClassEmbedding_0", "TokenEmbedding_0", "ImageCondition_0"}
    assert names <= grads.keys()
    for leaf in jax.tree.leaves({name: grads[name] for name in names}):
        assert np.isfinite(leaf).all()
        assert np.any(leaf != 0)


def test_texts_become_tokens_where_the_config_says_so(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 2), np.uint8), text=np.array(["a", "bc", ""]))
    config = config_of(vocabulary=257)
    config.conditions.tokens.field = "tokens"
    config.data.source = choice("data.source", "npz", path=str(tmp_path / "x.npz"))
    config.data.tokens = 4
    batch = data.take(build.source(config), np.arange(3))
    np.testing.assert_array_equal(batch["tokens"], [[98, 0, 0, 0], [99, 100, 0, 0], [0, 0, 0, 0]])
