"""The training step compiled ahead of time for a slice of TPUs, beside that of the reference.

    python experiments/benchmarks/tpu_step.py [--batch-sizes 128,1024] [--json FILE]
        [--config.network.dtype=float32]

All figures are the compiler's estimates for one chip; nothing runs. Cycles are the sum of the
`estimated_cycles` that the compiler writes beside its instructions. It writes none beside
collectives. Needs the extra `tpu`.

The config is NCSN++ cont. (VE) on CIFAR-10 over the 16 chips of a v5e slice with the preset `tpu`
(computation in bfloat16, and the state split into sixteenths) and options of XLA. The reference is
the step of score_sde's configs/ve/cifar10_ncsnpp_continuous.py, compiled the same way in float32
for a batch of 128.
"""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sde_diffusion import planning
from sde_diffusion.cli import plan, read_overrides
from sde_diffusion.config import schema as configs

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/ve/cifar10_ncsnpp_continuous.py"
TOPOLOGY = "v5e:4x4"
OURS = {
    "preset": "tpu",
    # Less time to compile, and less memory for temporaries: README.md beside this file.
    "training.compiler_options": "xla_tpu_scoped_vmem_limit_kib=7168,"
    "xla_jf_program_hbm_alignment_in_kib=4",
}
REFERENCE = {
    "batch_size": 128,
    "flops": 498e9,
    "bytes_accessed": 17.6e9,
    "temporaries": 520e6,
    "cycles": 18.7e6,
    "compile_seconds": 333.0,
}
# The aims, as multiples of the reference's figures.
AIMS = {"cycles": 0.6, "bytes_accessed": 0.5, "temporaries": 0.55, "compile_seconds": 0.4}
AIM_OF_CYCLES_AN_IMAGE = 0.5  # at 64 images a chip


def measure(batch_size: int, overrides: dict[str, str]) -> dict[str, Any]:
    """The costs of one update of `sde-diffusion train`, as `sde-diffusion plan` gives them."""
    changes = {**OURS, "training.batch_size": str(batch_size), **overrides}
    config = configs.load(CONFIG, changes)
    topology = planning.named(TOPOLOGY)
    return plan.plan_training(config, topology, plan.features_of(config))


def table(row: dict[str, Any]) -> str:
    """The figures of a batch size beside the reference's, for the whole batch and for an image."""
    same = row["batch_size"] == REFERENCE["batch_size"]
    lines = [f"batch of {row['batch_size']}: ours, the reference's at 128, ratio, aim"]
    for name in ("flops", "bytes_accessed", "temporaries", "cycles", "compile_seconds"):
        ours, theirs = row[name], REFERENCE[name]
        aim = AIMS.get(name, "") if same else ""
        lines.append(f"{name:16} {ours:10.4g} {theirs:10.4g} {ours / theirs:8.3f} {aim}")
    ours, theirs = (it["cycles"] / it["batch_size"] for it in (row, REFERENCE))
    aim = "" if same else AIM_OF_CYCLES_AN_IMAGE
    lines.append(f"{'cycles / image':16} {ours:10.4g} {theirs:10.4g} {ours / theirs:8.3f} {aim}")
    sent = ", ".join(
        f"{it['count']} {it['kind']} of {it['bytes'] / 1e6:.1f} MB" for it in row["collectives"]
    )
    return "\n".join([*lines, f"collectives: {sent}"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--batch-sizes", default="128", help="of all 16 chips together (128)")
    parser.add_argument("--json", type=Path)
    args, rest = parser.parse_known_args(argv)
    try:
        overrides = read_overrides(rest)
        rows = [measure(int(size), overrides) for size in args.batch_sizes.split(",")]
    except (ValueError, ImportError) as error:
        print(f"tpu_step: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    libtpu = importlib.metadata.version("libtpu")
    print(f"{TOPOLOGY}, a chip, as libtpu {libtpu} estimates it")
    print("\n\n".join(map(table, rows)))
    if args.json:
        args.json.write_text(json.dumps({"libtpu": libtpu, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
