"""Text encoders as parts of a network, trained or adapted with the rest: `config.text.trained`.

The network then takes the tokens of a text, one array for each encoder, and encodes them itself.
Its parameters are

    {"unet": ..., "text_encoder": ..., "text_encoder_2": ...}

by the parts of the pretrained folder in config.text.path, so that patterns such as
"text_encoder/*attn*kernel" select those of an encoder, and files of adapters have them by the same
names. How embeddings are made of what the encoders give is said by the folder's `Text`, which is
called with tokens in place of texts. Without `trained` the encoders are frozen, and each text is
encoded once.

T5 is most of SD3's and Flux's encoders. Where a run trains adapters and the patterns select nothing
of T5, it stays outside: each text is encoded by it once, and the network takes its states.
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
from sde_diffusion.pretrained.joint_prompts import T5
from sde_diffusion.pretrained.load import load_text
from sde_diffusion.pretrained.lora_files import encoders_of
from sde_diffusion.sdes import Array
from sde_diffusion.tree_names import matching_some, named

# Before the name of a part: the condition of its tokens, or of its states where it stays outside.
TOKENS, STATES = "tokens_", "states_"
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


def outside(config: ConfigDict) -> tuple[str, ...]:
    """The parts of the folder that are not parts of the network: T5 without adapters."""
    if config.lora.rank is None:
        return ()
    return tuple(
        part
        for part, (_, encoder) in encoders_of(_shapes(config.text.path)).items()
        if isinstance(encoder, T5)
        and not matching_some(config.lora.names, named({part: encoder.params}))
    )


def inside(config: ConfigDict, text: Text) -> dict[str, Any]:
    """The encoders that are parts of the network, by part."""
    left = outside(config)
    return {part: each for part, (_, each) in encoders_of(text).items() if part not in left}


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
    """Stands for B texts of which the conditions are known: tokens [B, T], states [B, T, D]."""

    num: int
    known: Mapping[str, Array]

    def __len__(self) -> int:
        return self.num


@dataclasses.dataclass(frozen=True)
class Given:
    """Stands for the tokenizer of a part, or for an encoder: it gives what is known of a text."""

    name: str

    def __call__(self, texts: Tokenized) -> Array:
        return texts.known[self.name]


@dataclasses.dataclass(frozen=True, eq=False)
class WithText:
    """A network behind its text encoders; `init` and `apply` are as a module of flax has them.

    network, part: the network that takes embeddings, and the name of its parameters.
    text: the encoders, with `Given` for tokenizers and shapes in place of parameters, and `Given`
        for those that stay outside.
    empty: the tokens of no text, by part.
    states: the shapes of the states of a text by the parts that stay outside.
    """

    network: nn.Module
    part: str
    text: Text
    empty: Mapping[str, np.ndarray]
    states: Mapping[str, tuple[int, ...]]

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the condition of one sample."""
        theirs: Any = self.network
        rest = {name: shape for name, shape in theirs.told.items() if name not in MADE}
        tokens = {f"{TOKENS}{part}": ids.shape for part, ids in self.empty.items()}
        return tokens | {f"{STATES}{part}": each for part, each in self.states.items()} | rest

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
        part, empty = next(iter(self.empty.items()))
        num = len(cond[f"{TOKENS}{part}"])
        whole = _replaced(self.text, "params", params)
        texts: Any = Tokenized(num, cond)
        made = {name: x for name, x in whole(texts, num, (0, 0)).items() if name in MADE}
        if getattr(self.text, "zeros", False):
            is_text = jnp.any(cond[f"{TOKENS}{part}"] != empty, axis=-1)
            made = {
                name: jnp.where(is_text.reshape(-1, *(1,) * (each.ndim - 1)), each, 0)
                for name, each in made.items()
            }
        return made | {name: each for name, each in cond.items() if not of_text(name)}


def is_tokens(name: str) -> bool:
    """Whether a condition is of the tokens of a text."""
    return name.startswith(TOKENS)


def of_text(name: str) -> bool:
    """Whether a condition is of the tokens, or the states, of a text."""
    return name.startswith((TOKENS, STATES))


def before(config: ConfigDict, network: nn.Module) -> WithText:
    """The network of a config behind its text encoders; always the same object.

    A model's structure is compared by the identity of its network. Raises what `read` raises.
    """
    made: WithText = _before(network, config.text.path, outside(config))
    return made


@functools.cache
def _before(network: nn.Module, path: str, left: tuple[str, ...]) -> WithText:
    text: Any = _shapes(path)
    encoders = encoders_of(text)
    states = {part: _states(encoders[part][1]).shape[1:] for part in left}
    for part in left:
        text = dataclasses.replace(text, **{encoders[part][0]: Given(f"{STATES}{part}")})
    empty = {part: each.tokenizer([""])[0] for part, (_, each) in encoders_of(text).items()}
    given = _replaced(text, "tokenizer", {part: Given(f"{TOKENS}{part}") for part in empty})
    return WithText(network, folders.network_part(path)[0].name, given, empty, states)


def _states(encoder: T5) -> Any:
    """The shape of the states of one text."""

    def apply(params: Any, ids: Array) -> Any:
        return encoder.module.apply({"params": params}, ids)

    return jax.eval_shape(apply, encoder.params, encoder.tokenizer([""]))


def _replaced(text: Text, name: str, values: Mapping[str, Any]) -> Text:
    """The text whose encoders have another field of that name, each that of its part."""
    whole: Any = text
    made = {
        field: dataclasses.replace(encoder, **{name: values[part]})
        for part, (field, encoder) in encoders_of(text).items()
    }
    return dataclasses.replace(whole, **made)
