"""config.text.trained: text encoders are parts of the network, and adapted with it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import data, lora, pretrained
from sde_diffusion.cli import run, texts
from sde_diffusion.config import build, conditions, text_encoders
from sde_diffusion.config import schema as configs
from sde_diffusion.pretrained.lora_files import encoders_of

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "reference" / "pretrained"
SIZE = 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, caption in enumerate(["a red fox", ""]):
        Image.fromarray(np.full((20, 24, 3), 90 * i, np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


def config_of(base, pictures, **more):
    overrides = {
        "init_from.path": str(base),
        "data.source.path": str(pictures),
        "data.source.size": str(SIZE),
        "text.trained": "True",
        **more,
    }
    return run.base_config(configs.load(ROOT / "configs" / "lora.py", overrides), overrides)


ALL = {"lora.names": "*attn*kernel,*SelfAttention*kernel"}
WITHOUT_T5 = {"lora.names": "*attn*kernel"}


@pytest.mark.parametrize(
    ("name", "changes", "outside"),
    [
        ("sd15", {}, []),
        ("sdxl", {}, []),
        ("sd3_without_t5", {}, []),
        ("sd3", ALL, []),
        ("sd3", WITHOUT_T5, ["text_encoder_3"]),
        ("flux_dev", ALL, []),
        ("flux_dev", WITHOUT_T5, ["text_encoder_2"]),
    ],
)
def test_tokens_in_the_network_are_the_frozen_encoders_embeddings(
    name, changes, outside, pipelines, pictures
):
    folder = pipelines.get(name, MODELS / name)
    config = config_of(folder, pictures, **changes)
    network, encode = build.network(config), pretrained.load_text(folder)
    embedded = texts.of_source(config, build.source(config))
    batch = data.take(embedded.source, np.array([0, 1]))
    told = {name: batch[field] for name, field in conditions.entries(config).items()}
    tokens = {key: each for key, each in told.items() if key.startswith("tokens_")}
    assert {each.dtype for each in tokens.values()} == {np.dtype("int32")}
    # T5 without adapters is not in the network: its states are made once.
    assert [key for key in told if key.startswith("states_")] == [f"states_{x}" for x in outside]
    params = {part: each.params for part, each in text_encoders.inside(config, encode).items()}
    assert {f"tokens_{part}" for part in params} == tokens.keys()
    made = network.embedded(params, told)
    theirs = texts.encode(encode, ["a red fox", ""], (SIZE, SIZE))
    assert made.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_allclose(made[key], array, atol=1e-5)
    # No text stands for itself where a text is dropped.
    nothing = conditions.without_text(config, told, embedded.no_text)
    for key, array in network.embedded(params, nothing).items():
        np.testing.assert_allclose(array[0], theirs[key][1], atol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "flux_dev"])
def test_the_adapters_of_each_encoder_have_a_gradient(name, pipelines, pictures):
    network = build.network(config_of(pipelines[name], pictures, **ALL))
    text = pretrained.load_text(pipelines[name])
    params = {part: encoder.params for part, (_, encoder) in encoders_of(text).items()}
    adapters = lora.init(jax.random.key(0), params, 1, "*/*q*/kernel")
    told = {f"tokens_{part}": ids[None] for part, ids in network.empty.items()}

    @jax.jit
    @jax.grad
    def gradient(adapters):
        made = network.embedded(lora.merge(params, adapters), told)
        return sum(jnp.sum(jnp.sin(array)) for array in made.values())

    found = lora.by_name(gradient(adapters))
    assert {adapter.partition("/")[0] for adapter in found} == params.keys()
    assert all(np.all(np.any(pair["up"], axis=(-2, -1))) for pair in found.values())
