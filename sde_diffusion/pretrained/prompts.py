"""Texts to the conditions of Stable Diffusion's networks, by CLIP.

    SD 1.x, 2.x    text: the normalized output of one encoder
    SDXL           text: the penultimate states of two, side by side; pooled: the projection of the
                   second's state at the end token; sizes: see `networks.unet_condition`

Rombach et al. 2022; Podell et al. 2024 (SDXL), sec. 2.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sde_diffusion.networks.clip_text import CLIPText, Encoded
from sde_diffusion.pretrained.tokenizer import Tokenizer

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A tokenizer with its encoder: texts -> Encoded."""

    tokenizer: Tokenizer
    module: CLIPText
    params: Any

    def __call__(self, texts: Sequence[str]) -> Encoded:
        return _encode(self.module, self.params, self.tokenizer(texts))


@dataclasses.dataclass(frozen=True)
class OneEncoder:
    """{"text": [B, T, D]} for SD 1.x and 2.x; no text is the empty one."""

    encoder: Encoder

    def __call__(
        self, texts: Sequence[str] | None, num: int, size: tuple[int, int]
    ) -> dict[str, Array]:
        return {"text": self.encoder([""] * num if texts is None else texts).last}


@dataclasses.dataclass(frozen=True)
class TwoEncoders:
    """{"text", "pooled", "sizes"} for SDXL, for pictures of that size that are not cropped.

    zeros: whether no text is an array of zeros, and not the empty text.
    """

    first: Encoder
    second: Encoder
    zeros: bool

    def __call__(
        self, texts: Sequence[str] | None, num: int, size: tuple[int, int]
    ) -> dict[str, Array]:
        given = [""] * num if texts is None else texts
        first, second = self.first(given), self.second(given)
        text = jnp.concatenate([first.states[-1], second.states[-1]], axis=-1)
        cond: dict[str, Any] = {"text": text, "pooled": second.projected}
        if texts is None and self.zeros:
            cond = jax.tree.map(jnp.zeros_like, cond)
        sizes = np.asarray([*size, 0, 0, *size], np.float32)
        return cond | {"sizes": jnp.broadcast_to(sizes, (num, 6))}


@partial(jax.jit, static_argnames="module")
def _encode(module: CLIPText, params: Any, ids: Array) -> Encoded:
    encoded: Any = module.apply({"params": params}, ids)
    return encoded
