"""A tiny experiment, and the command line called in this process."""

import json
import shutil
import textwrap
from pathlib import Path

import pytest

from sde_diffusion.cli import draw, main, run

MODELS = Path(__file__).parents[1] / "reference" / "pretrained"
CLASSES = {
    "sd3": {
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
    },
    "flux_dev": {
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
    },
}
TINY = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "digits")
        config.network = choice("network", "mlp", features=16, num_blocks=1, num_classes=10)
        config.optim.update(lr=1e-3, warmup=2, ema_rates=(0.9,))
        config.training.update(
            batch_size=32, steps=8, log_every=2, sample_every=4, checkpoint_every=4
        )
        config.sampling.update(steps=3, batch_size=20)
        config.eval.num = 40
        return config
"""


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    # Nothing is written outside the test's own folder, and no test finds another one's programs.
    monkeypatch.setattr(run, "enable_cache", lambda: None)


@pytest.fixture(scope="session")
def tiny_text():
    return textwrap.dedent(TINY)


@pytest.fixture
def tiny(tmp_path, tiny_text):
    path = tmp_path / "tiny.py"
    path.write_text(tiny_text)
    return path


@pytest.fixture
def call(capfd):
    """call(arguments) -> (exit code, standard output, standard error)."""

    def run_main(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run_main


@pytest.fixture
def asked(monkeypatch):
    """What samples are drawn under, in the order of the calls."""
    seen, original = [], draw.draw

    def spied(*args, under, **kwargs):
        seen.append(under)
        return original(*args, under=under, **kwargs)

    monkeypatch.setattr(draw, "draw", spied)
    return seen


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_text):
    """The folder of a finished tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.py"
    config.write_text(tiny_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        assert main(["train", "--config", str(config), "--workdir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """The folders of a small SD3, also without T5, and of a small Flux dev, as diffusers' are."""
    root = tmp_path_factory.mktemp("pipelines")
    for name in ("sd3", "flux_dev"):
        _assemble(name, root / name)
    without = shutil.copytree(root / "sd3", root / "sd3_without_t5")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(without / part)
    _add(without / "model_index.json", {"text_encoder_3": [None, None]})
    return {folder.name: folder for folder in (root / "sd3", without, root / "flux_dev")}


def _assemble(name, folder):
    told = json.loads((MODELS / "pipelines" / f"{name}.json").read_text())
    for part, source in told["parts"].items():
        shutil.copytree(MODELS / source, folder / part)
    for part, changes in told["changes"].items():
        _add(folder / part / "config.json", changes)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told["scheduler"]))
    (folder / "model_index.json").write_text(json.dumps(told["index"] | CLASSES[name]))


def _add(file, fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
