"""The cache of compiled programs on disk."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from sde_diffusion.compilation_cache import enable_compilation_cache, without_compilation_cache

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def kept(tmp_path):
    """How many programs there are on disk."""
    before = {name: jax.config.values[name] for name in OPTIONS}
    folder = enable_compilation_cache(tmp_path)
    yield lambda: len(list(folder.glob("*-cache")))
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def program(number):
    return jax.jit(lambda x: jnp.sin(x) + number).lower(jax.ShapeDtypeStruct((4,), "float32"))


def test_a_compiled_program_is_kept(kept):
    lowered = program(1.25)
    before = kept()
    lowered.compile()
    assert kept() == before + 1


def test_in_a_block_without_the_cache_nothing_is_kept_and_after_it_all_is_as_before(kept):
    lowered = [program(2.25), program(3.25)]
    before = kept()
    with without_compilation_cache():
        lowered[0].compile()
    assert kept() == before
    lowered[1].compile()
    assert kept() == before + 1
