"""A network that is told a text and an image: trained, sampled, evaluated and planned."""

import textwrap

import numpy as np
import pytest
from PIL import Image

from sde_diffusion.cli import draw, main, run

CONFIG = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "npz", path="{path}")
        config.data.tokens = 6
        config.network = choice(
            "network", "mlp", features=8, num_blocks=1, vocabulary=257, image_channels=1
        )
        config.conditions.image.update(field="sketch", drop=0.5)
        config.optim.warmup = 1
        config.training.update(
            batch_size=16, steps=4, log_every=2, sample_every=2, checkpoint_every=4
        )
        config.sampling.update(steps=2, batch_size=20)
        config.eval.update(num=20, bits=8)
        return config
"""
A_CAT, A_DOG = [98, 33, 100, 98, 117, 0], [98, 33, 101, 112, 104, 0]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """The folder of a tiny run on images with a text and a sketch."""
    folder, rng = tmp_path_factory.mktemp("captioned"), np.random.default_rng(0)
    np.savez(
        folder / "data.npz",
        image=rng.integers(256, size=(40, 4, 4, 1), dtype=np.uint8),
        sketch=rng.integers(256, size=(40, 4, 4, 1), dtype=np.uint8),
        text=np.array(["a cat", "a dog"] * 20),
    )
    text = textwrap.dedent(CONFIG).replace("{path}", str(folder / "data.npz"))
    (folder / "config.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        arguments = ("--config", str(folder / "config.py"), "--workdir", str(folder / "run"))
        assert main(["train", *arguments]) == 0
    return folder / "run"


@pytest.fixture
def told(monkeypatch):
    """The conditions that samples are drawn with, in the order of the calls."""
    seen, original = [], draw.draw

    def spied(*args, under, **kwargs):
        seen.append(under.cond)
        return original(*args, under=under, **kwargs)

    monkeypatch.setattr(draw, "draw", spied)
    return seen


def test_training_draws_pictures_with_the_conditions_of_the_data(captioned):
    assert (captioned / "samples" / "step_0000002.png").is_file()


def test_a_prompt_and_an_image_are_what_the_network_is_told(captioned, call, told, tmp_path):
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "white.png")
    options = ("--prompt", "a cat", "--image", tmp_path / "white.png", "--num", 3)
    code, _, err = call("sample", "--workdir", captioned, "--out", tmp_path / "x.npz", *options)
    assert code == 0, err
    (cond,) = told
    np.testing.assert_array_equal(cond["tokens"], [A_CAT] * 3)
    np.testing.assert_array_equal(cond["image"], np.ones((3, 4, 4, 1)))
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["image"].shape == (3, 4, 4, 1)


def test_evaluate_tells_the_network_what_records_have(captioned, call, told):
    code, _, err = call("evaluate", "--workdir", captioned)
    assert code == 0, err
    assert np.unique(told[-1]["tokens"], axis=0).tolist() == [A_CAT, A_DOG]
    assert told[-1]["image"].shape == (20, 4, 4, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--prompt is needed", "config.conditions.tokens.drop is 0")),
        (("--class", "3"), ("--class", "takes no label")),
        (("--prompt", "a", "--image", "none.png"), ("none.png",)),
    ],
)
def test_what_is_missing_or_too_much_is_said(captioned, call, tmp_path, options, words):
    code, _, err = call("sample", "--workdir", captioned, "--out", tmp_path / "x.png", *options)
    assert code == 2
    for word in words:
        assert word in err


def test_a_plan_needs_no_data(captioned, call):
    config = captioned.parent / "config.py"
    code, _, err = call("plan", "--config", config, "--topology", "cpu:1", "--event", "4,4,1")
    assert code == 0, err
