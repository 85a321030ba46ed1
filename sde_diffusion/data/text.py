"""Texts as numbers: a tokenizer gives each record `tokens` beside its `text`."""

from collections.abc import Callable

import numpy as np

from sde_diffusion.data.feature import Feature, Features
from sde_diffusion.data.source import Record, Source
from sde_diffusion.data.views import Mapped

PADDING = 0
BYTE_VOCABULARY = 257


def byte_tokens(text: str, length: int) -> np.ndarray:
    """The UTF-8 bytes of a text, each plus 1, cut or filled up with PADDING: int32 [length]."""
    tokens = np.full(length, PADDING, np.int32)
    encoded = np.frombuffer(text.encode("utf-8", "replace")[:length], np.uint8)
    tokens[: len(encoded)] = encoded.astype(np.int32) + 1
    return tokens


def tokenized(
    source: Source,
    length: int,
    tokenize: Callable[[str, int], np.ndarray] = byte_tokens,
    vocabulary: int = BYTE_VOCABULARY,
) -> Source:
    """The source with `tokens` int32 [length] in the range [0, vocabulary - 1] beside `text`.

    Args:
        source: its records have a `text`.
        length: how many tokens a text has, padding included.
        tokenize: (text, length) -> int32 [length].
        vocabulary: how many different tokens there are.

    Raises:
        ValueError: there is no `text`, or a number is out of its range.
    """
    if "text" not in source.features:
        raise ValueError(f"{source.name}: no text to tokenize, only {', '.join(source.features)}")
    if length < 1 or vocabulary < 2:
        raise ValueError(f"length must be at least 1 and vocabulary 2, got {length}, {vocabulary}")

    def with_tokens(record: Record) -> Record:
        return record | {"tokens": tokenize(str(record["text"]), length)}

    tokens = Feature((length,), "int32", 0, vocabulary - 1)
    return Mapped(source, Features({**source.features, "tokens": tokens}), with_tokens)
