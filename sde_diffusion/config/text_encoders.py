"""Text encoders as parts of a network, trained or adapted with the rest: `config.text.trained`.

The network then takes the tokens of a text, one array for each encoder, and encodes them itself.
Its parameters are

    {"unet": ..., "text_encoder": ..., "text_encoder_2": ...}

by the parts of the pretrained folder in config.text.path, so that patterns such as
"text_encoder/*attn*kernel" select those of an encoder, and files of adapters have them by the same
names. How embeddings are made of what the encoders give is said by the folder's `Text`, which is
called with tokens in place of texts. Without `trained` the encoders are frozen, and each text is
encoded once.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from sde_diffusion.config import folders
from sde_diffusion.pipeline import Text
from sde_diffusion.pretrained.load import load_text
from sde_diffusion.pretrained.lora_files import encoders_of
from sde_diffusion.sdes import Array

# Before the name of a part: the condition of its tokens.
TOKENS = "tokens_"
# What the encoders make of a text; a network may be told more, such as the size of a picture.
MADE = ("text", "pooled")


def trained(config: ConfigDict) -> bool:
    """Whether the text encoders are parts of the network."""
    return bool(config.text.trained)


def by_part(config: ConfigDict, params: Any) -> dict[str, Any]:
    """The parameters of a network that begins at a pretrained folder, or adapters of them, by part.

    The parts are those of the folder; adapters of some may be none.
    """
    network = folders.network_part(config.init_from.path)[0].name
    if not trained(config):
        return {network: params}
    encoders = encoders_of(_shapes(config.text.path))
    return {part: params.get(part, {}) for part in (network, *encoders)}


def read(path: str, **options: Any) -> Text:
    """The encoders of a folder, to be trained; the options are those of `part.read_part`.

    Raises ValueError where the folder is not one of a pipeline whose encoders can be trained.
    """
    if not folders.is_pretrained(path):
        raise ValueError(
            f"config.text.trained needs config.text.path, a folder of diffusers, and it is {path!r}"
        )
    try:
        return load_text(path, **options)
    except (OSError, ValueError) as error:
        raise type(error)(f"config.text.trained: {error}") from error


@functools.cache
def _shapes(path: str) -> Text:
    """The encoders of a folder with shapes in place of parameters."""
    return read(path, shapes_only=True)


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """Stands for B texts whose tokens are known: {part: numbers of tokens [B, T]}."""

    tokens: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.tokens.values())))


@dataclasses.dataclass(frozen=True)
class Given:
    """Stands for the tokenizer of a part: it gives the known tokens of that part."""

    part: str

    def __call__(self, texts: Tokenized) -> Array:
        return texts.tokens[self.part]


@dataclasses.dataclass(frozen=True, eq=False)
class WithText:
    """A network behind its text encoders; `init` and `apply` are as a module of flax has them.

    network, part: the network that takes embeddings, and the name of its parameters.
    text: the encoders, with `Given` for tokenizers and shapes in place of parameters.
    empty: the tokens of no text, by part.
    """

    network: nn.Module
    part: str
    text: Text
    empty: Mapping[str, np.ndarray]

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the condition of one sample."""
        theirs: Any = self.network
        rest = {name: shape for name, shape in theirs.told.items() if name not in MADE}
        return {f"{TOKENS}{part}": ids.shape for part, ids in self.empty.items()} | rest

    def init(self, key: Array, x: Array, t: Array, cond: Mapping[str, Array]) -> Any:
        """New parameters of the network and of the encoders."""
        params = {}
        for i, (part, (_, encoder)) in enumerate(encoders_of(self.text).items()):
            new = jax.random.fold_in(key, i + 1)
            params[part] = encoder.module.init(new, cond[f"{TOKENS}{part}"])["params"]
        embedded = self.embedded(params, cond)
        return {"params": {self.part: self.network.init(key, x, t, embedded)["params"], **params}}

    def apply(
        self, variables: Any, x: Array, t: Array, cond: Mapping[str, Array], **options: Any
    ) -> Any:
        """What the network gives under the texts whose tokens are in `cond`."""
        params = variables["params"]
        embedded = self.embedded(params, cond)
        return self.network.apply({"params": params[self.part]}, x, t, embedded, **options)

    def embedded(self, params: Any, cond: Mapping[str, Array]) -> dict[str, Array]:
        """The condition with embeddings in place of tokens."""
        tokens = {part: cond[f"{TOKENS}{part}"] for part in self.empty}
        whole = _replaced(self.text, "params", params)
        texts: Any = Tokenized(tokens)
        made = {name: x for name, x in whole(texts, len(texts), (0, 0)).items() if name in MADE}
        if getattr(self.text, "zeros", False):
            part, empty = next(iter(self.empty.items()))
            is_text = jnp.any(tokens[part] != empty, axis=-1)
            made = {
                name: jnp.where(is_text.reshape(-1, *(1,) * (each.ndim - 1)), each, 0)
                for name, each in made.items()
            }
        return made | {name: each for name, each in cond.items() if not name.startswith(TOKENS)}


@functools.cache
def before(network: nn.Module, path: str) -> WithText:
    """The network behind the text encoders of a pretrained folder; always the same object.

    A model's structure is compared by the identity of its network. Raises what `read` raises.
    """
    text = _shapes(path)
    empty = {part: each.tokenizer([""])[0] for part, (_, each) in encoders_of(text).items()}
    given = _replaced(text, "tokenizer", {part: Given(part) for part in empty})
    return WithText(network, folders.network_part(path)[0].name, given, empty)


def _replaced(text: Text, name: str, values: Mapping[str, Any]) -> Text:
    """The text whose encoders have another field of that name, each that of its part."""
    whole: Any = text
    made = {
        field: dataclasses.replace(encoder, **{name: values[part]})
        for part, (field, encoder) in encoders_of(text).items()
    }
    return dataclasses.replace(whole, **made)
