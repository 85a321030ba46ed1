"""Conditions of a config: which entries of a record condition the network, and when they do not.

A network takes a label, tokens or an image if its field `num_classes`, `vocabulary` or
`image_channels` is set. `config.conditions` has a group for each: `field`, the entry of a record
(a label is always its `label`); `drop`, the probability with which training leaves it out; `null`,
the number that then replaces it. With null=None the network receives the value that means "no
condition" (`NULLS`), which it represents by zeros, or by a learned vector if the name is in its
`learned_null`.

A network may take the embeddings of a text by a frozen encoder instead, as those of published
text-to-image models do (`unet_condition`, `mmdit`, `flux`), and `text_dit` with `text_features`.
Which ones is what its `told` says, and `config.conditions.text` is for all of them: they are
dropped together. A record has them under the names with `embedded_` before. With
`config.text.trained` it takes tokens in their place, see `text_encoders`.

An image is an entry of a record, or is computed from the sample, as `conditions.image.of` says.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, networks, noise, objectives
from sde_diffusion.config import text_encoders
from sde_diffusion.config.schema import fields
from sde_diffusion.networks.conditions import FIELDS, PADDING
from sde_diffusion.sdes import Array
from sde_diffusion.selection import choose

EMBEDDED = "embedded_"
NO_TEXT = "no_text"  # the embeddings of no text among the frozen trees
NULLS = {"label": -1, "tokens": PADDING, "image": math.nan}


def names(config: ConfigDict) -> tuple[str, ...]:
    """The names of the conditions that the network takes."""
    return tuple(name for name, field in FIELDS.items() if config.network.get(field) is not None)


def told(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """The embeddings of a text that the network takes, by name, with the shape of each.

    A text has config.data.tokens tokens, or one where that is None. Where the text encoders are
    parts of the network, it takes the tokens.
    """
    made = _network_of_texts(config)
    if made is None:
        return {}
    if text_encoders.trained(config):
        return text_encoders.before(config, made).told
    shapes = dict(made.told)
    shapes["text"] = (config.data.tokens or 1, shapes["text"][1])
    return shapes


def reads_text(config: ConfigDict) -> bool:
    """Whether the network takes embeddings of a text."""
    return _network_of_texts(config) is not None


def _network_of_texts(config: ConfigDict) -> Any:
    """The network if it takes embeddings of a text, else None."""
    if not hasattr(networks.NETWORKS.get(config.network.name), "told"):
        return None
    made: Any = networks.build(config.network.name, **fields(config.network))
    return made if made.told else None


def entries(config: ConfigDict) -> dict[str, str]:
    """{name of a condition: entry of a record}, without an image that is made of the sample."""
    found = {
        name: config.conditions[name].get("field", name)
        for name in names(config)
        if not (name == "image" and of_sample(config))
    }
    return found | {name: entry(name) for name in told(config) if name != "guidance"}


def entry(name: str) -> str:
    """The entry of a record that has these embeddings, or tokens, of its text."""
    return name if text_encoders.of_text(name) else f"{EMBEDDED}{name}"


def _of_text(config: ConfigDict) -> list[str]:
    """The names of what is another one without a text."""
    own, made = text_encoders.of_text, text_encoders.MADE
    return [name for name in told(config) if name in made or own(name)]


def of_sample(config: ConfigDict) -> objectives.ImageCondition | None:
    """How the network's image is made of the sample; None where it is an entry of a record."""
    group = config.conditions.image.of
    if "image" not in names(config) or group.name == "record":
        return None
    fields = {key: value for key, value in group.items() if key != "name"}
    make = choose("config.conditions.image.of", group.name, objectives.IMAGE_CONDITIONS)
    return make(**fields)


def null(config: ConfigDict) -> dict[str, float]:
    """{name of a condition: the number that replaces it where it is dropped}.

    Embeddings are not among them: see `drop`.
    """
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
    embedded = {
        name: jnp.zeros((1, *shape), jnp.int32 if text_encoders.is_tokens(name) else jnp.float32)
        for name, shape in told(config).items()
    }
    return cond({name: zeros[name] for name in names(config)} | embedded)


