"""What a text-to-image run draws, judged: retrieval, Frechet distance, and nearest drawings.

    python experiments/emoji/measure.py --workdir runs/emoji

It prints a table, and writes it to measured.json in the run's folder.
"""

import argparse
import io
import json
import os

import numpy as np
from etils import epath
from judge import Judge, is_found, stored_judge
from ml_collections import ConfigDict

from sde_diffusion import data, metrics
from sde_diffusion.cli import draw, run
from sde_diffusion.config import conditions

AMONG = 100
PARTS = ("train", "combinations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--num", type=int, default=300, help="captions of each part, at most")
    parser.add_argument("--judge-steps", type=int, default=700)
    parser.add_argument("--guidance", default=None, help="in place of the config's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    workdir = epath.Path(args.workdir)
    overrides = {} if args.guidance is None else {"sampling.guidance.weight": args.guidance}
    config = run.read_config(workdir, overrides)
    features = run.read_data(workdir).features
    run.enable_cache()
    real = {part: _real(part, config) for part in PARTS}
    train = real["train"]
    judge = stored_judge(
        workdir / f"judge_{args.judge_steps}.msgpack",
        train["image"],
        train["text"],
        steps=args.judge_steps,
    )
    params, step = run.restore_params(workdir, config, features)
    print(f"step {step}", flush=True)
    report = {"step": step, "guidance": float(config.sampling.guidance.weight)}
    for part in PARTS:
        rows = np.random.default_rng(args.seed).permutation(len(real[part]["text"]))[: args.num]
        chosen = {name: values[rows] for name, values in real[part].items()}
        tokens = features[config.conditions.tokens.field]
        named = {"tokens": np.stack([data.tokens_of(str(t), tokens) for t in chosen["text"]])}
        under = draw.Under(conditions.cond(named))
        x, _ = draw.draw(
            config, params, features, len(rows), seed=args.seed, under=under, progress=True
        )
        report[part] = judged(judge, x, chosen, train, args.seed)
        (workdir / f"measured_{part}.npz").write_bytes(_npz(image=x, text=chosen["text"]))
    (workdir / "measured.json").write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)


def judged(
    judge: Judge, x: np.ndarray, chosen: data.Batch, train: data.Batch, seed: int
) -> dict[str, object]:
    """The figures of pictures x [N, 64, 64, 3] of the captions of the real ones, `chosen`."""
    captions, made, real = (
        judge.captions(chosen["text"]),
        judge.pictures(x),
        judge.pictures(chosen["image"]),
    )
    found, of_real = (is_found(vectors, captions, AMONG, seed) for vectors in (made, real))
    to_train = nearest(x, train["image"])
    to_own = distance(x, chosen["image"])
    return {
        "captions": len(x),
        "retrieval": share(found),
        "retrieval of the real drawings": share(of_real),
        "frechet": metrics.frechet_distance(made, real),
        "frechet of real halves": metrics.frechet_distance(real[::2], real[1::2]),
        "rms to the caption's drawing": float(np.median(to_own)),
        "rms to the nearest training drawing": float(np.median(to_train)),
        "nearest is the caption's drawing": share(to_own <= to_train),
    }


def share(true: np.ndarray) -> tuple[float, float, float]:
    """The share, and its 95 % interval of Wilson 1927."""
    n, p, z = len(true), float(np.mean(true)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, float(middle - half), float(middle + half)


def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The root mean square of the difference of pictures, in parts of the range: [N]."""
    difference = (x.astype(np.float32) - y.astype(np.float32)) / 255
    return np.sqrt(np.mean(difference**2, axis=(1, 2, 3)))


def nearest(x: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The distance from each picture to the nearest of `support`, [N]."""
    flat = support.reshape(len(support), -1).astype(np.float32) / 255
    squares, found = np.sum(flat**2, axis=1), np.empty(len(x), int)
    for i, picture in enumerate(x.reshape(len(x), -1).astype(np.float32) / 255):
        found[i] = np.argmin(squares - 2 * flat @ picture)
    return distance(x, support[found])


def print_table(report: dict) -> None:
    for part in PARTS:
        print(f"\n{part}, step {report['step']}, guidance {report['guidance']:g}")
        for name, value in report[part].items():
            if isinstance(value, tuple | list):
                value = "{:.1%}  ({:.1%} to {:.1%})".format(*value)
            print(f"  {name:<38} {value if isinstance(value, str | int) else f'{value:.4f}'}")


def _real(part: str, config: ConfigDict) -> data.Batch:
    """The drawings of a part, each once, held out as the run's config says."""
    fields = {key: value for key, value in config.data.source.items() if key != "name"}
    source = data.load(config.data.source.name, **fields | {"part": part, "plain": 1})
    return data.take(source, np.arange(len(source)))


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
