"""The peak figures of chips, as their manufacturers give them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """The peak figures of one device. None stands for a figure that is not known.

    flops: bfloat16 operations a second in matrix products; a product and a sum are two.
    memory: bytes of its main memory (HBM).
    bandwidth: bytes a second between it and the chip.
    links: bytes a second that leave it for other chips of its slice, over all its links together.
    between_slices: bytes a second that leave it for other slices, over the data center's network.
    clock: cycles a second.
    source: where the figures are from.
    """

    name: str
    flops: float | None = None
    memory: float | None = None
    bandwidth: float | None = None
    links: float | None = None
    between_slices: float | None = None
    clock: float | None = None
    source: str = ""


GIB = 2**30

# The documentation gives the rate of the links in both directions together; half of it leaves the
# chip. For v5e and v6e it gives the rate between slices for a pod of 256 chips, and for v4 none.
#
# The clock is not documented for all chips. It is the peak rate divided by the operations that the
# matrix units do in a cycle, 2 width^2 each: four units of 128 x 128 on v5e, eight on v4 and v5p.
# For v5e that agrees with the 1.5 GHz of the scaling book
# (https://jax-ml.github.io/scaling-book/tpus). The page of v6e has said both two and four units of
# 256 x 256. It must be four: with two, the compiler would give a matrix product fewer cycles than
# its operations take at the peak rate.
CHIPS = {
    "v4": Chip(
        "TPU v4",
        flops=275e12,
        memory=32 * GIB,
        bandwidth=1200e9,
        links=6 * 45e9,
        clock=275e12 / (8 * 2 * 128**2),
        source="https://cloud.google.com/tpu/docs/v4; links: the scaling book",
    ),
    "v5e": Chip(
        "TPU v5e",
        flops=197e12,
        memory=16 * GIB,
        bandwidth=819e9,
        links=400e9 / 2,
        between_slices=6.4e12 / 8 / 256,
        clock=197e12 / (4 * 2 * 128**2),
        source="https://cloud.google.com/tpu/docs/v5e",
    ),
    "v5p": Chip(
        "TPU v5p",
        flops=459e12,
        memory=95 * GIB,
        bandwidth=2765e9,
        links=1200e9 / 2,
        between_slices=50e9 / 8,
        clock=459e12 / (8 * 2 * 128**2),
        source="https://cloud.google.com/tpu/docs/v5p",
    ),
    "v6e": Chip(
        "TPU v6e",
        flops=918e12,
        memory=32 * GIB,
        bandwidth=1638e9,
        links=800e9 / 2,
        between_slices=25.6e12 / 8 / 256,
        clock=918e12 / (4 * 2 * 256**2),
        source="https://cloud.google.com/tpu/docs/v6e",
    ),
}
