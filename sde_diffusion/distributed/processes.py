"""How the processes of a run find each other, agree, and end together.

`jax.distributed` connects them. By itself it aborts with a stack trace when a process does not
join. When a process fails, it waits for the others for minutes, and they wait for its messages.
Here a process that fails sends the reason to the others through the coordinator, and all processes
end at once, with the same line on standard error and the same exit code.

Two private modules of JAX are used, since `jax.distributed` has no public function for either:
- the client of the coordinator, whose key-value store carries the reason of a failure;
- the list of known clusters. `jax.distributed.initialize()` also looks for a cluster, but refuses
  to do so once JAX has been used, and a process that is alone may have used it.
"""

import contextlib
import functools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import clusters
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sde_diffusion.distributed.mesh import make_mesh
from sde_diffusion.distributed.sharding import replicated, shard_samples

FAILURES, DONE = "sde_diffusion/failure/", "sde_diffusion/done"
POLL_SECONDS = 0.5
DAY_IN_MILLISECONDS = 24 * 3600 * 1000

Describe = Callable[[BaseException], tuple[int, str]]


def describe_error(error: BaseException) -> tuple[int, str]:
    """(exit code, one line) for an exception of any kind."""
    return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    join_timeout: int = 300,
    heartbeat_timeout: int = 100,
    describe: Describe = describe_error,
) -> Iterator[None]:
    """Runs the block as one of the processes of a run, or alone if there are no others.

    TPU pods, SLURM and Open MPI are detected. Elsewhere `coordinator` is HOST:PORT of process 0,
    the same for all processes, `num_processes` is their number, and `process_id` the index of this
    one. Under SLURM and Open MPI JAX expects one process for each GPU, on a TPU one for each host.
    Must be entered before JAX is used.

    If a process does not join within `join_timeout` seconds, or if the block of one process raises
    an exception, all processes end. They print the line, and have the exit code, that `describe`
    gives for the exception (a TimeoutError if a process did not join). If a process dies without
    raising an exception, the others end `heartbeat_timeout` seconds later. The other processes end
    without unwinding their stacks, because their main threads wait for messages that will not come.

    Raises ValueError for arguments that do not name a process, OSError when the coordinator's port
    cannot be used.
    """
    _check(coordinator, num_processes, process_id)
    if join_timeout < 1:
        raise ValueError(f"join_timeout: {join_timeout} is not at least 1 second")
    late = threading.Timer(join_timeout, _end_for_lateness, (coordinator, join_timeout, describe))
    late.daemon = True
    late.start()
    try:
        together = _join(coordinator, num_processes, process_id, join_timeout, heartbeat_timeout)
    finally:
        late.cancel()
    if not together:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_end_with_the_first_failure, args=(done,), daemon=True)
    watcher.start()
    try:
        yield
        # The first process may still draw a picture or evaluate samples. The others wait until it
        # is done, or has failed.
        _client().wait_at_barrier(DONE, DAY_IN_MILLISECONDS)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code, line = describe(error)
        if code == 1:
            traceback.print_exc()
        failure = {"code": code, "line": f"{line} (process {jax.process_index()})"}
        _client().key_value_set(f"{FAILURES}{jax.process_index()}", json.dumps(failure))
        watcher.join()
        raise
    done.set()
    watcher.join()
    jax.distributed.shutdown()


def any_process(flag: bool) -> Any:
    """Whether the flag is set on any process: a scalar of type bool, the same on all of them.

    Every process must call this equally often. The result is asynchronous: reading it blocks until
    it is ready.
    """
    if jax.process_count() == 1:
        return flag
    mesh, any_of = _any_device()
    flags = np.full(jax.local_device_count(), flag)
    return any_of(jax.make_array_from_process_local_data(shard_samples(mesh), flags))


def is_first_process() -> bool:
    """Whether this process writes the files of the run: records, pictures, the config."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Blocks until all processes have called this with the same name."""
    multihost_utils.sync_global_devices(name)


def to_every_process(x: jax.Array) -> np.ndarray:
    """The complete value, on every process, of an array that is sharded over the processes."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


@functools.cache
def _any_device() -> tuple[Mesh, Callable[[jax.Array], jax.Array]]:
    mesh = make_mesh()
    return mesh, jax.jit(jnp.any, out_shardings=replicated(mesh))


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ValueError("num_processes and process_id need a coordinator, HOST:PORT")
        return
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator: {coordinator!r} is not HOST:PORT")
    if num_processes is None or process_id is None:
        raise ValueError("coordinator: num_processes and process_id are needed with it")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id: {process_id} is not in [0, num_processes = {num_processes})")


def _join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    join_timeout: int,
    heartbeat_timeout: int,
) -> bool:
    """Waits until all processes have joined; returns False if this one is alone."""
    if coordinator is None and not _in_a_cluster():
        return False
    # JAX's preemption service agrees on a step by counting calls, and orbax makes such calls too.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # Longer than ours, because this timeout aborts with a stack trace.
            initialization_timeout=join_timeout + 60,
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
    except RuntimeError as error:
        raise OSError(f"coordinator {coordinator}: {error}") from error
    return True


def _in_a_cluster() -> bool:
    """Whether JAX detects a cluster, and with it the other processes."""
    if os.environ.get("SLURM_NTASKS") == "1":
        return False  # JAX would use one device only, since it expects a task for each device
    known = clusters.ClusterEnv._cluster_types
    return any(kind.is_env_present() for kind in known if not kind.opt_in_only_method)


def _end_for_lateness(coordinator: str | None, seconds: int, describe: Describe) -> NoReturn:
    line = f"not all processes joined within {seconds} s"
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError:
            line = f"no coordinator answered at {coordinator} within {seconds} s"
    _end(*describe(TimeoutError(line)))


def _end_with_the_first_failure(done: threading.Event) -> None:
    client = _client()
    while not done.wait(POLL_SECONDS):
        failures = client.key_value_dir_get(FAILURES)
        if failures:
            failure = json.loads(min(failures)[1])
            # Process 0 runs the coordinator: it must not end before all have read the reason.
            with contextlib.suppress(Exception):
                client.wait_at_barrier(f"{FAILURES}leaving", 10_000)
            if is_first_process():
                time.sleep(POLL_SECONDS)
            _end(failure["code"], failure["line"])


def _client() -> Any:
    return jax_distributed.global_state.client


def _end(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    # From a thread, only this ends the process with this exit code: sys.exit would end the thread,
    # and a signal's Python handler does not run while the main thread waits inside a collective.
    os._exit(code)
