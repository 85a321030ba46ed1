"""Each transformer against diffusers and transformers.

The folders and outputs are made by experiments/pretrained/reference_transformers.py, with random
weights.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion.networks.bert import mean_of_seen
from sde_diffusion.networks.t5 import bucket
from sde_diffusion.pretrained import safetensors, tensors
from sde_diffusion.pretrained.folder import read_weights
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build, read_part, shapes

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
CLASSES = {
    "mmdit_sd3": "SD3Transformer2DModel",
    "mmdit_sd35": "SD3Transformer2DModel",
    "flux_dev": "FluxTransformer2DModel",
    "flux_schnell": "FluxTransformer2DModel",
    "dit": "DiTTransformer2DModel",
    "t5": "T5EncoderModel",
    "bert": "BertModel",
}
TABLES = FOLDERS / "tables"
FULL = (
    "sd3-medium",
    "sd3.5-medium",
    "sd3.5-large",
    "flux-dev",
    "dit-xl-2",
    "t5-v1.1-xxl",
    "minilm-l6",
)
TOLERANCE = 1e-4


def part(name, **fields):
    return read_part(FOLDERS / name, KINDS[CLASSES[name]], **fields)


def outputs(name):
    return np.load(FOLDERS / name / "outputs.npz")


def assert_same(ours, theirs):
    """Equal to TOLERANCE of the largest value."""
    assert ours.shape == theirs.shape
    assert np.max(np.abs(ours - theirs)) < TOLERANCE * np.max(np.abs(theirs))


@pytest.mark.parametrize("name", ["mmdit_sd3", "mmdit_sd35", "flux_dev", "flux_schnell"])
def test_a_transformer_of_image_and_text(name):
    module, params, config = part(name)
    told = outputs(name)
    cond = {key: told[key] for key in ("text", "pooled")}
    if config.get("guidance_embeds"):
        cond["guidance"] = told["guidance"]
    made = jax.jit(module.apply)({"params": params}, told["x"], told["t"], cond)
    assert_same(made, told["out"])


def test_dit():
    module, params, _ = part("dit")
    told = outputs("dit")
    no_class = np.where(told["labels"] == module.num_embeds_ada_norm, -1, told["labels"])
    apply = jax.jit(module.apply)
    for x, out, labels in (("x", "out", told["labels"]), ("large", "out_large", no_class)):
        made = apply({"params": params}, told[x], told["t"], labels)
        assert_same(made, told[out][..., :4])


def test_t5():
    module, params, _ = part("t5")
    told = outputs("t5")
    apply = jax.jit(module.apply)
    assert_same(apply({"params": params}, told["ids"]), told["out"])
    made, seen = apply({"params": params}, told["ids"], told["mask"]), told["mask"] == 1
    assert_same(made[seen], told["out_masked"][seen])


def test_the_bucket_of_every_distance():
    ours, theirs = bucket(400, 32, 128), outputs("t5")["bucket"]
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[:, 0], theirs[1])


def test_bert():
    module, params, _ = part("bert")
    told = outputs("bert")
    made = jax.jit(module.apply)({"params": params}, told["ids"], told["mask"], told["segments"])
    seen = told["mask"] == 1
    assert_same(made.last[seen], told["out"][seen])
    assert_same(made.pooled, told["pooled"])
    # What is not seen changes nothing about a text's vector.
    ours, changed = (
        mean_of_seen(np.where(seen[..., None], made.last, other), told["mask"]) for other in (0, 9)
    )
    np.testing.assert_allclose(ours, changed, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_read_is_written_as_it_was(name, tmp_path):
    _, params, _ = part(name, dtype=np.float16)
    safetensors.write(tmp_path / "x.safetensors", tensors.to_tensors(params))
    back, there = safetensors.read(tmp_path / "x.safetensors"), read_weights(FOLDERS / name)
    assert set(back) == set(there)
    for key, array in there.items():
        np.testing.assert_array_equal(back[key], array)


def test_positions_of_sd3_begin_as_those_of_diffusers():
    module, params, _ = part("mmdit_sd3")
    told, name = outputs("mmdit_sd3"), "pos_embed.pos_embed"
    cond = {key: told[key] for key in ("text", "pooled")}

    @jax.jit  # which makes nothing but the positions
    def made():
        return module.init(jax.random.key(0), told["x"], told["t"], cond)["params"][name]

    np.testing.assert_allclose(made(), params[name], atol=1e-3)  # theirs were rounded to float16


@pytest.mark.parametrize("name", FULL)
def test_every_tensor_of_a_published_config_has_its_place(name):
    table = json.loads((TABLES / f"{name}.json").read_text())
    kind = KINDS[table["class"]]
    module = build(kind, table["config"], source=name)
    ours = tensors.names_and_shapes(shapes(kind, module))
    theirs = {
        pattern.replace("*", str(i)): tuple(shape)
        for pattern, shape, numbers in table["tensors"]
        for i in numbers
    }
    # The table of tokens of T5 has two names, of which a file has one or both.
    theirs.pop("encoder.embed_tokens.weight", None)
    assert ours == theirs


def refuses(name, message, *, x=None, cond=None, **changes):
    config = json.loads((FOLDERS / name / "config.json").read_text()) | changes
    told = dict(outputs(name))
    given = {key: told.get(key) for key in ("text", "pooled")} if cond is None else cond
    x = told.get("x") if x is None else np.zeros(x, np.float32)

    def make():
        module = build(KINDS[CLASSES[name]], config, source=name)
        jax.eval_shape(module.init, jax.random.key(0), x, told.get("t"), given)

    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_is_named():
    refuses("flux_dev", "cond must be a dict of text, pooled, guidance; it has no guidance")
    refuses("flux_schnell", "latents of 9x6 with 4 channels are not even", x=(2, 9, 6, 4))
    refuses("flux_schnell", r"axes_dims_rope: the sum of \(2, 2, 2\)", axes_dims_rope=[2, 2, 2])
    refuses("flux_schnell", "patch_size = 2 is not supported", patch_size=2)
    refuses("mmdit_sd3", "an image of 14x6 must be of whole patches", x=(2, 14, 6, 4))
    refuses("mmdit_sd3", "unknown qk_norm 'layer_norm'", qk_norm="layer_norm")
    refuses("mmdit_sd3", "caption_projection_dim: 12", caption_projection_dim=12)
    refuses("dit", "patches of 2x2 do not divide images of 7x8", x=(2, 7, 8, 4), cond=np.zeros(2))
    refuses("t5", "feed_forward_proj = 'relu' is not supported", feed_forward_proj="relu")
