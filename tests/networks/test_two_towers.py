"""The towers that judge pictures by their captions."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from sde_diffusion.networks.two_towers import FirstConv


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
def test_the_first_convolution_is_the_same_as_flax_has_it(size):
    key, x = jax.random.key(1), jax.random.normal(jax.random.key(0), (2, *size, 3))
    ours, theirs = FirstConv(5), nn.Conv(5, (3, 3), strides=2)
    params = theirs.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(key, x), params)
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-6)
