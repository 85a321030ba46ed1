"""The conditions of a network, in addition to the sample and its noise level.

Conditions are given by name, in a dict; an array alone is the label.

    label   int [B]              a class; a negative number means no class
    tokens  int [B, L]           a text; 0 is padding, and a text of padding only means no text
    image   float [B, H, W, C]   an image; NaN in every element means no image

The dict may also have numbers [B], under the names in `numbers`, such as a second time ("towards")
or a weight of guidance ("guidance").

A label and a text become vectors that are added to the embedding of the noise level; an image is
appended to the input. Where a sample has no condition, zeros take its place, or, for the names in
`learned_null`, a learned vector.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from sde_diffusion.networks.embeddings import positional_embedding
from sde_diffusion.networks.layers import Array, dense
from sde_diffusion.selection import require_known

FIELDS = {"label": "num_classes", "tokens": "vocabulary", "image": "image_channels"}
NAMES = tuple(FIELDS)
PADDING = 0


class ClassEmbedding(nn.Module):
    """A learned vector for a class label, int [B] -> [B, features].

    A negative label gives zeros, or a learned vector of its own with `learned_null`. The vectors
    are drawn from N(0, std^2 I).
    """

    num_classes: int
    features: int
    learned_null: bool = False
    std: float = 1.0

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        rows = self.num_classes + self.learned_null
        table = self.param("embedding", nn.initializers.normal(self.std), (rows, self.features))
        if self.learned_null:
            labels = jnp.where(labels < 0, self.num_classes, labels)
        return table.at[labels].get(mode="fill", fill_value=0, wrap_negative_indices=False)


class TokenEmbedding(nn.Module):
    """A text as a vector, int [B, L] -> [B, features]: the mean of W2 silu(W1 (token + position)).

    Padding does not enter the mean. A text of padding alone gives zeros, or a learned vector with
    `learned_null`.
    """

    vocabulary: int
    features: int
    learned_null: bool = False

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        table = self.param(
            "embedding", nn.initializers.normal(1.0), (self.vocabulary, self.features)
        )
        hidden = table[tokens] + _positions(tokens.shape[1], self.features)
        hidden = dense(nn.silu(dense(hidden, self.features)), self.features)
        there = (tokens != PADDING)[..., None]
        total = jnp.sum(jnp.where(there, hidden, 0.0), axis=1)
        count = jnp.sum(there, axis=1)
        null = jnp.zeros(self.features)
        if self.learned_null:
            null = self.param("null", nn.initializers.normal(1.0), (self.features,))
        return jnp.where(count > 0, total / jnp.maximum(count, 1), null)


class ImageCondition(nn.Module):
    """An image without NaN, [B, H, W, C] -> the same: an image that is none is zeros.

    With `learned_null` it is a learned colour instead.
    """

    learned_null: bool = False

    @nn.compact
    def __call__(self, image: Array) -> Array:
        null = jnp.zeros(image.shape[-1])
        if self.learned_null:
            null = self.param("null", nn.initializers.zeros, image.shape[-1:])
        return jnp.where(jnp.isnan(image), null, image)


class NumberEmbedding(nn.Module):
    """A vector that is linear in sines and cosines of a number, [B] -> [B, features].

    It is zero at first, so a network with it begins as the same network without it.
    """

    features: int
    waves: int = 64

    @nn.compact
    def __call__(self, number: Array) -> Array:
        told = positional_embedding(number.astype(jnp.float32), self.waves)
        return nn.Dense(self.features, kernel_init=nn.initializers.zeros)(told)


class Conditions(NamedTuple):
    """The conditions that a network takes: fields of the same names of every network.

    num_classes: how many labels there are, or None.
    vocabulary: how many different tokens there are, padding included, or None.
    image_channels: the channels of the image, or None.
    learned_null: the names of the conditions whose absence is a learned vector, not zeros.
    numbers: the names of the numbers that are taken; each must then be given.
    number_scale: what a number is multiplied by before its sines and cosines are taken.
    """

    num_classes: int | None = None
    vocabulary: int | None = None
    image_channels: int | None = None
    learned_null: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    number_scale: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the conditions that are taken."""
        sizes = (self.num_classes, self.vocabulary, self.image_channels)
        return tuple(name for name, size in zip(NAMES, sizes, strict=True) if size is not None)

    def check(self) -> None:
        """ValueError for a learned null of a condition that is not taken."""
        for name in self.learned_null:
            require_known("learned_null", name, NAMES)
            if name not in self.names:
                field = FIELDS[name]
                raise ValueError(
                    f"learned_null has {name!r}, which the network does not take: set {field}"
                )

    def by_name(self, cond: Any) -> dict[str, Array]:
        """The conditions by name; ValueError for one that is not taken.

        An array alone is the label, and None is no condition.
        """
        if cond is None:
            cond = {}
        named = dict(cond) if isinstance(cond, Mapping) else {"label": cond}
        for name in self.numbers:
            if name not in named:
                raise ValueError(f"cond has no {name!r}, a number that the network takes")
        for name in named:
            if name in self.numbers:
                continue
            require_known("condition", name, (*NAMES, *self.numbers))
            if name not in self.names:
                raise ValueError(
                    f"cond has {name!r}, which the network does not take: set {FIELDS[name]}"
                )
        return named

    def vector(self, cond: Any, batch: int, features: int, std: float = 1.0) -> Array | None:
        """Label, text and numbers as one vector [B, features], in layers of the calling module.

        None for a network that takes none of them, which has no such layers. Classes begin as draws
        from N(0, std^2 I).
        """
        given = self.by_name(cond)
        parts = []
        if self.num_classes is not None:
            labels = given.get("label", jnp.full((batch,), -1))
            embed = ClassEmbedding(self.num_classes, features, "label" in self.learned_null, std)
            parts.append(embed(labels))
        if self.vocabulary is not None:
            tokens = given.get("tokens", jnp.full((batch, 1), PADDING))
            read = TokenEmbedding(self.vocabulary, features, "tokens" in self.learned_null)
            parts.append(read(tokens))
        for name in self.numbers:
            embed_number = NumberEmbedding(features, name=f"number_{name}")
            parts.append(embed_number(self.number_scale * given[name]))
        return sum(parts[1:], parts[0]) if parts else None

    def image(self, cond: Any, x: Array) -> Array | None:
        """The image beside x [B, ..., C], in a layer of the calling module; None if none is taken.

        Raises ValueError for an image of another size or number of channels.
        """
        given = self.by_name(cond)
        if self.image_channels is None:
            return None
        shape = (*x.shape[:-1], self.image_channels)
        image = given.get("image", jnp.full(shape, jnp.nan, x.dtype))
        if image.shape != shape:
            raise ValueError(f"cond: image must have the shape {shape}, got {image.shape}")
        return ImageCondition("image" in self.learned_null)(image)


def require_conditions(cond: Any, *names: str) -> None:
    """ValueError for a cond that is no dict with these names, for a network that needs them all."""
    missing = [name for name in names if not isinstance(cond, Mapping) or name not in cond]
    if missing:
        raise ValueError(f"cond must be a dict of {', '.join(names)}; it has no {missing[0]}")


def _positions(length: int, features: int) -> Array:
    """Sines and cosines of the positions 0, ..., length - 1, [length, features]."""
    return positional_embedding(jnp.arange(length, dtype=jnp.float32), features)
