"""The conditions that samples are drawn with, by name: arrays [num, ...], {} for none.

They are in the network's own terms: a label is a whole number, a text is tokens, and an image is in
the model's range (see `config.conditions`).
"""

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.cli import classes
from sde_diffusion.config import conditions
from sde_diffusion.data.images import Decoder

Named = dict[str, np.ndarray]


def of_records(config: ConfigDict, features: data.Features, records: data.Batch) -> Named:
    """Those of records of the data."""
    read = conditions.of_records(config, features)(records)
    return {name: np.asarray(value) for name, value in read.items()}


def in_turn(config: ConfigDict, source: data.Source, num: int) -> Named:
    """For a picture: the classes with data in turn, or else what the first records have."""
    names = conditions.names(config)
    if names == ("label",):
        return {"label": classes.labels(source.features, num)}
    return _of_rows(config, source, np.arange(num)) if names else {}


def as_in_the_data(config: ConfigDict, source: data.Source, num: int, seed: int) -> Named:
    """Classes in the proportions of the data, or else what records drawn at random have."""
    names = conditions.names(config)
    if names == ("label",):
        return {"label": classes.usual_labels(source.features, num)}
    rows = np.random.default_rng(seed).integers(len(source), size=num)
    return _of_rows(config, source, rows) if names else {}


def asked(
    config: ConfigDict,
    features: data.Features,
    num: int,
    *,
    label: str | None,
    prompt: str | None,
    image: str | None,
) -> Named:
    """What --class, --prompt and --image ask for; classes in turn where --class is absent.

    Raises ValueError for an option that the network has no condition for, and where a text or an
    image is absent that the network was never trained without.
    """
    names = conditions.names(config)
    options = {"label": ("--class", label), "tokens": ("--prompt", prompt)}
    options["image"] = ("--image", image)
    for name, (option, value) in options.items():
        if name not in names and value is not None:
            raise ValueError(f"{option}: the network of this run takes no {name}")
        always = name in names and config.conditions[name].drop == 0
        if always and name != "label" and value is None:
            raise ValueError(
                f"{option} is needed: the network was never trained without it "
                f"(config.conditions.{name}.drop is 0)"
            )
    found: Named = {}
    if "label" in names:
        wanted = None if label is None else classes.class_number(features, label)
        found["label"] = classes.labels(features, num, wanted)
    records = {}
    if prompt is not None:
        length = features[config.conditions.tokens.field].shape[0]
        records[config.conditions.tokens.field] = data.byte_tokens(prompt, length)
    if image is not None:
        field = config.conditions.image.field
        records[field] = _read_image(image, features[field])
    repeated = {field: np.repeat(value[None], num, axis=0) for field, value in records.items()}
    return found | of_records(config, features, repeated)


def _read_image(path: str, feature: data.Feature) -> np.ndarray:
    """An image file as an array of the feature's shape; ValueError if it is of another size."""
    height, width, channels = feature.shape
    if feature.dtype != "uint8" or channels not in (1, 3, 4):
        raise ValueError(f"--image: {feature.dtype} of shape {feature.shape} is no image file")
    array = Decoder(channels=channels).decode(epath.Path(path).read_bytes(), path)
    if array.shape != feature.shape:
        raise ValueError(
            f"--image {path} is {array.shape[0]}x{array.shape[1]}, and the network takes "
            f"{height}x{width}"
        )
    return array


def _of_rows(config: ConfigDict, source: data.Source, rows: np.ndarray) -> Named:
    used = data.select(source, [source.features.event_name, *conditions.fields(config)])
    records = data.take(used, rows % len(source))
    return of_records(config, source.features, records)
