"""Latents of images, as the command `encode` writes them.

A folder has ArrayRecord files; features.json, which describes the records; and codec.json, which
says whose latents they are, their shift and their scale.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from etils import epath

from sde_diffusion.data.source import Source
from sde_diffusion.data.sources.array_record import FEATURES, array_record

CODEC = "codec.json"
TEXTS = "texts.npz"  # by which the encoders of texts are known, where records have embeddings


class StoredCodec(NamedTuple):
    """The codec of latents: its folder, the fingerprint of its parameters, and the scaling.

    (z - shift) scale has mean 0 and variance 1 over the data.
    """

    name: str
    fingerprint: str
    shift: float
    scale: float


def latents(path: str, memory: float = 1.0) -> Source:
    """Records with the `mean` and `deviation` [h, w, c] of latents, and what was with the images.

    The range of `mean` is shift - 1 / scale to shift + 1 / scale.

    Args:
        path: the folder that `encode` wrote.
        memory: GiB. Where all records fit in it, each is kept after its first use.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no latents, or `encode` has not finished them.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of latents")
    if not (folder / FEATURES).is_file():
        raise ValueError(
            f"{path}: no {FEATURES}, which `encode` writes last: run the same command again"
        )
    source = array_record(path, memory=memory)
    if not {"mean", "deviation"} <= source.features.keys():
        raise ValueError(f"{path}: no latents, but records of {', '.join(source.features)}")
    return source


def read_stored_codec(path: str | os.PathLike[str]) -> StoredCodec:
    """The codec of the latents in a folder.

    Raises FileNotFoundError if the folder names no codec, and ValueError for a damaged file.
    """
    file = epath.Path(path) / CODEC
    if not file.is_file():
        raise FileNotFoundError(f"{path} names no codec: there is no {file}")
    try:
        told = json.loads(file.read_text())
        return StoredCodec(*(told[name] for name in StoredCodec._fields))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe a codec ({error})") from error
