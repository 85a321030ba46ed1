"""The conditions that samples are drawn with, by name: arrays [num, ...], {} for none.

They are in the network's own terms: a label is a whole number, a text is tokens, and an image is in
the model's range (see `config.conditions`).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, noise
from sde_diffusion.cli import classes, image_file, prompts
from sde_diffusion.config import build, conditions

Named = dict[str, np.ndarray]


def in_turn(config: ConfigDict, source: data.Source, num: int) -> Named:
    """For a picture: the classes with data in turn, or else what records spread evenly have."""
    names = conditions.names(config)
    if names == ("label",):
        return {"label": classes.labels(source.features, num)}
    if not names and not conditions.reads_text(config):
        return {}
    return of_rows(config, source, np.arange(num) * len(source) // num, seed=0)


def as_in_the_data(config: ConfigDict, source: data.Source, num: int, seed: int) -> Named:
    """Classes in the proportions of the data, or else what records drawn at random have."""
    names = conditions.names(config)
    if names == ("label",):
        return {"label": classes.usual_labels(source.features, num)}
    rows = np.random.default_rng(seed).integers(len(source), size=num)
    return of_rows(config, source, rows, seed) if names or conditions.reads_text(config) else {}


def asked(
    config: ConfigDict,
    features: data.Features,
    num: int,
    *,
    label: str | None,
    texts: tuple[str, ...] | None,
    image: np.ndarray | None,
    option: str = "--image",
) -> Named:
    """What --class, --prompt and --image ask for; classes in turn where --class is absent.

    `texts` holds the prompts: as many samples for each, one prompt after the other.
    `image` holds the images of the file, as `given_images` reads them, and `option` is its name.

    Raises ValueError for an option that the network has no condition for, and where a text or an
    image is absent that the network was never trained without, or that guidance needs.
    """
    names = conditions.names(config)
    options: dict[str, tuple[str, Any]] = {"label": ("--class", label)}
    options["tokens"] = ("--prompt", texts)
    options["image"] = (option, image)
    for name, (flag, value) in options.items():
        if name not in names and value is not None:
            raise ValueError(f"{flag}: the network of this run takes no {name}")
        always = name in names and config.conditions[name].drop == 0
        if always and name != "label" and value is None:
            raise ValueError(
                f"{flag} is needed: the network was never trained without it "
                f"(config.conditions.{name}.drop is 0)"
            )
    given = {name for name in names if name == "label" or options[name][1] is not None}
    weight = config.sampling.guidance.weight
    if names and not given and weight != 1 and config.flow_map.name == "none":
        empty = ', or --prompt "" for no text' if names[0] == "tokens" else ""
        raise ValueError(
            f"{options[names[0]][0]} is needed{empty}: samples are guided "
            f"(config.sampling.guidance.weight is {weight}), and --guidance 1 draws without it"
        )
    found: Named = {}
    if "label" in names:
        wanted = None if label is None else classes.class_number(features, label)
        found["label"] = classes.labels(features, num, wanted)
    if texts is not None:
        feature = features[config.conditions.tokens.field]
        tokens = prompts.tokens(texts, feature, null=config.conditions.tokens.drop > 0)
        found["tokens"] = np.repeat(tokens, num // len(texts), axis=0)
    if image is not None:
        scaled = data.Scaling(*_image(config, features)[0].range, *config.data.range).scale(
            jnp.asarray(image_file.repeated(image, num, "--image"))
        )
        made = conditions.of_sample(config)
        found["image"] = np.asarray(scaled if made is None else made.of_measurement(scaled))
    return found


def given_images(
    config: ConfigDict, features: data.Features, path: str, option: str, mask: str | None
) -> np.ndarray:
    """The images [N, ...] of a file for a network that takes images, in the data's own units.

    They are NaN where the mask is white, which only a network of hidden parts understands.
    """
    feature, shape = _image(config, features)
    images = image_file.read(path, option, feature, shape)
    if mask is None:
        return images
    if config.conditions.image.of.name != "hidden":
        raise ValueError(
            "--mask: the network of this run takes whole images (config.conditions.image.of is "
            f"{config.conditions.image.of.name!r}, not 'hidden')"
        )
    return np.where(image_file.read_mask(mask, shape), images, np.nan)


def in_units_of_samples(
    config: ConfigDict, features: data.Features, images: np.ndarray
) -> np.ndarray:
    """Images of a condition in the units of the samples, so that a picture can show both."""
    (low, high), (to_low, to_high) = _image(config, features)[0].range, features.event.range
    return to_low + (to_high - to_low) * (images - low) / (high - low)


def _image(config: ConfigDict, features: data.Features) -> tuple[data.Feature, tuple[int, ...]]:
    """Whose range an image condition has, and the shape of the image that a user gives."""
    made = conditions.of_sample(config)
    if made is None:
        feature = features[config.conditions.image.field]
        return feature, feature.shape
    return features.event, made.measured(features.event.shape)


def of_rows(config: ConfigDict, source: data.Source, rows: np.ndarray, seed: int) -> Named:
    """The conditions of records of the data, by their numbers."""
    features = source.features
    used = data.select(source, build.record_names(config, features))
    records = data.take(used, rows % len(source))
    x0 = build.scaling(config, features).scale(jnp.asarray(records[features.event_name]))
    keys = noise.sample_keys(noise.key(seed), len(rows))
    read = conditions.of_records(config, features)(keys, records, x0)
    return {name: np.asarray(value) for name, value in read.items()}
