"""Processes that are killed: what the operating system does, not what the loop is told."""

import json
import math
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from sde_diffusion.training.reporting import read_metrics

STEPS = 220
SCRIPT = Path(tiny_run.__file__)
# Forked from a process that has imported what is slow to import, and used none of it.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["grain", "sde_diffusion.training", "tensorboardX"])


def start(workdir, cache, seconds_per_batch=0.0, stalls_after=math.inf):
    options = [str(STEPS), cache, str(seconds_per_batch), str(stalls_after)]
    command = [sys.executable, SCRIPT, workdir, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def final_state(workdir):
    with np.load(workdir / "final.npz") as file:
        return [file[name].tobytes() for name in file.files]


def losses(workdir):
    return {record["step"]: record["loss"] for record in read_metrics(workdir)}


def wait_for_records_since(moment, is_alive, workdir):
    """Returns as soon as the process started at `moment` has trained some steps of its own."""
    while not any(record["time"] > moment for record in read_metrics(workdir)):
        assert is_alive()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    told = finish(start(workdir, cache))
    return final_state(workdir), losses(workdir), told


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bits(tmp_path, cache, uninterrupted):
    state, records, _ = uninterrupted
    moments = random.Random(0)
    for _ in range(20):
        # Each trains 16 steps at most, so past one checkpoint: twenty of them are not done.
        started = time.time()
        process = FORKED.Process(target=tiny_run.main, args=(tmp_path, STEPS, cache, 0.01, 16))
        process.start()
        wait_for_records_since(started, process.is_alive, tmp_path)
        time.sleep(moments.uniform(0, 0.1))
        assert process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(start(tmp_path, cache))
    assert final_state(tmp_path) == state
    assert losses(tmp_path) == records


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_came_at_and_leaves_with_exit_code_0(
    tmp_path, cache, uninterrupted, number
):
    started = time.time()
    process = start(tmp_path, cache, seconds_per_batch=0.1)
    wait_for_records_since(started, lambda: process.poll() is None, tmp_path)
    process.send_signal(number)
    assert finish(process)["preempted"]
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert max(losses(tmp_path)) <= saved < STEPS

    restarted = finish(start(tmp_path, cache))
    assert not restarted["preempted"]
    assert final_state(tmp_path) == uninterrupted[0]


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(tmp_path, cache):
    started = time.time()
    process = start(tmp_path, cache, stalls_after=12)
    wait_for_records_since(started, lambda: process.poll() is None, tmp_path)
    time.sleep(1)  # by now it waits for data that do not come
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=2) == -signal.SIGINT
    assert "press Ctrl-C again" in process.stderr.read()


@pytest.mark.slow
def test_a_restart_compiles_nothing(tmp_path, cache, uninterrupted):
    told = uninterrupted[2]
    assert told["cache_misses"] > 0
    again = finish(start(tmp_path, cache))
    assert again["cache_hits"] == told["cache_hits"] + told["cache_misses"]
    assert again["cache_misses"] == 0
