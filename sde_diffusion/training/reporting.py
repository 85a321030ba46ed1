"""What a run tells: metrics.jsonl, TensorBoard events, and a progress bar."""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
from etils import epath
from tqdm import tqdm

from sde_diffusion.training.disk import disk_errors, in_bucket, write_whole

FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The records of metrics.jsonl, in order; a last line that a kill cut short is left out."""
    path = epath.Path(workdir) / FILE
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def forget_after(workdir: str | os.PathLike[str], step: int) -> None:
    """Drops the records past `step`, so that a resumed run's file reads as one run."""
    path = epath.Path(workdir) / FILE
    kept = [record for record in read_metrics(workdir) if record["step"] <= step]
    with disk_errors(path):
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


class _Object(io.StringIO):
    """A file of a bucket, where none can be appended to: `flush` writes it anew, as a whole."""

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
    """Averages what the steps report, and every `log_every` steps writes it down.

    A record has the step, the mean loss and gradient norm since the record before (or since the
    run was resumed), the learning rate of the step, steps and images a second, and the Unix time.
    In a folder it is there at once; in a bucket after `flush` or `close`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        step: int,
        total_steps: int,
        batch_size: int,
        log_every: int,
        learning_rate: Callable[[int], Any] | None = None,
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
        self.bar = tqdm(total=total_steps, initial=step, unit=" steps", disable=not live)
        self.lines = progress and not live
        self.total_steps, self.batch_size, self.log_every = total_steps, batch_size, log_every
        self.learning_rate = learning_rate
        self.window: list[tuple[float, float]] = []
        self.since = self.last_line = time.monotonic()

    def add(self, step: int, loss: np.ndarray, grad_norm: np.ndarray) -> None:
        """Takes the losses and gradient norms of the steps that end with `step`, both [K]."""
        for this, values in enumerate(zip(loss, grad_norm, strict=True), step - len(loss) + 1):
            self.window.append(values)
            if this % self.log_every == 0 or this == self.total_steps:
                self._record(this)
        self.bar.update(len(loss))

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
        losses, grad_norms = np.array(self.window, np.float64).T
        loss = float(losses.mean())
        values = {"loss": loss, "grad_norm": float(grad_norms.mean())}
        if self.learning_rate is not None:
            # The step's update was made at the rate of the updates before it.
            values["learning_rate"] = float(self.learning_rate(step - 1))
        values |= {"steps_per_second": speed, "images_per_second": images}
        with disk_errors(self.path):
            self.file.write(json.dumps({"step": step, **values, "time": time.time()}) + "\n")
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step)
        self.window.clear()
        self.since = now

        self.bar.set_postfix({"loss": f"{loss:.4g}", "images/s": f"{images:.4g}"})
        due = now - self.last_line > SECONDS_BETWEEN_LINES or step == self.total_steps
        if self.lines and due:
            self.last_line = now
            left = tqdm.format_interval((self.total_steps - step) / speed)
            line = f"step {step}/{self.total_steps}  loss {loss:.4g}  {speed:.4g} steps/s"
            print(f"{line}  {images:.4g} images/s  {left} left", file=sys.stderr, flush=True)
