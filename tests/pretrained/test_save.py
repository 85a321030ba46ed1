"""Folders that are written for diffusers, from those that diffusers has written."""

from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import pretrained
from sde_diffusion.pretrained.folder import read_weights
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part

LIKE = Path(__file__).parents[1] / "reference" / "pretrained" / "sdxl"
PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


@pytest.fixture(scope="module")
def params():
    return {name: read_part(LIKE / name, KINDS[kind]).params for name, kind in PARTS.items()}


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_a_round_trip_changes_no_tensor_and_no_other_file(params, tmp_path):
    folder = tmp_path / "copy"
    pretrained.save(folder, LIKE, params, dtype=np.float16)
    assert files(folder) == files(LIKE)
    for name in PARTS:
        before, after = read_weights(LIKE / name), read_weights(folder / name)
        if name == "text_encoder":  # as all versions of transformers but the fifth have it
            before = {f"text_model.{key}": array for key, array in before.items()}
        assert set(before) == set(after)
        for key, array in before.items():
            assert after[key].dtype == np.float16
            np.testing.assert_array_equal(after[key], array)
    for path in files(LIKE):
        if path.suffix != ".safetensors":
            assert (folder / path).read_bytes() == (LIKE / path).read_bytes()


def test_one_part_with_other_weights(params, tmp_path):
    folder = tmp_path / "tuned"
    tuned = jax.tree.map(lambda leaf: leaf + 1.0, params["unet"])
    pretrained.save(folder, LIKE, {"unet": tuned})
    back = read_part(folder / "unet", KINDS[PARTS["unet"]]).params
    jax.tree.map(np.testing.assert_array_equal, back, tuned)
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == (
        LIKE / "vae" / "diffusion_pytorch_model.safetensors"
    ).read_bytes()


def test_what_does_not_fit_is_refused(params, tmp_path):
    with pytest.raises(ValueError, match=r"unknown part of .* 'unett'; did you mean 'unet'"):
        pretrained.save(tmp_path / "x", LIKE, {"unett": params["unet"]})
    with pytest.raises(ValueError, match=r"vae: the parameters do not fit config\.json"):
        pretrained.save(tmp_path / "x", LIKE, {"vae": params["unet"]})
    with pytest.raises(FileExistsError):
        pretrained.save(tmp_path, LIKE, {"vae": params["vae"]})
