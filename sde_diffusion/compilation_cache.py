"""Compiled programs kept on disk, so that a restart does not compile again."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable_compilation_cache(directory: str | Path) -> Path:
    """From now on JAX keeps compiled programs under `directory`, and looks there first.

    JAX's own key holds the program, the compiler's version and flags, and the devices; on a CPU
    this leaves out what the processor can do, and a home directory may be shared by unlike
    machines, so each kind of processor gets a folder of its own, which is returned.
    """
    folder = Path(directory).expanduser() / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default only programs that took a second to compile are kept; a small network's many
    # programs of a fraction of a second each then compile at every start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # JAX looks at the directory once, when it compiles for the first time.
    compilation_cache.reset_cache()
    return folder


@contextmanager
def without_compilation_cache() -> Iterator[None]:
    """In the block JAX compiles all anew, and keeps nothing.

    For programs of devices that are not here: they cannot be loaded again, and how long they take
    to compile is wanted.
    """
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _processor() -> str:
    described = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        wanted = ("model name", "flags", "Features")
        lines = cpuinfo.read_text(errors="replace").splitlines()
        described += sorted({line for line in lines if line.startswith(wanted)})
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]
