"""Text encoders as parts of a network, trained or adapted with the rest: `config.text.trained`.

The network then takes the tokens of a text, one array for each encoder, and encodes them itself.
Its parameters are

    {"unet": ..., "text_encoder": ..., "text_encoder_2": ...}

by the parts of the pretrained folder in config.text.path, so that patterns such as
"text_encoder/*attn*kernel" select those of an encoder, and files of adapters have them by the same
names. The folder is one of Stable Diffusion or SDXL. Without `trained` the encoders are frozen, and
each text is encoded once.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from sde_diffusion.config import folders
from sde_diffusion.pretrained.clip_tokens import read_clip_tokenizer
from sde_diffusion.pretrained.convert import INDEX
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.kinds import CLIP_TEXT, CLIP_TEXT_PROJECTED
from sde_diffusion.pretrained.part import Kind, build
from sde_diffusion.pretrained.prompts import Encoder, OneEncoder, TwoEncoders
from sde_diffusion.sdes import Array

# Before the name of a part: the condition of its tokens.
TOKENS = "tokens_"
# What the encoders make of a text; a network may be told more, such as the size of a picture.
MADE = ("text", "pooled")
# The encoders by their part, for each pipeline.
ENCODERS: dict[str, dict[str, Kind]] = {
    "StableDiffusionPipeline": {"text_encoder": CLIP_TEXT},
    "StableDiffusionXLPipeline": {
        "text_encoder": CLIP_TEXT,
        "text_encoder_2": CLIP_TEXT_PROJECTED,
    },
}


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
    return {part: params.get(part, {}) for part in (network, *kinds(config.text.path))}


def kinds(path: str) -> dict[str, Kind]:
    """The classes of the encoders in a folder by part; ValueError where they cannot be trained."""
    if not folders.is_pretrained(path):
        raise ValueError(
            f"config.text.trained needs config.text.path, a folder of diffusers, and it is {path!r}"
        )
    name = read_json(Path(path) / INDEX).get("_class_name", "none")
    if name not in ENCODERS:
        raise ValueError(
            f"config.text.trained: the text encoders of a {name} are not trained "
            f"(choices: {', '.join(ENCODERS)})"
        )
    return ENCODERS[name]


@dataclasses.dataclass(frozen=True)
class Given:
    """Stands for the tokenizer of a part whose tokens are given: {part: tokens} -> tokens."""

    part: str

    def __call__(self, tokens: Mapping[str, Array]) -> Array:
        return tokens[self.part]


@dataclasses.dataclass(frozen=True, eq=False)
class WithText:
    """A network behind its text encoders; `init` and `apply` are as a module of flax has them.

    network, part: the network that takes embeddings, and the name of its parameters.
    text: the encoders, without parameters and with `Given` for tokenizers.
    fields: of `text`, by part.
    empty: the tokens of no text, by part.
    """

    network: nn.Module
    part: str
    text: OneEncoder | TwoEncoders
    fields: Mapping[str, str]
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
        for i, (part, field) in enumerate(self.fields.items()):
            module, new = getattr(self.text, field).module, jax.random.fold_in(key, i + 1)
            params[part] = module.init(new, cond[f"{TOKENS}{part}"])["params"]
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
        tokens = {part: cond[f"{TOKENS}{part}"] for part in self.fields}
        encoders: dict[str, Any] = {
            field: _encoder(part, getattr(self.text, field).module, params[part])
            for part, field in self.fields.items()
        }
        whole: Any = dataclasses.replace(self.text, **encoders)
        num = len(next(iter(tokens.values())))
        made = {name: each for name, each in whole(tokens, num, (0, 0)).items() if name in MADE}
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

    A model's structure is compared by the identity of its network. Raises what `kinds` raises.
    """
    modules, empty = {}, {}
    for part, kind in kinds(path).items():
        folder = Path(path) / part
        modules[part] = build(kind, read_json(folder / "config.json"), source=str(folder))
        tokenizer = read_clip_tokenizer(Path(path) / part.replace("text_encoder", "tokenizer"))
        empty[part] = tokenizer([""])[0]
    encoders: list[Any] = [_encoder(part, each, None) for part, each in modules.items()]
    zeros = bool(read_json(Path(path) / INDEX).get("force_zeros_for_empty_prompt", True))
    one = len(encoders) == 1
    text = OneEncoder(encoders[0]) if one else TwoEncoders(encoders[0], encoders[1], zeros)
    fields = dict(zip(modules, ("encoder",) if one else ("first", "second"), strict=True))
    return WithText(network, folders.network_part(path)[0].name, text, fields, empty)


def _encoder(part: str, module: Any, params: Any) -> Encoder:
    """An encoder of tokens that are given."""
    tokenizer: Any = Given(part)
    return Encoder(tokenizer, module, params)
