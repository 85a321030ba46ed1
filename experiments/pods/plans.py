"""Plans of transformers, of text-to-image models and of models for few steps, on TPUs.

A program is a step of training, or a step of sampling. Nothing is run: the TPU's own compiler
compiles it for the topology. Rows that the file has already are kept, so that the table can be made
in parts.

    python experiments/pods/plans.py --out experiments/pods/text_to_image.json flux-train
    python experiments/pods/plans.py --out experiments/pods/text_to_image.json --table
"""

import argparse
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sde_diffusion import planning
from sde_diffusion.cli import plan
from sde_diffusion.config import codecs
from sde_diffusion.config import schema as configs

FOLDER = Path(__file__).parents[2] / "configs"


class Program(NamedTuple):
    """What is compiled: a step of `what` ("training" or "sampling") of a config on a topology."""

    what: str
    config: str
    topology: str
    event: tuple[int, ...]
    batch: int
    changes: Mapping[str, str] = {}


BLOCKS = {"network.remat": "blocks"}
PROGRAMS = {
    "dit-b-256": Program("training", "dit/imagenet256_b2", "v5e:4x4", (32, 32, 4), 256),
    "dit-l-256": Program("training", "dit/imagenet256_l2", "v5e:4x4", (32, 32, 4), 256),
    "dit-xl-256": Program("training", "dit/imagenet256_xl2", "v5e:4x4", (32, 32, 4), 256),
    "dit-xl-512": Program("training", "dit/imagenet512_xl2", "v5e:4x4", (64, 64, 4), 256),
    "sit-xl-256": Program("training", "dit/sit_imagenet256_xl2", "v5e:4x4", (32, 32, 4), 256),
    "flux-train": Program("training", "text_to_image/flux_1024", "v5p:2x2x1", (128, 128, 16), 8),
    "sdxl-train": Program(
        "training", "text_to_image/sdxl_256", "v5e:4x4", (128, 128, 4), 16, BLOCKS
    ),
    "sdxl-train-256": Program("training", "text_to_image/sdxl_256", "v5e:4x4", (32, 32, 4), 128),
    "sd3-train": Program("training", "text_to_image/sd3_medium_256", "v5e:4x4", (32, 32, 16), 128),
    "sdxl-sample": Program("sampling", "text_to_image/sdxl_256", "v6e:2x2", (128, 128, 4), 4),
    "flux-sample": Program("sampling", "text_to_image/flux_1024", "v6e:2x2", (128, 128, 16), 4),
    "edm-train": Program("training", "few_steps/edm_cifar10", "v5e:2x2", (32, 32, 3), 512),
    "ect-train": Program("training", "few_steps/ect_cifar10", "v5e:2x2", (32, 32, 3), 128),
    "scm-train": Program("training", "few_steps/scm_cifar10", "v5e:2x2", (32, 32, 3), 512),
    "meanflow-train": Program(
        "training", "few_steps/meanflow_cifar10", "v5e:2x2", (32, 32, 3), 1024
    ),
    "meanflow-sample": Program(
        "sampling", "few_steps/meanflow_cifar10", "v5e:2x2", (32, 32, 3), 1024
    ),
    "meanflow-b4-train": Program(
        "training", "few_steps/meanflow_imagenet256_b4", "v5e:2x2", (32, 32, 4), 256
    ),
}


def planned(program: Program) -> dict[str, Any]:
    """The costs of a program, as plain values."""
    changes = {
        "preset": "tpu",
        "training.batch_size": str(program.batch),
        "sampling.batch_size": str(program.batch),
        **program.changes,
    }
    config = configs.load(FOLDER / f"{program.config}.py", changes)
    topology = planning.named(program.topology)
    features = plan.features_of(config, program.event)
    if program.what == "training":
        costs = plan.plan_training(config, topology, features)
    else:
        costs = plan.plan_sampling(config, topology, codecs.sampled(features, None))
    return {"chips": len(topology.devices), **costs}


def row(program: Program, costs: Mapping[str, Any]) -> str:
    """A line of the table in Markdown."""
    size = "x".join(map(str, program.event))
    changed = ", ".join(f"{name}={value}" for name, value in program.changes.items())
    start = (
        f"| {program.what} of `{program.config}`{f', {changed}' if changed else ''} | {size} | "
        f"{program.topology} | {program.batch} |"
    )
    if "peak" not in costs:
        return f"{start} does not fit: {costs['reason'].splitlines()[0][:90]} |" + " |" * 6
    parts = {name: costs[f"{name}_seconds"] or 0.0 for name in ("compute", "memory", "network")}
    bound = max(parts, key=lambda name: parts[name])
    fits = "yes" if costs["fits"] else "no"
    return (
        f"{start} {costs['peak'] / 2**30:.1f} GiB ({fits}) | {costs['flops'] / 1e12:.1f} T | "
        f"{costs['cycles'] / 1e6:.0f} M | {costs['estimate_seconds']:.3f} s | "
        f"{costs['floor_seconds']:.3f} s ({bound}) | {costs['network_seconds']:.3f} s | "
        f"{costs['compile_seconds']:.0f} s |"
    )


HEADER = """| program | samples | topology | batch | peak, a chip (fits) | operations, a chip | \
cycles | estimated step | roofline floor | of it messages | compile time |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", help=", ".join(PROGRAMS))
    parser.add_argument("--out", required=True, help="a JSON file; its other rows are kept")
    parser.add_argument("--table", action="store_true", help="print the rows that it has")
    args = parser.parse_args(argv)
    out = Path(args.out)
    found = json.loads(out.read_text()) if out.is_file() else {}
    for name in args.names:
        found[name] = planned(PROGRAMS[name]) | {"libtpu": importlib.metadata.version("libtpu")}
        out.write_text(json.dumps(found, indent=1) + "\n")
    if args.table:
        lines = [row(PROGRAMS[name], found[name]) for name in PROGRAMS if name in found]
        print(HEADER + "\n".join(lines))


if __name__ == "__main__":
    main()
