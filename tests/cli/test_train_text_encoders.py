"""config.text.trained: text encoders are parts of the network, and adapted with it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import data, lora, pretrained
from sde_diffusion.cli import run, texts
from sde_diffusion.config import build, conditions
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


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "sd3_without_t5", "flux_dev"])
def test_tokens_in_the_network_are_the_frozen_encoders_embeddings(name, pipelines, pictures):
    folder = pipelines.get(name, MODELS / name)
    config = config_of(folder, pictures)
    network, encode = build.network(config), pretrained.load_text(folder)
    embedded = texts.of_source(config, build.source(config))
    batch = data.take(embedded.source, np.array([0, 1]))
    told = {name: batch[field] for name, field in conditions.entries(config).items()}
    assert {each.dtype for key, each in told.items() if key.startswith("tokens_")} == {
        np.dtype("int32")
    }
    params = {part: encoder.params for part, (_, encoder) in encoders_of(encode).items()}
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
    network = build.network(config_of(pipelines[name], pictures))
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
