import dataclasses
import json
import signal
import threading

import numpy as np
import pytest
from tiny_run import RECIPE

from sde_diffusion.training import Run, plot_loss
from sde_diffusion.training.preemption import preemption_notice
from sde_diffusion.training.reporting import Report, forget_after, read_metrics


def metrics(loss, grad_norm, **more):
    named = {"loss": loss, "grad_norm": grad_norm, **more}
    return {name: np.array(values) for name, values in named.items()}


def write(workdir, steps, tail=""):
    lines = [json.dumps({"step": step, "loss": 1.0 / step}) for step in steps]
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)


def steps(workdir):
    return [record["step"] for record in read_metrics(workdir)]


def test_records_are_read_up_to_a_line_that_was_cut_short(tmp_path):
    write(tmp_path, [1, 2], tail='{"step": 3, "lo')
    assert steps(tmp_path) == [1, 2]


def test_a_folder_without_records_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_records_past_a_step_are_forgotten(tmp_path):
    write(tmp_path, [10, 20, 30], tail="{")
    forget_after(tmp_path, 20)
    assert steps(tmp_path) == [10, 20]


def test_a_record_has_the_rate_of_its_step_and_the_images_a_second(tmp_path):
    recipe = dataclasses.replace(RECIPE, learning_rate=lambda updates: updates / 10)
    report = Report(tmp_path, recipe, Run(4, log_every=2), 0, batch_size=32, progress=False)
    report.add(3, metrics([1.0, 3.0, 10.0], [2.0, 4.0, 0.0]))
    report.close()
    (record,) = read_metrics(tmp_path)
    assert record["step"] == 2
    assert record["loss"] == 2.0
    assert record["grad_norm"] == 3.0
    assert record["learning_rate"] == 0.1
    assert record["images_per_second"] == pytest.approx(32 * record["steps_per_second"])


def test_where_there_is_no_terminal_the_progress_is_a_line(tmp_path, capsys):
    report = Report(tmp_path, RECIPE, Run(2, log_every=1), 0, batch_size=8)
    report.add(2, metrics([0.5, 0.25], [1.0, 1.0], accuracy=[0.0, 0.75]))
    report.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 2/2  loss 0.25  accuracy 0.75  ")
    for told in ("steps/s", "images/s", "00:00 left"):
        assert told in line


def test_a_metric_is_recorded_under_its_own_name_and_one_that_is_not_finite_as_null(tmp_path):
    report = Report(tmp_path, RECIPE, Run(2, log_every=1), 0, batch_size=8, progress=False)
    report.add(2, metrics([0.5, 0.25], [1.0, 1.0], ratio=[0.5, np.inf]))
    report.close()
    assert [record["ratio"] for record in read_metrics(tmp_path)] == [0.5, None]
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()


def test_the_loss_is_drawn_beside_the_records(tmp_path):
    write(tmp_path, range(1, 50))
    picture = plot_loss(tmp_path)
    assert picture == tmp_path / "loss.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_records_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no loss recorded"):
        plot_loss(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noticed_inside_the_block_and_as_before_outside(number):
    before = signal.getsignal(number)
    with preemption_notice() as notice:
        assert not notice.is_set()
        signal.raise_signal(number)
        assert notice.is_set()
    assert signal.getsignal(number) == before


def test_a_run_outside_the_main_thread_has_no_notice_but_runs():
    seen = []

    def block():
        with preemption_notice() as notice:
            seen.append(notice.is_set())

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [False]
