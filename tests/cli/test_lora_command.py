"""config.lora: a run whose parameters are the adapters of another run's network."""

import shutil

import jax
import numpy as np
import pytest

from sde_diffusion import lora
from sde_diffusion.cli import main, run
from sde_diffusion.config import adapters
from sde_diffusion.config import schema as configs
from sde_diffusion.training import parameters
from sde_diffusion.tree_names import named

ADAPTERS = """
    from sde_diffusion.config import choice, default


    def get_config():
        config = default()
        config.data.source = choice("data.source", "digits")
        config.init_from.groups = ("network", "sampling", "data.range")
        config.lora.update(rank=2, names="*/kernel")
        config.optim.update(lr=1e-2, warmup=0, ema_rates=(0.5,))
        config.training.update(batch_size=32, steps=4, sample_every=4, checkpoint_every=2)
        return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "adapters.py"
    path.write_text("\n".join(line[4:] for line in ADAPTERS.splitlines()))
    return path


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, config_file, trained):
    """The folder of a finished run of adapters of `trained`; not to be changed."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        options = ("--workdir", str(folder), f"--config.init_from.path={trained}")
        assert main(["train", "--config", str(config_file), *options]) == 0
    return folder


def restored(workdir, overrides=None, **which):
    config = run.read_config(workdir, overrides or {})
    return named(run.restore_params(workdir, config, run.read_data(workdir).features, **which)[0])


def kinds(workdir, average):
    return parameters.find(workdir, ema=average).kinds


def test_the_network_is_the_base_with_the_adapters_merged(adapted, trained):
    base, whole = restored(trained), restored(adapted)
    config = run.read_config(adapted, {})
    assert config.network == run.read_config(trained, {}).network
    assert whole.keys() == base.keys()
    changed = {name for name in base if not np.array_equal(base[name], whole[name])}
    assert changed == {name for name in base if name.endswith("/kernel")}
    shapes = jax.eval_shape(
        adapters.init(config, jax.tree.map(np.asarray, base)), jax.random.key(0)
    )
    assert len(lora.by_name(shapes)) == len(changed)
    for name in changed:
        assert np.linalg.matrix_rank(whole[name] - base[name], tol=1e-5) <= 2


def test_half_the_weight_is_half_the_change(adapted, trained):
    base, whole = restored(trained), restored(adapted)
    half, none = (restored(adapted, {"lora.weight": weight}) for weight in ("0.5", "0"))
    for name in base:
        np.testing.assert_array_equal(none[name], base[name])
        np.testing.assert_allclose(half[name], 0.5 * (base[name] + whole[name]), atol=1e-6)


def test_checkpoints_hold_the_adapters_alone(adapted, trained):
    def size(workdir):
        folder = workdir / "checkpoints"
        newest = max(
            folder.iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else 0
        )
        return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())

    for average in (None, 0):
        assert all(name.endswith(("['down']", "['up']")) for name in kinds(adapted, average))
        assert len(kinds(adapted, average)) == 2 * sum(
            name.endswith("['kernel']") for name in kinds(trained, average)
        )
    assert size(adapted) < size(trained)


def test_sample_takes_such_a_run(call, adapted, tmp_path):
    code, out, err = call("sample", "--workdir", adapted, "--out", tmp_path / "x.npz", "--num", 2)
    assert code == 0, err
    assert "2 samples of step 4" in out


def test_a_run_of_adapters_can_be_a_base_itself(adapted):
    config = run.read_config(adapted, {"init_from.path": str(adapted)})
    features = run.read_data(adapted).features
    again = named(run.base(config, features))
    for name, leaf in restored(adapted).items():
        np.testing.assert_array_equal(again[name], leaf)


def test_another_base_than_the_trained_one_is_refused(call, adapted, tmp_path):
    code, _, err = call(
        *("sample", "--workdir", adapted, "--out", tmp_path / "x.npz"),
        "--config.init_from.ema=None",
    )
    assert code == 2
    (line,) = err.splitlines()
    assert "the frozen tree 'base' is not the one that the checkpoint was trained with" in line


def test_the_base_may_be_moved_and_not_be_another(call, config_file, adapted, trained, tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(adapted, folder)
    moved.symlink_to(trained)

    def go_on(base):
        base = f"--config.init_from.path={base}"
        return call("train", "--config", config_file, "--workdir", folder, base)

    code, out, err = go_on(moved)
    assert code == 0, err
    assert f"from now on, init_from.path: {str(moved)!r}" in out
    assert "already at step 4 of 4" in err
    before = (folder / "config.json").read_bytes()
    code, _, err = go_on(adapted)
    (line,) = err.splitlines()
    assert code == 2
    assert f"config.init_from.path {str(adapted)!r}, where {folder} began with another" in line
    assert "the frozen tree 'base' is not the one" in line
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["lora.rank=0"], "the rank of an adapter must be a whole number from 1, got 0"),
        (["lora.rank=0", "lora.alpha=4"], "must be a whole number from 1, got 0"),
        (["lora.names=*attention*"], "unknown pattern of parameters '*attention*'"),
        (["lora.rank=None"], "config.lora.names is '*/kernel', and without config.lora.rank"),
        (["lora.alpha=zwei"], "config.lora.alpha must be a number, got 'zwei'"),
        (["init_from.names=*,!*/bias"], "is no base for adapters (config.lora): "),
        (["init_from.path=", "init_from.groups=()"], "config.lora.rank needs a base"),
        (["init_from.groups=('netwrk',)"], "unknown group of config.init_from.groups 'netwrk'"),
        (
            ["init_from.path=x.safetensors"],
            "'x.safetensors' is no folder of a run or of diffusers, from whose",
        ),
    ],
)
def test_what_makes_no_adapters_is_refused(call, config_file, trained, tmp_path, options, message):
    given = [f"--config.init_from.path={trained}", *(f"--config.{option}" for option in options)]
    code, _, err = call("train", "--config", config_file, "--workdir", tmp_path / "run", *given)
    assert code == 2
    (line,) = err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_weight_without_adapters_is_refused(call, trained, tmp_path):
    code, _, err = call(
        *("sample", "--workdir", trained, "--out", tmp_path / "x.npz", "--config.lora.weight=0.5")
    )
    assert code == 2
    assert "config.lora.weight is 0.5, and without config.lora.rank there are no adapters" in err


def test_a_run_is_not_written_over_its_base(call, config_file, trained):
    before = sorted(path.name for path in trained.iterdir())
    given = (f"--config.init_from.path={trained}", "--overwrite")
    code, _, err = call("train", "--config", config_file, "--workdir", trained, *given)
    assert code == 2
    assert "is config.init_from.path as well: choose another folder" in err
    assert sorted(path.name for path in trained.iterdir()) == before


def test_alpha_is_divided_by_the_rank():
    config = configs.override(configs.default(), {"lora.rank": "4", "lora.alpha": "2"})
    base = {"w": np.zeros((3, 3), np.float32)}
    pair = {"w": {"down": np.ones((3, 4), np.float32), "up": np.ones((4, 3), np.float32)}}
    np.testing.assert_allclose(adapters.merged(config, base, pair)["w"], 0.5 * 4)
