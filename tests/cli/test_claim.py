"""A run's folder: what may change in a run that was begun, and what is refused."""

import json
import shutil

import pytest

from sde_diffusion.cli import claim, run
from sde_diffusion.config import schema as configs
from sde_diffusion.data import Feature, Features

IMAGES = Features({"image": Feature((8, 8, 1), "uint8", 0, 255)})
DESCRIBED = run.Described(100, IMAGES)


@pytest.fixture
def begun(tmp_path):
    """claim(overrides, described, ...) of a folder in which the default config was begun."""
    workdir = run.folder(str(tmp_path))

    def call(overrides, described=DESCRIBED, overwrite=False):
        config = configs.override(configs.default(), {"optim.warmup": "0"} | overrides)
        return claim.claim(workdir, config, described, overwrite=overwrite)

    call({"training.steps": "1000"})
    (tmp_path / "checkpoints" / "600").mkdir(parents=True)
    return call


def steps(tmp_path):
    return run.read_config(run.folder(str(tmp_path)), {}).training.steps


@pytest.mark.parametrize(
    "change",
    [
        {"training.log_every": "7"},
        {"training.keep": "9", "training.keep_every": "50", "training.keep_best": "2"},
        {"training.checkpoint_every": "10", "training.sample_every": "10"},
        {"training.steps_per_call": "4", "training.compiler_options": "a=1"},
        {"sampling.solver.name": "heun", "sampling.steps": "3", "eval.num": "5"},
        {"mesh.fsdp": "2"},
        # Each of these networks is known by a fingerprint.
        {"init_from.path": "a", "teacher.path": "b", "codec.path": "c", "text.path": "d"},
    ],
    ids=lambda change: ",".join(change),
)
def test_what_leaves_the_mathematics_as_it_is_may_change(begun, tmp_path, change):
    lines = begun({"training.steps": "1000"} | change)
    kept = configs.from_json((tmp_path / "config.json").read_text())
    for field, value in change.items():
        assert str(configs.flatten(kept)[field]) == value
        told = any(line.startswith(f"from now on, {field}: ") for line in lines)
        assert told != field.startswith("mesh")


@pytest.mark.parametrize(
    "change",
    [
        {"optim.lr": "0.5"},
        {"seed": "1"},
        {"training.batch_size": "64"},
        {"sde.name": "ve"},
        {"data.flip": "True"},
        {"training.steps": "999"},
    ],
    ids=lambda change: ",".join(change),
)
def test_what_does_not_is_refused_naming_both(begun, tmp_path, change):
    before = (tmp_path / "config.json").read_bytes()
    (field, value), *_ = change.items()
    with pytest.raises(ValueError, match=f"{field}: '?{value}'? instead of .*--overwrite"):
        begun({"training.steps": "1000"} | change)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_constant_rate_goes_on_as_it_was_over_more_steps(begun, tmp_path):
    lines = begun({"training.steps": "2000"})
    assert lines == ["from now on, training.steps: 2000 instead of 1000"]
    assert steps(tmp_path) == 2000


def test_a_schedule_that_ends_at_the_last_step_says_what_more_steps_do_to_it(tmp_path):
    workdir = run.folder(str(tmp_path))
    config = configs.override(configs.default(), {"optim.schedule": "cosine", "optim.warmup": "1"})

    def lengthen(steps):
        longer = configs.override(config, {"training.steps": str(steps)})
        return claim.claim(workdir, longer, DESCRIBED, overwrite=False)

    lengthen(1001)
    (tmp_path / "checkpoints" / "1001").mkdir(parents=True)
    # From 1 to 1001 half a cosine of 1 to 0; from 1 to 2001 it is half way down at 1001.
    assert lengthen(2001)[-1] == (
        "the schedule 'cosine' ends at training.steps: at step 1001 the learning rate is now "
        "0.0001, where the shorter schedule has 0"
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run.Described(99, IMAGES), "records: 99 instead of 100"),
        (
            run.Described(100, Features({"image": Feature((8, 8, 3), "uint8", 0, 255)})),
            r"image\.shape: \(8, 8, 3\) instead of \(8, 8, 1\)",
        ),
    ],
)
def test_other_data_are_refused_naming_both(begun, other, message):
    with pytest.raises(ValueError, match=message):
        begun({"training.steps": "1000"}, other)


