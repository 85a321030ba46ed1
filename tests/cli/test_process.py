"""The installed command, as a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = str(Path(sys.executable).parent / "sde-diffusion")


def test_help_names_the_commands():
    shown = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("train", "sample", "evaluate"):
        assert command in shown


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_exit_code_0_and_the_same_command_goes_on(tiny, tmp_path):
    run = [SCRIPT, "train", "--config", str(tiny), "--workdir", str(tmp_path / "run")]
    # sampling pictures off the way of the signal; enough steps to outlast the waiting
    run += ["--config.training.steps=1000000", "--config.training.sample_every=1000000"]
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def until_preempted():
        process = subprocess.Popen(
            run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        checkpoints = tmp_path / "run" / "checkpoints"
        before = latest(checkpoints)
        deadline = time.monotonic() + 120
        while latest(checkpoints) == before and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        step = int(out.split("stopped at step ")[1].split()[0])
        assert latest(checkpoints) == step
        return step, err

    first, _ = until_preempted()
    second, err = until_preempted()
    assert f"resuming at step {first} of 1000000" in err
    assert second > first


def latest(checkpoints):
    """The last step that has a whole checkpoint, 0 if there is none."""
    if not checkpoints.exists():
        return 0
    return max((int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()), default=0)
