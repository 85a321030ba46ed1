"""Texts as the states of a frozen BERT: {"text": [B, T, D]}, zeros where there is no token.

The folder is one of transformers, with config.json, weights and tokenizer.json, such as MiniLM's. A
network sees the state of every token, and knows by the zeros where a text ends. No text is zeros.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.networks.bert import BERT
from sde_diffusion.pretrained.part import read_part
from sde_diffusion.pretrained.tokenizer import Tokenizer, require_tokenizers
from sde_diffusion.pretrained.transformer_kinds import BERT_MODEL

Array = jax.Array
PAD, START, END = "[PAD]", "[CLS]", "[SEP]"


@dataclasses.dataclass(frozen=True)
class BERTEncoder:
    """A tokenizer with its encoder: texts -> [B, T, D].

    pad: the number of the token that fills a text up; its states are zeros.
    """

    tokenizer: Tokenizer
    module: BERT
    params: Any
    pad: int

    def __call__(self, texts: Sequence[str]) -> Array:
        ids = self.tokenizer(texts)
        return _encode(self.module, self.params, ids, ids != self.pad)


@dataclasses.dataclass(frozen=True)
class States:
    """{"text": [B, T, D]} of `length` tokens; no text is zeros."""

    encoder: BERTEncoder
    length: int

    def __call__(
        self, texts: Sequence[str] | None, num: int, size: tuple[int, int]
    ) -> dict[str, Array]:
        del size
        if texts is None:
            return {"text": jnp.zeros((num, self.length, self.encoder.module.hidden_size))}
        return {"text": self.encoder(texts)}


def bert_text(folder: Path, length: int, **options: Any) -> States:
    """The encoder in a folder, for texts of so many tokens; longer ones are cut, with a warning.

    The options are those of `part.read_part`. Raises FileNotFoundError or ValueError for a folder
    that is not whole and a length that the encoder has no places for, and ImportError without the
    package `tokenizers`.
    """
    module, params, _ = read_part(folder, BERT_MODEL, **options)
    least, most = 3, module.max_position_embeddings
    if not least <= length <= most:
        raise ValueError(f"{folder}: a text has {least} to {most} tokens, and not {length}")
    tokenizer, pad = read_bert_tokenizer(folder, length)
    return States(BERTEncoder(tokenizer, module, params, pad), length)


def read_bert_tokenizer(folder: Path, length: int) -> tuple[Tokenizer, int]:
    """The tokenizer in a folder with tokenizer.json, and the number of its pad token."""
    tokenizers = require_tokenizers()
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: there is no tokenizer.json")
    try:
        made = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # of that package, which has no other class
        raise ValueError(f"{path} is not a tokenizer: {error}") from error
    absent = [word for word in (PAD, START, END) if made.token_to_id(word) is None]
    if absent:
        raise ValueError(f"{path} is not the tokenizer of a BERT: it has no {absent[0]}")
    pad = int(made.token_to_id(PAD))
    made.enable_truncation(length)
    made.enable_padding(length=length, pad_id=pad, pad_token=PAD)
    return Tokenizer(made, length, special=2), pad


@partial(jax.jit, static_argnames="module")
def _encode(module: BERT, params: Any, ids: Array, seen: Array) -> Array:
    encoded: Any = module.apply({"params": params}, ids, seen)
    return jnp.where(seen[..., None], encoded.last, 0.0)
