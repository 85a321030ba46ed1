"""Words as tokens: a vocabulary is made of the texts of a source, and kept with its features.

A text is read in lower case; a word is a run of letters and digits, or a sign such as "#" or "&".
Token 0 is padding, token 1 a word that the vocabulary does not have, and 2, 3, ... are its words.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, UNKNOWN, FIRST = 0, 1, 2
WORD = re.compile(r"\w+|[#*&!?+%$€£¥]")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """The words of the texts, the most frequent first: at most `size` - 2, as two tokens are taken.

    Words that are equally frequent are in alphabetical order.
    """
    counts = Counter(word for text in texts for word in words(text))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(ordered[: size - FIRST])


def word_tokens(text: str, length: int, known: Sequence[str]) -> np.ndarray:
    """The words of a text as tokens, cut or filled up with PADDING: int32 [length]."""
    place = _places(tuple(known))
    tokens = np.full(length, PADDING, np.int32)
    found = [place.get(word, UNKNOWN) for word in words(text)[:length]]
    tokens[: len(found)] = found
    return tokens


def unknown_words(text: str, known: Sequence[str]) -> list[str]:
    """The words of a text that the vocabulary does not have, each once, in order."""
    there = set(known)
    return list(dict.fromkeys(word for word in words(text) if word not in there))


@functools.lru_cache(maxsize=8)
def _places(known: tuple[str, ...]) -> dict[str, int]:
    return {word: FIRST + k for k, word in enumerate(known)}
