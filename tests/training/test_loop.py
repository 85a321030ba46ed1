import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny_run import POINTS, batches, loss_fn, run, same

from sde_diffusion import training
from sde_diffusion.objectives import of_loss
from sde_diffusion.training import (
    CheckpointMismatch,
    Every,
    NonFiniteLoss,
    enable_compilation_cache,
    loop,
)
from sde_diffusion.training.loop import next_cut
from sde_diffusion.training.reporting import read_metrics
from sde_diffusion.training.step import step_on_mesh


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def losses(workdir):
    return {record["step"]: record["loss"] for record in read_metrics(workdir)}


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """Every run makes its step anew; most are the same program."""
    before = jax.config.jax_compilation_cache_dir
    enable_compilation_cache(tmp_path_factory.mktemp("cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    return run(workdir, 40).state, losses(workdir)


def test_a_run_stopped_and_resumed_is_the_run_that_was_not(tmp_path, uninterrupted):
    state, records = uninterrupted
    run(tmp_path, 17)
    assert same(run(tmp_path, 40).state, state)
    assert losses(tmp_path).keys() - {17} == records.keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps_per_call": 1},
        {"steps_per_call": 8},
        {"checkpoint_every": 7},
        {"every": [Every(9, lambda state, step: None)]},
    ],
)
def test_calls_checkpoints_and_pictures_change_no_bit_of_the_result(
    tmp_path, uninterrupted, changes
):
    assert same(run(tmp_path, 40, **changes).state, uninterrupted[0])


def test_another_seed_gives_another_result(tmp_path, uninterrupted):
    assert not same(run(tmp_path, 40, seed=4).state, uninterrupted[0])


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(tmp_path, uninterrupted, caplog):
    state, records = uninterrupted
    run(tmp_path, 30)
    (tmp_path / "checkpoints/30/meta/metadata").write_text("{")
    assert same(run(tmp_path, 40).state, state)
    assert "checkpoints/30 is damaged" in caplog.text
    assert losses(tmp_path) == records


def test_the_records_of_steps_that_are_made_again_are_replaced(tmp_path, uninterrupted):
    records = uninterrupted[1]
    run(tmp_path, 20)
    lost = {"step": 25, "loss": -1.0, "grad_norm": 0.0}
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lost) + '\n{"step": 30, "lo')
    run(tmp_path, 40)
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(5, 41, 5))
    assert losses(tmp_path) == records


def test_a_run_that_is_done_does_nothing_and_says_so(tmp_path, capsys):
    state = run(tmp_path, 10).state
    before = (tmp_path / "metrics.jsonl").read_text()
    again = run(tmp_path, 10, progress=True)
    assert same(again.state, state)
    assert not again.preempted
    assert "already at step 10 of 10: nothing to train" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == before


def data_with_nan_at(step):
    """The run's data, in which the batch of update `step` has a point that is nan."""

    class Poisoned:
        def __init__(self):
            self.inner, self.drawn = batches(), 0

        def __iter__(self):
            return self

        def __next__(self):
            self.drawn += 1
            batch = next(self.inner)
            return {"x": batch["x"] * np.nan} if self.drawn == step else batch

        def get_state(self):
            return self.inner.get_state()

        def set_state(self, position):
            self.inner.set_state(position)

    return Poisoned()


def test_a_record_that_is_not_finite_is_named(tmp_path):
    class Numbered:
        """Batches of the points in order, with their numbers; point 21 has a nan."""

        def __iter__(self):
            return self

        def __next__(self):
            self.first = getattr(self, "first", -8) + 8
            index = np.arange(self.first, self.first + 8)
            x = POINTS[index].copy()
            x[index == 21, 1] = np.nan
            return {"x": x, "index": index, "text": np.array(["point"] * 8)}

        def get_state(self):
            return self.first

    said = "step 3: the loss is nan .* in its batch, record 21 has 1 values of 'x' that are not"
    with pytest.raises(NonFiniteLoss, match=said):
        run(tmp_path, 5, data=Numbered())


def test_a_loss_that_diverges_on_finite_records_says_that_they_are(tmp_path):
    with pytest.raises(NonFiniteLoss, match="its batch has no record that is not finite"):
        run(
            tmp_path,
            5,
            objective=of_loss(lambda p, key, batch: jnp.log(loss_fn(p, key, batch) - 1e9)),
        )


def frozen_run(workdir, steps, teacher):
    def towards(params, key, batch, *, frozen, ema, step):
        return loss_fn(params, key, batch) + jnp.sum((params["w"] - frozen["teacher"]) ** 2), {}

    return run(workdir, steps, objective=towards, frozen={"teacher": teacher})


def test_a_frozen_tree_is_the_same_when_a_run_resumes(tmp_path):
    teacher = jnp.eye(2)
    whole = frozen_run(tmp_path / "whole", 20, teacher).state
    frozen_run(tmp_path / "parts", 10, teacher)
    assert same(frozen_run(tmp_path / "parts", 20, teacher).state, whole)
    assert not teacher.is_deleted()
    with pytest.raises(CheckpointMismatch, match="frozen tree 'teacher' is not the one"):
        frozen_run(tmp_path / "parts", 30, 2 * teacher)
    with pytest.raises(CheckpointMismatch, match=r"'teacher' .* absent here"):
        run(tmp_path / "parts", 30)


