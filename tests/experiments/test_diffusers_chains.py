"""Our solvers on published chains against committed samples of diffusers' schedulers."""

import diffusers_chains
import numpy as np
import pytest

REFERENCE = dict(zip(*np.load(diffusers_chains.REFERENCE).values(), strict=True))


@pytest.mark.parametrize("case", diffusers_chains.CASES, ids=lambda case: case.name)
def test_our_samples_are_those_of_the_scheduler(case):
    np.testing.assert_allclose(diffusers_chains.ours(case), REFERENCE[case.name], atol=1e-5)


def test_the_reference_has_the_cases_and_no_other():
    assert list(REFERENCE) == [case.name for case in diffusers_chains.CASES]
