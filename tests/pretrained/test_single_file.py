"""Single files of SD 1.x and SDXL.

experiments/pretrained/single_file_names.py made the table of their names, and diffusers' own
converters agreed with every one of them.
"""

import gzip
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import pretrained
from sde_diffusion.pretrained import published, safetensors, single_file
from sde_diffusion.pretrained.folder import read_json, read_weights
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import build
from sde_diffusion.pretrained.tensors import renamed

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
NAMES = json.loads(gzip.decompress((FOLDERS / "single_files.json.gz").read_bytes()))
TABLE = json.loads(gzip.decompress((FOLDERS / "published.json.gz").read_bytes()))
SMALL = ["sd15", "sdxl"]
PUBLISHED = {
    "stable-diffusion-v1-5": "StableDiffusionPipeline",
    "stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
}
# What the published files hold beside weights.
BESIDE = {
    "sd15": [
        "alphas_cumprod",
        "betas",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "model_ema.diffusion_modelout2bias",
    ],
    "sdxl": ["conditioner.embedders.1.model.logit_scale", "denoiser.sigmas"],
}


def parts(folder):
    """The class of each part with weights in a pipeline's folder."""
    index = read_json(folder / "model_index.json")
    named = ((name, entry) for name, entry in index.items() if isinstance(entry, list))
    return {name: entry[1] for name, entry in named if entry[1] in KINDS}


def in_the_folder(folder):
    """The tensors of each part as diffusers has written them, under today's names."""
    return {
        part: renamed(read_weights(folder / part), KINDS[kind].renames)
        for part, kind in parts(folder).items()
    }


def write_single_file(path, model):
    told = in_the_folder(FOLDERS / model)
    arrays = {}
    for original, (part, names, shape) in NAMES[model].items():
        if isinstance(names, list):
            array = np.concatenate([told[part][name] for name in names])
        else:
            array = told[part][names]
        arrays[original] = array.T if original.endswith(".text_projection") else array
        arrays[original] = arrays[original].reshape(shape)
    arrays |= {name: np.ones(3, np.float16) for name in BESIDE[model]}
    safetensors.write(path, arrays)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    for model in SMALL:
        write_single_file(folder / f"{model}.safetensors", model)
    return {model: folder / f"{model}.safetensors" for model in SMALL}


def assert_same_folder(folder, like):
    """All but the files of weights is equal byte by byte, and every tensor is."""
    plain = [path.relative_to(like) for path in like.rglob("*") if path.is_file()]
    for path in plain:
        if path.suffix not in (".safetensors", ".npz"):
            assert (folder / path).read_bytes() == (like / path).read_bytes()
    for part, tensors in in_the_folder(like).items():
        (file,) = (folder / part).glob("*.safetensors")
        made = safetensors.read(file)
        assert set(made) == set(tensors)
        for name, array in tensors.items():
            assert made[name].dtype == array.dtype
            np.testing.assert_array_equal(made[name], array, err_msg=name)


@pytest.mark.parametrize("model", SMALL)
def test_a_single_file_becomes_the_folder_that_it_was_made_of(files, model, tmp_path):
    pretrained.convert(files[model], tmp_path / "out", like=FOLDERS / model)
    assert_same_folder(tmp_path / "out", FOLDERS / model)


def test_a_folder_becomes_a_folder(tmp_path):
    pretrained.convert(FOLDERS / "sd21", tmp_path / "out")
    assert_same_folder(tmp_path / "out", FOLDERS / "sd21")


