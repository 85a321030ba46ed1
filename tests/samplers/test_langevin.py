"""Correctors with predictors of every kind."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers
from sde_diffusion.sdes import KINDS

SDE = sd.VP()
VARIANCES = jnp.array([0.4, 0.1])
EXACT = sd.analytic.Gaussian.of(jnp.zeros(2), VARIANCES)
FITTED = samplers.Fitted(times=(1.0, 0.5, 0.001), a=(0.5, 0.0), c=((0.5,), (0.0, 1.0)))
PREDICTORS = {name: samplers.named(name) for name in samplers.SOLVERS} | {"fitted": FITTED}
CORRECTORS = {
    "ula": samplers.ULA(h=0.2),
    "mala": samplers.MALA(lambda x, t: EXACT.log_prob(SDE, x, t), h=0.5),
    "annealed_langevin": samplers.AnnealedLangevin(snr=0.3),
}
OWN = {"evaluations", "strong_order"}
SAID = [
    name for name in (*inspect.get_annotations(samplers.Solver), "stochastic") if name not in OWN
]


@pytest.mark.parametrize("predictor", PREDICTORS.values(), ids=PREDICTORS)
def test_what_a_predictor_says_of_itself_holds_with_a_corrector(predictor):
    both = samplers.PredictorCorrector(predictor, samplers.ULA())
    said = {name: getattr(predictor, name) for name in SAID} | {"stochastic": True}
    assert {name: getattr(both, name) for name in SAID} == said
    assert both.evaluations == predictor.evaluations + 1


def kind(name):
    """By what a corrector reaches a predictor: the type of its state, and how `moved` sets x."""
    solver = PREDICTORS[name]
    state = solver.init(jnp.ones((1, 2)), jnp.linspace(0.9, 0.1, 5))
    return type(state), type(solver).moved


FIXED = [name for name, solver in PREDICTORS.items() if not solver.adaptive and not solver.times]
ONE_OF_A_KIND = {kind(name): name for name in reversed(FIXED)}.values()
PAIRS = [
    *((predictor, "ula") for predictor in ONE_OF_A_KIND),
    *((predictor, corrector) for predictor in ("ddim", "unipc") for corrector in CORRECTORS),
]


@pytest.mark.slow
@pytest.mark.parametrize(("predictor", "corrector"), sorted(set(PAIRS)))
def test_a_corrector_brings_a_wrong_start_to_the_process(predictor, corrector):
    # Over so little time the predictor alone would leave a variance of nearly 9.
    times = jnp.linspace(0.32, 0.3, 41)
    both = samplers.PredictorCorrector(PREDICTORS[predictor], CORRECTORS[corrector])
    start = 3.0 * jax.random.normal(jax.random.key(1), (4000, 2))
    model = EXACT.model(SDE)
    made = sd.sample(
        *(jax.random.key(0), model, start.shape),
        solver=both,
        grid=times,
        x_init=start,
        denoise_last=False,
    ).x
    var = SDE.alpha(0.3) ** 2 * VARIANCES + SDE.sigma(0.3) ** 2
    np.testing.assert_allclose(jnp.var(made, axis=0), var, rtol=0.2)


# Each with each of the others, of three SDEs in turn.
TOGETHER = [
    (predictor, corrector, ("vp", "ve", "subvp")[(i + j) % 3])
    for i, predictor in enumerate(
        ("euler", "euler_maruyama", "reverse_diffusion", "ancestral", "ddim", "heun")
    )
    for j, corrector in enumerate((None, "langevin", "annealed_langevin"))
]


@pytest.mark.parametrize(("predictor", "corrector", "name"), TOGETHER)
def test_any_predictor_with_any_corrector_carries_the_prior_to_the_data(predictor, corrector, name):
    sde, dimension = KINDS[name](), 64  # norms of Langevin's steps concentrate in many dimensions
    exact = sd.analytic.Gaussian.of(jnp.full(dimension, 0.5), jnp.full(dimension, 0.4))
    solver = samplers.SOLVERS[predictor]()
    if corrector is not None:
        solver = samplers.PredictorCorrector(solver, samplers.CORRECTORS[corrector](snr=0.1))
    made = sd.sample(
        jax.random.key(1),
        exact.model(sde),
        (200, dimension),
        solver=solver,
        grid=grids.log_snr(sde, 600),  # in fewer steps Euler would not be near the data
    ).x
    assert np.mean(made) == pytest.approx(0.5, abs=0.02)
    assert np.var(made - np.mean(made, 0)) == pytest.approx(0.4, rel=0.1)
