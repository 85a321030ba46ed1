"""The declared order of every solver, measured where the answer is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import orders
import pytest
from orders import SDES

import sde_diffusion as sd
from sde_diffusion import noise, samplers

IN_TIME = [samplers.Euler(), samplers.Heun(), samplers.Midpoint(), samplers.RK4()]
EXPONENTIAL = [
    samplers.DDIM(),
    samplers.EDMSampler(),
    samplers.DPMSolver2S(),
    samplers.DPMSolver3S(),
    samplers.DPMSolverFast(),
    samplers.DPMSolverPP2S(),
    samplers.DPMSolverPP2M(),
    samplers.DPMSolverPP3M(),
    samplers.DEIS(order=2),
    samplers.DEIS(order=3),
    samplers.IPNDM(order=2),
    samplers.IPNDM(order=3),
    samplers.IPNDM(),
    samplers.PLMS(),
    *[samplers.UniPC(p=p, corrector=corrector) for p in (1, 2, 3) for corrector in (True, False)],
    samplers.UniPC(p=2, variant="bh1"),
    samplers.UniPC(p=2, variant="bh1", corrector=False),
    samplers.SASolver(p=2, corrector=False, tau=0.0),
    samplers.SASolver(p=2, tau=0.0),
    samplers.SASolver(p=3, corrector=False, tau=0.0),
    samplers.SASolver(p=3, tau=0.0),
    samplers.RES2S(),
    samplers.RES3S(),
]
# A churn that stays at every step leaves an error that more steps do not mend.
NO_ORDER = [samplers.EDMSampler(churn=0.1), samplers.EDMSampler(churn=0.4)]
FIRST_ORDER = [
    samplers.EulerMaruyama(),
    samplers.ReverseDiffusion(),
    samplers.Ancestral(),
    samplers.Ancestral(variance="forward"),
    samplers.DDIM(eta=1.0),
    samplers.DDIM(eta=0.5),
]
SECOND_ORDER = [
    samplers.SDEDPMSolverPP2S(),
    samplers.SDEDPMSolverPP2S(eta=0.5),
    samplers.SDEDPMSolverPP2M(),
    samplers.SDEDPMSolverPP3M(),
    samplers.SEEDS3(),
    samplers.StochasticHeun(),
    samplers.SASolver(p=1, corrector=False),
    samplers.SASolver(p=1),
    samplers.SASolver(p=2, corrector=False),
    samplers.SASolver(p=3, tau=0.5),
]
# Those that converge to the reverse SDE along its own path: eta = 1, and all of its noise.
ALONG_A_PATH = [
    *FIRST_ORDER[:5],
    samplers.SDEDPMSolverPP2S(),
    samplers.SDEDPMSolverPP2M(),
    samplers.SDEDPMSolverPP3M(),
    samplers.SEEDS3(),
    samplers.StochasticHeun(),
    samplers.SASolver(),
]


def ids(solver):
    told = ("variance", "eta", "order", "p", "variant", "corrector", "tau", "churn")
    extra = [str(vars(solver)[name]) for name in told if name in vars(solver)]
    return "-".join([type(solver).__name__, *extra])


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", IN_TIME, ids=ids)
def test_global_order_in_time(solver, name):
    if name == "tabulated" and solver.order > 2:
        pytest.skip("the spline of a table has two derivatives")
    assert orders.global_order(solver, SDES[name]) == pytest.approx(solver.order, abs=0.2)


# In x / alpha over lambda all SDEs are one, and so are these solvers' steps: two SDEs will do.
@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.parametrize("solver", EXPONENTIAL, ids=ids)
def test_global_order_in_log_snr(solver, name):
    assert orders.global_order(solver, SDES[name]) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
@pytest.mark.parametrize("solver", FIRST_ORDER, ids=ids)
def test_weak_order_of_the_first(solver, name):
    assert orders.weak_order(solver, SDES[name]) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("solver", SECOND_ORDER, ids=ids)
def test_weak_order_of_the_second(solver):
    assert orders.weak_order(solver, SDES["vp"]) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("solver", NO_ORDER, ids=ids)
def test_a_churn_that_stays_has_no_order(solver):
    assert solver.order == 0
    assert solver.strong_order is None
    assert orders.weak_order(solver, SDES["vp"]) == pytest.approx(0.0, abs=0.2)


def test_a_churn_that_falls_with_the_steps_has_weak_order_2():
    with jax.enable_x64(True):
        errors = [
            orders.weak_error(samplers.EDMSampler(churn=20.0 / n), SDES["vp"])(n)
            for n in orders.WEAK
        ]
    assert orders.fitted_order(orders.WEAK, errors) == pytest.approx(2.0, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ALONG_A_PATH, ids=ids)
def test_strong_order(solver):
    measured = orders.strong_order(solver, SDES["vp"])
    assert measured == pytest.approx(solver.strong_order, abs=0.2)


@pytest.mark.parametrize("solver", [samplers.SDEDPMSolverPP2S(), samplers.SASolver()], ids=ids)
def test_all_sdes_give_the_same_along_one_path(solver):
    # In x / alpha over lambda these SDEs are one, and so is their noise.
    with jax.enable_x64(True):
        run = orders.along_a_path(solver, batch=4)
        for name in ("vp", "subvp", "flow"):
            np.testing.assert_allclose(run(SDES[name], 10), run(SDES["edm"], 10), rtol=1e-6)


def test_a_corrector_leaves_the_marginal_to_the_order_of_its_step(monkeypatch):
    # One Langevin step changes the variance by a term of order h^2, where h = O(snr^2).
    sde, exact, sizes = sd.VP(), sd.analytic.Gaussian.of(jnp.zeros(1), jnp.array([0.3])), []

    def step(x, z, snr):
        with monkeypatch.context() as patch:
            patch.setattr(noise, "normal", lambda keys, like: jnp.full_like(like, z))
            state = samplers.State(jnp.full((1, 1), x))
            keys = noise.sample_keys(jax.random.key(0), 1)
            solver, model = samplers.AnnealedLangevin(snr=snr), samplers.Counted(exact.model(sde))
            return solver.step(keys, model, state, jnp.array(0.5), jnp.array(0.499)).x[0, 0]

    with jax.enable_x64(True):
        true = sde.alpha(0.5) ** 2 * exact.variances[0] + sde.sigma(0.5) ** 2
        for snr in (0.1, 0.05, 0.025):
            a, b = jax.grad(step, argnums=(0, 1))(0.0, 0.0, snr)
            sizes.append(abs(float(a**2 * true + b**2 - true)))
    assert orders.fitted_order([10, 20, 40], sizes) == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize("name", SDES)
def test_ddim_takes_the_same_path_for_every_sde(name):
    # In x / alpha against sigma / alpha all of these SDEs are one.
    with jax.enable_x64(True):
        exact = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
        log_snr, ends = jnp.linspace(-2.0, 3.0, 12), []
        for sde in (sd.EDM(), SDES[name]):
            grid = sde.t_of_log_snr(log_snr)
            start = jnp.array([[3.0, -1.0], [-4.0, 2.0]]) * sde.alpha(grid[0])
            ends.append(
                sd.sample(
                    jax.random.key(0),
                    exact.model(sde),
                    start.shape,
                    solver=samplers.DDIM(),
                    grid=grid,
                    x_init=start,
                ).x
            )
        np.testing.assert_allclose(*ends, rtol=1e-6)
