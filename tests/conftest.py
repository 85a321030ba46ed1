"""Settings and fixtures of the whole suite.

Eight CPU devices, so that pmap and sharding are tested on any machine. A cache of compiled programs
for all processes of a run of the suite: the workers of pytest-xdist and what the tests start.
"""

import atexit
import gc
import itertools
import logging
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_platforms", "cpu")
# Programs do not say where in the source each of their operations is: that takes time to find.
jax.config.update("jax_traceback_in_locations_limit", 0)
# For the processes that tests start: with libtpu installed JAX looks for a TPU and warns of none.
os.environ["JAX_PLATFORMS"] = "cpu"
jax.config.update("jax_num_cpu_devices", 8)

# XLA's newer emitters of fused loops take a third of the time of compilation, and parts of a
# program that are compiled side by side cost more together: the suite's workers fill the cores.
# XLA reads the options when JAX finds its devices, and they do not stay: a TPU's compiler or
# another version of XLA ends a process with an option that it does not know.
if jax.__version_info__[:2] == (0, 10):
    flags = os.environ.get("XLA_FLAGS")
    faster = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{flags or ''} {faster}".strip()
    jax.devices()
    if flags is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = flags

# Most of the suite's time is compilation, and many tests compile what others have compiled. The
# cache begins empty, unless the environment names one. Workers and other processes find it there.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="sde-diffusion-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    # Programs that compile sooner are not worth a file.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# The first example of a law pays for compilation, so no deadline. A suite that says the same of the
# same code takes the same examples; `pytest --hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=300)
hypothesis.settings.load_profile("same")

# A process may map 65,530 regions of memory, of which every compiled program takes a dozen: a
# worker that kept those of a thousand tests was aborted by the compiler.
REGIONS = 30_000
_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _compiled_programs_do_not_pile_up():
    yield
    if next(_tests) % 10 == 0 and _regions() > REGIONS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _no_warnings_to_a_closed_stream():
    # The command line, also called in this process, has warnings written to the standard error of
    # the test that called it.
    yield
    logger = logging.getLogger("sde_diffusion")
    logger.handlers, logger.propagate = [], True


def _regions():
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def pytest_collection_modifyitems(items):
    """Files with slow tests are started first: none is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# Their tests are of what the compiler makes of a program, or of two programs whose rounding should
# be the same.
OPTIMIZED = ("planning", "test_sharding.py", "test_layerwise.py", "test_spread.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Programs are compiled with fewer optimizations, which changes rounding and takes a quarter of
    the time off; also in processes that a test starts. Set before fixtures of any scope are made.
    """
    quickly = not {item.path.parent.name, item.path.name} & set(OPTIMIZED)
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") != str(quickly):
        jax.clear_caches()  # or programs of both kinds would meet, whose rounding differs
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(quickly)
    jax.config.update("jax_disable_most_optimizations", quickly)
