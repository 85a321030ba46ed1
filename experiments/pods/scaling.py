"""Weak scaling on paper: the planned training step on growing numbers of chips.

Every chip has the same number of images. Nothing is run: `sde-diffusion plan` compiles the step for
each topology, with a TPU's own compiler where it is a TPU, and gives its costs. For a large network
this takes minutes a topology.

    python experiments/pods/scaling.py --out experiments/pods/scaling.md
    python experiments/pods/scaling.py --config configs/dit/imagenet256_xl2.py --per-chip 16 \
        --topologies v5e:4x4,v5e:8x8,v5e:16x16 --event 32,32,4 --config.preset=tpu \
        --out experiments/pods/scaling_dit.md
"""

import argparse
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sde_diffusion import planning
from sde_diffusion.cli import plan, read_overrides
from sde_diffusion.config import schema as configs

CONFIG = "configs/ve/cifar10_ncsnpp_continuous.py"
# v5p has links in a third dimension. Its growth starts from its own first row.
TOPOLOGIES = "v5e:4x4,v5e:8x8,v5e:16x16,2xv5e:16x16,v5p:2x2x4,v5p:4x4x4"
HEADER = """# Weak scaling on paper

`{path}` at {per_chip} images a chip{changed}: one update of training, compiled ahead of time by \
{versions}. Nothing was run: these are the compiler's estimates, and messages at the full rate of \
all links of a chip (between slices, of its part of the data center's network), as if nothing were \
computed meanwhile. Growth is relative to the fewest chips of \
the same kind. The table was made by

    {command}

| topology | chips | batch | peak memory | cycles | sent by a chip | of the step | \
estimated step | growth | images a second | compile time |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def row(
    path: str,
    overrides: dict[str, str],
    name: str,
    per_chip: int,
    event: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """The plan of the training step with `per_chip` images on each chip of a topology."""
    topology = planning.named(name)
    chips = len(topology.devices)
    config = configs.load(path, overrides | {"training.batch_size": str(per_chip * chips)})
    costs = plan.plan_training(config, topology, plan.features_of(config, event))
    return {"topology": name, "chip": topology.chip.name, "chips": chips, **costs}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, each with its growth over the first of its kind of chip."""
    first: dict[str, float] = {}
    lines = []
    for each in rows:
        start = f"| {each['topology']} | {each['chips']} | {each['batch_size']} |"
        if "peak" not in each:
            lines.append(f"{start} does not fit |" + " |" * 7)
            continue
        sent = sum(collective["sent"] for collective in each["collectives"])
        step = each["estimate_seconds"]
        if step is None:
            share = seconds = growth = speed = cycles = "not known"
        else:
            base = first.setdefault(each["chip"], step)
            cycles, seconds = f"{each['cycles'] / 1e6:.2f} M", f"{1e3 * step:.2f} ms"
            messages = each["network_seconds"] + (each["between_slices_seconds"] or 0.0)
            share, growth = f"{messages / step:.1%}", f"{step / base - 1:+.1%}"
            speed = f"{each['images_per_second']:,.0f}"
        lines.append(
            f"{start} {each['peak'] / 2**30:.2f} GiB | {cycles} | {sent / 1e6:.0f} MB | {share} | "
            f"{seconds} | {growth} | {speed} | {each['compile_seconds']:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--per-chip", type=int, default=64, help="images on each chip (64)")
    parser.add_argument("--topologies", default=TOPOLOGIES)
    parser.add_argument("--event", help="the shape of a sample, as in 32,32,4, without the data")
    parser.add_argument("--out", required=True, help="a Markdown file")
    args, rest = parser.parse_known_args(argv)
    overrides = read_overrides(rest)
    fields = [f"--config.{field}={value}" for field, value in overrides.items()]
    header = HEADER.format(
        path=args.config,
        per_chip=args.per_chip,
        changed=f", with {' '.join(fields)}" if fields else "",
        versions=_versions(),
        command=" ".join(
            [
                "python experiments/pods/scaling.py",
                f"--config {args.config} --per-chip {args.per_chip}",
                f"--topologies {args.topologies} --out {args.out}",
                *([f"--event {args.event}"] if args.event else []),
                *fields,
            ]
        ),
    )
    event = tuple(map(int, args.event.split(","))) if args.event else None
    rows: list[dict[str, Any]] = []
    for name in args.topologies.split(","):
        rows.append(row(args.config, overrides, name, args.per_chip, event))
        Path(args.out).write_text(header + table(rows))  # what there is, if it is interrupted
        print(table(rows).splitlines()[-1], flush=True)


def _versions() -> str:
    found = []
    for name in ("jax", "libtpu"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " and ".join(found)


if __name__ == "__main__":
    main()
