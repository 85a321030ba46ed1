"""Eight CPU devices, so that pmap and sharding are tested on any machine."""

import gc
import itertools

import hypothesis
import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# The first example of a law pays for compilation, so no deadline. A suite that says the same of the
# same code takes the same examples; `pytest --hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=300)
hypothesis.settings.load_profile("same")

_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _compiled_programs_do_not_pile_up():
    # A process may map 65,530 regions of memory, of which every compiled program takes a dozen: a
    # worker that kept those of a thousand tests was aborted by the compiler.
    yield
    if next(_tests) % 50 == 0:
        jax.clear_caches()
        gc.collect()
