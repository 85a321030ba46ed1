"""What chips can do at their best, by the manufacturers' figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """The peak figures of one device; None where they are not known.

    flops: bfloat16 operations a second in matrix products, a multiplication and an addition two.
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

# The documentation tells the links in both directions together; half of that leaves the chip. What
# goes to other slices is told by pod, of 256 chips, for v5e and v6e; no page tells it for v4.
#
# No page tells all clocks. It is the peak over what the matrix units do in a cycle, 2 (width)^2
# each: four units of 128 x 128 on v5e, eight on v4 and v5p. For v5e that is the 1.5 GHz of the
# scaling book (https://jax-ml.github.io/scaling-book/tpus). For v6e, whose page has told both two
# and four units of 256 x 256, it must be four: with two, the compiler's cycles of a matrix product
# would be fewer than its operations take at the peak.
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
