"""T5's tokenizer, from the file tokenizer.json of its folder, by the package `tokenizers`.

A text is divided into the pieces of a vocabulary that have the highest probability together. The
end token follows, and it is filled up with the pad token. Kudo & Richardson 2018 (SentencePiece).
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

PAD, END = "<pad>", "</s>"


@dataclasses.dataclass(frozen=True)
class T5Tokenizer:
    """tokenizer(texts) -> numbers of tokens, int32 [B, length].

    `backend` is the tokenizer of the package `tokenizers`.
    """

    backend: Any
    length: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The numbers of the tokens of each text; what does not fit is cut off, with a warning."""
        encoded = self.backend.encode_batch(list(texts))
        for text, each in zip(texts, encoded, strict=True):
            if each.overflowing:
                start = each.offsets[self.length - 2][1]
                logger.warning(
                    "a text has more than %d tokens, so this is cut off: %r",
                    self.length - 1,
                    text[start:].strip(),
                )
        return np.asarray([each.ids for each in encoded], np.int32).reshape(-1, self.length)


def read_t5_tokenizer(folder: str | os.PathLike[str], length: int) -> T5Tokenizer:
    """The tokenizer in a folder with tokenizer.json, for texts of so many tokens.

    Raises FileNotFoundError or ValueError for a folder without it, and ImportError without the
    package `tokenizers`.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "text needs the package tokenizers: pip install 'sde-diffusion[pretrained]'"
        ) from error
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        there = (
            " (spiece.model alone is not read)" if path.with_name("spiece.model").exists() else ""
        )
        raise FileNotFoundError(f"{folder}: there is no tokenizer.json{there}")
    try:
        made = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # of that package, which has no other class
        raise ValueError(f"{path} is not a tokenizer: {error}") from error
    pad = made.token_to_id(PAD)
    if pad is None or made.token_to_id(END) is None:
        raise ValueError(f"{path} is not the tokenizer of T5: it has no {PAD} or no {END}")
    made.enable_truncation(length)
    made.enable_padding(length=length, pad_id=pad, pad_token=PAD)
    return T5Tokenizer(made, length)
