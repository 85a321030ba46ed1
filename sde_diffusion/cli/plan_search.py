"""Changes to a config that does not fit its devices, and what each of them costs."""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from sde_diffusion.config import schema as configs
from sde_diffusion.planning import Topology

Changes = dict[str, str]


def remedies(config: ConfigDict, devices: int, slices: int = 1) -> dict[str, Changes]:
    """The changes that a config has to need less memory on so many devices, by name.

    All but the last keep the experiment what it is, up to the rounding of bfloat16.
    """
    fields, found = configs.flatten(config), {}
    if fields.get("network.dtype") == "float32":
        found["bfloat16"] = {"network.dtype": "bfloat16"}
    if fields.get("network.remat") == "none":
        found["remat, pointwise"] = {"network.remat": "pointwise"}
        found["remat"] = {"network.remat": "blocks"}
    if config.mesh.fsdp < devices // slices:
        found["fsdp"] = {"mesh.data": "-1", "mesh.fsdp": str(devices // slices)}
    parts = 2 * config.optim.accumulate
    if config.training.batch_size % (parts * devices) == 0:
        found["accumulate"] = {"optim.accumulate": str(parts)}
    if config.training.batch_size % (2 * devices) == 0:
        found["half the batch"] = {"training.batch_size": str(config.training.batch_size // 2)}
    return found


def search(
    config: ConfigDict, topology: Topology, plan: Callable[[ConfigDict], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The plans of the config with each remedy alone, then with more and more of them together.

    `plan(config)` gives `fits`, `peak` and `images_per_second`, as `plan.plan_training`.
    """
    return [
        {"changes": changes, **plan(configs.override(config, changes))}
        for changes in _candidates(remedies(config, len(topology.devices), topology.slices))
    ]


def fastest_first(tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plans that fit, the fastest first, then the others."""
    return sorted(tried, key=lambda row: (not row["fits"], -(row["images_per_second"] or 0.0)))


def _candidates(each: dict[str, Changes]) -> Iterator[Changes]:
    yield from each.values()
    together: Changes = {}
    for number, changes in enumerate(each.values()):
        together = together | changes
        if number > 0:
            yield together
