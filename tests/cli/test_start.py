"""config.init_from: a run that begins with stored parameters."""

import json

import jax
import numpy as np
import pytest
from flax import serialization

from sde_diffusion.cli import run
from sde_diffusion.tree_names import named


@pytest.fixture
def begin(call, tiny, tmp_path):
    """begin(options) -> (exit code, output, error) of a step so short that nothing moves."""
    short = ("--config.optim.lr=1e-12", "--config.optim.warmup=0", "--config.training.steps=1")
    fast = ("--config.training.sample_every=2",)
    return lambda *options: call(
        *("train", "--config", tiny, "--workdir", tmp_path / "run"), *short, *fast, *options
    )


def params(workdir, **which):
    config = run.read_config(workdir, {})
    made = run.restore_params(workdir, config, run.read_data(workdir).features, **which)
    return jax.tree.map(np.asarray, named(made.params))


def test_from_a_run_all_is_taken_and_listed(begin, trained, tmp_path):
    path = tmp_path / "source"
    path.symlink_to(trained)
    options = (f"--config.init_from.path={path}", "--config.init_from.step=4")
    code, out, err = begin(*options)
    assert code == 0, err
    source = params(trained, step="4")
    assert f"{len(source)} of {len(source)} parameters are those of {path} at step 4" in out
    lists = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert sorted(lists["take"]) == sorted(source)
    assert lists["left"] == lists["missing"] == lists["unwanted"] == []
    for which in ("0", "none"):  # the average begins with them too
        for name, leaf in params(tmp_path / "run", ema=which).items():
            np.testing.assert_allclose(leaf, source[name], atol=1e-9)
    path.unlink()  # it is not needed when the run resumes
    code, _, err = begin(*options)
    assert code == 0, err
    assert "already at step 1 of 1" in err


def test_from_a_file_a_part_is_taken(begin, trained, tmp_path):
    source = params(trained)
    first, *others = sorted(name for name in source if source[name].ndim == 2)
    tree = {"other": np.zeros(3), **{name: source[name] for name in [first, *others]}}
    path = tmp_path / "part.msgpack"
    path.write_bytes(serialization.to_bytes(tree))
    code, out, err = begin(
        f"--config.init_from.path={path}", f"--config.init_from.names=*,!{first}"
    )
    assert code == 0, err
    assert f"1 start anew, as init_from.names says: {first}" in out
    lists = json.loads((tmp_path / "run" / "init_from.json").read_text())
    assert sorted(lists["left"]) == sorted([first, "other"])
    assert sorted(lists["missing"]) == sorted(name for name in source if source[name].ndim != 2)
    begun = params(tmp_path / "run")
    for name in others:
        np.testing.assert_allclose(begun[name], source[name], atol=1e-9)
    assert np.abs(begun[first] - source[first]).max() > 1e-3


def test_a_base_that_was_moved_is_known_by_its_fingerprint(begin, trained, tmp_path):
    source = params(trained)
    first, second, other = (tmp_path / f"{name}.msgpack" for name in ("first", "second", "other"))
    first.write_bytes(serialization.to_bytes(dict(source)))
    other.write_bytes(serialization.to_bytes({name: leaf + 1 for name, leaf in source.items()}))
    assert begin(f"--config.init_from.path={first}")[0] == 0
    first.rename(second)
    code, out, err = begin(f"--config.init_from.path={second}")
    assert code == 0, err
    assert f"from now on, init_from.path: {str(second)!r} instead of {str(first)!r}" in out
    assert "already at step 1 of 1" in err
    before = (tmp_path / "run" / "config.json").read_bytes()
    code, _, err = begin(f"--config.init_from.path={other}")
    (line,) = err.splitlines()
    assert code == 2
    assert "config.init_from.path: " in line
    assert f"began from other parameters than {other}" in line
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_file_of_another_kind_is_refused(begin, tmp_path):
    (tmp_path / "x.msgpack").write_bytes(b"no arrays")
    code, _, err = begin(f"--config.init_from.path={tmp_path / 'x.msgpack'}")
    assert code == 2
    (line,) = err.splitlines()
    assert "x.msgpack: not a tree of arrays in msgpack" in line
    assert not (tmp_path / "run").exists()
