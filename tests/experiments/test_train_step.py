"""The benchmark of the training step tells what it measured."""

import json
from pathlib import Path

import pytest
import train_step

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.py")
SMALL = (
    "--config.network.features=256",
    "--config.network.num_blocks=1",
    "--config.training.batch_size=16",
    "--config.training.steps_per_call=2",
)
PARAMETERS = 382_528


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "told.json"
    arguments = ("--config", CONFIG, "--event", "8,8,1", "--calls", "2", "--json", str(path))
    assert train_step.main([*arguments, *SMALL]) == 0
    return json.loads(path.read_text())


def test_images_are_those_of_a_step_over_its_seconds(told):
    assert told["images_per_second"] == pytest.approx(16 / told["step_seconds"])
    assert 0 < told["step_seconds_least"] <= told["step_seconds"]
    assert told["devices"] == 8


def test_flops_are_six_for_each_parameter_of_a_network_of_matrices(told):
    # a multiplication and an addition, forward and twice backward
    assert told["model_flops_per_image"] == pytest.approx(6 * PARAMETERS, rel=0.05)
    speed = told["model_flops_per_second"] / told["images_per_second"]
    assert speed == pytest.approx(told["model_flops_per_image"])


def test_the_state_is_what_a_device_holds(told):
    # parameters, two moments and an average of them, and the batches
    assert told["argument_bytes"] == pytest.approx(4 * 4 * PARAMETERS, rel=0.05)


def test_a_peak_that_is_not_known_gives_no_utilisation(told):
    assert told["peak_flops_per_second"] is told["utilisation"] is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optim.lx=3", "unknown config field 'optim.lx'; did you mean 'optim.lr'?"),
        ("--config.mesh.fsdp=3", "mesh.fsdp: 3 does not divide the 8 devices"),
        ("--config.training.batch_size=12", "batch_size: 12 is not a multiple of the 8 devices"),
        ("--event=8x8", "--event takes a shape, as in 32,32,3; got '8x8'"),
        ("--calls=0", "--calls must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(capsys, argument, message):
    assert train_step.main(["--config", CONFIG, argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train_step: error: {message}")
