"""Every kind of image becomes the 8-bit pixels that a person sees in it."""

import io

import numpy as np
import pytest
from files import encoded, pixels
from PIL import Image, ImageCms

from sde_diffusion.data.images import Decoder

RGB = pixels(1)[0]


def decode(data, **fields):
    return Decoder(**fields).decode(data, "a.png")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_an_rgb_image_keeps_its_pixels(format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(RGB, format, **options)), RGB)


def test_grey_is_repeated_and_colour_becomes_luma():
    grey = pixels(1, channels=1)[0]
    np.testing.assert_array_equal(decode(encoded(grey)), grey.repeat(3, axis=2))
    np.testing.assert_array_equal(decode(encoded(grey), channels=1), grey)
    luma = RGB @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(decode(encoded(RGB), channels=1)[..., 0], luma, atol=1)


def test_one_bit_images_are_black_and_white():
    bits = np.array([[0, 1], [1, 0]], bool)
    x = decode(encoded(Image.fromarray(bits)), channels=1)
    np.testing.assert_array_equal(x[..., 0], [[0, 255], [255, 0]])


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.array([[0, 128, 129, 1000], [32768, 65278, 65407, 65535]], np.uint16)
    for format in ("PNG", "TIFF"):
        x = decode(encoded(Image.fromarray(deep), format), channels=1)
        np.testing.assert_array_equal(x[..., 0], np.round(deep / 257))


def test_sixteen_bit_colour_keeps_its_upper_bits():
    import struct
    import zlib

    deep = np.random.default_rng(0).integers(0, 2**16, (2, 3, 3), dtype=np.uint16)

    def chunk(kind, body):
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    x = decode(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_allclose(x, deep / 257, atol=1)


@pytest.mark.parametrize(("dtype", "told"), [(np.int32, "32-bit integers"), (np.float32, "floats")])
def test_pixels_of_no_known_range_are_refused(dtype, told):
    data = encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    with pytest.raises(ValueError, match=rf"a\.png: cannot read this image \(.*{told}"):
        decode(data)


def test_a_palette_is_looked_up():
    few = np.array([[0, 1], [2, 1]], np.uint8)
    image = Image.fromarray(few, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    colours = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]])
    np.testing.assert_array_equal(decode(encoded(image)), colours[few])
    x = decode(encoded(image, transparency=1))
    np.testing.assert_array_equal(x, np.array([[255, 0, 0], [255] * 3, [10, 20, 30]])[few])


def test_cmyk_becomes_rgb():
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[..., 0] = 255  # cyan
    x = decode(encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(x, np.broadcast_to([0, 255, 255], x.shape), atol=3)


@pytest.mark.parametrize("background", ["white", "black", "#0080ff"])
def test_transparent_pixels_show_the_background_not_their_hidden_colour(background):
    from PIL import ImageColor

    behind = np.array(ImageColor.getrgb(background))
    rgba = np.concatenate([RGB, np.full((4, 6, 1), 255, np.uint8)], axis=2)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 128
    x = decode(encoded(rgba), background=background)
    np.testing.assert_array_equal(x[0], np.broadcast_to(behind, (6, 3)))
    half = RGB[1] * (128 / 255) + behind * (127 / 255)
    np.testing.assert_allclose(x[1], half, atol=1)
    np.testing.assert_array_equal(x[2:], RGB[2:])


def test_four_channels_keep_the_alpha_and_make_it_opaque_where_there_is_none():
    rgba = pixels(1, channels=4)[0]
    np.testing.assert_array_equal(decode(encoded(rgba), channels=4), rgba)
    x = decode(encoded(RGB), channels=4)
    np.testing.assert_array_equal(x, np.dstack([RGB, np.full((4, 6), 255)]))


def test_grey_with_alpha_is_composed_too():
    pair = np.dstack([np.full((2, 2), 10), [[255, 0], [0, 255]]]).astype(np.uint8)
    x = decode(encoded(Image.fromarray(pair, "LA")), channels=1)
    np.testing.assert_array_equal(x[..., 0], [[10, 255], [255, 10]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_upright(orientation):
    # Table 6 of the EXIF standard: where row 0 and column 0 of the file are in what is seen.
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: np.rot90(RGB, 2).transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(decode(data), RGB)
    assert Decoder().shape(data, "a.png") == RGB.shape


def test_of_an_animation_the_first_image_is_used():
    first, second = (Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 200))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(data, channels=1), np.full((4, 4, 1), 10))


def test_a_colour_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode(encoded(RGB, icc_profile=profile)), RGB)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"size": 8}, (8, 8, 3)),
        ({"size": (2, 5)}, (2, 5, 3)),
        ({"size": (2, 5), "fit": "stretch", "channels": 1}, (2, 5, 1)),
    ],
)
def test_an_image_gets_the_size_that_is_asked_for(fields, shape):
    decoder = Decoder(**fields)
    assert decoder.decode(encoded(RGB), "a.png").shape == shape
    assert decoder.shape(encoded(RGB), "a.png") == shape


def ramps(height, width):
    """Red grows from left to right, green from top to bottom."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.dstack([red, green, np.zeros_like(red)]).round().astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_crop_is_the_middle_and_keeps_the_ratio(height, width, format):
    x = decode(encoded(ramps(height, width), format), size=16).astype(float)
    red, green = x[8, :, 0], x[:, 8, 1]
    ends = {True: (0, 255), False: (64, 191)}  # of the shorter side, and of the cut one
    for line, short in ((red, width == 64), (green, height == 64)):
        assert line[0] == pytest.approx(ends[short][0], abs=14)
        assert line[-1] == pytest.approx(ends[short][1], abs=14)


def test_stretching_keeps_the_margins():
    x = decode(encoded(ramps(64, 128)), size=16, fit="stretch").astype(float)
    assert x[8, 0, 0] < 14
    assert x[8, -1, 0] > 241


def test_shrinking_averages_and_does_not_skip_pixels():
    checks = np.indices((64, 64)).sum(axis=0)[..., None] % 2 * 255
    x = decode(encoded(checks.astype(np.uint8)), size=16, channels=1)
    np.testing.assert_allclose(x, 127.5, atol=2)


def test_a_large_jpeg_is_as_if_it_had_been_decoded_whole():
    image = Image.fromarray(pixels(1, 9, 9)[0]).resize((512, 512), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    whole = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(decode(data, size=32).astype(int), np.asarray(whole), atol=6)


@pytest.mark.parametrize(
    "spoil", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"no image"]
)
def test_a_damaged_image_is_named(spoil):
    data = spoil(encoded(pixels(1, 64, 64)[0]))
    with pytest.raises(ValueError, match=r"a\.png: cannot read this image"):
        decode(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 2}, "channels must be 1, 3 or 4, got 2"),
        ({"fit": "pad"}, "fit must be one of crop, stretch, got 'pad'"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": (8, 0)}, "size must be at least 1"),
        ({"size": (8, 8, 3)}, r"size must be a whole number or \(height, width\), got \(8, 8, 3\)"),
        ({"size": 8.5}, "size must be a whole number or .*, got 8.5"),
        ({"size": "big"}, "size must be a whole number or .*, got 'big'"),
        ({"background": "colourful"}, "background: no colour 'colourful'"),
    ],
)
def test_fields_out_of_range_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Decoder(**fields)
