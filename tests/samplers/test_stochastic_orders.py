"""The weak and the strong order of the stochastic solvers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import noise, samplers
from sde_diffusion.sdes import KINDS

SDES = {name: kind() if name != "flow" else sd.Flow(t_max=0.99) for name, kind in KINDS.items()}
MIXTURE = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.8)
LOW, HIGH = -1.5, 1.5  # the middle of the process, in lambda: each step is short there
FINEST = 640
MULTISTEP = [
    samplers.SDEDPMSolverPP2M(),
    samplers.SDEDPMSolverPP3M(),
    samplers.SASolver(p=1, corrector=False),
    samplers.SASolver(p=1),
    samplers.SASolver(p=2, corrector=False),
    samplers.SASolver(p=3, tau=0.5),
]
SINGLESTEP = [
    samplers.SDEDPMSolverPP2S(),
    samplers.SDEDPMSolverPP2S(eta=0.5),
    samplers.SEEDS3(),
    samplers.StochasticHeun(),
]
WITH_ALL_NOISE = [
    samplers.SDEDPMSolverPP2S(),
    samplers.SDEDPMSolverPP2M(),
    samplers.SDEDPMSolverPP3M(),
    samplers.SEEDS3(),
    samplers.SASolver(),
    samplers.StochasticHeun(),
]
FIRST_ORDER = [
    samplers.EulerMaruyama(),
    samplers.ReverseDiffusion(),
    samplers.Ancestral(),
    samplers.Ancestral(variance="forward"),
    samplers.DDIM(eta=1.0),
]


def ids(solver):
    return type(solver).__name__ + "".join(f"-{value}" for value in vars(solver).values())


def time(sde, part):
    return sde.t_of_log_snr(LOW + (HIGH - LOW) * part)


def fitted_order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def variance_after(solver, sde, exact, monkeypatch):
    """steps -> the exact variance of the solver's samples of a Gaussian, in one dimension.

    All that a solver carries is then affine in what it carried and in the noise, so that the
    derivatives of a step carry the covariance of it all. The steps are traced.
    """
    keys, draws = noise.sample_keys(jax.random.key(0), 1), 3
    state = solver.init(jnp.full((1, 1), sde.alpha(time(sde, 0.0)) * exact.mean[0]))
    leaves, structure = jax.tree.flatten(state)
    random = [leaf.shape == (1, 1) for leaf in leaves]
    fixed = [not known for known in random]

    def parts(state):
        leaves = jax.tree.leaves(state)
        drawn = jnp.array([leaf[0, 0] for leaf in itertools.compress(leaves, random)])
        return drawn, list(itertools.compress(leaves, fixed))

    def whole(drawn, others):
        drawn, others = iter(drawn), iter(others)
        leaves = [next(drawn).reshape(1, 1) if known else next(others) for known in random]
        return jax.tree.unflatten(structure, leaves)

    def step(drawn, z, others, t, s):
        z = iter(z)
        with monkeypatch.context() as patch:
            patch.setattr(noise, "normal", lambda keys, like: jnp.full_like(like, next(z)))
            model = samplers.Model(exact.model(sde))
            after = parts(solver.step(keys, model, sde, whole(drawn, others), t, s))
        return after[0], after

    @jax.jit
    def run(steps):
        def advance(i, carry):
            drawn, others, covariance = carry
            ends = time(sde, i / steps), time(sde, (i + 1) / steps)
            derivatives = jax.jacfwd(step, argnums=(0, 1), has_aux=True)
            (a, b), (drawn, others) = derivatives(drawn, jnp.zeros(draws), others, *ends)
            return drawn, others, a @ covariance @ a.T + b @ b.T

        start, (drawn, others) = time(sde, 0.0), parts(state)
        is_x = jnp.array([1.0 * (leaf is state.x) for leaf in itertools.compress(leaves, random)])
        variance = sde.alpha(start) ** 2 * exact.variances[0] + sde.sigma(start) ** 2
        carry = drawn, others, variance * jnp.outer(is_x, is_x)
        return jax.lax.fori_loop(0, steps, advance, carry)[2][0, 0]

    return run


@pytest.mark.parametrize("solver", [*SINGLESTEP, *MULTISTEP], ids=ids)
def test_weak_order(solver, monkeypatch):
    with jax.enable_x64(True):
        sde = SDES["vp"]
        exact = sd.analytic.Gaussian.of(jnp.array([0.7]), jnp.array([2.0]))
        end, steps = time(sde, 1.0), np.array([80, 160, 320])
        true = sde.alpha(end) ** 2 * exact.variances[0] + sde.sigma(end) ** 2
        run = variance_after(solver, sde, exact, monkeypatch)
        errors = [abs(float(run(n) - true)) for n in steps]
    assert fitted_order(steps, errors) == pytest.approx(solver.order, abs=0.2)


def along_a_path(solver, batch=256):
    """(sde, steps) -> x / alpha at the end, [B, 2], of samples with the same noise at any steps."""

    @jax.jit
    def run(sde, steps):
        path = noise.BrownianPath(noise.sample_keys(jax.random.key(1), batch))
        x = np.exp(-LOW) * jax.random.normal(jax.random.key(0), (batch, 2))

        def step(i, state):
            t, s = time(sde, i / steps), time(sde, (i + 1) / steps)
            keys = noise.step_keys(path, i, sde, t, s)
            return solver.step(keys, samplers.Model(MIXTURE.model(sde)), sde, state, t, s)

        state = solver.init(sde.alpha(time(sde, 0.0)) * x)
        return jax.lax.fori_loop(0, steps, step, state).x / sde.alpha(time(sde, 1.0))

    return run


@pytest.fixture(scope="module")
def reference():
    with jax.enable_x64(True):
        return along_a_path(samplers.SDEDPMSolverPP2S())(sd.EDM(), FINEST)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [*FIRST_ORDER, *WITH_ALL_NOISE], ids=ids)
def test_strong_order(solver, reference):
    with jax.enable_x64(True):
        run, steps = along_a_path(solver), np.array([20, 40, 80])
        ends = [run(SDES["vp"], n) for n in steps]
        errors = [np.sqrt(np.mean((end - reference) ** 2)) for end in ends]
    assert fitted_order(steps, errors) == pytest.approx(solver.strong_order, abs=0.2)


@pytest.mark.parametrize("solver", [samplers.SDEDPMSolverPP2S(), samplers.SASolver()], ids=ids)
def test_all_sdes_give_the_same_along_one_path(solver):
    # In x / alpha over lambda these SDEs are one, and so is their noise.
    with jax.enable_x64(True):
        run = along_a_path(solver, batch=4)
        for name in ("vp", "subvp", "flow"):
            np.testing.assert_allclose(run(SDES[name], 10), run(SDES["edm"], 10), rtol=1e-6)
