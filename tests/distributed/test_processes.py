"""Several processes on one machine, joined over its loopback."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import problem
import pytest

from sde_diffusion.distributed import joined, make_mesh
from sde_diffusion.training.reporting import read_metrics

SCRIPT = Path(problem.__file__)
STEPS = 8


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(script, *arguments, devices):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of the compiler: what processes do is the same
    }
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def start_all(workdir, cache, *, num=2, steps=STEPS, fsdp=1, seconds=0.0, fail=""):
    """`num` processes of 8 / num devices each that train together."""
    at = f"127.0.0.1:{free_port()}"
    return [
        start(SCRIPT, workdir, steps, cache, at, num, i, fsdp, seconds, fail, devices=8 // num)
        for i in range(num)
    ]


def finish(processes):
    """[(exit code, standard output, standard error)]."""
    told = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, told, strict=True)]


def final_state(workdir):
    with np.load(workdir / "final.npz") as file:
        return [file[name] for name in file.files]


def losses(workdir):
    return {record["step"]: record["loss"] for record in read_metrics(workdir)}


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def wait_for_step(processes, workdir, step):
    while max(losses(workdir), default=0) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run on one device of one process: (leaves of the state, losses)."""
    workdir = tmp_path_factory.mktemp("alone")
    outcome = problem.run(workdir, STEPS, make_mesh(devices=jax.devices()[:1]))
    return jax.device_get(jax.tree.leaves(outcome.state)), losses(workdir)


def assert_same_numbers(workdir, alone):
    state, records = alone
    for ours, theirs in zip(final_state(workdir), state, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    assert losses(workdir) == pytest.approx(records, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("num", "fsdp"), [(2, 8), (4, 2)])
def test_processes_train_to_the_losses_and_parameters_of_one_device(
    tmp_path, cache, alone, num, fsdp
):
    for code, out, err in finish(start_all(tmp_path, cache, num=num, fsdp=fsdp)):
        assert (code, out.splitlines()[-1]) == (0, f"done {STEPS}"), err
    assert_same_numbers(tmp_path, alone)


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_its_line(tmp_path, cache):
    results = finish(start_all(tmp_path, cache, steps=1000, seconds=0.02, fail="6:1"))
    for code, _, err in results:
        assert code == 1
        assert err.splitlines()[-1] == "ValueError: image 7 is torn (process 1)"
    assert "in __next__" in results[1][2]  # where it was raised


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_an_error_after_the_others_are_done_ends_all_with_its_line(tmp_path, cache, who):
    for code, out, err in finish(start_all(tmp_path, cache, fail=f"end:{who}")):
        assert out.splitlines()[-1] == f"done {STEPS}"
        assert code == 1
        assert err.splitlines()[-1] == f"SystemExit: no room for the picture (process {who})"


@pytest.mark.slow
def test_sigterm_to_one_process_makes_all_save_the_same_step_and_the_run_goes_on(
    tmp_path, cache, alone
):
    processes = start_all(tmp_path, cache, steps=STEPS, seconds=0.2)
    wait_for_step(processes, tmp_path, 1)
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [code for code, _, _ in results] == [0, 0], results
    (told,) = {out.splitlines()[-1] for _, out, _ in results}
    assert told == f"preempted {max(checkpoints(tmp_path))}"
    assert max(checkpoints(tmp_path)) < STEPS

    # on one process, with the state in parts
    finish(start_all(tmp_path, cache, num=1, fsdp=4))
    assert_same_numbers(tmp_path, alone)


# One process, the other, or both. (Of one alone, tests/training/test_kill.py has twenty in a row.)
VICTIMS = [(0,), (0, 1), (1,)]


@pytest.mark.slow
def test_killed_one_or_all_again_and_again_they_end_with_the_bits_of_a_run_that_was_not(
    tmp_path, cache
):
    steps = 20 * len(VICTIMS)
    for code, _, err in finish(start_all(tmp_path / "quiet", cache, steps=steps)):
        assert code == 0, err

    killed, moments = tmp_path / "killed", random.Random(0)
    for victims in VICTIMS:
        # each gets some steps further, and none is done
        before = max(losses(killed), default=0)
        processes = start_all(killed, cache, steps=steps, seconds=0.1)
        wait_for_step(processes, killed, before + 1)
        time.sleep(moments.uniform(0, 0.3))
        for victim in victims:
            processes[victim].kill()
        began = time.monotonic()
        codes = [code for code, _, _ in finish(processes)]
        assert time.monotonic() - began < 30  # a heartbeat is missed after 10 s
        assert all(codes[victim] == -signal.SIGKILL for victim in victims)
        assert all(code != 0 for code in codes)

    for code, _, err in finish(start_all(killed, cache, steps=steps)):
        assert code == 0, err
    for ours, theirs in zip(final_state(killed), final_state(tmp_path / "quiet"), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert losses(killed) == losses(tmp_path / "quiet")


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_passed_over_by_all(tmp_path, cache, alone):
    finish(start_all(tmp_path, cache, fsdp=8))
    newest = tmp_path / "checkpoints" / str(STEPS)
    for data in newest.glob("state/ocdbt.process_1/d/*"):
        os.truncate(data, data.stat().st_size // 2)
    for code, _, err in finish(start_all(tmp_path, cache, fsdp=8)):
        assert code == 0, err
        assert f"checkpoints/{STEPS} is damaged" in err
    assert_same_numbers(tmp_path, alone)


JOIN = """
import sys
from sde_diffusion.distributed import joined
with joined(sys.argv[1], 2, int(sys.argv[2]), join_timeout=2):
    print("joined")
"""


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (0, "TimeoutError: not all processes joined within 2 s"),
        (1, "TimeoutError: no coordinator answered at 127.0.0.1:{} within 2 s"),
    ],
)
def test_a_process_that_stays_alone_ends_in_the_stated_time_with_one_line(
    tmp_path, process, message
):
    script, port = tmp_path / "join.py", free_port()
    script.write_text(JOIN)
    (result,) = finish([start(script, f"127.0.0.1:{port}", process, devices=1)])
    assert result == (1, "", message.format(port) + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("here", 2, 0), "coordinator: 'here' is not HOST:PORT"),
        (("here:one", 2, 0), "coordinator: 'here:one' is not HOST:PORT"),
        (("here:1", None, 0), "num_processes and process_id are needed with it"),
        ((None, 2, 0), "num_processes and process_id need a coordinator, HOST:PORT"),
        (("here:1", 2, 2), "process_id: 2 is not in [0, num_processes = 2)"),
    ],
)
def test_arguments_that_name_no_process_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)), joined(*arguments):
        pass


def test_a_time_to_join_of_nothing_is_refused():
    with (
        pytest.raises(ValueError, match="join_timeout: 0 is not at least 1"),
        joined(join_timeout=0),
    ):
        pass


def test_where_there_are_no_others_a_process_goes_on_alone():
    with joined():
        assert jax.process_count() == 1


def test_a_slurm_job_of_one_task_keeps_all_the_devices(monkeypatch):
    for name in ("JOB_ID", "STEP_NODELIST", "PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    with joined():
        assert jax.local_device_count() == 8
