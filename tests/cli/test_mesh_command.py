"""--config.mesh: what does not fit is told, and a run goes on on another mesh."""

import json

import pytest


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("mesh.fsdp=3", ("mesh.fsdp", "3", "8 devices")),
        ("mesh.data=4", ("data 4 x fsdp 1", "8")),
        ("training.batch_size=12", ("batch_size", "12", "8 devices")),
    ],
)
def test_a_mesh_or_a_batch_that_does_not_divide_is_told_at_once(
    call, tiny, tmp_path, override, words
):
    code, _, err = call(
        "train", "--config", tiny, "--workdir", tmp_path / "w", f"--config.{override}"
    )
    assert code == 2
    (line,) = err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh_with_other_compiler_options(call, tiny, tmp_path):
    run = ("train", "--config", tiny, "--workdir", tmp_path / "w")
    assert call(*run, "--config.training.steps=4")[0] == 0
    # as if it had been longer from the beginning
    config = tmp_path / "w" / "config.json"
    told = json.loads(config.read_text())
    told["training"]["steps"] = 8
    config.write_text(json.dumps(told))
    options = "xla_backend_optimization_level=1"
    code, out, err = call(
        *run, "--config.mesh.fsdp=4", f"--config.training.compiler_options={options}"
    )
    assert code == 0, err
    assert "resuming at step 4 of 8" in err
    assert "trained to step 8" in out