def test_the_same_data_may_lie_elsewhere(tmp_path):
    workdir = run.folder(str(tmp_path / "run"))

    def train_on(path):
        config = configs.default().unlock()
        config.data.source = configs.choice("data.source", "npz", path=path)
        return claim.claim(workdir, config.lock(), DESCRIBED, overwrite=False)

    train_on("here.npz")
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    assert train_on("there.npz") == [
        "from now on, data.source.path: 'there.npz' instead of 'here.npz'"
    ]


def test_a_folder_in_which_nothing_was_trained_is_nobodys(begun, tmp_path):
    shutil.rmtree(tmp_path / "checkpoints")
    assert begun({"optim.lr": "0.5", "training.steps": "3"}, run.Described(1, IMAGES)) == []
    assert steps(tmp_path) == 3
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    with pytest.raises(ValueError, match="belongs to another config"):
        begun({})


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(begun, tmp_path):
    mine = {"notes.txt", "lora.safetensors"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    begun({"optim.lr": "0.5"}, run.Described(1, IMAGES), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "data.json", *mine}
    # In a student's folder they are what it has written.
    begun({"teacher.path": "teacher"}, overwrite=True)
    begun({}, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "data.json", "notes.txt"}


@pytest.mark.parametrize(
    ("file", "text", "workdir", "message"),
    [
        ("model_index.json", "{}", ".", "is a pretrained folder, over which no run is written"),
        ("model_index.json", "{}", "unet", "is a pretrained folder, over which no run is written"),
        ("config.json", '{"_class_name": "UNet2DConditionModel"}', ".", "config.json is something"),
        ("data.json", "[1, 2]", ".", "data.json is something else"),
        ("data.json", "records", ".", "data.json is something else"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_over_what_is_no_run(tmp_path, file, text, workdir, message, overwrite):
    (tmp_path / file).write_text(text)
    folder = run.folder(str(tmp_path / workdir))
    with pytest.raises(ValueError, match=message):
        claim.claim(folder, configs.default(), DESCRIBED, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == text


def test_other_prompts_are_refused_by_name(tmp_path):
    workdir, first = run.folder(str(tmp_path)), DESCRIBED._replace(prompts="12ab")
    (tmp_path / "checkpoints" / "600").mkdir(parents=True)
    (tmp_path / "config.json").write_text(configs.to_json(configs.default()))
    for again in range(2):
        claim.claim(workdir, configs.default(), first, overwrite=False)
        assert run.read_data(workdir).prompts == "12ab", again
    with pytest.raises(ValueError, match=r"prompts: .* 34cd instead of .* 12ab"):
        claim.claim(workdir, configs.default(), first._replace(prompts="34cd"), overwrite=False)


def test_checkpoints_of_no_config_are_not_touched(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has checkpoints but no config\.json"):
        claim.claim(run.folder(str(tmp_path)), configs.default(), DESCRIBED, overwrite=True)


def test_the_description_of_the_data_survives_the_folder(begun, tmp_path):
    label = Feature((), "int32", classes=("cat", "dog"), counts=(3, 7))
    described = run.Described(10, Features({"image": IMAGES["image"], "label": label}))
    begun({}, described, overwrite=True)
    told = run.read_data(run.folder(str(tmp_path)))
    assert told.records == 10
    assert dict(told.features) == dict(described.features)


def test_a_finished_run_is_trained_for_longer(call, tiny, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    more = ("--config.training.steps=10", "--config.training.log_every=1")
    code, out, err = call("train", "--config", tiny, "--workdir", tmp_path / "run", *more)
    assert code == 0, err
    assert "from now on, training.steps: 10 instead of 8" in out
    assert "resuming at step 8 of 10" in err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 9, 10]
    assert claim.steps_of(run.folder(str(tmp_path / "run"))) == [4, 8, 10]
