"""Tokenizer: texts to numbers of tokens, by the package `tokenizers`."""

import dataclasses
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """tokenizer(texts) -> numbers of tokens, int32 [B, length].

    backend: the tokenizer of the package `tokenizers`, which cuts and pads to `length`.
    special: how many of the tokens are not of the text. The last of them ends it.
    """

    backend: Any
    length: int
    special: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The numbers of the tokens of each text; what does not fit is cut off, with a warning."""
        encoded = self.backend.encode_batch(list(texts))
        for text, each in zip(texts, encoded, strict=True):
            if each.overflowing:
                start = each.offsets[self.length - 2][1]
                logger.warning(
                    "a text has more than %d tokens, so this is cut off: %r",
                    self.length - self.special,
                    text[start:].strip(),
                )
        return np.asarray([each.ids for each in encoded], np.int32).reshape(-1, self.length)


def require_tokenizers() -> ModuleType:
    """The package `tokenizers`; ImportError, which says how to install it, where it is absent."""
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "text needs the package tokenizers: pip install 'sde-diffusion[pretrained]'"
        ) from error
    return tokenizers
