"""From one device to many hosts: the mesh, the sharding rule, and how processes start and end.

Nothing here depends on an SDE, a network, a training state or a config. The same program runs on
every topology: the compiler partitions it by the shardings of its arguments.
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
    put_split,
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
    "put_split",
    "replicated",
    "sampling_shardings",
    "shard_samples",
    "spread",
    "state_shardings",
    "to_every_process",
    "wait_for_all",
]
