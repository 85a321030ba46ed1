"""An autoencoder is trained, its latents are stored, and a model of them is trained and sampled."""

import json

import jax
import numpy as np
import pytest

from sde_diffusion import data
from sde_diffusion.cli import codec, encode, main, plan, run
from sde_diffusion.cli.trained import trained_problem
from sde_diffusion.config import build, codecs
from sde_diffusion.config import schema as configs
from sde_diffusion.config.check import check

AUTOENCODER = """
from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "digits")
    config.network = choice(
        "network",
        "autoencoder_kl",
        in_channels=1,
        out_channels=1,
        latent_channels=3,
        patch_size=4,
        block_out_channels=(8,),
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    config.loss.name = "autoencoding"
    config.optim.update(lr=1e-3, warmup=2, ema_rates=(0.9,))
    config.training.update(batch_size=32, steps=4, log_every=2, sample_every=4, checkpoint_every=4)
    config.eval.data = 64
    return config
"""
LATENT = """
from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.data.source = choice("data.source", "digits")
    config.network = choice("network", "mlp", features=16, num_blocks=1, num_classes=10)
    config.optim.update(lr=1e-3, warmup=2, ema_rates=(0.9,))
    config.training.update(batch_size=32, steps=4, log_every=2, sample_every=4, checkpoint_every=4)
    config.sampling.update(steps=3, batch_size=16)
    config.eval.update(num=20, data=64)
    return config
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the run of an autoencoder, its latents, and the run of a model of them."""
    root = tmp_path_factory.mktemp("latents")
    (root / "autoencoder.py").write_text(AUTOENCODER)
    (root / "latent.py").write_text(LATENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        patch.setattr(encode, "SHARD", 1000)
        for command in (
            ("train", "--config", root / "autoencoder.py", "--workdir", root / "codec"),
            ("encode", "--workdir", root / "codec", "--out", root / "latents.array_record"),
            ("train", "--config", root / "latent.py", "--workdir", root / "run", *of_latents(root)),
        ):
            assert main([str(word) for word in command]) == 0
    return root


def of_latents(root):
    return (
        "--config.data.source.name=latents",
        f"--config.data.source.path={root / 'latents.array_record'}",
        f"--config.codec.path={root / 'codec'}",
    )


def latent_config(root, *overrides):
    given = dict(word.removeprefix("--config.").split("=") for word in overrides)
    return configs.load(root / "latent.py", given)


def test_an_autoencoder_has_pictures_of_originals_beside_reconstructions(root):
    from PIL import Image

    picture = Image.open(root / "codec" / "samples" / "step_0000004.png")
    assert picture.size[0] > 10 * 8  # ten columns


def test_an_autoencoder_is_evaluated_by_its_reconstructions(root, call):
    code, printed, _ = call("evaluate", "--workdir", root / "codec")
    assert code == 0
    report = json.loads((root / "codec" / "evaluation.json").read_text())
    assert report["data"] == 64
    assert 0 < report["psnr"] < 60
    assert -1 <= report["ssim"] <= 1
    assert report["frechet_ratio"] > 0
    assert "psnr_standard_error" in printed


def test_latents_have_unit_variance_and_the_records_other_entries(root):
    source = data.load("latents", path=str(root / "latents.array_record"))
    digits = data.load("digits")
    assert len(source) == len(digits)
    assert source.features["mean"].shape == source.features["deviation"].shape == (2, 2, 3)
    assert source.features["label"] == digits.features["label"]
    rows = np.array([0, 999, 1000, 1796])  # in both files
    np.testing.assert_array_equal(
        data.take(source, rows)["label"], data.take(digits, rows)["label"]
    )
    every = data.take(source, np.arange(len(source)))
    shift, scale = codecs.shift_and_scale(source.features["mean"])
    noise = np.random.default_rng(0).standard_normal(every["mean"].shape)
    z = (every["mean"] + every["deviation"] * noise - shift) * scale
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01


def test_latents_and_images_that_are_encoded_in_the_step_give_the_same_losses(root):
    losses = []
    for overrides in (of_latents(root), of_latents(root)[2:]):
        config = latent_config(root, *overrides)
        source = build.source(config)
        coder = codec.of_training(config, source, None)
        check(config, source.features, None, coder)
        recipe = build.recipe(config, source.features, None, coder)
        names = build.record_names(config, source.features)
        batch = data.take(data.select(source, names), np.arange(32))
        params = recipe.init_params(jax.random.key(0))
        loss, _ = jax.jit(recipe.objective)(
            params, jax.random.key(1), batch, frozen=recipe.frozen, ema=(), step=3
        )
        losses.append(np.asarray(loss))
    assert losses[0].std() > 0
    np.testing.assert_allclose(*losses, rtol=2e-4)


def test_a_model_of_latents_samples_images_without_the_data(root, call, tmp_path):
    gone = f"--config.data.source.path={tmp_path / 'gone'}"
    out = tmp_path / "samples.npz"
    code, _, told = call(
        *("sample", "--workdir", root / "run", "--num", 20, "--class", 3, "--out", out, gone)
    )
    assert code == 0, told
    with np.load(out) as arrays:
        assert arrays["image"].shape == (20, 8, 8, 1)
        assert arrays["image"].dtype == np.uint8
    assert (root / "run" / "samples" / "step_0000004.png").is_file()
    assert call("evaluate", "--workdir", root / "run")[0] == 0
    report = json.loads((root / "run" / "evaluation.json").read_text())
    assert report["frechet_ratio"] > 0
    assert "latents" in report["left_out"]["bits_per_dim"]


def test_training_on_images_stores_the_scale_that_it_measured(root, call, tmp_path):
    given = f"--config.codec.path={root / 'codec'}"
    command = ("train", "--config", root / "latent.py", "--workdir", tmp_path / "run", given)
    assert call(*command)[0] == 0
    told = data.read_stored_codec(tmp_path / "run")
    assert told == data.read_stored_codec(root / "latents.array_record")._replace(
        shift=pytest.approx(told.shift), scale=pytest.approx(told.scale)
    )
    more = (*command, "--config.training.steps=6")
    code, _, said = call(*more)
    assert code == 0, said
    assert data.read_stored_codec(tmp_path / "run") == told
    out = tmp_path / "samples.png"
    assert call("sample", "--workdir", tmp_path / "run", "--out", out)[0] == 0


def of_adapters(root, out, *more):
    config = ("train", "--config", root / "latent.py", "--workdir", out, "--config.lora.rank=2")
    return (*config, f"--config.init_from.path={root / 'run'}", *more)


def test_images_are_scaled_as_the_base_of_adapters_knows_them(root, call, tmp_path):
    few = ("--config.data.source.part=test", f"--config.codec.path={root / 'codec'}")
    assert call(*of_adapters(root, tmp_path / "few", *few))[0] == 0
    assert data.read_stored_codec(tmp_path / "few") == data.read_stored_codec(root / "run")


def test_adapters_of_a_model_of_latents_are_not_trained_on_images(root, call, tmp_path):
    code, _, told = call(*of_adapters(root, tmp_path / "images"))
    assert code == 2
    assert "was trained on latents of" in told
    assert "this run is on images, not latents" in told
    assert not (tmp_path / "images").exists()


def test_encode_goes_on_where_it_was_killed(root, call, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "SHARD", 1000)
    out = tmp_path / "latents"
    command = ("encode", "--workdir", root / "codec", "--out", out, "--dtype", "float16")
    write, wrote = encode.write_shard, []

    def killed_at_the_second(file, *arguments):
        wrote.append(file)
        if len(wrote) == 2:
            raise OSError("killed")
        write(file, *arguments)

    monkeypatch.setattr(encode, "write_shard", killed_at_the_second)
    assert call(*command)[0] == 2
    with pytest.raises(ValueError, match="run the same command again"):
        data.load("latents", path=str(out))
    assert call(*command)[0] == 0
    assert len(wrote) == 3  # the first file was not written again
    source = data.load("latents", path=str(out))
    whole = data.load("latents", path=str(root / "latents.array_record"))
    rows = np.arange(len(whole))
    halves, singles = data.take(source, rows)["mean"], data.take(whole, rows)["mean"]
    assert halves.dtype == np.float16
    np.testing.assert_allclose(halves, singles, rtol=1e-3, atol=1e-6)
    code, printed, _ = call(*command)
    assert code == 0
    assert "already" in printed
    code, _, told = call(*command[:-1], "float32")
    assert code == 2
    assert "begun by a command that differs in its features: choose" in told


def test_latents_of_another_codec_are_refused(root, call, tmp_path):
    command = ("train", "--config", root / "latent.py", "--workdir", tmp_path / "run")
    # The parameters themselves, in place of their average.
    code, _, told = call(*command, *of_latents(root), "--config.codec.ema=None")
    assert code == 2
    assert len(told.splitlines()) == 1
    assert told.count(str(root / "codec")) == 2
    assert told.count("fingerprint") == 2
    out = tmp_path / "samples.png"
    sample = ("sample", "--workdir", root / "run", "--out", out)
    code, _, told = call(*sample, "--config.codec.ema=None")
    assert code == 2
    assert len(told.splitlines()) == 1
    assert "was trained on those of another codec" in told


TRAIN_CODEC = ("train", "--config", "{root}/autoencoder.py", "--workdir", "{root}/a")
TRAIN_MODEL = ("train", "--config", "{root}/latent.py", "--workdir", "{root}/a")
ENCODE = ("encode", "--workdir", "{root}/codec", "--out", "{root}/a")
SAMPLE = ("sample", "--workdir", "{root}/run", "--out", "a.png")
WITH_CODEC = "--config.codec.path={root}/codec"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("sample", "--workdir", "{root}/codec", "--out", "a.png"), "has nothing to sample"),
        (("encode", "--workdir", "{root}/run", "--out", "{root}/a"), "'mlp' is no codec"),
        ((*ENCODE, "--dtype", "int8"), "float32 or float16"),
        (("encode", "--workdir", "{root}/codec", "--out", "{root}/codec"), "holds other files"),
        (
            (*ENCODE, "--config.data.source.size=4"),
            "it encodes uint8 (8, 8, 1) from 0 to 16, and digits has float32 (4, 4, 1)",
        ),
        ((*SAMPLE, "--edit", "a.png"), "--edit: the network of this run knows latents"),
        ((*TRAIN_CODEC, "--config.loss.name=denoising"), "go together"),
        ((*TRAIN_CODEC, "--config.network.in_channels=3"), "is 3, and images have 1 channels"),
        ((*TRAIN_CODEC, "--config.network.patch_size=16"), "16 pixels for one of the latents"),
        ((*TRAIN_CODEC, "--config.loss.autoencoding.kl=-1.0"), "kl of autoencoding must be at"),
        ((*TRAIN_MODEL, "--config.codec.path={root}/run"), "'mlp' is no codec"),
        ((*TRAIN_MODEL, WITH_CODEC, "--config.data.dequantize=True"), "images as they are"),
    ],
)
def test_bad_input_is_one_line(root, call, command, told):
    code, _, err = call(*(word.format(root=root) for word in command))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert told in err


