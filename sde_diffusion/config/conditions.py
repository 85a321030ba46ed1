"""Conditions of a config: which entries of a record a network is told, and when it is not told.

A network takes a label, tokens or an image if its field `num_classes`, `vocabulary` or
`image_channels` is set. `config.conditions` has a group for each: `field`, the entry of a record
(a label is always its `label`); `drop`, how often it is left out in training; `null`, the number
that then fills its place. With null=None the network receives what it understands as no condition
at all (`NULLS`), for which it has zeros, or a learned vector if its `learned_null` has the name.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, noise, objectives
from sde_diffusion.networks.conditions import FIELDS, PADDING
from sde_diffusion.sdes import Array

NULLS = {"label": -1, "tokens": PADDING, "image": math.nan}


def names(config: ConfigDict) -> tuple[str, ...]:
    """The conditions that the network takes."""
    return tuple(name for name, field in FIELDS.items() if config.network.get(field) is not None)


def fields(config: ConfigDict) -> list[str]:
    """The entries of a record that they are."""
    return list(_taken(config).values())


def _taken(config: ConfigDict) -> dict[str, str]:
    """{name of a condition: entry of a record}."""
    return {name: config.conditions[name].get("field", name) for name in names(config)}


def null(config: ConfigDict) -> dict[str, float]:
    """By name, the number that fills the place of a condition that is dropped."""
    given = {name: config.conditions[name].null for name in names(config)}
    return {name: NULLS[name] if value is None else value for name, value in given.items()}


def cond(named: Mapping[str, Any]) -> Any:
    """What a Model receives: the label alone as an array, nothing as None, and the rest by name."""
    if not named:
        return None
    return named["label"] if named.keys() == {"label"} else dict(named)


def example(config: ConfigDict, event: tuple[int, ...]) -> Any:
    """The condition of one sample of shape `event`, of zeros."""
    channels = config.network.get("image_channels")
    zeros = {
        "label": jnp.zeros((1,), jnp.int32),
        "tokens": jnp.zeros((1, 1), jnp.int32),
        "image": jnp.zeros((1, *event[:-1], channels or 0)),
    }
    return cond({name: zeros[name] for name in names(config)})


def features(config: ConfigDict, event: tuple[int, ...]) -> dict[str, data.Feature]:
    """The entries of a record that the network expects beside an event, where no data are at hand.

    Raises ValueError where the length of a text is not known.
    """
    network, found = config.network, {}
    if "label" in names(config):
        classes = tuple(str(k) for k in range(network.num_classes))
        found["label"] = data.Feature((), "int32", classes=classes)
    if "tokens" in names(config):
        if config.data.tokens is None:
            raise ValueError("config.data.tokens must say how many tokens a text has")
        shape, most = (config.data.tokens,), network.vocabulary - 1
        found[config.conditions.tokens.field] = data.Feature(shape, "int32", 0, most)
    if "image" in names(config):
        shape = (*event[:-1], network.image_channels)
        found[config.conditions.image.field] = data.Feature(shape, "uint8", 0, 255)
    return found


def zeros(config: ConfigDict, features: data.Features) -> dict[str, np.ndarray]:
    """The conditions of one sample by name, of zeros: what a trace needs of them."""
    shapes = {name: features[field].shape for name, field in _taken(config).items()}
    kinds = {"label": np.int32, "tokens": np.int32, "image": np.float32}
    return {name: np.zeros((1, *shape), kinds[name]) for name, shape in shapes.items()}


def of_records(
    config: ConfigDict, features: data.Features
) -> Callable[[Mapping[str, Any]], dict[str, Array]]:
    """records -> conditions by name, an image in the model's range.

    A condition is left out where the records have no such entry.
    """
    taken = _taken(config)
    if "image" in taken:
        scaling = data.Scaling(*features[taken["image"]].range, *config.data.range)

    def read(records: Mapping[str, Any]) -> dict[str, Array]:
        named = {
            name: jnp.asarray(records[field]) for name, field in taken.items() if field in records
        }
        if "image" in named:
            named["image"] = scaling.scale(named["image"])
        return named

    return read


def drop(config: ConfigDict) -> Callable[[Array, Mapping[str, Array]], dict[str, Array]]:
    """(keys [B], conditions by name) -> the same with some dropped, as the config says."""
    rates = {name: config.conditions[name].drop for name in names(config)}
    nulls = null(config)

    def dropped(keys: Array, named: Mapping[str, Array]) -> dict[str, Array]:
        return objectives.drop_conditions(noise.fold_in(keys, 2), named, rates, nulls)

    return dropped
