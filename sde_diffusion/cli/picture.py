"""Pictures of samples: a grid of images, or points in the plane."""

import io

import numpy as np
from etils import epath

from sde_diffusion.data import Feature, Features

GAP = 2  # pixels between the images of a picture
ROW = 12  # images in a row, where groups of images are drawn
LINE = 16  # pixels of the line of a prompt


def require_picture(path: epath.Path, features: Features) -> None:
    """ValueError, before anything is drawn, if such samples have no picture."""
    if not has_picture(features):
        raise ValueError(
            f"--out {path}: samples of shape {features.event.shape} have no picture, which images "
            "[H, W, 1 or 3] and points [2] have; use .npz"
        )


def has_picture(features: Features) -> bool:
    event = features.event.shape
    return event == (2,) or (len(event) == 3 and event[-1] in (1, 3))


def save(
    path: epath.Path,
    x: np.ndarray,
    event: Feature,
    columns: int | None = None,
    real: np.ndarray | None = None,
    given: np.ndarray | None = None,
    prompts: tuple[str, ...] | None = None,
) -> None:
    """Images x [N, H, W, C] as a grid, or points x [N, 2] beside real ones if given, as a PNG.

    The samples' range is that of `event`; a grid has as many rows as columns unless given. Images
    that samples were made from, `given` [G, K, h, w, C], are in the grid: the K images of each of
    the G are followed by its N / G samples. NaN in them, which is not known, is drawn in grey.
    Of several `prompts` each has rows of its own, and every prompt is written under its rows.
    """
    if x.ndim == 2:
        png = _scatter(x, real)
    else:
        several = prompts is not None and len(prompts) > 1
        if given is not None and not several:
            if len(given) > 1:
                group = given.shape[1] + len(x) // len(given)
                columns = max(1, ROW // group) * group
            x = _with_given(x, given, event)
        columns = columns or (len(x) if prompts and len(x) <= ROW else _square(len(x)))
        groups = np.split(x, len(prompts)) if prompts and several else [x]
        png = _png([_grid(group, event, columns) for group in groups], prompts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def _with_given(x: np.ndarray, given: np.ndarray, event: Feature) -> np.ndarray:
    """Each of the G groups of given images before its own samples, [N + G K, H, W, C]."""
    groups, shown = given.shape[:2]
    height, width, channels = x.shape[1:]
    images = np.where(np.isnan(given), np.mean(event.range), given)
    images = images.repeat(height // images.shape[2], axis=2)
    images = images.repeat(width // images.shape[3], axis=3)
    images = np.broadcast_to(images, (groups, shown, height, width, channels))
    rows = np.concatenate([images, x.reshape(groups, -1, height, width, channels)], axis=1)
    return rows.reshape(-1, height, width, channels)


def _square(num: int) -> int:
    return int(np.ceil(np.sqrt(num)))


def _grid(x: np.ndarray, event: Feature, columns: int) -> np.ndarray:
    """The images as one, uint8 [H', W', C]."""
    low, high = event.range
    unit = (x - low) / (high - low)
    pixels = np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    zoom = max(1, 32 // x.shape[1])  # small images at a size that a person can read
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    rows = -(-len(pixels) // columns)
    _, height, width, channels = pixels.shape
    tall, wide = height + GAP, width + GAP
    canvas = np.full((rows * tall + GAP, columns * wide + GAP, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = GAP + i // columns * tall, GAP + i % columns * wide
        canvas[top : top + height, left : left + width] = image
    return canvas


def _png(grids: list[np.ndarray], prompts: tuple[str, ...] | None) -> bytes:
    """Grids below each other, each with its prompt under it, if there are prompts."""
    from PIL import Image

    parts = []
    for grid, prompt in zip(grids, prompts or [None] * len(grids), strict=True):
        parts += [grid] if prompt is None else [grid, _line(prompt, *grid.shape[1:])]
    canvas = np.concatenate(parts)
    png = io.BytesIO()
    Image.fromarray(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas).save(png, format="PNG")
    return png.getvalue()


def _line(text: str, width: int, channels: int) -> np.ndarray:
    """A text in black on white, uint8 [LINE, width, channels], cut where it is too long."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (width, LINE), 255)
    ImageDraw.Draw(image).text((GAP + 1, 0), text, fill=0, font=ImageFont.load_default(LINE - 4))
    return np.asarray(image)[..., None].repeat(channels, axis=-1)


def _scatter(x: np.ndarray, real: np.ndarray | None) -> bytes:
    from matplotlib.figure import Figure

    shown = {"samples": x} if real is None else {"data": real, "samples": x}
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    axes = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, points) in zip(axes, shown.items(), strict=True):
        axis.scatter(points[:, 0], points[:, 1], s=2, alpha=0.5, linewidths=0)
        axis.set(title=title, aspect="equal")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
