import contextlib
import dataclasses
import errno
import functools
import os
import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_run import same

from sde_diffusion.objectives import of_loss
from sde_diffusion.training import (
    CheckpointMismatch,
    DamagedCheckpoint,
    Recipe,
    abstract_state,
    checkpoint,
    init_state,
    restore_params,
)


def init_params(key):
    # Noise does not compress, so that the data lie in a file of their own.
    return {"w": jax.random.normal(key, (64, 64)), "b": jnp.zeros(3)}


RECIPE = Recipe(init_params, of_loss(lambda *_: jnp.zeros(1)), optax.adam(1e-3), (0.9,))


@functools.cache
def state_at(step):
    state = init_state(RECIPE, jax.random.key(step))
    return state._replace(step=jnp.int32(step))


ABSTRACT = abstract_state(RECIPE)


def restore_latest(workdir, abstract):
    with checkpoint.read_checkpoints(workdir) as checkpoints:
        return checkpoint.restore(checkpoints, abstract)


def write(workdir, *steps, **policy):
    with checkpoint.open_checkpoints(workdir, **policy) as checkpoints:
        for step in steps:
            checkpoint.save(checkpoints, step, state_at(step), {"next_index": 8 * step})
    return workdir / "checkpoints"


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("written")
    write(workdir, 1, 2)
    return workdir


