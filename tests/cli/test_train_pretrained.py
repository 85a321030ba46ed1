"""train, sample, convert and encode on a pretrained folder, and prior preservation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from sde_diffusion import data, objectives, pretrained
from sde_diffusion.cli import codec, main, run, texts
from sde_diffusion.config import build, codecs, conditions, prior
from sde_diffusion.config import schema as configs
from sde_diffusion.pretrained import safetensors
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.kinds import KINDS
from sde_diffusion.pretrained.part import read_part
from sde_diffusion.pretrained.schedule import read_schedule
from sde_diffusion.training import parameters
from sde_diffusion.tree_names import named

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "reference" / "pretrained"
SD15, SDXL = MODELS / "sd15", MODELS / "sdxl"
SIZE = 16
SHORT = (
    f"--config.data.source.size={SIZE}",
    *("--config.training.steps=2", "--config.training.batch_size=8", "--config.optim.warmup=1"),
    *("--config.training.sample_every=100", "--config.training.log_every=1"),
    *("--config.lora.names=*attn*kernel", "--config.lora.rank=2"),
)


def draw_pictures(folder, captions):
    folder.mkdir()
    generator = np.random.default_rng(len(captions))
    for i, caption in enumerate(captions):
        pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("of") / "these", ["a fox", "a red fox", "a fox"])


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("of") / "others", ["a dog"] * 2)


def trained(folder, pictures, base, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        command = ["train", "--config", ROOT / "configs" / "lora.py", "--workdir", folder]
        given = (f"--config.init_from.path={base}", f"--config.data.source.path={pictures}")
        assert main([str(each) for each in (*command, *given, *SHORT, *options)]) == 0
    return folder


@pytest.fixture(scope="module")
def sd3(pipelines):
    """The folder of a small SD3, whose network compiles sooner than a U-Net."""
    return pipelines["sd3"]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, pictures, others, sd3):
    """A run of adapters, with pictures that it is to keep and texts left out."""
    return trained(
        tmp_path_factory.mktemp("adapted") / "run",
        pictures,
        sd3,
        *("--config.data.prior.name=folder", f"--config.data.prior.path={others}"),
        *("--config.data.prior.captions=txt", f"--config.data.prior.size={SIZE}"),
        *("--config.data.prior_weight=0.5", "--config.conditions.text.drop=0.5"),
    )


def on_latents(workdir):
    """The config of a run, and the features of what it samples."""
    config = run.read_config(workdir, {})
    described = run.read_data(workdir).features
    return config, codecs.sampled(described, codec.of_run(workdir, config))


def restored(workdir):
    return run.restore_params(workdir, *on_latents(workdir), ema="none").params


def assert_same(a, b, atol=0.0):
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        np.testing.assert_allclose(leaf, b[name], rtol=0, atol=atol)


def test_the_adapters_of_a_run_go_into_the_pipeline_as_a_file(adapted, sd3, call, tmp_path):
    whole, pipe = restored(adapted), pretrained.load(sd3)
    before = pipe.model.params["params"]
    changed = [name for name, leaf in named(whole).items() if np.any(leaf != named(before)[name])]
    assert changed
    assert all("attn" in name and name.endswith("kernel") for name in changed)
    for form in ("diffusers", "kohya"):
        out = tmp_path / f"{form}.safetensors"
        code, said, err = call("convert", adapted, "--to", form, "--ema", "none", "--out", out)
        assert code == 0, err
        assert f"at step 2 for {form}" in said
        assert_same(pretrained.add_lora(pipe, out).model.params["params"], whole, 1e-6)
        code, _, err = call("convert", adapted, "--to", form, "--out", out)
        assert code == 2
        assert "is there already" in err


def test_a_run_of_adapters_that_encodes_pictures_can_be_a_base_itself(adapted):
    config = configs.override(configs.default(), {"init_from.path": str(adapted)})
    theirs = named(run.restore_params(adapted, *on_latents(adapted), ema="0").params)
    stored = run.stored(config)
    assert stored.shapes == {name: leaf.shape for name, leaf in theirs.items()}
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in theirs.items()
    }
    for name, leaf in stored.read(abstract).items():
        np.testing.assert_array_equal(leaf, theirs[name])


def test_a_file_has_the_share_of_the_change_that_is_asked_for(adapted, call, tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    command = ("convert", adapted, "--to", "diffusers", "--out")
    assert call(*command, whole)[0] == 0
    assert call(*command, half, "--config.lora.weight=0.5")[0] == 0
    theirs = safetensors.read(half)
    for name, tensor in safetensors.read(whole).items():
        share = 0.5 if "lora_B" in name else 1.0
        np.testing.assert_array_equal(theirs[name], share * np.asarray(tensor))


def test_a_base_that_was_moved_is_named_once(tmp_path):
    config = base_config(SD15)
    (tmp_path / run.CONFIG).write_text(configs.to_json(config))
    moved = {"init_from.path": "new"}
    paths = run.read_config(run.folder(str(tmp_path)), moved)
    assert [paths[group].path for group in ("init_from", "codec", "text")] == ["new"] * 3
    apart = run.read_config(run.folder(str(tmp_path)), moved | {"text.path": "other"})
    assert [apart[group].path for group in ("codec", "text")] == ["new", "other"]


def test_the_state_holds_the_adapters_alone(adapted):
    kinds = parameters.find(adapted, ema=0).kinds
    assert kinds
    assert all(name.endswith(("['down']", "['up']")) for name in kinds)
    assert set(parameters.find(adapted, ema=0).frozen) == {"base", "codec", "no_text"}


@pytest.mark.slow
def test_all_parameters_are_trained_by_the_same_command(tmp_path, pictures, sd3, call):
    options = ("--config.lora.rank=None", "--config.lora.names=*")
    folder = trained(tmp_path / "run", pictures, sd3, *options)
    out = tmp_path / "again"
    code, _, err = call("convert", folder, "--to", "diffusers", "--ema", "none", "--out", out)
    assert code == 0, err
    again, before = pretrained.load(out), pretrained.load(sd3)
    assert_same(again.model.params["params"], restored(folder))
    assert_same(again.codec_params, before.codec_params)
    new, old = (named(each.model.params["params"]) for each in (again, before))
    # The last layer's text has an output that nothing reads, and takes no gradient.
    moved = [np.any(new[name] != old[name]) for name in new if name.endswith("/kernel")]
    assert sum(moved) > 0.5 * len(moved)


def base_config(folder, pictures=""):
    overrides = {
        "init_from.path": str(folder),
        "data.source.path": str(pictures),
        "data.source.size": str(SIZE),
    }
    return run.base_config(configs.load(ROOT / "configs" / "lora.py", overrides), overrides)


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_the_network_and_the_process_are_the_folders(name):
    config = base_config(MODELS / name)
    theirs = read_schedule(read_json(MODELS / name / "scheduler" / "scheduler_config.json"))
    module, _, _ = read_part(MODELS / name / "unet", KINDS["UNet2DConditionModel"])
    assert build.network(config) == module
    np.testing.assert_array_equal(build.sde(config).alphas, theirs.sde.alphas)
    assert build.parameterization(config) == theirs.parameterization
    assert config.loss.weighting.on == theirs.parameterization.kind


def test_a_record_has_the_embeddings_and_the_sizes_that_sdxl_is_told(pictures):
    config = base_config(SDXL, pictures)
    embedded = texts.of_source(config, build.source(config))
    source, no_text = embedded.source, embedded.no_text
    batch = data.take(source, np.array([0, 1]))
    encode = pretrained.load_text(SDXL)
    told = encode(["a fox", "a red fox"], 2, (SIZE, SIZE))
    assert set(told) == {"text", "pooled", "sizes"} == set(conditions.told(config))
    for name, embeddings in told.items():
        np.testing.assert_allclose(batch[f"embedded_{name}"], embeddings, atol=1e-6)
    assert not no_text["text"].any()
    assert not no_text["pooled"].any()


def test_the_encoders_are_those_that_the_run_began_with(tmp_path):
    first, other = (
        texts.known(pretrained.load_text(model), (SIZE, SIZE)) for model in (SD15, SDXL)
    )
    workdir = epath.Path(tmp_path)
    assert texts.as_in(workdir, first) is first  # nothing is kept yet
    texts.write(workdir, first)
    rounded = {name: np.asarray(a.astype(jnp.bfloat16), np.float32) for name, a in first.items()}
    for name, kept in texts.as_in(workdir, rounded).items():
        np.testing.assert_array_equal(kept, first[name])
    with pytest.raises(ValueError, match=r"config.text.path: .* embeddings of other encoders"):
        texts.as_in(workdir, other)
    with pytest.raises(ValueError, match=r"'text' of 'a photograph of a cat' is not the same"):
        texts.as_in(workdir, {name: array[:, ::-1] for name, array in first.items()})


def test_a_prompt_by_other_encoders_is_refused(adapted, call, tmp_path):
    out = tmp_path / "x.png"
    other = f"--config.text.path={SD15}"
    code, _, err = call("sample", "--workdir", adapted, "--prompt", "a fox", "--out", out, other)
    assert (code, err.count("\n")) == (2, 1)
    assert "was trained with the embeddings of other encoders" in err


def test_the_loss_is_that_of_the_pipelines_model_on_the_pictures_latents(pictures, sd3):
    config, pipe = base_config(sd3, pictures), pretrained.load(sd3)
    embedded = texts.of_source(config, build.source(config))
    source, no_text = embedded.source, embedded.no_text
    coder = codec.of_training(config, source, None)
    base = run.base(config, codecs.sampled(source.features, coder))
    recipe = build.recipe(config, source.features, None, coder, base, no_text)
    batch = data.take(source, np.array([0, 1]))
    used = {name: batch[name] for name in build.record_names(config, source.features)}
    key, read = jax.random.key(3), build.samples(config, source.features, coder)
    cond = pipe.text(["a fox", "a red fox"], 2, (SIZE, SIZE))

    @jax.jit
    def both(model, adapters, used, frozen):
        key_data, _, key_loss = jax.random.split(key, 3)
        z, _ = read(key_data, used, frozen)
        fields = {"times": objectives.time_density.logit_normal()}
        fields["weighting"] = objectives.WEIGHTINGS["constant"](on="velocity")
        theirs = objectives.denoising_loss(key_loss, model, z, cond=cond, **fields)
        ours, _ = recipe.objective(adapters, key, used, frozen=frozen, ema=(), step=jnp.asarray(0))
        moments = pipe.codec.moments(frozen["codec"], used["image"] / 127.5 - 1.0)
        return z, moments, theirs, ours

    adapters = recipe.init_params(jax.random.key(0))
    z, moments, theirs, ours = both(pipe.model, adapters, used, recipe.frozen)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    drawn = z / pipe.codec.scale + pipe.codec.shift
    assert np.all(np.abs(drawn - moments.mean) < 6.0 * moments.deviation + 1e-5)


def test_latents_and_embeddings_are_stored_once(pictures, call, tmp_path):
    pipe = pretrained.load(SD15)
    out = tmp_path / "latents"
    source = (
        *("--config.data.source.name=folder", f"--config.data.source.path={pictures}"),
        *(f"--config.data.source.size={SIZE}", "--config.data.source.captions=txt"),
    )
    code, said, err = call("encode", "--pretrained", SD15, "--text", SD15, "--out", out, *source)
    assert code == 0, err
    assert "3 latents (8, 8, 4)" in said
    stored = data.load("latents", path=str(out))
    batch = data.take(stored, np.arange(3))
    told = pipe.text(["a fox", "a red fox", "a fox"], 3, (SIZE, SIZE))["text"]
    np.testing.assert_allclose(batch["embedded_text"], told, atol=1e-6)
    images = data.take(data.load("folder", path=str(pictures), size=SIZE), np.arange(3))["image"]
    shift, scale = codecs.shift_and_scale(stored.features.event)
    z = (batch["mean"] - shift) * scale
    np.testing.assert_allclose(z, pipe.encode(None, images / 255.0), atol=1e-5)
    config = configs.override(
        run.base_config(
            configs.load(ROOT / "configs" / "lora.py", {"init_from.path": str(SD15)}), {}
        ),
        {"data.source.name": "latents", "data.source.path": str(out)},
    )
    embedded = texts.of_source(config, build.source(config))
    again, no_text = embedded.source, embedded.no_text
    assert again.features["embedded_text"].shape == told.shape[1:]
    np.testing.assert_allclose(no_text["text"], pipe.text(None, 1, (SIZE, SIZE))["text"][0])
    assert codec.of_training(config, again, None).latent == stored.features.event


def test_both_sets_of_pictures_are_half_of_the_records(pictures, others):
    fields = {"path": str(pictures), "size": SIZE, "captions": "txt"}
    config = configs.default().unlock()
    config.data.source = configs.choice("data.source", "folder", **fields)
    config.data.prior = configs.choice("data.prior", "folder", **fields | {"path": str(others)})
    config.data.prior_weight = 0.25
    source = build.source(config)
    batch = data.take(source, np.arange(len(source)))
    assert len(source) == 6
    assert list(batch["weight"]) == [1.0, 0.25] * 3
    assert [text == "a dog" for text in batch["text"]] == [False, True] * 3

    def objective(params, key, batch, *, frozen, ema, step):
        return jnp.arange(1.0, 7.0), {}

    weighed, _ = prior.weighted(objective)(None, None, batch, frozen=None, ema=(), step=0)
    np.testing.assert_allclose(weighed, np.arange(1.0, 7.0) * batch["weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config.data.source.name=folder"], "have no text"),
        (["--config.data.source.size=15"], "multiples of"),
        (["--config.text.path=absent"], "config.text.path: absent: no such folder"),
        (["--config.text.path="], "set config.text.path to a pretrained folder"),
        ([f"--config.text.path={SDXL}"], "embeddings of other encoders"),
        (["--config.data.prior_weight=2"], "config.data.prior names no pictures"),
        (["--config.lora.rank=0"], "the rank of an adapter must be a whole number from 1"),
        (["--config.text.trained=True", "--config.text.path=absent"], "a folder of diffusers"),
        (["--config.lora.names=*nose*"], "unknown pattern of parameters '*nose*'"),
        (["--config.init_from.path=absent"], "is no folder of a run or of diffusers"),
        ([f"--config.init_from.path={SD15 / 'unet'}"], "but a UNet2DConditionModel of diffusers"),
    ],
)
def test_what_does_not_fit_is_told_before_the_folder_is_made(
    call, pictures, tmp_path, options, message
):
    folder = tmp_path / "run"
    code, out, err = call(
        *("train", "--config", ROOT / "configs" / "lora.py", "--workdir", folder),
        *(f"--config.init_from.path={SD15}", f"--config.data.source.path={pictures}"),
        *(*(option for option in SHORT if "source.size" not in option), *options),
    )
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not folder.exists()
    if "lora" in options[0]:  # which is told before the captions are encoded, for minutes
        assert "are encoded" not in out
