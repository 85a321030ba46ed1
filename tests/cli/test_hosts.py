"""The command on several processes of one machine: the first one writes, all work."""

import json
import os
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sde_diffusion import data

PRETRAINED = Path(__file__).parents[1] / "reference" / "pretrained"
SCRIPT = str(Path(sys.executable).parent / "sde-diffusion")


def together(*arguments, cache, num=2, others=None):
    """[(exit code, standard output, standard error)] of a command on `num` processes.

    `others` are variables of the environment of all but the first.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{listener.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of the compiler: what processes do is the same
        "XDG_CACHE_HOME": str(cache),
    }
    processes = [
        subprocess.Popen(
            [
                *(SCRIPT, *map(str, arguments), "--coordinator", at),
                *("--num-processes", str(num), "--process-id", str(i)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | ((others or {}) if i else {}),
        )
        for i in range(num)
    ]
    told = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, told, strict=True)]


# "[Gloo] Rank 1 is connected to 3 peer ranks. Expected number ... is : 3": the library of CPU
# messages reports its connections from several threads, whose lines tear each other up.
TORN = re.compile(
    r"\[Gloo\] Rank | is connected to | peer ranks\. |Expected number of connected peer ranks is : "
)


def lines(text):
    """What the command itself said."""
    whole = TORN.sub(" ", text).splitlines()
    return [line for line in whole if line.strip("0123456789 ")]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, tiny_text):
    """(folder, what they told) of two processes that train; the second one cannot draw pictures."""
    folder = tmp_path_factory.mktemp("by_two")
    (folder / "tiny.py").write_text(tiny_text)
    (folder / "broken").mkdir()
    (folder / "broken" / "matplotlib.py").write_text("raise ImportError('no pictures here')")
    train = ("train", "--config", folder / "tiny.py", "--workdir", folder / "run")
    broken = {"PYTHONPATH": str(folder / "broken")}
    return folder, together(*train, "--config.mesh.fsdp=2", cache=folder, others=broken)


@pytest.mark.slow
def test_only_the_first_process_draws_pictures(by_two):
    folder, results = by_two
    assert [code for code, _, _ in results] == [0, 0], results
    assert (folder / "run" / "loss.png").exists()


@pytest.mark.slow
def test_two_and_four_processes_train_sample_and_evaluate_as_one_run(call, by_two, tmp_path):
    folder, (first, second) = by_two
    workdir = folder / "run"
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "trained to step 8" in first[1]
    assert lines(second[1]) == []
    records = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == [2, 4, 6, 8]
    assert (workdir / "samples" / "step_0000008.png").exists()

    sample = ("sample", "--workdir", workdir, "--num", 30, "--out")
    assert call(*sample, tmp_path / "one.npz")[0] == 0
    results = together(*sample, tmp_path / "four.npz", cache=folder, num=4)
    assert [code for code, _, _ in results] == [0] * 4, results
    with np.load(tmp_path / "four.npz") as ours, np.load(tmp_path / "one.npz") as one:
        np.testing.assert_allclose(ours["image"], one["image"], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(ours["label"], one["label"])

    results = together("evaluate", "--workdir", workdir, cache=folder, num=2)
    assert [code for code, _, _ in results] == [0, 0], results
    assert json.loads((workdir / "evaluation.json").read_text())["samples"] == 40


@pytest.mark.slow
def test_two_processes_write_the_latents_and_embeddings_of_one(call, tmp_path):
    pictures, base = tmp_path / "pictures", PRETRAINED / "sd15"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for i, caption in enumerate(("a fox", "a red fox", "a dog", "", "two dogs")):
        pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(caption)
    encode = (
        *("encode", "--pretrained", base, "--text", base, "--config.data.source.name=folder"),
        *(f"--config.data.source.path={pictures}", "--config.data.source.captions=txt"),
        *("--config.training.batch_size=3", "--out"),
    )
    code, _, err = call(*encode, tmp_path / "one")
    assert code == 0, err
    split = "--config.mesh.fsdp=2"  # so the encoder's parameters are
    results = together(*encode, tmp_path / "two", split, cache=tmp_path)
    assert [code for code, _, _ in results] == [0, 0], results
    assert lines(results[1][1]) == []
    one, two = (data.load("latents", path=str(tmp_path / name)) for name in ("one", "two"))
    assert len(one) == len(two) == 5
    for i in range(5):
        theirs, ours = two[i], one[i]
        assert theirs.pop("text") == ours.pop("text")
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), theirs, ours)


@pytest.mark.slow
def test_bad_input_is_told_by_every_process_in_one_line(tiny, tmp_path):
    train = ("train", "--config", tiny, "--workdir", tmp_path / "w")
    for code, _, err in together(*train, "--config.mesh.fsdp=3", cache=tmp_path):
        assert code == 2
        (line,) = lines(err)
        assert line.startswith("sde-diffusion: error: mesh.fsdp: 3 does not divide the 4 devices")


def test_a_coordinator_without_a_process_is_refused(call, tiny, tmp_path):
    run = ("train", "--config", tiny, "--workdir", tmp_path / "w", "--coordinator", "host:1234")
    code, _, err = call(*run)
    assert code == 2
    assert err == (
        "sde-diffusion: error: coordinator: num_processes and process_id are needed with it\n"
    )


def test_a_coordinator_that_does_not_answer_ends_the_command_in_the_stated_time(tiny, tmp_path):
    run = ("train", "--config", str(tiny), "--workdir", str(tmp_path / "w"))
    hosts = ("--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "1")
    told = subprocess.run(
        [SCRIPT, *run, *hosts, "--join-timeout", "1"], capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 4
    line = "sde-diffusion: error: no coordinator answered at 127.0.0.1:1 within 1 s\n"
    assert told.stderr == line