@pytest.fixture
def workdir(one_and_two, tmp_path):
    """A copy of a run's folder with the checkpoints 1 and 2."""
    shutil.copytree(one_and_two / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def largest_file(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_what_is_restored_is_what_was_saved(workdir):
    state, step, position = restore_latest(workdir, ABSTRACT)
    assert same(state, state_at(2))
    assert (step, position) == (2, {"next_index": 16})


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        state = jax.tree.map(jnp.copy, state_at(1))
        checkpoint.save(checkpoints, 1, state, None)
        jax.block_until_ready(overwrite(state))
    assert same(restore_latest(tmp_path, ABSTRACT).state, state_at(1))


def test_a_state_is_restored_onto_the_shardings_asked_for(workdir):
    mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    wanted = abstract_state(
        RECIPE,
        shardings=lambda abstract: jax.tree.map(lambda _: NamedSharding(mesh, P()), abstract),
    )
    state = restore_latest(workdir, wanted).state
    assert same(state, state_at(2))
    assert state.params["w"].sharding == NamedSharding(mesh, P())


def test_the_last_few_are_kept_and_every_nth(tmp_path):
    folder = write(tmp_path, 1, 2, 3, 4, 5, 6, 7, keep=2, keep_every=3)
    assert sorted(int(path.name) for path in folder.iterdir()) == [3, 6, 7]


def test_the_ones_of_the_lowest_loss_are_kept(tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep=1, keep_best=2) as checkpoints:
        for step, loss in enumerate([0.5, 0.1, 0.4, 0.2, 0.3]):
            checkpoint.save(checkpoints, step, state_at(step), None, loss)
    folder = tmp_path / "checkpoints"
    assert sorted(int(path.name) for path in folder.iterdir()) == [1, 3, 4]
    # a run that goes on still knows them
    with checkpoint.open_checkpoints(tmp_path, keep=1, keep_best=2) as checkpoints:
        checkpoint.save(checkpoints, 5, state_at(5), None, 0.15)
    assert sorted(int(path.name) for path in folder.iterdir()) == [1, 5]
    assert restore_latest(tmp_path, ABSTRACT).step == 5


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no checkpoint"):
        restore_latest(tmp_path, ABSTRACT)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_model_names_the_first_leaf_that_differs(workdir):
    def wider(key):
        return {"w": jnp.zeros((64, 32)), "b": jnp.zeros(3)}

    other = abstract_state(dataclasses.replace(RECIPE, init_params=wider))
    differs = r"params\['w'\] is float32\[64, 64\] there and float32\[64, 32\] here"
    with pytest.raises(CheckpointMismatch, match=differs):
        restore_latest(workdir, other)
    fewer = abstract_state(dataclasses.replace(RECIPE, ema_rates=()))
    with pytest.raises(CheckpointMismatch, match=r"ema\[0\]\['b'\] is float32\[3\] there and abs"):
        restore_latest(workdir, fewer)


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def change_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, empty, change_a_bit, os.remove])
@pytest.mark.parametrize("victim", ["data", "state/manifest.ocdbt", "meta/metadata"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(
    workdir, caplog, capfd, damage, victim
):
    newest = workdir / "checkpoints/2"
    damage(largest_file(newest / "state") if victim == "data" else newest / victim)
    restored = restore_latest(workdir, ABSTRACT)
    assert restored.step == 1
    assert same(restored.state, state_at(1))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{newest} is damaged")
    assert "\n" not in record.getMessage()
    assert "Traceback" not in capfd.readouterr().err


def test_when_every_checkpoint_is_damaged_none_is_believed(workdir):
    folder = workdir / "checkpoints"
    for step in ("1", "2"):
        cut_short(folder / step / "meta/metadata")
    with pytest.raises(DamagedCheckpoint, match=f"{folder}/1 is damaged"):
        restore_latest(workdir, ABSTRACT)


def test_damaged_checkpoints_make_room_but_are_not_lost(workdir):
    with checkpoint.open_checkpoints(workdir) as checkpoints:
        checkpoint.set_aside_newer(checkpoints, 1)
        checkpoint.save(checkpoints, 2, state_at(2), None)
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert sorted(names) == ["1", "2", "damaged-2"]


def test_one_that_was_being_written_when_the_run_was_killed_is_not_seen(workdir):
    folder = workdir / "checkpoints"
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
    assert restore_latest(workdir, ABSTRACT).step == 1
    write(workdir, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_disk_too_full_is_told_before_anything_is_written(workdir, monkeypatch):
    folder = workdir / "checkpoints"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 100, 100))
    with pytest.raises(OSError, match=rf"the disk is full \(.* 100 free\): '{folder}'") as caught:
        write(workdir, 3)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert same(restore_latest(workdir, ABSTRACT).state, state_at(2))


def test_a_write_that_meets_a_full_disk_leaves_the_older_checkpoints(workdir, monkeypatch):
    folder = workdir / "checkpoints"

    async def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    serialization = "orbax.checkpoint._src.serialization.serialization.async_serialize_from_host"
    monkeypatch.setattr(serialization, full)
    with pytest.raises(OSError, match=f"the disk is full: '{folder}'") as caught:
        write(workdir, 3)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert same(restore_latest(workdir, ABSTRACT).state, state_at(2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_the_checksum_sees_a_change_of_one_element(dtype):
    leaf = jnp.arange(12).reshape(3, 4).astype(dtype)
    other = leaf.at[2, 1].set(jnp.zeros((), dtype))
    assert checkpoint.checksums([leaf, leaf])[0] == checkpoint.checksums([leaf, leaf])[1]
    assert checkpoint.checksums([leaf])[0] != checkpoint.checksums([other])[0]


def test_the_checksum_is_the_sum_of_the_bits():
    leaf = jnp.array([[1.5, -2.0], [3e-40, jnp.nan]], jnp.float32)
    expected = np.asarray(leaf).view(np.uint32).sum(dtype=np.uint32)
    assert checkpoint.checksums({"w": leaf})[0] == expected


BYTES_READ = "/tensorstore/kvstore/file/bytes_read"


def bytes_read():
    (metric,) = tensorstore.experimental_collect_matching_metrics(BYTES_READ)
    return metric["values"][0]["value"]


def large_params(key):
    return {"w": jax.random.normal(key, (512, 256)), "b": jnp.zeros(3)}


LARGE = dataclasses.replace(RECIPE, init_params=large_params, ema_rates=(0.5, 0.9))


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run's folder with the checkpoints of three steps and two averages; and the states."""
    workdir, states = tmp_path_factory.mktemp("averaged"), {}
    with checkpoint.open_checkpoints(workdir) as checkpoints:
        for step, loss in ((3, 0.5), (5, 0.1), (9, 0.2)):
            state = init_state(LARGE, jax.random.key(step))
            ema = [jax.tree.map(lambda leaf, k=k: leaf + k, state.params) for k in (1, 2)]
            states[step] = state._replace(step=jnp.int32(step), ema=tuple(ema))
            checkpoint.save(checkpoints, step, states[step], None, loss)
    return workdir, states


class TestParametersAlone:
    """They are read without the optimizer, for which the caller needs none."""

    ABSTRACT = abstract_state(LARGE).params

    @pytest.mark.parametrize("ema", [None, 0, 1])
    def test_are_those_saved_or_an_average_of_them(self, averaged, ema):
        workdir, states = averaged
        params, step = restore_params(workdir, self.ABSTRACT, ema=ema)
        wanted = states[9].params if ema is None else states[9].ema[ema]
        assert step == 9
        assert same(params, wanted)

    @pytest.mark.parametrize(("asked", "step"), [(3, 3), (9, 9), ("best", 5), (None, 9)])
    def test_of_an_earlier_step_or_the_best(self, averaged, asked, step):
        workdir, states = averaged
        made = restore_params(workdir, self.ABSTRACT, step=asked)
        assert made.step == step
        assert same(made.params, states[step].ema[0])

    def test_no_other_part_of_the_state_is_read(self, averaged):
        workdir, states = averaged
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(states[9].params))
        before = bytes_read()
        restore_params(workdir, self.ABSTRACT, ema=1)
        # Which are compressed. The state is five times as large: with two moments, two averages.
        assert 0.8 * size < bytes_read() - before < 1.1 * size

    def test_a_step_that_is_not_there_lists_those_that_are(self, averaged):
        with pytest.raises(ValueError, match=r"no checkpoint of step 4, only of 3, 5, 9"):
            restore_params(averaged[0], self.ABSTRACT, step=4)

    def test_an_average_that_is_not_there(self, averaged):
        with pytest.raises(ValueError, match=r"has 2 averages .* no \.ema\[2\]"):
            restore_params(averaged[0], self.ABSTRACT, ema=2)

    def test_of_another_network_name_the_first_leaf_that_differs(self, averaged):
        differs = r"state\.ema\[0\]\['w'\] is float32\[512, 256\] there and float32\[64, 64\] here"
        with pytest.raises(CheckpointMismatch, match=differs):
            restore_params(averaged[0], ABSTRACT.params)

    def test_without_a_loss_none_is_the_best(self, one_and_two):
        with pytest.raises(ValueError, match="none is the best"):
            restore_params(one_and_two, ABSTRACT.params, step="best")

    def test_a_damaged_one_is_passed_over_unless_it_was_asked_for(self, workdir, caplog):
        change_a_bit(largest_file(workdir / "checkpoints/2/state"))
        damaged = []
        for ema in (None, 0):
            with contextlib.suppress(DamagedCheckpoint):
                restore_params(workdir, ABSTRACT.params, ema=ema, step=2)
                continue
            damaged.append(ema)
            assert restore_params(workdir, ABSTRACT.params, ema=ema).step == 1
        assert damaged