@pytest.mark.parametrize(("step", "steps_per_call"), [(1, 4), (20, 1), (20, 4), (27, 4)])
def test_a_loss_that_is_not_finite_names_its_step_and_is_not_saved(tmp_path, step, steps_per_call):
    with pytest.raises(NonFiniteLoss, match=f"step {step}:") as caught:
        run(tmp_path, 40, data=data_with_nan_at(step), steps_per_call=steps_per_call)
    assert caught.value.step == step
    assert checkpoints(tmp_path) == [n for n in (10, 20) if n < step]
    assert all(np.isfinite(value) for value in losses(tmp_path).values())


def test_after_a_loss_that_is_not_finite_the_run_goes_on_from_the_last_good_step(
    tmp_path, uninterrupted
):
    with pytest.raises(NonFiniteLoss):
        run(tmp_path, 40, data=data_with_nan_at(27))
    assert same(run(tmp_path, 40).state, uninterrupted[0])


def test_a_gradient_that_is_not_finite_stops_the_run_even_if_the_loss_is(tmp_path):
    def kinked(params, key, batch):
        return jnp.sqrt(jnp.sum(0.0 * params["w"])) + loss_fn(params, key, batch)

    with pytest.raises(NonFiniteLoss) as caught:
        run(tmp_path, 10, objective=of_loss(kinked))
    assert caught.value.step == 1


def test_pictures_are_made_at_their_steps_of_the_state_at_that_step(tmp_path):
    seen = []

    def picture(state, step):
        seen.append((step, int(state.step)))

    run(tmp_path, 20, every=[Every(6, picture), Every(10, picture)])
    assert seen == [(6, 6), (10, 10), (12, 12), (18, 18), (20, 20)]


def test_what_is_measured_every_so_many_steps_is_recorded(tmp_path):
    run(tmp_path, 20, every=[Every(10, lambda state, step: {"distance": step / 4})])
    found = {r["step"]: r["distance"] for r in read_metrics(tmp_path) if "distance" in r}
    assert found == {10: 2.5, 20: 5.0}


def test_data_that_end_are_named_with_the_step(tmp_path):
    class Few:
        def __init__(self):
            self.left = itertools.islice(batches(), 3)

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.left)

        def get_state(self):
            return None

    with pytest.raises(ValueError, match="data: it ended at step 3 of 10"):
        run(tmp_path, 10, data=Few())


@pytest.mark.parametrize(
    "name",
    ["steps", "steps_per_call", "checkpoint_every", "log_every", "keep", "keep_every", "keep_best"],
)
def test_a_number_out_of_its_range_is_named(name):
    with pytest.raises(ValueError, match=f"{name}: 0 is not at least 1"):
        training.Run(**{"steps": 10, name: 0})


def test_the_records_hold_the_mean_of_the_losses_since_the_one_before(tmp_path):
    run(tmp_path / "each", 10, log_every=1)
    run(tmp_path / "fifth", 10, log_every=5)
    each = list(losses(tmp_path / "each").values())
    assert losses(tmp_path / "fifth") == pytest.approx(
        {5: np.mean(each[:5]), 10: np.mean(each[5:])}
    )


def test_the_checkpoint_of_the_lowest_loss_since_the_one_before_is_kept(tmp_path):
    run(tmp_path, 40, keep=1, keep_best=1, log_every=10)
    records = losses(tmp_path)
    assert checkpoints(tmp_path) == sorted({min(records, key=records.get), 40})


def test_calls_end_at_the_same_steps_wherever_a_run_begins():
    cuts = [4, 10]
    ends = [next_cut(step, cuts) for step in range(20)]
    assert sorted(set(ends)) == [4, 8, 10, 12, 16, 20]
    assert all(end > step for step, end in enumerate(ends))


def test_the_next_batch_is_drawn_while_the_devices_work(tmp_path, monkeypatch):
    made, done = [], []

    def watched(*args):
        compiled = step_on_mesh(*args)

        def step(*arguments):
            made.append(compiled.step(*arguments))
            return made[-1]

        return compiled._replace(step=step)

    class Data:
        def __init__(self):
            self.inner = batches()

        def __iter__(self):
            return self

        def __next__(self):
            done.extend(metrics["loss"].is_ready() for _, metrics in made)
            return next(self.inner)

        def get_state(self):
            return self.inner.get_state()

    def slow(params, key, batch):
        def product(_, x):
            return jnp.tanh(x @ x)

        work = jax.lax.fori_loop(0, 300, product, jax.random.normal(key, (256, 256)))
        return loss_fn(params, key, batch) + 1e-30 * jax.lax.stop_gradient(work[0, 0])

    monkeypatch.setattr(loop, "step_on_mesh", watched)
    run(tmp_path, 2, data=Data(), objective=of_loss(slow), steps_per_call=1)
    assert done == [False]


def test_the_loop_traces_the_step_once(tmp_path):
    traces = []

    def counting(params, key, batch):
        traces.append(1)
        return loss_fn(params, key, batch)

    run(tmp_path / "short", 2, objective=of_loss(counting))
    traced = len(traces)
    run(tmp_path / "long", 40, objective=of_loss(counting))
    assert len(traces) == 2 * traced
