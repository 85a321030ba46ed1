"""Adapters trained on small SDXL, SD3 and Flux, and the files that they are written to."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import data, lora, pretrained
from sde_diffusion.cli import codec, run, texts
from sde_diffusion.config import build, codecs, text_encoders
from sde_diffusion.config import schema as configs
from sde_diffusion.pretrained import lora_files, safetensors
from sde_diffusion.pretrained.lora_files import encoders_of
from sde_diffusion.tree_names import named

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "reference" / "pretrained"


class Family(NamedTuple):
    """What is set to train a model, and what the names in its files begin with."""

    fields: dict[str, str]
    prefixes: dict[str, tuple[str, ...]]


SDXL = Family(
    {
        "text.trained": "True",
        "lora.names": "unet/*attn2*to_k/kernel,text_encoder*/*q_proj/kernel",
    },
    {
        "diffusers": ("unet.", "text_encoder.", "text_encoder_2."),
        "kohya": ("lora_unet_", "lora_te1_", "lora_te2_"),
    },
)
SD3 = Family(
    {
        "text.trained": "True",
        "lora.names": "transformer/*attn*to_k/kernel,text_encoder*/*k*/kernel",
    },
    {
        "diffusers": ("transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3."),
        "kohya": ("lora_transformer_", "lora_te1_", "lora_te2_", "lora_te3_"),
    },
)
FLUX = Family(
    {
        "text.trained": "True",
        "lora.names": "transformer/*attn*kernel,text_encoder*/*k*/kernel",
    },
    {
        "diffusers": ("transformer.", "text_encoder.", "text_encoder_2."),
        "kohya": ("lora_transformer_", "lora_te1_", "lora_te3_"),
    },
)
FOR = {"sdxl": SDXL, "sd3": SD3, "flux_dev": FLUX}


@pytest.mark.parametrize("name", FOR)
def test_what_is_trained_is_what_the_files_have(name, pipelines, tmp_path):
    base = pipelines.get(name, MODELS / name)
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a red fox")
    paths = {"init_from.path": str(base), "data.source.path": str(tmp_path)}
    overrides = paths | {"data.source.size": "16", "lora.rank": "2"} | FOR[name].fields
    config = run.base_config(configs.load(ROOT / "configs" / "lora.py", overrides), overrides)
    embedded = texts.of_source(config, build.source(config))
    coder = codec.of_training(config, embedded.source, None)
    features = embedded.source.features
    base_params = run.base(config, codecs.sampled(features, coder))
    recipe = build.recipe(config, features, None, coder, base_params, embedded.no_text)

    # Each adapter has a gradient. Compiled it would take a minute: it is traced.
    adapters = jax.eval_shape(recipe.init_params, jax.random.key(0))
    names = build.record_names(config, features)
    batch = {key: each for key, each in data.take(embedded.source, [0, 0]).items() if key in names}

    def loss(adapters, batch):
        options = {"frozen": recipe.frozen, "ema": (), "step": jnp.asarray(0)}
        return recipe.objective(adapters, jax.random.key(0), batch, **options)[0].mean()

    assert jax.eval_shape(jax.grad(loss), adapters, batch) == adapters

    generator = np.random.default_rng(0)
    made = jax.tree.map(lambda a: generator.normal(size=a.shape).astype(np.float32), adapters)
    parts = text_encoders.by_part(config, made)
    whole = text_encoders.by_part(config, lora.merge(base_params, made))
    pipe = pretrained.load(base)
    for form, prefixes in FOR[name].prefixes.items():
        file = tmp_path / f"{form}.safetensors"
        lora_files.write(file, parts, form=form)
        written = safetensors.read(file)
        assert all(tensor.startswith(prefixes) for tensor in written)
        for prefix in prefixes:
            assert any(tensor.startswith(prefix) for tensor in written)
        for part, theirs in params_by_part(pretrained.add_lora(pipe, file), whole).items():
            for key, leaf in named(whole[part]).items():
                np.testing.assert_allclose(leaf, theirs[key], rtol=1e-5, atol=1e-5)


def params_by_part(pipe, whole):
    """The parameters of a pipeline that a run trains, by part and name."""
    encoders = {part: each.params for part, (_, each) in encoders_of(pipe.text).items()}
    network = next(part for part in whole if part not in encoders)
    params = {network: pipe.model.params["params"], **encoders}
    return {part: named(params[part]) for part in whole}
