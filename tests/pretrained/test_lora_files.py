"""Files of adapters on the small random models, against diffusers.

The files and outputs are made by experiments/pretrained/reference_lora.py.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import lora, pretrained
from sde_diffusion.pretrained import lora_files, safetensors, tensors
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part
from sde_diffusion.tree_names import named

REFERENCE = Path(__file__).parents[1] / "reference"
FILES, MODELS = REFERENCE / "lora", REFERENCE / "pretrained"
TOLERANCE = 1e-4
PARTS = ("network", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def pipelines():
    """The pipelines of Stable Diffusion and SDXL, and Flux's network alone."""
    made = {name: pretrained.load(MODELS / name) for name in ("sd15", "sdxl")}
    return made | {"flux": read_part(MODELS / "flux_dev", KINDS["FluxTransformer2DModel"])}


@pytest.fixture(scope="module")
def networks(pipelines):
    """The parameters of each network."""
    of = {name: pipelines[name].model.params["params"] for name in ("sd15", "sdxl")}
    return of | {"flux": pipelines["flux"].params}


@pytest.fixture(scope="module")
def apply(pipelines):
    """The network of each model and its inputs, as a function of its parameters."""

    def unet(name):
        told = np.load(MODELS / name / "outputs.npz")
        module, _, _ = read_part(MODELS / name / "unet", KINDS["UNet2DConditionModel"])
        names = [key for key in ("text", "pooled", "sizes") if f"unet.{key}" in told]
        cond = {key: told[f"unet.{key}"] for key in names}
        return jax.jit(
            lambda params: module.apply({"params": params}, told["unet.x"], told["unet.t"], cond)
        )

    told = np.load(MODELS / "flux_dev" / "outputs.npz")
    module, cond = pipelines["flux"].module, {k: told[k] for k in ("text", "pooled", "guidance")}
    flux = jax.jit(lambda params: module.apply({"params": params}, told["x"], told["t"], cond))
    return {"sd15": unet("sd15"), "sdxl": unet("sdxl"), "flux": flux}


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.max(np.abs(ours - theirs)) < TOLERANCE * np.max(np.abs(theirs))


def assert_equal(a, b):
    assert named(a).keys() == named(b).keys()
    for name, leaf in named(a).items():
        np.testing.assert_array_equal(leaf, named(b)[name])


def encoded(pipe, part, model):
    text = pipe.text
    encoder = {
        "sd15": lambda: text.encoder,
        "sdxl": lambda: text.first if part == "text_encoder" else text.second,
    }[model]()
    ids = np.load(MODELS / model / "outputs.npz")[f"{part}.ids"][3:4]
    return encoder.module.apply({"params": encoder.params}, ids).last


@pytest.mark.parametrize("name", ["sd15_kohya", "sd15_old", "sd15_peft", "sdxl_kohya"])
def test_a_pipeline_is_adapted_as_by_diffusers(pipelines, apply, name):
    model, told = name.partition("_")[0], np.load(FILES / "outputs.npz")
    pipe = pretrained.add_lora(pipelines[model], FILES / f"{name}.safetensors")
    parts = [part for part in PARTS if f"{name}.{part}" in told]
    for part in parts:
        if part == "network":
            ours = apply[model](pipe.model.params["params"])
        else:
            ours = encoded(pipe, part, model)
        assert_same(ours, told[f"{name}.{part}"])
    if "text_encoder" not in parts:
        assert pipe.text is pipelines[model].text


@pytest.mark.parametrize("name", ["flux_kohya", "flux_peft"])
def test_flux_is_adapted_as_by_diffusers(networks, apply, name):
    made = lora_files.read(FILES / f"{name}.safetensors", {"network": networks["flux"]})
    told = np.load(FILES / "outputs.npz")[f"{name}.network"]
    assert_same(apply["flux"](lora.merge(networks["flux"], made["network"])), told)


def test_several_files_add_up_with_their_weights(pipelines, apply):
    pipe, told = pipelines["sd15"], np.load(FILES / "outputs.npz")
    for name, weight in (("sd15_kohya", 0.7), ("sd15_peft", -0.5)):
        pipe = pretrained.add_lora(pipe, FILES / f"{name}.safetensors", weight)
    assert_same(apply["sd15"](pipe.model.params["params"]), told["sd15_both.network"])
    assert_same(encoded(pipe, "text_encoder", "sd15"), told["sd15_both.text_encoder"])


@pytest.mark.parametrize("model", ["sd15", "sdxl", "flux"])
def test_what_is_written_is_read_again_exactly(networks, tmp_path, model):
    params = networks[model]
    shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), params, 2, "*/kernel"))
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    folder = "transformer" if model == "flux" else "unet"
    lora_files.write(tmp_path / "x.safetensors", {folder: made})
    assert_equal(lora_files.read(tmp_path / "x.safetensors", {"network": params})["network"], made)