def features(config: ConfigDict, event: tuple[int, ...]) -> dict[str, data.Feature]:
    """The features that the network expects in addition to the event, if there is no data.

    Raises ValueError if the length of a text is not known.
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
    if "image" in entries(config):
        shape = (*event[:-1], network.image_channels)
        found[config.conditions.image.field] = data.Feature(shape, "uint8", 0, 255)
    for name, embedding in told(config).items():
        if name != "guidance":
            found[entry(name)] = data.Feature(
                embedding, "int32" if text_encoders.is_tokens(name) else "float32"
            )
    return found


def zeros(config: ConfigDict, features: data.Features) -> dict[str, np.ndarray]:
    """The conditions of one sample by name, of zeros: what a trace needs of them."""
    shapes = {name: features[field].shape for name, field in entries(config).items()}
    if of_sample(config):
        shapes["image"] = (*features.event.shape[:-1], config.network.image_channels)
    whole = ("label", "tokens")
    made = {
        name: np.zeros(
            (1, *shape), np.int32 if name in whole or text_encoders.is_tokens(name) else np.float32
        )
        for name, shape in shapes.items()
    }
    return made | ({"guidance": np.zeros(1, np.float32)} if "guidance" in told(config) else {})


def of_records(
    config: ConfigDict, features: data.Features
) -> Callable[[Array, Mapping[str, Any], Array], dict[str, Array]]:
    """(keys [B], records, x0) -> conditions by name, an image in the model's range.

    x0 [B, *event] are the records' samples in the model's range, from which an image may be
    computed. A condition is left out if the records have no such entry.
    """
    taken, made = entries(config), of_sample(config)
    weight = config.conditions.text.guidance if "guidance" in told(config) else None
    if "image" in taken:
        scaling = data.Scaling(*features[taken["image"]].range, *config.data.range)

    def read(keys: Array, records: Mapping[str, Any], x0: Array) -> dict[str, Array]:
        named = {
            name: jnp.asarray(records[field]) for name, field in taken.items() if field in records
        }
        if "image" in named:
            named["image"] = scaling.scale(named["image"])
        if made is not None:
            named["image"] = made.of_sample(noise.fold_in(keys, 3), x0)
        if weight is not None:
            named["guidance"] = jnp.full(len(x0), weight, jnp.float32)
        return named

    return read


def without_text(config: ConfigDict, given: Any, no_text: Mapping[str, Any] | None) -> Any:
    """Conditions [B, ...] by name with the embeddings of no text in place of those of a text.

    `no_text` is as for `drop`.
    """
    made = dict(given)
    for name in _of_text(config):
        instead = config.conditions.text.null if no_text is None else no_text[name]
        made[name] = jnp.broadcast_to(jnp.asarray(instead, made[name].dtype), made[name].shape)
    return made


def drop(config: ConfigDict) -> Callable[..., dict[str, Array]]:
    """(keys [B], conditions by name, no_text) -> the same with some dropped, as the config says.

    `no_text` has the embeddings of no text, "text" [S, D] and "pooled" [P], or is None: then
    config.conditions.text.null stands in for them.
    """
    rates = {name: config.conditions[name].drop for name in names(config)}
    nulls, embedded, group = null(config), _of_text(config), config.conditions.text

    def dropped(
        keys: Array, named: Mapping[str, Array], no_text: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        made = objectives.drop_conditions(noise.fold_in(keys, 2), named, rates, nulls)
        if not embedded or group.drop == 0:
            return made
        ones = {"text": jnp.ones(len(keys), jnp.bool_)}
        kept = objectives.drop_conditions(
            noise.fold_in(keys, 4), ones, {"text": group.drop}, {"text": False}
        )["text"]
        for name in embedded:
            instead = group.null if no_text is None else no_text[name]
            mask = kept.reshape(-1, *(1,) * (made[name].ndim - 1))
            made[name] = jnp.where(mask, made[name], jnp.asarray(instead, made[name].dtype))
        return made

    return dropped
