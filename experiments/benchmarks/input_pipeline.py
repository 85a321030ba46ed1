"""Images a second that the input pipeline delivers, over those that a training step consumes.

    python experiments/benchmarks/input_pipeline.py [--json FILE] [--formats png,jpeg]
        [--config configs/vp/ddpm/cifar10_continuous.py] [--config.training.batch_size=8]
    python experiments/benchmarks/input_pipeline.py --list 1000000
    python experiments/benchmarks/input_pipeline.py --latents 1671

Images are written in each of the formats that a run may read them from. Delivered means drawn,
gathered into a batch and placed on the device, as training does it between two steps; the step is
that of `train_step.py` on images of the same size, measured in the same run. Aim: at least 10.

Where images are decoded as they are read, two more things are measured: the growth of this
process's memory over an epoch, and a step that is fed by the pipeline: how long it waits for its
batch, and how much longer it takes because decoding shares the processor with it.

With `--list N` a folder of N small PNG files is written instead, and what is timed is how long it
takes to open it, without and with its index, and until its first batch is there.

With `--latents R` latents of DiT are read from ArrayRecord files, as `encode` writes them, and R is
the rate at which a step that was planned consumes them.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import train_step
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from sde_diffusion import data, distributed
from sde_diffusion.cli import read_overrides
from sde_diffusion.config import build
from sde_diffusion.config import schema as configs

CLASSES, BATCH, SECONDS = 10, 128, 5.0
SMALL, LARGE, LATENT = (32, 32, 3), (64, 64, 3), (32, 32, 4)
STEPS = 8  # that are fed by the pipeline
WINDOW = 8  # batches that are timed together: on a busy machine the fastest of them tell most


class Format(NamedTuple):
    """How a data set of images of one shape is written, and the source that reads it."""

    shape: tuple[int, int, int]
    source: str
    write: Callable[[Path, np.random.Generator], dict[str, Any]]


def write_cifar10(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """CIFAR-10's binary files, 50,000 images."""
    for i in range(1, 6):
        records = rng.integers(256, size=(10_000, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] %= CLASSES
        (folder / f"data_batch_{i}.bin").write_bytes(records.tobytes())
    return {"path": str(folder)}


def write_npy(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """One array of 50,000 images, which the source maps and does not read."""
    np.save(folder / "images.npy", rng.integers(256, size=(50_000, *SMALL), dtype=np.uint8))
    return {"path": str(folder / "images.npy")}


def write_noise(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """10,000 PNG files of noise in a folder for each class, kept in memory once decoded."""
    for name in range(CLASSES):
        (folder / str(name)).mkdir()
        for i, image in enumerate(rng.integers(256, size=(1000, *SMALL), dtype=np.uint8)):
            Image.fromarray(image).save(folder / str(name) / f"{i:04}.png")
    return {"path": str(folder)}


def smooth(rng: np.random.Generator) -> Image.Image:
    """A 64x64 image that compresses about as well as a photograph."""
    coarse = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
    return coarse.resize(LARGE[:2], Image.Resampling.BICUBIC)


def write_files(suffix: str) -> Callable[[Path, np.random.Generator], dict[str, Any]]:
    """10,000 files of 64x64, never kept in memory."""

    def write(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
        for i in range(10_000):
            (folder / str(i % CLASSES)).mkdir(exist_ok=True)
            smooth(rng).save(folder / str(i % CLASSES) / f"{i:05}.{suffix}")
        return {"path": str(folder), "memory": 0.0}

    return write


def write_tar(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """The 10,000 JPEG files in tar files of 1,000."""
    import io
    import tarfile

    for k in range(10):
        with tarfile.open(folder / f"part-{k}.tar", "w") as archive:
            for i in range(1000):
                for suffix, content in (("jpg", _jpeg(rng)), ("cls", str(i % CLASSES).encode())):
                    member = tarfile.TarInfo(f"{i:04}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return {"path": str(folder), "memory": 0.0}


def write_array_record(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """10,000 images as PNG in one ArrayRecord file."""
    images = np.stack([np.asarray(smooth(rng)) for _ in range(10_000)])
    label = np.arange(len(images)) % CLASSES
    source = data.from_arrays("smooth", {"image": images, "label": label})
    data.write_array_record(source, str(folder))
    return {"path": str(folder), "memory": 0.0}


def _jpeg(rng: np.random.Generator) -> bytes:
    import io

    file = io.BytesIO()
    smooth(rng).save(file, format="JPEG")
    return file.getvalue()


FORMATS = {
    "cifar10": Format(SMALL, "cifar10", write_cifar10),
    "npy": Format(SMALL, "npy", write_npy),
    "folder": Format(SMALL, "folder", write_noise),
    "png": Format(LARGE, "folder", write_files("png")),
    "jpeg": Format(LARGE, "folder", write_files("jpg")),
    "tar": Format(LARGE, "webdataset", write_tar),
    "array_record": Format(LARGE, "array_record", write_array_record),
}


def memory() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def delivered(source: data.Source, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """Images a second in batches on the devices, processor time, and the growth of memory."""
    drawn = data.batches(source, BATCH, seed=0)

    def deliver() -> None:
        batch = jax.tree.map(lambda leaf: leaf[None], next(drawn))
        jax.block_until_ready(distributed.place_batches(mesh, batch))

    start = time.perf_counter()
    deliver()
    first = time.perf_counter() - start
    for _ in range(max(50, len(source) // BATCH)):  # what is kept in memory is so after an epoch
        deliver()
    before, start, cpu, done, windows = memory(), time.perf_counter(), time.process_time(), 0, []
    while time.perf_counter() - start < SECONDS or done < len(source):
        begin = time.perf_counter()
        for _ in range(WINDOW):
            deliver()
        windows.append(time.perf_counter() - begin)
        done += WINDOW * BATCH
    return {
        "first_batch_seconds": first,
        "images_per_second": done / sum(windows),
        "images_per_second_most": WINDOW * BATCH / min(windows),
        "processor_seconds_per_image": (time.process_time() - cpu) / done,
        "memory_growth": memory() - before,
        "epochs": done / len(source),
    }


def fed(config: ConfigDict, source: data.Source) -> dict[str, float]:
    """Seconds that a step waits for its batch, and takes, when the pipeline reads ahead."""
    step, mesh = train_step.prepare(config, source), build.mesh(config)
    drawn = data.batches(source, config.training.batch_size, seed=0)
    waits, steps = [], []
    for _ in range(train_step.WARM_UP + STEPS):
        start = time.perf_counter()
        batch = jax.tree.map(lambda leaf: leaf[None], next(drawn))
        jax.block_until_ready(distributed.place_batches(mesh, batch))
        waits.append(time.perf_counter() - start)
        start = time.perf_counter()
        step.call()
        steps.append((time.perf_counter() - start) / step.steps)
    return {
        "wait_seconds": statistics.median(waits[train_step.WARM_UP :]),
        "wait_seconds_least": min(waits[train_step.WARM_UP :]),
        "fed_step_seconds": statistics.median(steps[train_step.WARM_UP :]),
        "fed_step_seconds_least": min(steps[train_step.WARM_UP :]),
    }


def measure(name: str, config: ConfigDict, step: dict[str, Any]) -> dict[str, Any]:
    """All that is told of one format."""
    format = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        fields = format.write(Path(folder), np.random.default_rng(0))
        start = time.perf_counter()
        source = data.load(format.source, **fields)
        row = {"format": name, "images": len(source), "shape": format.shape}
        row["opening_seconds"] = time.perf_counter() - start
        row |= delivered(source, build.mesh(config))
        row["ratio"] = row["images_per_second"] / step["images_per_second"]
        if fields.get("memory") == 0.0:
            row |= fed(config, source)
    return row


def told(row: dict[str, Any], step: dict[str, Any]) -> str:
    """A row as a line of text."""
    line = (
        f"{row['format']:12} {row['images']:6,} of {row['shape'][0]}x{row['shape'][1]}: opened in "
        f"{row['opening_seconds']:.3f} s, first batch in {row['first_batch_seconds']:.3f} s; "
        f"{row['images_per_second']:,.0f}/s (at most {row['images_per_second_most']:,.0f}), "
        f"{row['ratio']:,.0f} times what is consumed; "
        f"{1e6 * row['processor_seconds_per_image']:.0f} us of processor time an image; memory "
        f"grew by {row['memory_growth'] / 1e6:.1f} MB in {row['epochs']:.1f} epochs"
    )
    if "wait_seconds" in row:
        line += (
            f"; a step of {step['step_seconds']:.3f} s (least {step['step_seconds_least']:.3f}) "
            f"waits {1e3 * row['wait_seconds']:.2f} ms (least "
            f"{1e3 * row['wait_seconds_least']:.2f}) for its batch and takes "
            f"{row['fed_step_seconds']:.3f} s (least {row['fed_step_seconds_least']:.3f})"
        )
    return line


def listing(num: int) -> dict[str, Any]:
    """How long a folder of `num` PNG files takes to open, and until its first batch."""
    row: dict[str, Any] = {"files": num}
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CACHE_HOME"] = os.path.join(root, "cache")
        image = Image.fromarray(np.zeros(LARGE, np.uint8))
        image.save(os.path.join(root, "one.png"))
        content = Path(root, "one.png").read_bytes()
        for i in tqdm(range(num), desc="writing", unit="file"):
            path = Path(root, "data", str(i % CLASSES), f"{i:09}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for when in ("without_index", "with_index"):
            start, cpu = time.perf_counter(), time.process_time()
            source = data.load("folder", path=os.path.join(root, "data"), memory=0.0)
            row[f"opening_seconds_{when}"] = time.perf_counter() - start
            row[f"opening_processor_seconds_{when}"] = time.process_time() - cpu
            next(data.batches(source, BATCH, seed=0))
            row[f"until_first_batch_seconds_{when}"] = time.perf_counter() - start
    return row


def latents(rate: float) -> dict[str, Any]:
    """How fast 10,000 latents 32x32x4 of ArrayRecord files are delivered: mean, deviation, label.

    They are of float16, read from the file anew each time.
    """
    rng = np.random.default_rng(0)
    arrays = {
        "mean": rng.standard_normal((10_000, *LATENT), dtype=np.float32).astype(np.float16),
        "deviation": rng.random((10_000, *LATENT), dtype=np.float32).astype(np.float16),
        "label": np.arange(10_000, dtype=np.int32) % 1000,
    }
    features = data.Features(
        {
            "mean": data.Feature(LATENT, "float16", -1.0, 1.0),
            "deviation": data.Feature(LATENT, "float16"),
            "label": data.Feature((), "int32", classes=tuple(map(str, range(1000)))),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        data.write_array_record(data.ArraySource("latents", arrays, features), folder)
        row = delivered(data.load("latents", path=folder, memory=0.0), distributed.make_mesh())
    return row | {"consumed": rate, "ratio": row["images_per_second"] / rate}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", default="configs/vp/ddpm/cifar10_continuous.py")
    parser.add_argument("--calls", type=int, default=5, help="calls of the step timed (5)")
    parser.add_argument("--formats", default=",".join(FORMATS), help="those measured (all)")
    parser.add_argument("--list", type=int, help="time the opening of a folder of so many files")
    parser.add_argument("--latents", type=float, help="time latents, consumed at this rate")
    parser.add_argument("--json", type=Path)
    args, rest = parser.parse_known_args()
    found: dict[str, Any] = {}
    if args.latents is not None:
        found["latents"] = latents(args.latents)
        for name, value in found["latents"].items():
            print(f"{name:42} {value:,.4g}")
    elif args.list is not None:
        found["listing"] = listing(args.list)
        for name, value in found["listing"].items():
            print(f"{name:42} {value:,.4g}")
    else:
        names = args.formats.split(",")
        steps, found["rows"] = {}, []
        try:
            config = configs.load(args.config, read_overrides(rest))
            for shape in {FORMATS[name].shape for name in names}:
                noise = train_step.random_source(config, shape)
                steps[shape] = train_step.measure(config, noise, args.calls)
                rate = steps[shape]["images_per_second"]
                print(f"{steps[shape]['device']}: the step on {shape} consumes {rate:,.4g}/s")
        except (ValueError, OSError, KeyError) as error:
            print(f"input_pipeline: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        found["steps"] = list(steps.values())
        for name in names:
            step = steps[FORMATS[name].shape]
            found["rows"].append(measure(name, config, step))
            print(told(found["rows"][-1], step), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