def test_all_of_kohyas_names_of_a_unet_are_known(networks):
    # In the names of the original repository, as single files have them.
    from sde_diffusion.pretrained.lora_names import table

    known = table("network", networks["sdxl"])
    modules = {module for parts in known.values() for module in parts}
    theirs = {name for name in known if name.startswith(("lora_unet_input", "lora_unet_output"))}
    reached = {module for name in theirs for module in known[name]}
    assert {m for m in modules if m.startswith(("down_", "up_"))} <= reached


def pair(rng, rows, inner, rank=2):
    down = rng.standard_normal((rank, inner)).astype(np.float32)
    return down, rng.standard_normal((rows, rank)).astype(np.float32)


def test_the_rows_of_flux_fused_matrices_are_those_of_ours_in_order(networks, tmp_path):
    down, up = pair(np.random.default_rng(0), 3 * 16 + 64, 16)
    name = "lora_unet_single_blocks_1_linear1"
    told = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    safetensors.write(tmp_path / "x.safetensors", told)
    made = lora_files.read(tmp_path / "x.safetensors", {"network": networks["flux"]})["network"]
    change = tensors.to_tensors(lora.merge(jax.tree.map(np.zeros_like, networks["flux"]), made))
    block = "single_transformer_blocks.1"
    parts = [*(f"{block}.attn.to_{x}.weight" for x in "qkv"), f"{block}.proj_mlp.weight"]
    fused = np.concatenate([change[part] for part in parts])
    np.testing.assert_allclose(fused, up @ down, rtol=1e-5, atol=1e-5)
    assert all(not array.any() for part, array in change.items() if part not in parts)


def test_kohyas_and_diffusers_names_of_a_text_encoder_are_the_same(pipelines, tmp_path):
    # Of a kohya file without an adapter of out_proj diffusers 0.42.1 reads none of the attention.
    params = {"text_encoder": pipelines["sd15"].text.encoder.params}
    down, up = pair(np.random.default_rng(0), 8, 8)
    names = {
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight": ("down", "up"),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight": ("A", "B"),
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora_{}.weight": ("A", "B"),
    }
    made = []
    for name, halves in names.items():
        arrays = dict(zip(map(name.format, halves), (down, up), strict=True))
        safetensors.write(tmp_path / "x.safetensors", arrays)
        made.append(lora_files.read(tmp_path / "x.safetensors", params)["text_encoder"])
    assert_equal(made[0], made[1])
    assert_equal(made[0], made[2])


def test_the_alpha_of_peft_is_beside_its_file(networks, tmp_path):
    down, up = pair(np.random.default_rng(0), 32, 32)
    name = "base_model.model.time_embedding.linear_2"
    told = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    safetensors.write(tmp_path / "adapter_model.safetensors", told)
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 8, "alpha_pattern": {}}')
    made = lora_files.read(tmp_path / "adapter_model.safetensors", {"network": networks["sd15"]})
    (found,) = lora.by_name(made["network"]).values()
    np.testing.assert_allclose(found["down"] @ found["up"], 4 * (up @ down).T, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "model", "message"),
    [
        (
            "sdxl_kohya",
            "sd15",
            r"\d+ of 14 adapters are of another base, the first of them lora_\w+ of \(2, \d",
        ),
        ("flux_peft", "sd15", "4 of 4 adapters are of another base, the first of them transformer"),
    ],
)
def test_adapters_of_another_base_are_refused(networks, file, model, message):
    with pytest.raises(ValueError, match=message):
        lora_files.read(FILES / f"{file}.safetensors", {"network": networks[model]})


def test_what_does_not_fit_is_named_with_both_shapes(networks, tmp_path):
    down, up = pair(np.random.default_rng(0), 32, 31)
    name = "unet.time_embedding.linear_2"
    told = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    safetensors.write(tmp_path / "x.safetensors", told)
    message = (
        rf"1 of 1 adapters are of another base, the first of them {name} of \(2, 31\) and \(32, 2\)"
        r": the matrix of this model is \(32, 32\)"
    )
    with pytest.raises(ValueError, match=message):
        lora_files.read(tmp_path / "x.safetensors", {"network": networks["sd15"]})


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("lora_unet_conv_in.hada_w1_a", "is of LoHa, and only LoRA is supported"),
        ("lora_unet_conv_in.dora_scale", "is of DoRA"),
        ("model.diffusion_model.out.0.weight", "is no file of adapters .* it has the tensor model"),
        ("unet.conv_in.lora_A.weight", "of unet.conv_in there is down alone"),
    ],
)
def test_other_files_are_refused(networks, tmp_path, tensor, message):
    safetensors.write(tmp_path / "x.safetensors", {tensor: np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=message):
        lora_files.read(tmp_path / "x.safetensors", {"network": networks["sd15"]})


def test_a_table_of_embeddings_is_not_written(tmp_path):
    made = {"words": {"embedding": {"down": np.zeros((9, 2)), "up": np.zeros((2, 4))}}}
    with pytest.raises(ValueError, match="only kernels have a place in such files, not words/emb"):
        lora_files.write(tmp_path / "x.safetensors", {"text_encoder": made})
