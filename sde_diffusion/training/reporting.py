"""A run's reports: metrics.jsonl, TensorBoard events, and a progress bar."""

import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from etils import epath
from tqdm import tqdm

from sde_diffusion.training.disk import disk_errors, in_bucket, write_whole
from sde_diffusion.training.recipe import Recipe, Run

FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0
UNSHOWN = ("grad_norm", "learning_rate")  # in the records, not in the progress


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, in order, without a last line that is incomplete."""
    path = epath.Path(workdir) / FILE
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def forget_after(workdir: str | os.PathLike[str], step: int) -> None:
    """Deletes the records after `step`, so that a resumed run's file looks like one run."""
    path = epath.Path(workdir) / FILE
    kept = [record for record in read_metrics(workdir) if record["step"] <= step]
    with disk_errors(path):
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


class _Object(io.StringIO):
    """A file in a bucket. Objects cannot be appended to, so `flush` writes the whole file again."""

    def __init__(self, path: epath.Path):
        super().__init__()
        self.write(path.read_text())
        self.path = path

    def flush(self) -> None:
        self.path.write_text(self.getvalue())

    def close(self) -> None:
        if not self.closed:
            self.flush()
        super().close()


def _appended(path: epath.Path) -> TextIO:
    return _Object(path) if in_bucket(path) else open(path, "a", buffering=1)


class Report:
    """Averages what the steps report, and writes a record every `run.log_every` steps.

    A record has the step, the mean of each metric since the record before (or since the run was
    resumed), the learning rate of the step, steps and images a second, and the Unix time. A value
    that is not finite is null. In a folder a record is there at once; in a bucket after `flush` or
    `close`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        recipe: Recipe,
        run: Run,
        step: int,
        *,
        batch_size: int,
        progress: bool = True,
    ):
        # Imported by those who train only: it brings torch along wherever that is installed.
        from tensorboardX import SummaryWriter

        forget_after(workdir, step)
        self.path = epath.Path(workdir) / FILE
        self.file = _appended(self.path)
        # The queue holds more than a record, so that a full disk, which ends the writer's thread,
        # is told by the file above and not by a wait for that thread.
        events = str(epath.Path(workdir) / "tensorboard")
        self.tensorboard = SummaryWriter(events, purge_step=step + 1, max_queue=1000)
        live = progress and sys.stderr.isatty()
        self.bar = tqdm(total=run.steps, initial=step, unit=" steps", disable=not live)
        self.lines = progress and not live
        self.run, self.batch_size = run, batch_size
        self.learning_rate = recipe.learning_rate
        self.window: list[dict[str, float]] = []
        self.since = self.last_line = time.monotonic()

    def add(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics [K] of the steps that end with `step`."""
        steps = len(metrics["loss"])
        names = sorted(metrics, key=lambda name: (name != "loss", name != "grad_norm"))
        for i, this in enumerate(range(step - steps + 1, step + 1)):
            self.window.append({name: float(metrics[name][i]) for name in names})
            if this % self.run.log_every == 0 or this == self.run.steps:
                self._record(this)
        self.bar.update(steps)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a record of its own for `step`."""
        finite = {
            name: float(value) if math.isfinite(value) else None for name, value in values.items()
        }
        record = {"step": step, **finite, "time": time.time()}
        with disk_errors(self.path):
            self.file.write(json.dumps(record, allow_nan=False) + "\n")
        for name, value in values.items():
            self.tensorboard.add_scalar(name, float(value), step)

    def flush(self) -> None:
        """Whoever reads the records now finds all that there are."""
        with disk_errors(self.path):
            self.file.flush()

    def close(self) -> None:
        self.bar.close()
        self.tensorboard.close()
        with disk_errors(self.path):
            self.file.close()

    def _record(self, step: int) -> None:
        now = time.monotonic()
        speed = len(self.window) / max(now - self.since, 1e-9)
        images = speed * self.batch_size
        values = {
            name: float(np.mean([metrics[name] for metrics in self.window]))
            for name in self.window[0]
        }
        if self.learning_rate is not None:
            # The step's update was made at the rate of the updates before it.
            values["learning_rate"] = float(self.learning_rate(step - 1))
        self.write(step, values | {"steps_per_second": speed, "images_per_second": images})
        self.window.clear()
        self.since = now
        shown = {name: f"{value:.4g}" for name, value in values.items() if name not in UNSHOWN}
        self._show(step, shown, speed, images)

    def _show(self, step: int, metrics: Mapping[str, str], speed: float, images: float) -> None:
        self.bar.set_postfix({**metrics, "images/s": f"{images:.4g}"})
        now, total = time.monotonic(), self.run.steps
        due = now - self.last_line > SECONDS_BETWEEN_LINES or step == total
        if self.lines and due:
            self.last_line = now
            left = tqdm.format_interval((total - step) / speed)
            told = "  ".join(f"{name} {value}" for name, value in metrics.items())
            line = f"step {step}/{total}  {told}  {speed:.4g} steps/s"
            print(f"{line}  {images:.4g} images/s  {left} left", file=sys.stderr, flush=True)
