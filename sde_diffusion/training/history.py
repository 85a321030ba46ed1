"""The picture of a run's loss."""

import io
import os

from etils import epath

from sde_diffusion.training.reporting import read_metrics


def plot_loss(
    workdir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> epath.Path:
    """Plots the loss in `workdir`'s metrics.jsonl; returns the path, by default workdir/loss.png.

    Raises ValueError if no loss is recorded.
    """
    from matplotlib.figure import Figure  # slow to import, and not needed in training

    records = [record for record in read_metrics(workdir) if record.get("loss") is not None]
    if not records:
        raise ValueError(f"{workdir}: no loss recorded in metrics.jsonl")
    picture = epath.Path(workdir) / "loss.png" if out is None else epath.Path(out)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    losses = [record["loss"] for record in records]
    axes.plot([record["step"] for record in records], losses, linewidth=1)
    if min(losses) > 0:
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    picture.write_bytes(png.getvalue())
    return picture
