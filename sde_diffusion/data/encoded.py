"""Records of encoded images, each decoded when it is read: data sets larger than memory."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sde_diffusion.data.feature import Feature, Features
from sde_diffusion.data.images import Decoder
from sde_diffusion.data.in_memory import in_memory_if_it_fits
from sde_diffusion.data.source import Record, Source

# So many headers, evenly spread, are read when a source is opened. They find a folder of images of
# several sizes before a run starts; a rare one is found when it is read.
PROBED = 64


class Reader(Protocol):
    """Where encoded images lie: `read(i)` gives the bytes of an image and what goes with it.

    It is called from several threads. `read(i)["image"]` is bytes, the others are as in a record.
    `where(i)` names record i in messages.
    """

    def __len__(self) -> int: ...
    def read(self, index: int, /) -> dict[str, Any]: ...
    def where(self, index: int, /) -> str: ...


class EncodedImages:
    """A source of the images of a reader. Record i is decoded at each `source[i]`."""

    def __init__(self, name: str, reader: Reader, features: Features, decoder: Decoder) -> None:
        self.name, self.features = name, features
        self._reader, self._decoder = reader, decoder

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Record:
        """Raises ValueError that names an image that is damaged or of another size."""
        record = self._reader.read(index)
        where = self._reader.where(index)
        image = self._decoder.decode(record["image"], where)
        shape = self.features["image"].shape
        if image.shape != shape:
            raise ValueError(_other_size(image.shape, where, shape, self._reader.where(0)))
        return {name: image if name == "image" else record[name] for name in self.features}


def encoded_images(
    name: str,
    reader: Reader,
    others: Mapping[str, Feature],
    decoder: Decoder,
    memory: float,
) -> Source:
    """A source of the images of a reader; their shape is known from the decoder or a header.

    Args:
        name: used in messages.
        reader: at least one image.
        others: the features beside `image`.
        decoder: gives the images their channels and size.
        memory: GiB. Where all decoded images fit in it, each is kept after its first use.

    Raises:
        ValueError: an image's header cannot be read, or two images have different sizes.
    """
    shape = _shape(reader, decoder)
    features = Features({"image": Feature(shape, "uint8", 0, 255), **others})
    return in_memory_if_it_fits(EncodedImages(name, reader, features, decoder), memory)


def _shape(reader: Reader, decoder: Decoder) -> tuple[int, ...]:
    probed = np.unique(np.linspace(0, len(reader) - 1, PROBED).astype(int)).tolist()
    if decoder.size is not None:
        probed = probed[:1]
    first: tuple[int, ...] | None = None
    for i in probed:
        shape = decoder.shape(reader.read(i)["image"], reader.where(i))
        if first is None:
            first = shape
        elif shape != first:
            raise ValueError(_other_size(shape, reader.where(i), first, reader.where(0)))
    assert first is not None
    return first


def _other_size(shape: tuple[int, ...], where: str, first: tuple[int, ...], example: str) -> str:
    return (
        f"{where} is {shape[1]}x{shape[0]}, but {example} is {first[1]}x{first[0]}: images must "
        "have one size, or be given one with the field size"
    )
