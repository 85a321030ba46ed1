"""CLIP's tokenizer, made of the files of its folder: vocab.json and merges.txt.

A text is normalized (NFC, runs of spaces as one, lower case), split into words, numbers and other
signs, whose bytes are merged pair by pair. Start and end token enclose it, and it is filled up with
the pad token to the length that the encoder was trained with.

Radford et al. 2021, sec. 2.4. This is what transformers' CLIPTokenizer does, with the same library.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.tokenizer import Tokenizer, require_tokenizers

WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
LENGTH = 77
DEFAULTS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


def read_clip_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer in a folder with vocab.json and merges.txt, or with tokenizer.json alone.

    Raises FileNotFoundError or ValueError for a folder without them, and ImportError without the
    package `tokenizers`.
    """
    tokenizers = require_tokenizers()
    folder = Path(folder)
    vocabulary, merges = _vocabulary(folder)
    config = _config(folder)
    special = {name: _content(config.get(name, word)) for name, word in DEFAULTS.items()}
    absent = [word for word in special.values() if word not in vocabulary]
    if absent:
        raise ValueError(f"{folder}: the vocabulary has no {absent[0]}")
    made = _backend(tokenizers, vocabulary, merges, special)
    length = min(int(config.get("model_max_length") or LENGTH), LENGTH)
    made.enable_truncation(length)
    pad = special["pad_token"]
    made.enable_padding(length=length, pad_id=vocabulary[pad], pad_token=pad)
    return Tokenizer(made, length, special=2)


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """The number of each token, and the pairs that are merged, in order."""
    whole = folder / "tokenizer.json"
    if whole.is_file() and not (folder / "vocab.json").is_file():
        model = read_json(whole).get("model", {})
        if model.get("type") != "BPE":
            raise ValueError(f"{whole} is not the tokenizer of CLIP: its model is no BPE")
        pairs = (pair.split() if isinstance(pair, str) else pair for pair in model["merges"])
        return model["vocab"], [tuple(pair) for pair in pairs]
    vocabulary = read_json(folder / "vocab.json")
    if not (folder / "merges.txt").is_file():
        raise FileNotFoundError(f"{folder}: there is no merges.txt")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    return vocabulary, [tuple(line.split()) for line in merges]


def _config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, after special_tokens_map.json, each if it is there."""
    files = (folder / "special_tokens_map.json", folder / "tokenizer_config.json")
    told: dict[str, Any] = {}
    for path in files:
        if path.is_file():
            told |= read_json(path)
    return told


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token


def _backend(
    tokenizers: Any, vocabulary: dict[str, int], merges: Sequence[Any], special: dict[str, str]
) -> Any:
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=special["unk_token"],
        )
    )
    normal, pre = tokenizers.normalizers, tokenizers.pre_tokenizers
    made.normalizer = normal.Sequence(
        [normal.NFC(), normal.Replace(tokenizers.Regex(r"\s+"), " "), normal.Lowercase()]
    )
    words = pre.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre.Sequence([words, pre.ByteLevel(add_prefix_space=False)])
    made.add_special_tokens(
        [tokenizers.AddedToken(word, special=True) for word in dict.fromkeys(special.values())]
    )
    end, start = special["eos_token"], special["bos_token"]
    made.post_processor = tokenizers.processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), False, False
    )
    return made
