"""Text encoders whose texts are split over all the devices of all processes, for many texts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sde_diffusion import distributed
from sde_diffusion.cli import texts
from sde_diffusion.pipeline import Size, Text
from sde_diffusion.pretrained.lora_files import encoders_of
from sde_diffusion.pretrained.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class OnDevices:
    """Encodes as `text` does. Every process gives all the texts, and gets all their embeddings.

    text: its encoders have parameters on `mesh`, and give it their tokens by `Split`.
    """

    text: Text
    mesh: jax.sharding.Mesh

    def __call__(self, texts: Sequence[str] | None, num: int, size: Size) -> dict[str, np.ndarray]:
        more = -num % self.mesh.size
        filled = None if texts is None else [*texts, *[""] * more]
        made = self.text(filled, num + more, size)
        return {name: distributed.to_every_process(x)[:num] for name, x in made.items()}


@dataclasses.dataclass(frozen=True)
class Split:
    """A tokenizer whose numbers of tokens [B, length] are split over the devices of a mesh."""

    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh

    def __call__(self, texts: Sequence[str]) -> jax.Array:
        ids = self.tokenizer(texts)
        sharding = distributed.shard_samples(self.mesh)
        return jax.make_array_from_callback(ids.shape, sharding, lambda at: ids[at])


def read(path: str, tokens: int | None, mesh: jax.sharding.Mesh, flag: str) -> OnDevices:
    """The text encoders of a pretrained folder, as `texts.read` has them.

    Their parameters are split over the mesh as those of a network in training.
    """
    text: Any = texts.read(path, tokens, flag, put=distributed.put_split(mesh))
    split = {
        name: dataclasses.replace(each, tokenizer=Split(each.tokenizer, mesh))
        for name, each in encoders_of(text).values()
    }
    return OnDevices(dataclasses.replace(text, **split), mesh)
