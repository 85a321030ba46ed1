"""What a compiled program costs, by the compiler's own account and by its text."""

import re
import time
from dataclasses import dataclass
from typing import Any

import jax

from sde_diffusion.compilation_cache import without_compilation_cache
from sde_diffusion.planning import hlo, operations
from sde_diffusion.planning.collectives import Collective, collectives
from sde_diffusion.planning.hlo import Module
from sde_diffusion.planning.kernels import Kernel, custom_call, cycles, kernels
from sde_diffusion.planning.loops import Run, runs


class DoesNotFit(Exception):
    """The compiler found no way to hold the program in a device's memory; it says by how much."""


@dataclass(frozen=True)
class Program:
    """The costs of one run of a program on one of its devices.

    The body of a loop counts as often as it runs.

    arguments, outputs, temporaries, peak: bytes of its memory; an output that takes the place of
        an argument counts in both, but not in the peak.
    flops: operations, a multiplication and an addition two.
    bytes_accessed: of the operands and results of all instructions, wherever they lie.
    bytes_moved: of those in main memory alone.
    collectives: by kind.
    cycles: the sum of the compiler's `estimated_cycles`; None where it gives none.
    kernels: what the compiler gives no cycles for, and the sum leaves out.
    loops: the rounds of each loop. None is a loop whose rounds cannot be read: it counts once.
    """

    devices: int
    compile_seconds: float
    arguments: int
    outputs: int
    temporaries: int
    peak: int
    flops: float
    bytes_accessed: float
    bytes_moved: float
    collectives: tuple[Collective, ...]
    cycles: int | None
    kernels: tuple[Kernel, ...]
    loops: tuple[int | None, ...]


def compile_program(lowered: jax.stages.Lowered, devices: int) -> Program:
    """Compiles for `devices` devices, and reads off what it costs.

    Raises DoesNotFit where the compiler finds that the device's memory is too small.
    """
    start = time.perf_counter()
    try:
        with without_compilation_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_first_sentence(str(error))) from error
    seconds = time.perf_counter() - start
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert memory is not None  # every compiler here gives all three
    assert cost is not None
    assert text is not None
    return Program(
        devices=devices,
        compile_seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        **costs(text, devices, cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)),
    )


def costs(text: str, devices: int, flops: float, bytes_accessed: float) -> dict[str, Any]:
    """The other fields of a Program, from its text and the compiler's sums.

    `flops` and `bytes_accessed` are the compiler's, which count the body of every loop once.
    """
    module = hlo.parse(text)
    found = runs(module)
    again, calls = [], []
    for run in found:
        if run.instruction.opcode == "custom-call" and not custom_call(run.instruction).counted:
            calls.append(run)
        else:
            again.append(run)
    return {
        "flops": flops + _flops_of_rounds(again) + _flops_of_calls(calls),
        "bytes_accessed": bytes_accessed * _rounds_of_bytes(module, again) + _bytes(module, calls),
        "bytes_moved": bytes_moved(module, found),
        "collectives": collectives(found, devices),
        "cycles": estimated_cycles(found),
        "kernels": kernels(module, found),
        "loops": tuple(run.rounds for run in found if run.instruction.opcode == "while"),
    }


def estimated_cycles(found: list[Run]) -> int | None:
    """The sum of what the compiler writes beside the instructions; None if it writes nothing."""
    told = [(run.times, count) for run in found if (count := cycles(run.instruction)) is not None]
    return sum(times * count for times, count in told) if told else None


def bytes_moved(module: Module, found: list[Run]) -> float:
    """Bytes between main memory and the chip: what is touched and not in the chip's own memory."""
    return sum(
        run.times
        * operations.traffic(module, run.computation, run.instruction).bytes_in_main_memory
        for run in found
        if run.fusion is None
    )


def _flops_of_rounds(found: list[Run]) -> float:
    """The operations of the rounds of all loops after their first."""
    return sum(
        (run.times - 1) * operations.flops(run.instruction, run.computation)
        for run in found
        if run.times > 1
    )


def _flops_of_calls(found: list[Run]) -> float:
    return sum(run.times * (custom_call(run.instruction).flops or 0.0) for run in found)


def _rounds_of_bytes(module: Module, found: list[Run]) -> float:
    """The bytes of all instructions over those of a program in which every loop had one round."""
    once = _bytes(module, [run._replace(times=1) for run in found])
    return _bytes(module, found) / once if once else 1.0


def _bytes(module: Module, found: list[Run]) -> float:
    return sum(
        run.times * operations.traffic(module, run.computation, run.instruction).bytes
        for run in found
        if run.fusion is None
    )


def _first_sentence(message: str) -> str:
    return re.sub(r"^RESOURCE_EXHAUSTED: (E\d+: )?", "", message).splitlines()[0]
