"""What a TPU's compiler gives no cycles for: custom calls, such as Pallas kernels, and sorts.

Their time is the roofline's: their operations at the chip's peak rate, or the bytes that they move
at its memory's, whichever takes longer (Williams et al. 2009).
"""

import base64
import re
from dataclasses import dataclass
from typing import NamedTuple

from sde_diffusion.planning import operations
from sde_diffusion.planning.collectives import is_collective
from sde_diffusion.planning.hlo import Instruction, Module
from sde_diffusion.planning.loops import Run
from sde_diffusion.planning.pallas import matrix_products

PALLAS = "tpu_custom_call"
# What computes, by no rule that `operations.flops` knows.
NOT_COUNTED = {
    *("sort", "rng", "rng-bit-generator", "fft", "cholesky", "triangular-solve", "topk"),
    *("scatter", "map", "select-and-scatter"),
}


@dataclass(frozen=True)
class Kernel:
    """The runs of instructions of one name for which the compiler gives no cycles.

    name: a Pallas kernel's own, another custom call's target, otherwise the opcode.
    count: how often they run.
    flops: the operations of a run, the mean of those that differ; None where they are not known,
        so that the time by bytes is a lower bound.
    bytes: what a run moves to and from main memory, the mean as well.
    """

    name: str
    count: int
    flops: float | None
    bytes: float


class Operations(NamedTuple):
    """The operations of a custom call, and whether the compiler's own account has them."""

    flops: float | None
    counted: bool


def kernels(module: Module, found: list[Run]) -> tuple[Kernel, ...]:
    """The kernels of a program, by name; of a program without any cycles, its custom calls."""
    others = any(cycles(run.instruction) is not None for run in found)
    totals: dict[str, tuple[int, float | None, float]] = {}
    for run in found:
        if run.fusion is not None or not _is_kernel(run.instruction, others):
            continue
        size = operations.traffic(module, run.computation, run.instruction).bytes_in_main_memory
        flops = _flops(run)
        if not (size or flops or run.instruction.opcode == "custom-call"):
            continue
        name = _name(run.instruction)
        count, before, moved = totals.get(name, (0, 0.0, 0.0))
        total = None if flops is None or before is None else before + run.times * flops
        totals[name] = (count + run.times, total, moved + run.times * size)
    return tuple(
        Kernel(name, count, None if flops is None else flops / count, moved / count)
        for name, (count, flops, moved) in sorted(totals.items())
    )


def cycles(instruction: Instruction) -> int | None:
    """The compiler's estimate of an instruction; None where it writes none."""
    found = re.search(r'"estimated_cycles":"(\d+)"', instruction.line)
    return int(found[1]) if found else None


def custom_call(instruction: Instruction) -> Operations:
    """The operations of a custom call: as its author tells them, or a Pallas kernel's products.

    The author of a kernel may tell them by `pallas_call(cost_estimate=...)`.
    """
    told = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.line)
    if told:
        return Operations(float(told[1]), True)
    body = re.search(r'"custom_call_config":\{"body":"([^"]*)"', instruction.line)
    return Operations(matrix_products(base64.b64decode(body[1])) if body else None, False)


def _flops(run: Run) -> float | None:
    if run.instruction.opcode == "custom-call":
        return custom_call(run.instruction).flops
    if run.instruction.opcode in NOT_COUNTED:
        return None
    return operations.flops(run.instruction, run.computation)


def _is_kernel(instruction: Instruction, others: bool) -> bool:
    """Whether it is a custom call or, with `others`, anything else without cycles.

    A fusion without cycles is a message or a part of one. Asynchronous copies run beside the rest.
    """
    if instruction.opcode == "custom-call":
        return not operations.is_free(instruction) and cycles(instruction) is None
    return (
        others
        and cycles(instruction) is None
        and not operations.is_free(instruction)
        and not is_collective(instruction)
        and not instruction.opcode.endswith("-start")
        and instruction.opcode not in ("fusion", "send", "recv")
        and any(array.elements > 1 for array in instruction.arrays)
    )


def _name(instruction: Instruction) -> str:
    if instruction.opcode != "custom-call":
        return instruction.opcode
    target = instruction.attribute("custom_call_target") or instruction.opcode
    if target != PALLAS:
        return target
    # The compiler tells apart the calls of one kernel by numbers.
    return re.sub(r"(\.\d+|\.clone)+$", "", instruction.name)
