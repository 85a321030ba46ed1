"""From an encoded image to an array of 8-bit pixels: colour, alpha, orientation and size.

Every source of images decodes with this one function, so that a folder, a tar file and an
ArrayRecord file of the same images give the same arrays.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FITS = ("crop", "stretch")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Decoder:
    """How encoded images become arrays [H, W, channels] of uint8.

    In this order:

    - An EXIF orientation is applied: the array is upright.
    - 16-bit greyscale is scaled to 8 bits (divided by 257 and rounded). Pillow reads 16-bit colour
      as the upper 8 bits. 32-bit integers and floats have no known range and are refused.
    - Palettes, CMYK and other colour spaces are converted to RGB. ICC profiles are ignored.
    - Of an animation or a multi-page file the first image is used.
    - With 1 or 3 channels, an image with alpha or a transparent colour is drawn over `background`.
      With 4 channels, the alpha is kept, and an opaque image gets the alpha 255.
    - With 1 channel, colour becomes luma (ITU-R BT.601); with 3, grey is repeated.
    - With `size`, the image is resampled (bicubic, with antialiasing).

    Args:
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        size: None keeps each image's size; S means S x S; (H, W) is also possible.
        fit: how an image of another aspect ratio gets to `size`: "crop" keeps the ratio and cuts
            equal margins off the two longer ends, "stretch" changes the ratio.
        background: what is behind transparent pixels, any colour that Pillow knows, such as
            "white", "black" or "#808080".

    Raises:
        ValueError: a field is out of its range.
    """

    channels: int = 3
    size: int | tuple[int, int] | None = None
    fit: str = "crop"
    background: str = "white"

    def __post_init__(self) -> None:
        from PIL import ImageColor

        if self.channels not in _MODES:
            raise ValueError(f"channels must be 1, 3 or 4, got {self.channels}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        if self.size is not None:
            sides = self.size if isinstance(self.size, tuple) else (self.size,) * 2
            if len(sides) != 2 or not all(type(side) is int for side in sides):
                raise ValueError(
                    f"size must be a whole number or (height, width), got {self.size!r}"
                )
            if min(sides) < 1:
                raise ValueError(f"size must be at least 1, got {self.size}")
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"background: no colour {self.background!r} ({error})") from error

    def decode(self, data: bytes, name: str) -> np.ndarray:
        """The array [H, W, channels] of an encoded image; `name` is used in messages.

        Raises:
            ValueError: the image cannot be read, or has a kind of pixels that is refused.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as image:
                return self._pixels(image)
        except Exception as error:  # on broken files Pillow raises a dozen unrelated types
            raise ValueError(f"{name}: cannot read this image ({error})") from error

    def shape(self, data: bytes, name: str) -> tuple[int, int, int]:
        """The shape that `decode` will give, from the header alone.

        Raises:
            ValueError: the header cannot be read.
        """
        from PIL import Image

        if self.size is not None:
            return (*self._height_width(), self.channels)
        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if image.getexif().get(_ORIENTATION, 1) in _TRANSPOSED:
                    width, height = height, width
                return height, width, self.channels
        except Exception as error:
            raise ValueError(f"{name}: cannot read this image ({error})") from error

    def _height_width(self) -> tuple[int, int]:
        if isinstance(self.size, int):
            return self.size, self.size
        assert self.size is not None
        height, width = self.size
        return height, width

    def _pixels(self, image: Any) -> np.ndarray:
        from PIL import Image, ImageOps

        if self.size is not None:
            # A JPEG is decoded at a half, a quarter or an eighth of its size where that is still
            # at least twice what is asked for. The rest is done by the resampling below.
            image.draft(None, (2 * max(self._height_width()),) * 2)
        # The plain pixels of most data sets need none of the conversions.
        image = ImageOps.exif_transpose(image)
        image = _eight_bits(image)
        image = self._colours(image)
        if self.size is not None:
            height, width = self._height_width()
            box = _centre(image.size, width / height) if self.fit == "crop" else None
            image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
        array = np.asarray(image)
        return array[..., None] if self.channels == 1 else array

    def _colours(self, image: Any) -> Any:
        from PIL import Image, ImageColor

        mode = _MODES[self.channels]
        if mode != "RGBA" and image.has_transparency_data:
            image = image.convert("RGBA")
            behind = Image.new("RGBA", image.size, ImageColor.getrgb(self.background))
            image = Image.alpha_composite(behind, image)
        return image if image.mode == mode else image.convert(mode)


_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSED = (5, 6, 7, 8)  # its values that exchange height and width


def _eight_bits(image: Any) -> Any:
    """The image with 8 bits a channel; ValueError where the range of its values is not known."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit {'integers' if image.mode == 'I' else 'floats'} of no known "
            "range: convert it to 8 or 16 bits"
        )
    return image


def _centre(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The largest box (left, top, right, bottom) of this width / height amid an image."""
    width, height = size
    wide, tall = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall
