"""A BERT in a folder of transformers encodes the texts of a run: once, and it stays frozen."""

import json
import shutil
import sysconfig
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from sde_diffusion import data, pretrained
from sde_diffusion.cli import main, run, texts
from sde_diffusion.config import build, conditions
from sde_diffusion.pretrained.bert_text import bert_text

BERT = Path(__file__).parents[1] / "reference" / "pretrained" / "bert"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "heart", "square"]
LENGTH, WIDTH = 7, 16
CONFIG = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "npz", path="{folder}/data.npz")
        config.data.tokens = 7
        config.text.path = "{folder}/bert"
        config.network = choice(
            "network",
            "text_dit",
            vocabulary=None,
            text_features=16,
            depth=1,
            text_depth=1,
            features=16,
            num_heads=2,
        )
        config.conditions.text.drop = 0.5
        config.optim.warmup = 1
        config.training.update(
            batch_size=8, steps=2, log_every=2, sample_every=100, checkpoint_every=2
        )
        config.sampling.update(steps=2, batch_size=2)
        return config
"""


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a random BERT, whose tokenizer knows four words."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    shutil.copytree(BERT, folder)
    numbers = {word: i for i, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def worked(bert, tmp_path_factory):
    """The folder of a tiny run in `run`, beside its encoder in `bert`."""
    folder, rng = tmp_path_factory.mktemp("worked"), np.random.default_rng(0)
    shutil.copytree(bert, folder / "bert")
    image = rng.integers(256, size=(8, 4, 4, 3), dtype=np.uint8)
    captions = np.array(["red heart", "Blue heart", "blue square", ""] * 2)
    np.savez(folder / "data.npz", image=image, text=captions)
    text = textwrap.dedent(CONFIG).replace("{folder}", str(folder))
    (folder / "config.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        arguments = ("--config", str(folder / "config.py"), "--workdir", str(folder / "run"))
        assert main(["train", *arguments]) == 0
    return folder


def test_the_states_of_a_text_are_those_of_the_text_alone_and_zeros_behind_it(bert):
    encode = bert_text(bert, LENGTH)
    made, reader = np.asarray(encode(["red heart", "blue"], 2, (4, 4))["text"]), encode.encoder
    assert made.shape == (2, LENGTH, WIDTH)
    for states, ids in zip(made, ([2, 4, 6, 3], [2, 5, 3]), strict=True):
        alone = reader.module.apply({"params": reader.params}, np.array([ids])).last[0]
        np.testing.assert_allclose(states[: len(ids)], alone, atol=1e-5)
        assert not states[len(ids) :].any()
    assert not np.any(encode(None, 2, (4, 4))["text"])


def test_a_longer_text_is_cut_with_a_warning_that_says_where(bert, caplog):
    ids = bert_text(bert, 5).encoder.tokenizer(["red blue heart square square"])
    assert ids.tolist() == [[2, 4, 5, 6, 3]]
    assert "more than 3 tokens, so this is cut off: 'square square'" in caplog.text


def test_every_record_of_a_run_has_the_states_of_its_text(worked, bert):
    config = run.read_config(run.folder(str(worked / "run")), {})
    embedded = texts.of_source(config, build.source(config))
    batch = data.take(embedded.source, np.arange(4))
    theirs = pretrained.load_text(bert, tokens=LENGTH)(["red heart", "blue heart"], 2, (4, 4))
    np.testing.assert_allclose(batch["embedded_text"][:2], theirs["text"], atol=1e-6)
    assert not batch["embedded_text"][3].any()  # an empty text is no text
    assert "tokens" not in embedded.source.features
    assert build.record_names(config, embedded.source.features) == ["image", "embedded_text"]


def test_such_a_run_is_judged_by_its_captions(worked, call, tmp_path):
    """Also under a tokenizer of words, which such a run does not use."""
    workdir = shutil.copytree(worked / "run", tmp_path / "run")
    options = ("data.tokenizer=words", "eval.num=4", "eval.bits=1", "eval.judge_steps=1")
    given = [f"--config.{option}" for option in (*options, "eval.captions=3")]
    code, _, err = call("evaluate", "--workdir", workdir, *given)
    assert code == 0, err
    figures = json.loads((workdir / "evaluation.json").read_text())["by_caption"]["data"]
    assert figures["captions"] == 4
    assert figures["among"] == 3


def test_a_text_that_is_dropped_is_no_text(worked):
    config = run.read_config(run.folder(str(worked / "run")), {})
    given = {"text": np.ones((64, LENGTH, WIDTH), np.float32)}
    dropped = conditions.drop(config)(jax.random.split(jax.random.key(0), 64), given)["text"]
    share = np.mean(~np.asarray(dropped).any(axis=(1, 2)))
    assert 0.3 < share < 0.7
    assert np.mean(np.asarray(dropped)) == pytest.approx(1 - share)


def test_a_prompt_is_encoded_by_the_same_folder_and_an_empty_one_is_no_text(
    worked, bert, call, asked, tmp_path
):
    options = ("--prompt", "red heart", "--prompt", " ", "--guidance", 2, "--num", 1)
    workdir, out = worked / "run", tmp_path / "x.npz"
    code, said, err = call("sample", "--workdir", workdir, "--out", out, *options)
    assert code == 0, err
    theirs = pretrained.load_text(bert, tokens=LENGTH)(["red heart"], 1, (4, 4))["text"]
    np.testing.assert_allclose(asked[0].cond["text"][0], theirs[0], atol=1e-6)
    assert not asked[0].cond["text"][1].any()
    assert not asked[0].no_text["text"].any()
    assert "the prompt ' ' is no text: its samples are unconditional" in said + err
    with np.load(out) as arrays:
        assert arrays["image"].shape == (2, 4, 4, 3)


def other_weights(folder, path):
    """A copy of a BERT's folder whose embeddings are twice as large."""
    shutil.copytree(folder, path)
    from sde_diffusion.pretrained import safetensors

    tensors = dict(safetensors.read(path / "model.safetensors"))
    name = "embeddings.LayerNorm.weight"
    changed = tensors | {name: 2 * tensors[name]}
    safetensors.write(path / "other.safetensors", changed)
    (path / "other.safetensors").replace(path / "model.safetensors")


def no_tokenizer(folder, path):
    shutil.copytree(folder, path)
    (path / "tokenizer.json").unlink()


def gpt(folder, path):
    shutil.copytree(folder, path)
    told = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(told | {"model_type": "gpt2"}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, path: None, "no such folder"),
        (lambda folder, path: path.mkdir(), "no config.json, of a BERT of transformers"),
        (other_weights, "was trained with the embeddings of other encoders"),
        (no_tokenizer, "there is no tokenizer.json"),
        (gpt, "must be a bert, and is gpt2"),
    ],
)
def test_a_folder_that_is_absent_or_another_is_one_line(
    worked, bert, call, tmp_path, make, message
):
    make(bert, tmp_path / "moved")
    options = ("--prompt", "red heart", f"--config.text.path={tmp_path / 'moved'}")
    workdir, out = worked / "run", tmp_path / "x.npz"
    code, _, err = call("sample", "--workdir", workdir, "--out", out, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "config.text.path: " in err
    assert message in err


def test_a_folder_of_a_package_that_is_not_installed_is_named_with_the_package(worked, call):
    path = Path(sysconfig.get_path("purelib"), "no_such_package", "model")
    options = ("--prompt", "red heart", f"--config.text.path={path}", "--out", worked / "x.npz")
    code, _, err = call("sample", "--workdir", worked / "run", *options)
    told = "the package no_such_package is not installed, see the first lines of the config's file"
    assert (code, err.count("\n")) == (2, 1)
    assert told in err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--config.data.tokens=None", "say to how many tokens they are filled up (data.tokens"),
        ("--config.data.tokens=33", "a text has 3 to 32 tokens, and not 33"),
        ("--config.network.text_features=8", "embeddings of other encoders"),
        ("--config.network.vocabulary=9", "so one of them must be None"),
        ("--config.conditions.tokens.drop=0.1", "config.network takes no tokens"),
        ("--config.text.path=", "set config.text.path to a pretrained folder"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(worked, call, tmp_path, option, message):
    command = ("train", "--config", worked / "config.py", "--workdir", tmp_path / "run")
    code, _, err = call(*command, option)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()
