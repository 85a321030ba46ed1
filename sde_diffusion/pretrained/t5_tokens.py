"""T5's tokenizer, from the file tokenizer.json of its folder, by the package `tokenizers`.

A text is divided into the pieces of a vocabulary that have the highest probability together. The
end token follows, and it is filled up with the pad token. Kudo & Richardson 2018 (SentencePiece).
"""

import os
from pathlib import Path

from sde_diffusion.pretrained.tokenizer import Tokenizer, require_tokenizers

PAD, END = "<pad>", "</s>"


def read_t5_tokenizer(folder: str | os.PathLike[str], length: int) -> Tokenizer:
    """The tokenizer in a folder with tokenizer.json, for texts of so many tokens.

    Raises FileNotFoundError or ValueError for a folder without it, and ImportError without the
    package `tokenizers`.
    """
    tokenizers = require_tokenizers()
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
    return Tokenizer(made, length, special=1)
