"""evaluate judges what a network draws by the captions: retrieval, by a judge of the run's data."""

import json
import shutil
import textwrap

import numpy as np
import pytest

from sde_diffusion.cli import captions, draw, judge, main, run
from sde_diffusion.data import tokens_of

CONFIG = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "npz", path="{path}")
        config.data.update(tokens=3, tokenizer="words")
        config.network = choice("network", "mlp", features=8, num_blocks=1, vocabulary=32)
        config.conditions.tokens.drop = 0.5
        config.optim.warmup = 1
        config.training.update(
            batch_size=16, steps=2, log_every=2, sample_every=4, checkpoint_every=2
        )
        config.sampling.update(steps=2, batch_size=20)
        config.eval.update(num=16, bits=2, captions=5, judge_steps=80)
        return config
"""
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}
SIDES = {"left": np.s_[:, :4], "right": np.s_[:, 4:], "top": np.s_[:4], "bottom": np.s_[4:]}


def drawings():
    """16 pictures 8x8, half of each in a colour, and their names."""
    image = np.zeros((16, 8, 8, 3), np.uint8)
    names = [(colour, side) for colour in COLOURS for side in SIDES]
    for picture, (colour, side) in zip(image, names, strict=True):
        picture[SIDES[side]] = COLOURS[colour]
    return image, np.array([f"{colour} {side}" for colour, side in names])


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The folder of a tiny run on named drawings, each of them there twice."""
    folder = tmp_path_factory.mktemp("named")
    image, text = (np.repeat(each, 2, axis=0) for each in drawings())
    np.savez(folder / "data.npz", image=image, text=text)
    written = textwrap.dedent(CONFIG).replace("{path}", str(folder / "data.npz"))
    (folder / "config.py").write_text(written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        arguments = ("--config", str(folder / "config.py"), "--workdir", str(folder / "run"))
        assert main(["train", *arguments]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def judged(named, tmp_path_factory):
    """(folder, report, judge) of a run whose samples are the drawings of their captions."""
    workdir = shutil.copytree(named, tmp_path_factory.mktemp("judged") / "run")
    image, text = drawings()
    feature = run.read_data(run.folder(str(named))).features["tokens"]
    tokens = [tuple(tokens_of(str(each), feature)) for each in text]
    of_tokens = dict(zip(tokens, image, strict=True))

    def drawn(config, params, features, num, *, under, **_):
        tokens = np.asarray(under.cond["tokens"]).tolist()
        return np.stack([of_tokens[tuple(each)] for each in tokens]), 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        patch.setattr(draw, "draw", drawn)
        assert main(["evaluate", "--workdir", str(workdir)]) == 0
    return workdir, json.loads((workdir / "evaluation.json").read_text())["by_caption"]


def test_samples_that_are_the_drawings_are_judged_as_these_are(judged):
    figures = judged[1]["data"]
    assert figures["captions"] == 16  # each drawing once, though it is there twice
    assert figures["retrieval"] == figures["retrieval_of_real"] > 0.8
    assert figures["retrieval_interval"][0] < figures["retrieval"]
    assert figures["frechet"] == pytest.approx(figures["frechet_halves"])
    assert figures["distance_to_own"] == figures["distance_to_training"] == 0
    assert figures["nearest_is_own"] == 1


def test_the_pictures_are_kept_with_their_captions_and_whether_they_were_found(judged):
    with np.load(judged[0] / "captions_data.npz") as kept:
        assert sorted(kept["text"]) == sorted(drawings()[1])
        assert kept["image"].shape == (16, 8, 8, 3)
        assert kept["found"].mean() == judged[1]["data"]["retrieval"]


def test_the_judge_is_trained_once_and_anew_for_other_data_or_where_its_file_is_damaged(
    judged, call, monkeypatch, tmp_path
):
    trained, original = [], judge.train
    short = judge.Captioned(*drawings(), (0, 255))
    monkeypatch.setattr(judge, "train", lambda *a: trained.append(a) or original(short, 1))
    folder = shutil.copytree(judged[0], tmp_path / "run")
    evaluate = ("evaluate", "--workdir", folder)
    assert call(*evaluate)[0] == 0
    assert not trained
    _, said, _ = call(*evaluate, "--config.eval.judge_steps=2")
    assert "is of other data" in said
    assert len(trained) == 1
    (folder / judge.FILE).write_bytes(b"no judge")
    _, said, _ = call(*evaluate)
    assert "cannot be read" in said
    assert len(trained) == 2


def test_samples_that_say_nothing_are_found_as_by_chance(named, call, tmp_path, judged):
    workdir = shutil.copytree(named, tmp_path / "run")
    shutil.copy(judged[0] / judge.FILE, workdir / judge.FILE)
    assert call("evaluate", "--workdir", workdir)[0] == 0
    figures = json.loads((workdir / "evaluation.json").read_text())["by_caption"]["data"]
    assert figures["retrieval"] < 0.7 < figures["retrieval_of_real"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("eval.captions=1", "config.eval.captions must be at least 2, or 0 for no judge, got 1"),
        ("eval.judge_steps=0", "config.eval.judge_steps must be at least 1, got 0"),
        (
            "eval.parts=combinations",
            "config.eval.parts: the data source 'npz' has no parts (--config.eval.parts= asks for "
            "none)",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(named, call, option, message):
    code, _, err = call("evaluate", "--workdir", named, f"--config.{option}")
    assert (code, err) == (2, f"sde-diffusion: error: {message}\n")


def test_too_few_captions_are_left_out_with_the_reason(named, call, tmp_path):
    workdir = shutil.copytree(named, tmp_path / "run")
    code, _, err = call("evaluate", "--workdir", workdir, "--config.eval.captions=17")
    assert code == 0, err
    report = json.loads((workdir / "evaluation.json").read_text())
    assert "by_caption" not in report
    reason = "config.eval.captions is 17, and the data have 16 captions"
    assert report["left_out"]["retrieval"] == reason
    assert not (workdir / judge.FILE).exists()


def test_a_picture_with_its_text_is_there_once_and_without_a_text_never():
    pictures = np.array([[0], [0], [1], [0], [2]])
    assert captions.once(pictures, np.array(["a", "a", "a", "b", " "])).tolist() == [0, 2, 3]
