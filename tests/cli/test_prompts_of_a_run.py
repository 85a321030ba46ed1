"""Several prompts: a row each; words that a run does not have; and the empty prompt."""

import textwrap

import numpy as np
import pytest
from PIL import Image

from sde_diffusion.cli import draw, main, picture, run
from sde_diffusion.data import Feature

CONFIG = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "npz", path="{path}")
        config.data.update(tokens=3, tokenizer="words")
        config.network = choice("network", "mlp", features=8, num_blocks=1, vocabulary=6)
        config.conditions.tokens.drop = 0.5
        config.optim.warmup = 1
        config.training.update(
            batch_size=16, steps=2, log_every=2, sample_every=2, checkpoint_every=2
        )
        config.sampling.update(steps=2, batch_size=20)
        return config
"""
# The words of the data are tokens 2, 3, 4 and 5, the most frequent first.
RED_HEART, BLUE_HEART, NOTHING = [4, 3, 0], [2, 3, 0], [0, 0, 0]


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """The folder of a tiny run whose tokens are words."""
    folder, rng = tmp_path_factory.mktemp("worded"), np.random.default_rng(0)
    texts = ["blue heart", "red heart", "Blue Square"] * 8
    image = rng.integers(256, size=(24, 4, 4, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", image=image, text=np.array(texts))
    text = textwrap.dedent(CONFIG).replace("{path}", str(folder / "data.npz"))
    (folder / "config.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        arguments = ("--config", str(folder / "config.py"), "--workdir", str(folder / "run"))
        assert main(["train", *arguments]) == 0
    (folder / "data.npz").unlink()  # sampling reads the words in the run's folder
    return folder / "run"


@pytest.fixture
def told(monkeypatch):
    """The tokens that samples are drawn with, in the order of the calls."""
    seen, original = [], draw.draw

    def spied(*args, under, **kwargs):
        seen.append(under.cond["tokens"].tolist())
        return original(*args, under=under, **kwargs)

    monkeypatch.setattr(draw, "draw", spied)
    return seen


def test_the_words_of_a_run_are_in_its_folder(worded):
    feature = run.read_data(worded).features["tokens"]
    assert feature.words == ("blue", "heart", "red", "square")


def test_each_prompt_has_its_own_samples_one_prompt_after_the_other(worded, call, told, tmp_path):
    options = ("--prompt", "red heart", "--prompt", "Blue-heart", "--num", 3)
    code, _, err = call("sample", "--workdir", worded, "--out", tmp_path / "x.npz", *options)
    assert code == 0, err
    assert told == [[RED_HEART] * 3 + [BLUE_HEART] * 3]
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["image"].shape == (6, 4, 4, 3)
        assert arrays["text"].tolist() == ["red heart"] * 3 + ["Blue-heart"] * 3


def test_a_file_has_a_prompt_on_each_line_and_the_picture_a_row_for_each(
    worded, call, told, tmp_path
):
    (tmp_path / "prompts.txt").write_text("red heart\n\n  blue square \n")
    options = ("--prompts", tmp_path / "prompts.txt", "--prompt", "blue", "--num", 2)
    code, _, err = call("sample", "--workdir", worded, "--out", tmp_path / "x.png", *options)
    assert code == 0, err
    assert len(told[0]) == 6
    size = 32 + picture.GAP
    wide, tall = 2 * size + picture.GAP, size + picture.GAP + picture.LINE
    assert Image.open(tmp_path / "x.png").size == (wide, 3 * tall)


def test_words_that_a_run_does_not_have_are_named(worded, call, tmp_path):
    options = ("--prompt", "a red zebra", "--num", 1)
    code, out, err = call("sample", "--workdir", worded, "--out", tmp_path / "x.npz", *options)
    assert code == 0, err
    assert "'a red zebra': the words of this run do not have a, zebra" in out + err


def test_an_empty_prompt_is_no_text_and_said(worded, call, told, tmp_path):
    options = ("--prompt", "", "--num", 2)
    code, out, err = call("sample", "--workdir", worded, "--out", tmp_path / "x.npz", *options)
    assert code == 0, err
    assert told == [[NOTHING] * 2]
    assert "the prompt '' is no text: its samples are unconditional" in out + err


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"\n \n", "no prompt in this file"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "prompts.txt: No such file or directory"),
    ],
)
def test_a_file_without_prompts_is_refused(worded, call, tmp_path, lines, words):
    if lines is not None:
        (tmp_path / "prompts.txt").write_bytes(lines)
    options = ("--prompts", tmp_path / "prompts.txt")
    code, _, err = call("sample", "--workdir", worded, "--out", tmp_path / "x.npz", *options)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--guidance", "2"),
            '--prompt is needed, or --prompt "" for no text: samples are guided '
            "(config.sampling.guidance.weight is 2.0), and --guidance 1 draws without it",
        ),
        (("--prompt", "red", "--negative-prompt", "blue"), "--negative-prompt is for --pretrained"),
        (("--prompt", "red", "--size", "8x8"), "--size is for --pretrained"),
        (("--prompt", "red", "--dtype", "bfloat16"), "--dtype is for --pretrained"),
    ],
)
def test_what_a_run_cannot_draw_is_one_line(worded, call, tmp_path, options, message):
    code, _, err = call("sample", "--workdir", worded, "--out", tmp_path / "x.npz", *options)
    assert (code, err) == (2, f"sde-diffusion: error: {message}\n")


def test_the_prompt_is_written_in_black_under_its_row(tmp_path):
    x = np.full((2, 32, 32, 3), 255, np.uint8)
    event = Feature((32, 32, 3), "uint8", 0, 255)
    picture.save(tmp_path / "x.png", x, event, 1, prompts=("HHHH", "."))
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    rows = pixels.reshape(2, -1, *pixels.shape[1:])
    above, under = rows[:, : -picture.LINE], rows[:, -picture.LINE :]
    assert (above == 255).all()
    dark = (under < 128).all(axis=-1).sum(axis=(1, 2))
    assert dark[0] > 4 * dark[1] > 0
