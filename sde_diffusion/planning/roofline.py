"""The time of a program, from its costs and the chip's peak figures."""

from typing import NamedTuple

from sde_diffusion.planning.chips import Chip
from sde_diffusion.planning.read import Program


class Time(NamedTuple):
    """Seconds of one run; None where the chip's or the compiler's figure is not known.

    compute, memory, network, between_slices: what the operations, the bytes moved and the bytes
        sent, to chips of the same slice and of others, take at the chip's peak rates.
    kernels: what the kernels without cycles take, each run the longer of its operations and its
        bytes at the peak rates.
    floor: the largest of the first four, below which no run can be (the roofline of Williams et al.
        2009).
    estimate: the compiler's cycles, the kernels and the messages, one after another; never below
        the floor.
    """

    compute: float | None
    memory: float | None
    network: float | None
    between_slices: float | None
    kernels: float | None
    floor: float | None
    estimate: float | None


def estimate(program: Program, chip: Chip) -> Time:
    """The roofline floor and the estimated time of a program on a chip."""
    compute = _over(program.flops, chip.flops)
    memory = _over(program.bytes_moved, chip.bandwidth)
    network = _over(_sent(program, between_slices=False), chip.links)
    far = _sent(program, between_slices=True)
    between_slices = _over(far, chip.between_slices)
    rates = (compute, memory, network, between_slices)
    floor = max((seconds for seconds in rates if seconds is not None), default=None)
    kernels = _kernels(program, chip)
    cycles = None if program.cycles is None else _over(program.cycles, chip.clock)
    if cycles is None or floor is None or kernels is None or (far and between_slices is None):
        return Time(*rates, kernels, floor, None)
    messages = (network or 0.0) + (between_slices or 0.0)
    return Time(*rates, kernels, floor, max(floor, cycles + kernels + messages))


def _kernels(program: Program, chip: Chip) -> float | None:
    """Seconds of all kernels; None where the chip's rates are not known."""
    if chip.flops is None or chip.bandwidth is None:
        return 0.0 if not program.kernels else None
    return sum(
        each.count * max((each.flops or 0.0) / chip.flops, each.bytes / chip.bandwidth)
        for each in program.kernels
    )


def _sent(program: Program, *, between_slices: bool) -> float:
    return sum(each.sent for each in program.collectives if each.between_slices == between_slices)


def _over(amount: float, rate: float | None) -> float | None:
    return None if rate is None else amount / rate
