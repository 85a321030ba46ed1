"""A persistent cache of compiled programs, so that a restart does not compile again."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable_compilation_cache(directory: str | Path) -> Path:
    """Make JAX store compiled programs under `directory`; returns the folder.

    JAX's cache key covers the program, the compiler's version and flags, and the devices, but not
    the instruction set of a CPU. A home directory may be shared by different machines, so each kind
    of processor has a folder of its own.
    """
    folder = Path(directory).expanduser() / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default JAX keeps only programs that took a second to compile. A small network's many
    # programs of a fraction of a second each then compile at every start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # JAX looks at the directory once, when it compiles for the first time.
    compilation_cache.reset_cache()
    return folder


@contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Within this context JAX neither reads nor writes the persistent cache.

    For programs of devices that are not present, which cannot be loaded again, and for measuring
    how long a compilation takes.
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
