"""Images a second that the input pipeline delivers, over those that a training step consumes.

    python experiments/benchmarks/input_pipeline.py [--json FILE]
        [--config configs/vp/ddpm/cifar10_continuous.py] [--config.training.batch_size=8]

32x32 images of noise are written in each of the formats that a run may read them from. Delivered
means drawn, gathered into a batch and placed on the device, as training does it between two steps;
the step is that of `train_step.py`, measured in the same run. Aim: at least 10.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import train_step
from PIL import Image

from sde_diffusion import data, distributed
from sde_diffusion.cli import read_overrides
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs

EVENT, CLASSES = (32, 32, 3), 10
BATCH, SECONDS = 128, 5.0


def write_cifar10(folder: Path, rng: np.random.Generator) -> dict[str, str]:
    """CIFAR-10's binary files, 50,000 images."""
    for i in range(1, 6):
        records = rng.integers(256, size=(10_000, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] %= CLASSES
        (folder / f"data_batch_{i}.bin").write_bytes(records.tobytes())
    return {"path": str(folder)}


def write_npy(folder: Path, rng: np.random.Generator) -> dict[str, str]:
    """One array of 50,000 images, which the source maps and does not read."""
    np.save(folder / "images.npy", rng.integers(256, size=(50_000, *EVENT), dtype=np.uint8))
    return {"path": str(folder / "images.npy")}


def write_folder(folder: Path, rng: np.random.Generator) -> dict[str, str]:
    """10,000 PNG files in a folder for each class."""
    for name in range(CLASSES):
        (folder / str(name)).mkdir()
        for i, image in enumerate(rng.integers(256, size=(1000, *EVENT), dtype=np.uint8)):
            Image.fromarray(image).save(folder / str(name) / f"{i:04}.png")
    return {"path": str(folder)}


FORMATS: dict[str, Callable[[Path, np.random.Generator], dict[str, str]]] = {
    "cifar10": write_cifar10,
    "npy": write_npy,
    "folder": write_folder,
}


def delivered(source: data.Source, mesh: jax.sharding.Mesh) -> float:
    """Images a second, in batches on the devices."""
    drawn, done = data.batches(source, BATCH, seed=0), 0

    def deliver() -> None:
        batch = jax.tree.map(lambda leaf: leaf[None], next(drawn))
        jax.block_until_ready(distributed.place_batches(mesh, batch))

    for _ in range(50):  # the order of the first epoch is drawn, and the file's pages are read
        deliver()
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        deliver()
        done += BATCH
    return done / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", default="configs/vp/ddpm/cifar10_continuous.py")
    parser.add_argument("--calls", type=int, default=5, help="calls of the step timed (5)")
    parser.add_argument("--json", type=Path)
    args, rest = parser.parse_known_args()
    try:
        config = configs.load(args.config, read_overrides(rest))
        noise = train_step.random_source(config, EVENT)
        step = train_step.measure(config, noise, args.calls)
    except (ValueError, OSError) as error:
        print(f"input_pipeline: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    consumed = step["images_per_second"]
    print(f"{step['device']}: the step of {args.config} consumes {consumed:,.4g} images/s")
    rows = []
    for name, write in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            fields = write(Path(folder), np.random.default_rng(0))
            start = time.perf_counter()
            source = data.load(name, **fields)
            loading = time.perf_counter() - start
            rate = delivered(source, build.mesh(config))
        row = {"source": name, "images": len(source), "loading_seconds": loading}
        rows.append(row | {"images_per_second": rate, "ratio": rate / consumed})
        print(
            f"{name:8} {len(source):6,} images loaded in {loading:.2f} s; "
            f"{rate:,.0f}/s, {rate / consumed:,.0f} times what is consumed"
        )
    if args.json:
        args.json.write_text(json.dumps({"step": step, "sources": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
