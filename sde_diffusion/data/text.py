"""Texts as numbers: a tokenizer gives each record `tokens` beside its `text`."""

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from sde_diffusion.data.feature import Feature, Features
from sde_diffusion.data.source import Record, Source
from sde_diffusion.data.views import Mapped
from sde_diffusion.data.vocabulary import FIRST, PADDING, vocabulary_of, word_tokens

BYTE_VOCABULARY = 257


def byte_tokens(text: str, length: int) -> np.ndarray:
    """The UTF-8 bytes of a text, each plus 1, cut or filled up with PADDING: int32 [length]."""
    tokens = np.full(length, PADDING, np.int32)
    encoded = np.frombuffer(text.encode("utf-8", "replace")[:length], np.uint8)
    tokens[: len(encoded)] = encoded.astype(np.int32) + 1
    return tokens


def tokens_of(text: str, feature: Feature) -> np.ndarray:
    """A text as the tokens that a feature holds: words where it names them, or else bytes."""
    (length,) = feature.shape
    if feature.words is None:
        return byte_tokens(text, length)
    return word_tokens(text, length, feature.words)


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
    _check(source, length, vocabulary, least=2)
    return _with_tokens(source, Feature((length,), "int32", 0, vocabulary - 1), tokenize)


def in_words(source: Source, length: int, vocabulary: int, known: tuple[str, ...] = ()) -> Source:
    """The source with `tokens` int32 [length] beside `text`: words of the texts themselves.

    All records are read once, for their words. The feature `tokens` names the words.

    Args:
        source: its records have a `text`.
        length: how many tokens a text has, padding included.
        vocabulary: how many different tokens there are, padding and the unknown word included. The
            most frequent words have a token.
        known: the words that have a token, such as those of the data that a network was trained on;
            by default the texts are read for the most frequent ones.

    Raises:
        ValueError: there is no `text`, or a number is out of its range.
    """
    _check(source, length, vocabulary, least=FIRST + 1)
    if len(known) > vocabulary - FIRST:
        raise ValueError(f"{len(known)} words do not fit into a vocabulary of {vocabulary}")
    if not known:
        rows = tqdm(range(len(source)), desc="reading the words", unit="record", delay=2)
        known = vocabulary_of((str(source[i]["text"]) for i in rows), vocabulary)
    feature = Feature((length,), "int32", 0, vocabulary - 1, words=known)
    return _with_tokens(source, feature, lambda text, length: word_tokens(text, length, known))


def _check(source: Source, length: int, vocabulary: int, least: int) -> None:
    if "text" not in source.features:
        raise ValueError(
            f"{source.name}: no text to tokenize, only {', '.join(source.features)}; captions of a "
            "folder are read with its field captions=txt"
        )
    if length < 1 or vocabulary < least:
        raise ValueError(
            f"length must be at least 1 and vocabulary {least}, got {length}, {vocabulary}"
        )


def _with_tokens(
    source: Source, tokens: Feature, tokenize: Callable[[str, int], np.ndarray]
) -> Source:
    def with_tokens(record: Record) -> Record:
        return record | {"tokens": tokenize(str(record["text"]), tokens.shape[0])}

    return Mapped(source, Features({**source.features, "tokens": tokens}), with_tokens)
