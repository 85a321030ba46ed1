"""From one device to many hosts: the mesh, the rule of sharding, and how processes join and leave.

It knows no SDE, network, training state or config. One program serves every topology: the compiler
splits it by the shardings of what it is given.
"""

from sde_diffusion.distributed.mesh import check_batch_size, make_mesh
from sde_diffusion.distributed.processes import (
    any_process,
    is_first_process,
    joined,
    to_every_process,
    wait_for_all,
)
from sde_diffusion.distributed.sharding import (
    gather,
    place_batches,
    replicated,
    sampling_shardings,
    shard_samples,
    spread,
    state_shardings,
)

__all__ = [
    "any_process",
    "check_batch_size",
    "gather",
    "is_first_process",
    "joined",
    "make_mesh",
    "place_batches",
    "replicated",
    "sampling_shardings",
    "shard_samples",
    "spread",
    "state_shardings",
    "to_every_process",
    "wait_for_all",
]