def test_latents_are_not_flipped(root, call, tmp_path):
    command = ("train", "--config", root / "latent.py", "--workdir", tmp_path / "run")
    code, _, told = call(*command, *of_latents(root), "--config.data.flip=True")
    assert code == 2
    assert "its flipped latents" in told


def test_latents_without_a_codec_stay_latents(root, call, tmp_path):
    command = ("train", "--config", root / "latent.py", "--workdir", tmp_path / "run")
    code, _, told = call(*command, *of_latents(root)[:2], "--config.training.steps=3")
    assert code == 0
    assert "samples stay latents" in told
    out = tmp_path / "samples.npz"
    assert call("sample", "--workdir", tmp_path / "run", "--out", out, "--num", 3)[0] == 0
    with np.load(out) as arrays:
        assert arrays["mean"].shape == (3, 2, 2, 3)


@pytest.mark.parametrize("first", [0, 2], ids=["latents", "images"])
def test_solvers_are_compared_on_latents(root, first):
    overrides = dict(word.removeprefix("--config.").split("=") for word in of_latents(root)[first:])
    problem = trained_problem(root / "run", {"data.source.name": "digits", **overrides})
    z = problem.data(jax.random.key(0), 500)
    assert z.shape == (500, 2, 2, 3)
    assert abs(z.mean()) < 0.1
    assert abs(z.std() - 1) < 0.1


def test_a_latent_config_is_planned_without_its_data(root):
    given = {"data.source.path": "gone", "data.source.name": "latents", "codec.path": "gone"}
    config = configs.load(root / "latent.py", given)
    features = plan.features_of(config, (2, 2, 3))
    recipe = build.recipe(config, features)
    batch = {
        name: jax.ShapeDtypeStruct((4, *features[name].shape), features[name].dtype)
        for name in build.record_names(config, features)
    }
    assert batch.keys() == {"mean", "deviation", "label"}
    params = jax.eval_shape(recipe.init_params, jax.random.key(0))
    loss, _ = jax.eval_shape(
        lambda params, batch: recipe.objective(
            params, jax.random.key(0), batch, frozen=None, ema=(), step=0
        ),
        params,
        batch,
    )
    assert loss.shape == (4,)
