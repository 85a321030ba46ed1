"""distill: a student of a run, sampled in a few evaluations; flow maps without a teacher."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.cli import main, run
from sde_diffusion.config import build, flow_maps
from sde_diffusion.config import schema as configs
from sde_diffusion.tree_names import named


@pytest.fixture(scope="module")
def student(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        command = ["distill", "--workdir", str(trained), "--out", str(folder)]
        assert main([*command, "--config.flow_map.steps=4", "--config.training.batch_size=8"]) == 0
    return folder


def test_a_student_begins_as_its_teacher_and_learns_from_its_samples(trained, student):
    config = configs.from_json((student / "config.json").read_text())
    theirs = configs.from_json((trained / "config.json").read_text())
    assert config.training.steps == 3  # 0.35 of 8
    assert config.flow_map.name == "trajectory"
    assert config.flow_map.solver.startswith("dpmpp_2m")
    assert config.flow_map.grid == config.sampling.grid.name == "log_snr"
    assert config.network == theirs.network
    begun = json.loads((student / "init_from.json").read_text())
    assert all("number_towards" in name for name in begun["missing"])
    assert not begun["left"]


@pytest.mark.parametrize(("steps", "told"), [(1, "1 evaluation"), (4, "4 evaluations")])
def test_a_student_is_sampled_in_a_few_evaluations(student, call, tmp_path, steps, told):
    out = tmp_path / "samples.npz"
    code, printed, _ = call(
        *("sample", "--workdir", student, "--num", 5, "--steps", steps, "--out", out)
    )
    assert code == 0
    assert f"by flow_map, {told} each" in printed


def test_a_student_can_renoise_between_its_steps(student, call, tmp_path):
    solver, out = "flow_map(gamma=1.0)", tmp_path / "samples.npz"
    command = ("sample", "--workdir", student, "--num", 5, "--steps", 2, "--out", out)
    assert call(*command, "--solver", solver)[0] == 0


def test_a_distillation_goes_on_where_it_stopped(trained, student, call):
    code, _, err = call(
        *("distill", "--workdir", trained, "--out", student),
        *("--config.flow_map.steps=4", "--config.training.batch_size=8"),
    )
    assert code == 0
    assert "already at step 3 of 3" in err


@pytest.fixture(scope="module")
def guided_student(tiny_text, tmp_path_factory):
    """A student of a teacher that was trained without its label at times, guided by 1 to 4."""
    folder = tmp_path_factory.mktemp("guided")
    (folder / "tiny.py").write_text(tiny_text)
    changes = ["--config.training.steps=2", "--config.training.batch_size=8"]
    drop = "--config.conditions.label.drop=0.2"
    train = ["train", "--config", str(folder / "tiny.py"), "--workdir", str(folder / "teacher")]
    distill = ["distill", "--workdir", str(folder / "teacher"), "--out", str(folder / "student")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        assert main([*train, drop, "--config.optim.warmup=1", *changes]) == 0
        assert main([*distill, "--guidance", "1,4", "--config.flow_map.steps=2", *changes]) == 0
    return folder / "student"


def test_a_student_of_a_guided_teacher_is_told_the_weight(guided_student, call, tmp_path):
    config = configs.from_json((guided_student / "config.json").read_text())
    assert config.teacher.guidance == (1.0, 4.0)
    assert config.conditions.label.drop == 0.0
    assert flow_maps.numbers(config) == ("towards", "guidance")
    command = ("sample", "--workdir", guided_student, "--num", 5, "--out", tmp_path / "x.npz")
    code, printed, _ = call(*command, "--guidance", 4)
    assert code == 0
    assert "by flow_map, 1 evaluation each" in printed

    features = run.read_data(guided_student).features
    params, _ = run.restore_params(guided_student, config, features, ema="none")
    x = jax.random.normal(jax.random.key(0), (3, *features.event.shape))

    def mapped(weight):
        asked = configs.override(config, {"sampling.guidance.weight": str(weight)})
        return build.model(asked, params).flow_map(x, 1.0, 0.1, jnp.arange(3)).x

    assert np.max(np.abs(mapped(4.0) - mapped(1.0))) > 1e-4


def test_a_student_can_be_adapters_of_its_teacher(trained, call, tmp_path):
    """The layers of the second time are new, and are adapted as the others are."""
    folder, steps = tmp_path / "adapters", "--config.flow_map.steps=2"
    small = ("--config.training.batch_size=8", "--config.training.steps=1", steps)
    code, said, _ = call("distill", "--workdir", trained, "--out", folder, "--lora", 2, *small)
    assert code == 0
    assert f"the base is {trained}" in said
    code, said, _ = call("sample", "--workdir", folder, "--num", 5, "--out", tmp_path / "x.npz")
    assert code == 0
    assert "by flow_map, 1 evaluation each" in said
    config, features = run.read_config(folder, {}), run.read_data(folder).features
    begun, after = run.base(config, features), run.restore_params(folder, config, features).params
    theirs = run.restore_params(trained, run.read_config(trained, {}), features).params
    names = named(begun)
    assert {name for name in names if "number_towards" in name} == set(names) - set(named(theirs))
    for name, leaf in named(theirs).items():
        np.testing.assert_array_equal(names[name], leaf)
    assert any(np.any(leaf != names[name]) for name, leaf in named(after).items())


def test_what_guided_distillation_refuses(guided_student, trained, call, tmp_path):
    distill = ("distill", "--workdir", trained, "--out", tmp_path / "a")
    sample = ("sample", "--workdir", guided_student, "--out", tmp_path / "samples.png")
    for command, message in (
        ((*distill, "--guidance", "1,4"), "was never trained without its label"),
        ((*distill, "--guidance", "2"), "was never trained without its label"),
        ((*distill, "--guidance", "2,3,4"), "is written as W or LOW,HIGH, got '2,3,4'"),
        ((*distill, "--prompts", "x"), "--prompts is for --pretrained"),
        ((*distill, "--guidance", "4,1"), "must be (low, high), low < high, got (4.0, 1.0)"),
        ((*sample, "--guidance", 5), "is 5.0, and this network was trained for weights from 1 to"),
        ((*sample, "--guidance", 2, "--guidance-interval", "0.1,1"), "guided at all levels"),
    ):
        code, _, err = call(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


@pytest.mark.parametrize("name", [name for name in flow_maps.FLOW_MAPS if name != "none"])
def test_every_objective_fits_a_config(name, tiny, trained, call, tmp_path):
    # The check traces the objective; only the last option is refused.
    teacher = [f"--config.teacher.path={trained}"] if name in flow_maps.NEED_TEACHER else []
    code, _, err = call(
        *("train", "--config", tiny, "--workdir", tmp_path / "run"),
        *(f"--config.flow_map.name={name}", *teacher, "--config.training.keep=0"),
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "keep: 0 is not at least 1" in err
    assert "; " not in err  # the only thing that is wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--config.flow_map.name=progressive",), "'progressive' needs a teacher"),
        (("--config.teacher.path={trained}",), "config.flow_map.name is 'none'"),
        (("--config.sampling.solver.name=flow_map",), "needs a network of config.flow_map"),
        (
            (
                *("--config.flow_map.name=meanflow", "--config.sde.beta_max=10.0"),
                "--config.teacher.path={trained}",
            ),
            "the teacher has an SDE VP",
        ),
        (
            (
                *("--config.flow_map.name=meanflow", "--config.data.source.size=4"),
                "--config.teacher.path={trained}",
            ),
            "the teacher has samples of the shape (8, 8, 1), and the student (4, 4, 1)",
        ),
        (
            ("--config.flow_map.name=meanflow", "--config.teacher.path={trained}/nowhere"),
            "holds no run",
        ),
        (
            ("--config.flow_map.name=meanflow", "--config.teacher.guidance=(1, 4)"),
            "config.teacher.guidance is set, and config.teacher.path is not",
        ),
        (("--config.flow_map.name=meanflows",), "did you mean 'meanflow'"),
    ],
)
def test_what_is_refused_in_a_config(options, message, tiny, trained, call, tmp_path):
    options = [option.format(trained=trained) for option in options]
    code, _, err = call("train", "--config", tiny, "--workdir", tmp_path / "run", *options)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


def test_what_distill_and_sample_refuse(trained, student, call, tmp_path):
    for command, message in (
        (("--workdir", trained, "--out", trained), "is the teacher's folder"),
        (("--workdir", student, "--out", tmp_path / "again"), "is a flow map itself"),
        (("--workdir", trained, "--out", tmp_path / "a", "--objective", "magic"), "'magic'"),
    ):
        code, _, err = call("distill", *command)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    code, _, err = call(
        *("sample", "--workdir", student, "--steps", 5, "--out", tmp_path / "samples.png")
    )
    assert (code, err.count("\n")) == (2, 1)
    assert "--steps) is 5, and this network was trained on a grid of 4 steps" in err
