"""What to say when a loss is not finite: at which step, and whether a record of its batch is."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient at `step` is not a finite number; that step's state is not saved."""

    def __init__(self, step: int, loss: float, grad_norm: float, batch: Any):
        found = bad_records(batch)
        where = "on this host " if jax.process_count() > 1 else ""
        reason = f"; its batch {where}has no record that is not finite"
        if found:
            reason = f"; in its batch, {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}"
        super().__init__(
            f"step {step}: the loss is {loss} and its gradient's norm {grad_norm}{reason}"
        )
        self.step = step


def check_finite(
    metrics: Mapping[str, np.ndarray], end: int, batches: Sequence[Any]
) -> tuple[int, NonFiniteLoss | None]:
    """(how many of the first steps are good, the error of the next one or None).

    `metrics` holds "loss" and "grad_norm" [K] of the steps that end with `end`, and `batches` their
    batches on the host.
    """
    loss, grad_norm = metrics["loss"], metrics["grad_norm"]
    # The square of a gradient overflows before its second moment in Adam does, so a finite norm
    # also means that the optimizer's state stays finite.
    bad = ~(np.isfinite(loss) & np.isfinite(grad_norm))
    if not bad.any():
        return len(loss), None
    good = int(np.argmax(bad))
    step = end - len(loss) + good + 1
    return good, NonFiniteLoss(step, float(loss[good]), float(grad_norm[good]), batches[good])


def bad_records(batch: Any) -> list[str]:
    """What is not finite in a batch: the record's number, or its place in the batch, and array."""
    index = batch.get("index") if isinstance(batch, dict) else None
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        values = np.asarray(leaf)
        if values.dtype.kind != "f" or values.ndim == 0:
            continue
        bad = ~np.isfinite(values).reshape(len(values), -1)
        for row in np.flatnonzero(bad.any(axis=1)):
            name = f"sample {row}" if index is None else f"record {index[row]}"
            field = jax.tree_util.keystr(path, simple=True, separator=".")
            found.append(f"{name} has {bad[row].sum()} values of {field!r} that are not finite")
    return found
