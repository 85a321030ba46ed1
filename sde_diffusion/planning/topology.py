"""Topologies by name, such as "v5e:4x4": devices to compile for, which need not be present."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass

import jax

from sde_diffusion.planning.chips import CHIPS, Chip
from sde_diffusion.selection import choose

# Slices of a 16 x 16 torus (https://cloud.google.com/tpu/docs/v5e, v6e). Those of v4 and v5p are
# cubes of 4 x 4 x 4 side by side, or a part of one (https://cloud.google.com/tpu/docs/v5p).
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
LONGEST = 32  # chips along an axis of a v5p slice: the largest is 16x16x24

FORMS = "v5e:4x4, 2xv5e:4x4 (two slices), v5p:4x4x4, cpu:8, gpu or gpu:8"


@dataclass(frozen=True)
class Topology:
    """Devices of one kind."""

    name: str
    chip: Chip
    devices: tuple[jax.Device, ...]

    @property
    def slices(self) -> int:
        """How many slices the devices are in; a slower network joins them."""
        return len({getattr(device, "slice_index", 0) for device in self.devices})

    @property
    def compiler(self) -> str:
        """The package that compiles for them, and its version."""
        package = "libtpu" if self.devices[0].platform == "tpu" else "jaxlib"
        return f"{package} {importlib.metadata.version(package)}"


def named(name: str) -> Topology:
    """The topology of a name: v4, v5e, v5p or v6e with its shape, or cpu:N, gpu and gpu:N.

    "2xv5e:4x4" is two slices, which only the data center's network joins. The devices of a TPU are
    descriptions for its compiler: nothing can run on them. CPU devices are created by this call,
    which must come before JAX is used. GPUs must be present.

    Raises ValueError for an unknown name, shape or number of devices, and ImportError where a TPU's
    compiler is not installed.
    """
    kind, colon, size = name.partition(":")
    several = re.fullmatch(r"([1-9]\d*)x(.+)", kind)
    slices, kind = (int(several[1]), several[2]) if several else (1, kind)
    # JAX must not wait for another device or take it, above all not a TPU of this machine.
    jax.config.update("jax_platforms", "gpu,cpu" if kind == "gpu" else "cpu")
    if kind in CHIPS:
        return Topology(name, CHIPS[kind], _tpu(name, kind, size, slices))
    if kind not in ("cpu", "gpu"):
        choose("topology", kind, dict.fromkeys([*CHIPS, "cpu", "gpu"]))
    if several:
        raise ValueError(f"topology {name!r}: only TPUs have slices, as in {FORMS}")
    if (colon or kind == "cpu") and not re.fullmatch(r"[1-9]\d*", size):
        raise ValueError(f"topology {name!r}: {kind} takes a number of devices, as in {FORMS}")
    if kind == "cpu":
        return Topology(name, Chip("CPU"), _cpu(int(size)))
    devices = _gpu(name, int(size) if colon else None)
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    return Topology(name, Chip(devices[0].device_kind, memory=memory), devices)


def _cpu(num: int) -> tuple[jax.Device, ...]:
    if num > jax.config.values["jax_num_cpu_devices"]:
        with contextlib.suppress(RuntimeError):  # JAX is in use already: its number is fixed
            jax.config.update("jax_num_cpu_devices", num)
    devices = jax.devices("cpu")
    if len(devices) < num:
        raise ValueError(
            f"topology 'cpu:{num}': JAX was started with {len(devices)} CPU devices already"
        )
    return tuple(devices[:num])


def _gpu(name: str, num: int | None) -> tuple[jax.Device, ...]:
    try:
        devices = jax.devices("gpu")
    except RuntimeError as error:
        raise ValueError(f"topology {name!r}: this machine has no GPU to compile for") from error
    if num is not None and num > len(devices):
        raise ValueError(f"topology {name!r}: this machine has {len(devices)} GPUs")
    return tuple(devices[:num])


def _tpu(name: str, kind: str, shape: str, slices: int) -> tuple[jax.Device, ...]:
    _check_shape(name, kind, shape)
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            f"topology {name!r} needs a TPU's compiler: pip install 'sde-diffusion[tpu]' "
            "(any machine will do)"
        )
    # Without these libtpu asks a cloud machine's metadata server for them and waits for its answer.
    # Their values do not matter here, nor does another process that has loaded the library, because
    # no TPU is used.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    sizes = [int(size) for size in shape.split("x")]
    flat = len(sizes) == 2
    # A torus is closed along its complete axes: those of 16 chips, or of whole cubes.
    closed = [size == 16 for size in sizes] if flat else [_cubes(sizes)] * 3
    described = topologies.get_topology_desc(
        topology_name=f"{kind}:{shape}",
        platform="tpu",
        num_slices=slices,
        # JAX sees the two cores of a chip as one device; on v5p that is the default.
        chip_config_name="megacore" if kind == "v4" else "default",
        wrap=(*closed, False)[:3],
        # A host has four chips, 2 x 2, unless the slice is one chip.
        **({"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}),
    )
    return tuple(described.devices)


def _check_shape(name: str, kind: str, shape: str) -> None:
    flat = kind in ("v5e", "v6e")
    if shape in (FLAT if flat else PARTS_OF_A_CUBE):
        return
    if not flat and re.fullmatch(r"\d+x\d+x\d+", shape):
        sizes = [int(size) for size in shape.split("x")]
        if _cubes(sizes) and max(sizes) <= LONGEST:
            return
    choices = ", ".join(f"{kind}:{each}" for each in (FLAT if flat else PARTS_OF_A_CUBE))
    cubes = "" if flat else f", {kind}:4x4x4 and other multiples of four"
    raise ValueError(f"unknown topology {name!r} (choices: {choices}{cubes})")


def _cubes(sizes: list[int]) -> bool:
    return all(size > 0 and size % 4 == 0 for size in sizes)
