"""Principal components against an exact decomposition."""

import numpy as np
import pytest

from sde_diffusion.metrics import principal_components


def test_the_directions_are_those_of_the_exact_decomposition():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 120)) * np.geomspace(10, 0.1, 120) + 3.0
    found = principal_components(data, 5)
    exact = np.linalg.svd(data - data.mean(axis=0))[2][:5]
    cosines = np.linalg.svd(exact @ found.directions, compute_uv=False)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 50), (50, 3)])
def test_there_are_no_more_than_the_data_have(shape):
    data = np.random.default_rng(0).normal(size=shape)
    found = principal_components(data, 10)
    assert found.directions.shape == (shape[1], 3)
    np.testing.assert_allclose(found.features(data)[:, -1], 0.0, atol=1e-12)


def test_features_keep_every_length():
    data = np.random.default_rng(0).normal(size=(40, 20))
    found = principal_components(data, 4)
    x = np.random.default_rng(1).normal(size=(10, 20)) + 2.0
    lengths = np.linalg.norm(x - data.mean(axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(found.features(x), axis=1), lengths)
