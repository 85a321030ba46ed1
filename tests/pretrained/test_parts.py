"""Each part of a pretrained folder against diffusers and transformers.

The folders and outputs are made by experiments/pretrained/reference.py, with random weights.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion import noise
from sde_diffusion.pretrained import safetensors, tensors
from sde_diffusion.pretrained.codec import read_codec
from sde_diffusion.pretrained.folder import read_weights
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build, read_part, shapes

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
PIPELINES = ["sd15", "sd21", "sdxl"]
TEXTS = [("sd15", ""), ("sd21", ""), ("sdxl", ""), ("sdxl", "_2")]
TOLERANCE = 1e-4


def outputs(name):
    return np.load(FOLDERS / name / "outputs.npz")


def assert_same(ours, theirs):
    """Equal to TOLERANCE of the largest value."""
    assert ours.shape == theirs.shape
    assert np.max(np.abs(ours - theirs)) < TOLERANCE * np.max(np.abs(theirs))


@pytest.mark.parametrize("name", PIPELINES)
def test_unet(name):
    module, params, _ = read_part(FOLDERS / name / "unet", KINDS["UNet2DConditionModel"])
    told = outputs(name)
    names = ("text", "pooled", "sizes")
    cond = {key: told[f"unet.{key}"] for key in names if f"unet.{key}" in told}
    made = jax.jit(module.apply)({"params": params}, told["unet.x"], told["unet.t"], cond)
    assert_same(made, told["unet.out"])


def test_what_a_unet_is_not_told_is_named():
    module, _, _ = read_part(FOLDERS / "sdxl" / "unet", KINDS["UNet2DConditionModel"])
    x = jnp.zeros((1, 8, 8, 4))
    with pytest.raises(ValueError, match="text, pooled, sizes; it has no pooled"):
        module.init(jax.random.key(0), x, jnp.zeros(1), {"text": jnp.zeros((1, 2, 16))})


@pytest.mark.parametrize("name", ["sd15", "flux_vae"])
def test_codec(name):
    folder = FOLDERS / name / ("vae" if name in PIPELINES else "")
    codec, params = read_codec(folder)
    config, told = json.loads((folder / "config.json").read_text()), outputs(name)
    scale, shift = config["scaling_factor"], config["shift_factor"] or 0.0
    encode, x = jax.jit(codec.encode), told["vae.x"]
    encoded = encode(params, None, x)
    assert_same(encoded, (told["vae.mean"] - shift) * scale)
    drawn = encode(params, jax.random.key(0), np.stack([x[0], x[0]]))
    assert not np.allclose(drawn[0], drawn[1])  # a sample's noise is its own
    drawn = encode(params, jax.random.key(0), x)
    z = noise.normal(noise.sample_keys(jax.random.key(0), 2), encoded)
    assert_same(drawn, (told["vae.mean"] + told["vae.deviation"] * z - shift) * scale)
    decoded = jax.jit(codec.decode)(params, (told["vae.z"] - shift) * scale)
    assert_same(decoded, told["vae.decoded"])


def test_an_autoencoder_with_old_names(tmp_path):
    folder = FOLDERS / "sd15" / "vae"
    shutil.copy(folder / "config.json", tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, array in read_weights(folder).items():
        for now, before in old.items():
            name = name.replace(f".{now}.", f".{before}.")
        renamed[name] = array
    assert set(renamed) != set(read_weights(folder))
    safetensors.write(tmp_path / "diffusion_pytorch_model.safetensors", renamed)
    _, params = read_codec(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, read_codec(folder)[1])


@pytest.mark.parametrize(("name", "suffix"), TEXTS)
def test_text_encoder(name, suffix):
    kind = KINDS["CLIPTextModelWithProjection" if suffix else "CLIPTextModel"]
    module, params, _ = read_part(FOLDERS / name / f"text_encoder{suffix}", kind)
    told = {
        key.removeprefix(f"text_encoder{suffix}."): value for key, value in outputs(name).items()
    }
    made = jax.jit(module.apply)({"params": params}, told["ids"][2:6].astype(np.int32))
    assert_same(made.last, told["last"])
    assert_same(made.states[-1], told["penultimate"])
    pooled = "projected" if suffix else "pooled"
    assert_same(getattr(made, pooled), told[pooled])


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_what_is_read_is_written_as_it_was(name, tmp_path):
    kind, folder = KINDS["UNet2DConditionModel"], FOLDERS / name / "unet"
    _, params, _ = read_part(folder, kind, dtype=np.float16)
    safetensors.write(tmp_path / "x.safetensors", tensors.to_tensors(params))
    back, there = safetensors.read(tmp_path / "x.safetensors"), read_weights(folder)
    assert set(back) == set(there)
    for key, array in there.items():
        np.testing.assert_array_equal(back[key], array)


def test_a_config_that_is_not_supported_is_named():
    config = json.loads((FOLDERS / "sd15" / "unet" / "config.json").read_text())
    kind = KINDS["UNet2DConditionModel"]
    with pytest.raises(ValueError, match=r"unet: class_embed_type = 'timestep' is not supported"):
        build(kind, config | {"class_embed_type": "timestep"}, source="unet")
    with pytest.raises(ValueError, match=r"unknown field of config\.json 'flip_sin'"):
        build(kind, config | {"flip_sin": True}, source="unet")
    with pytest.raises(ValueError, match=r"'AttnUpBlock2D'.*did you mean 'CrossAttnUpBlock2D'"):
        build(kind, config | {"up_block_types": ["AttnUpBlock2D"] * 3}, source="unet")


def test_what_a_config_leaves_out_is_the_default_of_diffusers():
    config = json.loads((FOLDERS / "sd15" / "unet" / "config.json").read_text())
    del config["norm_eps"], config["flip_sin_to_cos"], config["freq_shift"]
    kind = KINDS["UNet2DConditionModel"]
    module = build(kind, config, source="unet")
    assert (module.norm_eps, module.flip_sin_to_cos, module.freq_shift) == (1e-5, True, 0)
    assert jax.tree.leaves(shapes(kind, module))
