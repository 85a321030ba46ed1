"""How the processes of a run find each other, agree, and leave together.

`jax.distributed` brings them together. Left to itself it aborts with a stack trace when one of them
does not come, and when one fails it keeps that one waiting for the others, and the others in the
middle of a message, for minutes. So here the one that fails tells the others why, through the
coordinator, and all leave at once, with that line and that exit code.
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
from jax._src import clusters  # neither has a public name
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from sde_diffusion.distributed.mesh import make_mesh
from sde_diffusion.distributed.sharding import replicated, shard_samples

FAILURES, DONE = "sde_diffusion/failure/", "sde_diffusion/done"
SECONDS_BETWEEN_LOOKS = 0.5
MILLISECONDS_OF_A_DAY = 24 * 3600 * 1000

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
    """Runs the block as one of the processes of a run; alone where there are no others.

    TPU pods, SLURM and Open MPI are found by themselves. Elsewhere `coordinator` is HOST:PORT of
    process 0, the same for all, `num_processes` how many there are, and `process_id` which this one
    is. Under SLURM and Open MPI there is one process for each GPU, as JAX has it, on a TPU one for
    each host. Must be entered before JAX is used.

    A process that does not join within `join_timeout` seconds ends the others, and so does an
    exception in the block of one of them: with the line on standard error and the exit code that
    `describe` gives for the exception, here a TimeoutError. One that dies without a word ends the
    others `heartbeat_timeout` seconds later. (Ends the process itself, without unwinding: the main
    thread of the others is waiting for messages that will not come.)

    Raises ValueError for arguments that do not name a process, OSError when the coordinator's port
    cannot be used.
    """
    _check(coordinator, num_processes, process_id)
    if join_timeout < 1:
        raise ValueError(f"join_timeout: {join_timeout} is not at least 1 second")
    late = threading.Timer(join_timeout, _say_who_is_late, (coordinator, join_timeout, describe))
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
    watcher = threading.Thread(target=_leave_with_the_first_that_fails, args=(done,), daemon=True)
    watcher.start()
    try:
        yield
        # The first process may have a picture to draw, or samples to evaluate, while the others are
        # done; they wait for it, and for its failure.
        _client().wait_at_barrier(DONE, MILLISECONDS_OF_A_DAY)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code, line = describe(error)
        if code == 1:
            traceback.print_exc()
        told = json.dumps({"code": code, "line": f"{line} (process {jax.process_index()})"})
        _client().key_value_set(f"{FAILURES}{jax.process_index()}", told)
        watcher.join()
        raise
    done.set()
    watcher.join()
    jax.distributed.shutdown()


def any_process(flag: bool) -> Any:
    """Whether the flag is set on any process: a scalar of type bool, the same on all of them.

    All must ask the same number of times. It is not waited for until it is looked at.
    """
    if jax.process_count() == 1:
        return flag
    mesh, any_of = _any_device()
    flags = np.full(jax.local_device_count(), flag)
    return any_of(jax.make_array_from_process_local_data(shard_samples(mesh), flags))


def is_first_process() -> bool:
    """Whether this is the process that writes what is written once: records, pictures, configs."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes have come to the point of this name."""
    multihost_utils.sync_global_devices(name)


def to_every_process(x: jax.Array) -> np.ndarray:
    """The whole of an array that is spread over the processes, on each of them."""
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
    """Whether there are other processes, after all of them have joined."""
    if coordinator is None and not _in_a_cluster():
        return False
    # JAX's own answer to SIGTERM agrees on a step by counters that orbax moves as well.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # Later than our own, for this one aborts with a stack trace.
            initialization_timeout=join_timeout + 60,
            heartbeat_timeout_seconds=heartbeat_timeout,
        )
    except RuntimeError as error:
        raise OSError(f"coordinator {coordinator}: {error}") from error
    return True


def _in_a_cluster() -> bool:
    """Whether this is a cluster in which JAX finds the other processes."""
    if os.environ.get("SLURM_NTASKS") == "1":
        return False  # JAX would take one device of the machine, as if there were a task for each
    known = clusters.ClusterEnv._cluster_types
    return any(kind.is_env_present() for kind in known if not kind.opt_in_only_method)


def _say_who_is_late(coordinator: str | None, seconds: int, describe: Describe) -> NoReturn:
    line = f"not all processes joined within {seconds} s"
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError:
            line = f"no coordinator answered at {coordinator} within {seconds} s"
    _end(*describe(TimeoutError(line)))


def _leave_with_the_first_that_fails(done: threading.Event) -> None:
    client = _client()
    while not done.wait(SECONDS_BETWEEN_LOOKS):
        failures = client.key_value_dir_get(FAILURES)
        if failures:
            told = json.loads(min(failures)[1])
            # All have read it before the coordinator, which is in process 0, goes.
            with contextlib.suppress(Exception):
                client.wait_at_barrier(f"{FAILURES}leaving", 10_000)
            if is_first_process():
                time.sleep(SECONDS_BETWEEN_LOOKS)
            _end(told["code"], told["line"])


def _client() -> Any:
    return jax_distributed.global_state.client


def _end(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
