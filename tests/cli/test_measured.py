"""sample --image --mask, --super-resolve and --edit: images that samples are made to fit."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """An image of 8x8 pixels, a mask of its lower half, and the image at 4x4."""
    pixels = np.random.default_rng(0).integers(17, size=(8, 8)) * 15
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "image.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    small = pixels.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    Image.fromarray(small.astype(np.uint8)).save(tmp_path / "small.png")
    np.savez(tmp_path / "small.npz", image=np.full((3, 4, 4, 1), 8.0))
    return tmp_path


def arrays(trained, call, folder, *options):
    out = folder / "samples.npz"
    code, _, err = call("sample", "--workdir", trained, "--out", out, *options)
    assert code == 0, err
    with np.load(out) as file:
        return dict(file)


def test_the_known_part_of_an_image_is_a_measurement(trained, call, folder, asked):
    options = ("--image", folder / "image.png", "--mask", folder / "mask.png", "--noise", 0.5)
    made = arrays(trained, call, folder, *options)
    assert made["image"].shape == (10, 8, 8, 1)
    measurement = asked[0].cond
    given = np.asarray(Image.open(folder / "image.png"))[None, ..., None] / 255 * 2 - 1
    np.testing.assert_allclose(measurement.y, given.repeat(10, axis=0), atol=1e-6)
    np.testing.assert_allclose(measurement.std, 0.5 / 8)
    np.testing.assert_array_equal(measurement.cond, made["label"])


def test_a_small_image_is_a_measurement_of_means(trained, call, folder, asked):
    made = arrays(trained, call, folder, "--super-resolve", folder / "small.npz", "--num", 6)
    assert made["image"].shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(asked[0].cond.y, np.zeros((6, 4, 4, 1)))


def test_an_edited_image_is_kept_at_a_small_strength_and_lost_at_strength_1(trained, call, folder):
    steps = ("--steps", 40)
    edited = {
        strength: arrays(
            trained, call, folder, "--edit", folder / "image.png", "--strength", strength, *steps
        )["image"].astype(float)
        for strength in (0.05, 1.0)
    }
    image = np.asarray(Image.open(folder / "image.png"))[..., None] / 255 * 16
    near, far = (np.sqrt(np.mean((edited[s] - image) ** 2)) for s in (0.05, 1.0))
    assert near < 1.0 < 3.0 < far


def test_the_picture_has_the_images_before_their_samples(trained, call, folder):
    options = ("--image", folder / "image.png", "--mask", folder / "mask.png", "--num", 2)
    out = folder / "picture.png"
    code, _, err = call("sample", "--workdir", trained, "--out", out, *options)
    assert code == 0, err
    picture = np.asarray(Image.open(out))
    assert picture.shape == (2 * 34 + 2, 2 * 34 + 2)  # two images given, two samples, 32x32 each
    shown = picture[2:34, 2:34][::4, ::4]
    np.testing.assert_array_equal(shown, np.asarray(Image.open(folder / "image.png")))
    assert np.all(picture[2 + 16 : 34, 36:68] == 128)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--image", "image.png"), ("takes no image", "--mask")),
        (("--mask", "mask.png"), ("--mask needs --image",)),
        (("--image", "image.png", "--edit", "image.png"), ("--image and --edit",)),
        (("--image", "image.png", "--mask", "small.png"), ("--mask", "4x4", "8x8")),
        (("--image", "small.png", "--mask", "mask.png"), ("--image", "4x4", "8x8")),
        (("--image", "none.png", "--mask", "mask.png"), ("none.png does not exist",)),
        (("--super-resolve", "image.png"), ("--super-resolve", "8x8", "whole number of times")),
        (("--super-resolve", "small.npz", "--num", "4"), ("3 images", "--num 4")),
        (("--super-resolve", "small.png", "--method", "magic"), ("--method", "magic", "mmps")),
        (("--super-resolve", "small.png", "--noise", "-1"), ("--noise",)),
        (("--super-resolve", "small.npz", "--num", "4"), ("--super-resolve has 3 images",)),
        (("--edit", "image.png", "--strength", "2"), ("--strength", "2.0")),
        (("--strength", "0.5"), ("--strength is of --edit",)),
        (("--edit", "image.png", "--method", "pigdm"), ("--method", "does not do")),
        (("--noise", "0.5"), ("--noise", "does not do")),
    ],
)
def test_what_does_not_fit_is_one_line(trained, call, folder, options, words):
    given = [folder / o if "." in o and not o[0].isdigit() else o for o in options]
    code, _, err = call("sample", "--workdir", trained, "--out", folder / "x.png", *given)
    lines = err.strip().splitlines()
    assert code == 2, err
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0]
