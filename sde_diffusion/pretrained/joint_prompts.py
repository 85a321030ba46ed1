"""Texts to the conditions of SD3 and Flux, by CLIP and T5, and classes to those of DiT.

    SD3    text: penultimate states of two CLIPs, side by side and filled up with zeros, then the
           states of T5; pooled: the projections of both CLIPs, side by side
    Flux   text: the states of T5; pooled: CLIP's state at the end token

Esser et al. 2024, sec. 4.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.networks.t5 import T5Encoder
from sde_diffusion.pretrained.prompts import Encoder
from sde_diffusion.pretrained.tokenizer import Tokenizer
from sde_diffusion.selection import unknown

Array = jax.Array
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class T5:
    """A tokenizer with its encoder: texts -> [B, T, D]."""

    tokenizer: Tokenizer
    module: T5Encoder
    params: Any

    def __call__(self, texts: Sequence[str]) -> Array:
        return _encode(self.module, self.params, self.tokenizer(texts))


@dataclasses.dataclass(frozen=True)
class NoT5:
    """Zeros [B, length, features], for a folder of SD3 without T5."""

    length: int
    features: int

    def __call__(self, texts: Sequence[str]) -> Array:
        return jnp.zeros((len(texts), self.length, self.features))


@dataclasses.dataclass(frozen=True)
class ThreeEncoders:
    """{"text", "pooled"} for SD3; no text is the empty one."""

    first: Encoder
    second: Encoder
    third: T5 | NoT5

    def __call__(self, texts: Sequence[str] | None, num: int, size: Size) -> dict[str, Array]:
        given = [""] * num if texts is None else texts
        first, second, third = self.first(given), self.second(given), self.third(given)
        clip = jnp.concatenate([first.states[-1], second.states[-1]], axis=-1)
        clip = jnp.pad(clip, ((0, 0), (0, 0), (0, third.shape[-1] - clip.shape[-1])))
        pooled = [encoded.projected for encoded in (first, second)]
        return {
            "text": jnp.concatenate([clip, third.astype(clip.dtype)], axis=1),
            "pooled": jnp.concatenate([x for x in pooled if x is not None], axis=-1),
        }


@dataclasses.dataclass(frozen=True)
class PooledAndStates:
    """{"text", "pooled"} for Flux; no text is the empty one."""

    first: Encoder
    second: T5

    def __call__(self, texts: Sequence[str] | None, num: int, size: Size) -> dict[str, Array]:
        given = [""] * num if texts is None else texts
        return {"text": self.second(given), "pooled": self.first(given).pooled}


@dataclasses.dataclass(frozen=True)
class Classes:
    """Class labels [B] for DiT: a text is a class's number or one of its names; no text is -1."""

    numbers: Mapping[str, int]
    num_classes: int

    def __call__(self, texts: Sequence[str] | None, num: int, size: Size) -> Array:
        labels = [-1] * num if texts is None else [self.number(text) for text in texts]
        return jnp.asarray(labels, jnp.int32)

    def number(self, text: str) -> int:
        """The number of a class; ValueError for none of them."""
        name = text.strip()
        if name == "":
            return -1
        if name.isdecimal():
            if int(name) >= self.num_classes:
                raise ValueError(f"class {name} is not one of 0 to {self.num_classes - 1}")
            return int(name)
        if name not in self.numbers:
            some = list(self.numbers)
            raise ValueError(unknown("class", name, some if len(some) < 20 else some[:20]))
        return self.numbers[name]


def classes(id2label: Mapping[str, str], num_classes: int) -> Classes:
    """The classes of a table {"207": "golden retriever, goldie"}, as diffusers writes it."""
    numbers = {
        name.strip(): int(number) for number, names in id2label.items() for name in names.split(",")
    }
    return Classes(numbers, num_classes)


@partial(jax.jit, static_argnames="module")
def _encode(module: T5Encoder, params: Any, ids: np.ndarray) -> Array:
    states: Any = module.apply({"params": params}, ids)
    return states
