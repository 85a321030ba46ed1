"""The tests of planning compile for devices that are not here, whose programs cannot be stored."""

import pytest

from sde_diffusion.compilation_cache import without_compilation_cache


@pytest.fixture(autouse=True, scope="module")
def _without_a_cache():
    with without_compilation_cache():
        yield
