"""Time from costs."""

import dataclasses

import pytest

from sde_diffusion.planning import CHIPS, Chip, Collective, Kernel, Program, estimate

CHIP = Chip(
    "toy", flops=100.0, memory=1e9, bandwidth=10.0, links=1.0, between_slices=0.5, clock=5.0
)
PROGRAM = Program(
    devices=2,
    compile_seconds=0.0,
    arguments=0,
    outputs=0,
    temporaries=0,
    peak=0,
    flops=300.0,
    bytes_accessed=0.0,
    bytes_moved=20.0,
    collectives=(Collective("all-reduce", 1, 1.0, 1.0), Collective("all-gather", 2, 3.0, 1.5)),
    cycles=25,
    kernels=(),
    loops=(),
)


def test_the_floor_is_the_slowest_of_computing_moving_and_sending():
    time = estimate(PROGRAM, CHIP)
    assert (time.compute, time.memory, time.network) == (3.0, 2.0, 2.5)
    assert time.floor == 3.0


def test_the_estimate_is_the_cycles_and_then_the_messages():
    assert estimate(PROGRAM, CHIP).estimate == 25 / 5 + 2.5


def test_a_kernel_without_cycles_takes_its_operations_or_its_bytes_whichever_is_longer():
    kernels = (Kernel("attention", 3, 200.0, 1.0), Kernel("sort", 1, None, 40.0))
    time = estimate(dataclasses.replace(PROGRAM, kernels=kernels), CHIP)
    assert time.kernels == 3 * 2.0 + 4.0
    assert time.estimate == 25 / 5 + 3 * 2.0 + 4.0 + 2.5


def test_a_kernel_on_a_chip_of_unknown_rates_gives_no_estimate():
    kernels = (Kernel("sort", 1, None, 40.0),)
    unknown = dataclasses.replace(CHIP, bandwidth=None)
    assert estimate(dataclasses.replace(PROGRAM, kernels=kernels), unknown).estimate is None


def test_the_estimate_is_not_below_the_floor():
    few = dataclasses.replace(PROGRAM, cycles=1)
    assert estimate(few, CHIP).estimate == 3.0


def test_messages_to_other_slices_add_the_time_of_the_slower_network():
    far = Collective("all-reduce", 1, 2.0, 2.0, between_slices=True)
    spread = dataclasses.replace(PROGRAM, collectives=(*PROGRAM.collectives, far))
    time = estimate(spread, CHIP)
    assert (time.network, time.between_slices) == (2.5, 4.0)
    assert (time.floor, time.estimate) == (4.0, 25 / 5 + 2.5 + 4.0)
    not_known = dataclasses.replace(CHIP, between_slices=None)
    assert estimate(spread, not_known).estimate is None
    assert estimate(PROGRAM, not_known).estimate == 25 / 5 + 2.5


@pytest.mark.parametrize("chip", [Chip("no figures"), dataclasses.replace(CHIP, clock=None)])
def test_an_unknown_rate_gives_no_estimate(chip):
    assert estimate(PROGRAM, chip).estimate is None


def test_without_cycles_there_is_a_floor_and_no_estimate():
    time = estimate(dataclasses.replace(PROGRAM, cycles=None), CHIP)
    assert (time.floor, time.estimate) == (3.0, None)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_every_chip_has_all_figures_of_a_slice_and_their_source(chip):
    figures = dataclasses.asdict(chip)
    assert [name for name, figure in figures.items() if figure is None] in ([], ["between_slices"])
    assert chip.source.startswith("https://")