def test_a_variant_in_shards_becomes_one_file_of_another_dtype(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(FOLDERS / "sd15", source)
    tensors = read_weights(source / "unet")
    (source / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    half = dict(list(tensors.items())[:100])
    rest = {name: array for name, array in tensors.items() if name not in half}
    index = {}
    for i, shard in enumerate([half, rest], start=1):
        name = f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors"
        safetensors.write(source / "unet" / name, shard)
        index |= dict.fromkeys(shard, name)
    (source / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": index})
    )
    pretrained.convert(source, tmp_path / "out", dtype="float32")
    made = read_weights(tmp_path / "out" / "unet")
    assert {array.dtype for array in made.values()} == {np.dtype("float32")}
    assert set(made) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(made[name], array)


@pytest.mark.parametrize("model", SMALL)
def test_a_single_file_is_loaded_as_its_folder_is(files, model):
    pipe = pretrained.load(files[model], like=FOLDERS / model)
    like = pretrained.load(FOLDERS / model)
    assert type(pipe.solver) is type(like.solver)
    assert pipe.size == like.size
    assert pipe.codec == like.codec
    jax.tree.map(np.testing.assert_array_equal, pipe.codec_params, like.codec_params)
    jax.tree.map(np.testing.assert_array_equal, pipe.model.params, like.model.params)
    ours, theirs = (vars(each.text).values() for each in (pipe, like))
    for our, their in zip(ours, theirs, strict=True):
        if not isinstance(our, bool):
            jax.tree.map(np.testing.assert_array_equal, our.params, their.params)


@pytest.mark.parametrize("model", PUBLISHED)
def test_every_tensor_of_the_published_files_has_one_place(model):
    configs = {
        name.removesuffix("/config.json"): content
        for name, content in published.FILES[PUBLISHED[model]].items()
        if name.endswith("/config.json")
    }
    # Arrays of the full shapes that take no memory.
    tensors = {
        name: np.broadcast_to(np.zeros((), np.float16), shape)
        for name, (_, _, shape) in NAMES[model].items()
    }
    index = published.FILES[PUBLISHED[model]]["model_index.json"]
    split = single_file.split(tensors, configs, model)
    assert set(split) == set(configs)
    for part, given in split.items():
        kind = KINDS[index[part][1]]
        told = TABLE[model].get(part) or TABLE["stable-diffusion-v1-5"][part]
        # test_published_shapes has that our module takes what the table has.
        module = build(kind, told["config"] | _unknown_to_the_table(part), source=part)
        assert build(kind, configs[part], source=part) == module
        theirs = {name: np.broadcast_to(0, shape) for name, shape in told["tensors"].items()}
        ours, theirs = renamed(given, kind.renames), renamed(theirs, kind.renames)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def _unknown_to_the_table(part):
    """The table of shapes has the number of the end token from transformers' defaults."""
    return {"eos_token_id": 2} if part.startswith("text_encoder") else {}


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_file_needs_the_tokenizer_only(model, tmp_path):
    tokenizer = FOLDERS / "sd15" / "tokenizer"
    published.write_configs(tmp_path, PUBLISHED[model], tokenizer)
    index = read_json(tmp_path / "model_index.json")
    assert all((tmp_path / name).is_dir() for name, e in index.items() if type(e) is list and e[0])
    for folder in tmp_path.glob("tokenizer*"):
        assert (folder / "merges.txt").read_bytes() == (tokenizer / "merges.txt").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"there is no vocab\.json"):
        published.write_configs(tmp_path, PUBLISHED[model], tmp_path)


def changed(path, source, *, without="", extra=()):
    arrays = {k: v for k, v in safetensors.read(source).items() if not without or without not in k}
    safetensors.write(path, arrays | {name: np.ones(2, np.float16) for name in extra})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": "first_stage_model"}, "not the single file of a pipeline that is supported"),
        ({"without": "out.2.bias"}, r"1 tensor is missing: conv_out\.bias \(4,\)"),
        ({"extra": ["v_pred"]}, "no part has the tensors v_pred"),
        ({"extra": ["first_stage_model.quant.x"]}, r"1 tensor is not used: quant\.x \(2,\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(files, change, message, tmp_path):
    file = changed(tmp_path / "x.safetensors", files["sd15"], **change)
    with pytest.raises(ValueError, match=message):
        pretrained.convert(file, tmp_path / "out", like=FOLDERS / "sd15")
    assert not (tmp_path / "out").exists()


def test_what_a_single_file_cannot_do_is_told(files, tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer: name with `like` a folder"):
        pretrained.load(files["sd15"])
    with pytest.raises(ValueError, match=r"is a StableDiffusionPipeline, but .*XLPipeline"):
        pretrained.load(files["sd15"], like=FOLDERS / "sdxl")
    with pytest.raises(ValueError, match="has no variants"):
        pretrained.load(files["sd15"], like=FOLDERS / "sd15", variant="fp16")
    with pytest.raises(ValueError, match="is no single file: leave out like"):
        pretrained.load(FOLDERS / "sd15", like=FOLDERS / "sd15")
    with pytest.raises(FileExistsError):
        pretrained.convert(files["sd15"], tmp_path, like=FOLDERS / "sd15")
    for suffix in (".ckpt", ".bin", ".pt"):
        with pytest.raises(ValueError, match=r"is a pickle, .* convert it to safetensors"):
            pretrained.convert(tmp_path / f"x{suffix}", tmp_path / "out", like=FOLDERS / "sd15")
