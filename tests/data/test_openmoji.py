"""The source of named drawings, and what of it is held out of training."""

import re
import sys
from collections import Counter

import numpy as np
import pytest

from sde_diffusion.data import load, take
from sde_diffusion.data.held_out import parts_of, rows_of
from sde_diffusion.data.sources.openmoji import _name, named_drawings

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
COLOURS = ("red", "green", "blue", "light blue")
TONED = [
    base + tone
    for base in ("judge", "hand", "cook")
    for tone in ("", *(f" {tone} skin tone" for tone in TONES))
]
COLOURED = [f"{colour} {shape}" for colour in COLOURS for shape in ("heart", "square")]
NAMES = [*TONED, *COLOURED, "cat", "dog", "black cat", "heart with arrow"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("man judge medium-dark skin tone", {("drawing", "man judge"), ("tones", "medium-dark")}),
        (
            "handshake light skin tone dark skin tone",
            {("drawing", "handshake"), ("tones", "light", "dark")},
        ),
        ("man light skin tone beard", {("drawing", "man beard"), ("tones", "light")}),
        ("light blue heart", {("shape", "heart"), ("colour", "light blue")}),
        ("heart with arrow", {("drawing", "heart with arrow")}),
        ("black cat", {("drawing", "black cat")}),
    ],
)
def test_the_parts_of_a_name_are_its_drawing_and_tones_or_its_shape_and_colour(name, parts):
    assert set(parts_of(name)) == parts


def names_in(part, names=NAMES, seed=0, combinations=0.5, drawings=0.15):
    return [names[i] for i in rows_of(part, names, seed, combinations, drawings)]


@pytest.mark.parametrize("seed", range(5))
def test_every_part_of_a_held_out_combination_is_in_training(seed):
    there = Counter(part for name in names_in("train", seed=seed) for part in parts_of(name))
    combinations = names_in("combinations", seed=seed)
    assert len(combinations) >= 6
    for name in combinations:
        assert len(parts_of(name)) == 2
        assert all(there[part] >= 1 for part in parts_of(name)), name


@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_a_drawing_held_out_whole_is_in_training(seed):
    whole = {parts_of(name)[0] for name in names_in("drawings", seed=seed)}
    assert len(whole) == round(0.15 * 7)  # of TONED's bases and the last four names
    assert not whole & {parts_of(name)[0] for name in names_in("train", seed=seed)}
    assert not whole & {parts_of(name)[0] for name in names_in("combinations", seed=seed)}


def test_the_parts_make_up_the_whole():
    everything = names_in("train") + names_in("combinations") + names_in("drawings")
    assert sorted(everything) == sorted(names_in("all"))
    assert sorted(names_in("held_out")) == sorted(names_in("combinations") + names_in("drawings"))


def test_the_seed_alone_decides_what_is_held_out():
    assert names_in("held_out", seed=3) == names_in("held_out", seed=3)
    assert names_in("held_out", seed=3) != names_in("held_out", seed=4)


def test_a_part_that_no_other_drawing_has_is_never_held_out():
    alone = ["a dark skin tone", "a light skin tone", "b light skin tone"]
    for seed in range(10):
        assert names_in("combinations", alone, seed, 0.99, 0.0) in ([], [alone[1]])


@pytest.mark.parametrize("field", ["combinations", "drawings"])
def test_a_share_that_is_none_is_refused(field):
    with pytest.raises(ValueError, match=rf"{field} must be in \[0, 1\), got 1.5"):
        load("openmoji", **{field: 1.5})


def test_the_drawings_are_in_colour_on_white_and_have_their_names():
    source = load("openmoji", size=16, part="all")
    _, names = named_drawings()
    assert len(source) == len(names) == len(set(names)) > 3900
    batch = take(source, np.array([names.index(name) for name in ("red heart", "flag Spain")]))
    assert batch["text"].tolist() == ["red heart", "flag Spain"]
    heart, flag = batch["image"].astype(int)
    assert heart.shape == (16, 16, 3)
    assert (heart[0, 0] == 255).all()
    red, green, blue = heart[8, 8]
    assert red > 180 > 80 > max(green, blue)
    red, green, blue = flag[8, 12]  # the yellow of its middle
    assert min(red, green) > 150 > 120 > blue


def test_training_has_nothing_that_is_held_out():
    train, held = load("openmoji", size=8), load("openmoji", size=8, part="held_out")
    everything = load("openmoji", size=8, part="all")
    assert len(train) + len(held) == len(everything)
    assert 200 < len(load("openmoji", size=8, part="combinations")) < 300


def test_drawings_that_are_not_in_a_skin_tone_are_there_as_often_as_asked():
    once, often = load("openmoji", size=8), load("openmoji", size=8, plain=3)
    texts = take(once, np.arange(len(once)))["text"]
    found = Counter(take(often, np.arange(len(often)))["text"])
    toned = {text for text in texts if parts_of(text)[-1][0] == "tones"}
    assert found == {text: 1 if text in toned else 3 for text in texts}
    with pytest.raises(ValueError, match="plain must be at least 1, got 0"):
        load("openmoji", plain=0)


@pytest.mark.parametrize(
    ("code_points", "name"),
    [
        ("2764", "red heart"),  # in the table with a variation selector
        ("2764-FE0F", "red heart"),
        ("1F1EA-1F1F8", "flag Spain"),
        ("1F3F4-E0067-E0062-E0065-E006E-E0067-E007F", "flag England"),
        ("1F3F4", "black flag"),
        ("E0C0", None),
        ("FFFFFFFF", None),
        ("not-a-code", None),
    ],
)
def test_a_drawing_has_the_name_of_its_code_points(code_points, name):
    known = {
        "\u2764": "red heart",
        "\U0001f1ea\U0001f1f8": "Spain",
        "\U0001f3f4": "black flag",
        "".join(
            map(chr, (0x1F3F4, 0xE0067, 0xE0062, 0xE0065, 0xE006E, 0xE0067, 0xE007F))
        ): "England",
    }
    assert _name(code_points, known) == name


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="unknown part of openmoji 'trian'; did you mean 'train'"):
        load("openmoji", part="trian")


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    named_drawings.cache_clear()
    with pytest.raises(ImportError, match=re.escape("pip install 'sde-diffusion[emoji]'")):
        load("openmoji")
