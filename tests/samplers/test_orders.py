"""The declared order of every solver, measured where the answer is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, noise, samplers
from sde_diffusion.samplers.unipc import UniPCState
from sde_diffusion.sdes import KINDS

SDES = {name: kind() if name != "flow" else sd.Flow(t_max=0.99) for name, kind in KINDS.items()}
MIXTURE = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.8)
LOW, HIGH, FINEST = -1.5, 1.5, 160
DETERMINISTIC = [
    samplers.Euler(),
    samplers.DDIM(),
    samplers.Heun(),
    samplers.EDMSampler(),
    samplers.Midpoint(),
    samplers.RK4(),
    samplers.DPMSolver2S(),
    samplers.DPMSolver3S(),
    samplers.DPMSolverPP2S(),
    samplers.DPMSolverPP2M(),
    samplers.DPMSolverPP3M(),
    samplers.DEIS(order=2),
    samplers.DEIS(order=3),
    samplers.IPNDM(order=2),
    samplers.IPNDM(order=3),
    samplers.IPNDM(),
    samplers.UniPC(p=1),
    samplers.UniPC(p=2, variant="bh1"),
    samplers.UniPC(p=3),
    samplers.UniPC(p=2, variant="bh1", corrector=False),
    samplers.UniPC(p=3, corrector=False),
    samplers.RES2S(),
    samplers.RES3S(),
]
STOCHASTIC = [
    samplers.EulerMaruyama(),
    samplers.ReverseDiffusion(),
    samplers.Ancestral(),
    samplers.Ancestral(variance="forward"),
    samplers.DDIM(eta=1.0),
    samplers.DDIM(eta=0.5),
]


def ids(solver):
    told = ("variance", "eta", "order", "p", "variant", "corrector")
    extra = [str(vars(solver)[name]) for name in told if name in vars(solver)]
    return "-".join([type(solver).__name__, *extra])


def between(sde, steps):
    """A grid smooth in both t and log-SNR, over the middle of the process.

    The asymptotic order shows at a few hundred steps only if no step is long compared with what
    it approximates; near the ends all methods need many more.
    """
    return sde.t_of_log_snr(jnp.linspace(LOW, HIGH, steps + 1))


def fitted_order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.fixture(scope="module")
def reference():
    """The probability flow of a mixture of Gaussians in x / alpha, [161, B, D] over lambda.

    All SDEs share it. A Gaussian would not do: being linear it satisfies order conditions that a
    method may lack, and midpoint is of order 3 on it where alpha is constant.
    """
    with jax.enable_x64(True):
        model, substeps = MIXTURE.model(sd.EDM()), 16

        def slope(log_snr, y):
            sigma = jnp.exp(-log_snr)
            return -sigma * model(y, sigma).eps

        def advance(y, log_snr):
            h = (HIGH - LOW) / FINEST / substeps

            def step(i, y):
                start = log_snr + i * h
                k1 = slope(start, y)
                k2 = slope(start + h / 2, y + h / 2 * k1)
                k3 = slope(start + h / 2, y + h / 2 * k2)
                k4 = slope(start + h, y + h * k3)
                return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

            y = jax.lax.fori_loop(0, substeps, step, y)
            return y, y

        start = jnp.array([[3.0, -1.0], [-4.0, 2.0], [0.5, 5.0]])
        times = jnp.linspace(LOW, HIGH, FINEST + 1)
        _, ys = jax.jit(lambda: jax.lax.scan(advance, start, times[:-1]))()
        return jnp.concatenate([start[None], ys])


def started(state, x):
    """The state with x as the sample, of which UniPC keeps the part before correction as well."""
    if isinstance(state, UniPCState):
        return state._replace(x=x, base=x, weight=jnp.zeros_like(state.weight))
    return state._replace(x=x)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=ids)
def test_global_error_of_a_deterministic_solver(solver, name, reference):
    # The order of a multistep method is that from exact starting values: its own first step, of
    # order 1, leaves an error of h^2 whatever the order of the others.
    starting = 3

    @jax.jit
    def error(sde, steps):
        def time(i):
            return sde.t_of_log_snr(LOW + (HIGH - LOW) * i / steps)

        def exact(i):
            return sde.alpha(time(i)) * reference[i * (FINEST // steps)]

        def step(i, state):
            model = samplers.Model(MIXTURE.model(sde))
            state = solver.step(None, model, sde, state, time(i), time(i + 1))
            restarted = started(state, exact(i + 1))
            return jax.tree.map(lambda a, b: jnp.where(i < starting, a, b), restarted, state)

        state = jax.lax.fori_loop(0, steps, step, solver.init(exact(0)))
        return jnp.sqrt(jnp.mean((state.x - exact(steps)) ** 2))

    with jax.enable_x64(True):
        steps = np.array([FINEST // 4, FINEST // 2, FINEST])
        errors = [float(error(SDES[name], n)) for n in steps]
    assert fitted_order(steps, errors) == pytest.approx(solver.order, abs=0.2)


def moments(solver, sde, exact, grid, monkeypatch):
    """The exact mean and variance of the solver's samples at grid[-1], in one dimension.

    A step on a Gaussian problem is x -> a x + c + b z. Three runs of all steps at once give a, c
    and b, and these carry the moments from grid[0], where they are the process's own.
    """

    def step(x, z):
        with monkeypatch.context() as patch:
            patch.setattr(noise, "normal", lambda keys, like: jnp.full_like(like, z))

            def one(t, s):
                state = solver.init(jnp.full((1, 1), x))
                model = samplers.Model(exact.model(sde))
                keys = noise.sample_keys(jax.random.key(0), 1)
                return solver.step(keys, model, sde, state, t, s).x[0, 0]

            return np.asarray(jax.vmap(one)(grid[:-1], grid[1:]))

    c = step(0.0, 0.0)
    a, b = step(1.0, 0.0) - c, step(0.0, 1.0) - c
    mean = float(sde.alpha(grid[0]) * exact.mean[0])
    variance = float(sde.alpha(grid[0]) ** 2 * exact.variances[0] + sde.sigma(grid[0]) ** 2)
    for a_i, b_i, c_i in zip(a, b, c, strict=True):
        mean, variance = a_i * mean + c_i, a_i**2 * variance + b_i**2
    return mean, variance


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("solver", STOCHASTIC, ids=ids)
def test_weak_error_of_a_stochastic_solver(solver, name, monkeypatch):
    with jax.enable_x64(True):
        sde = SDES[name]
        exact = sd.analytic.Gaussian.of(jnp.array([0.7]), jnp.array([0.3]))
        steps, errors = [100, 200, 400], []
        for n in steps:
            grid = between(sde, n)
            mean, variance = moments(solver, sde, exact, grid, monkeypatch)
            alpha, sigma = sde.alpha(grid[-1]), sde.sigma(grid[-1])
            true_variance = alpha**2 * exact.variances[0] + sigma**2
            errors.append(abs(float(mean - alpha * exact.mean[0])) + abs(variance - true_variance))
    assert fitted_order(steps, errors) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("corrector", [samplers.AnnealedLangevin(snr=0.1, steps=1)], ids=ids)
def test_a_corrector_leaves_the_marginal_to_the_order_of_its_step(corrector, monkeypatch):
    # One Langevin step changes the variance by a term of order h^2, where h = O(snr^2).
    with jax.enable_x64(True):
        sde, exact = sd.VP(), sd.analytic.Gaussian.of(jnp.array([0.7]), jnp.array([0.3]))
        grid, errors = jnp.array([0.5, 0.499]), []
        sizes = [0.1, 0.05, 0.025]
        for snr in sizes:
            solver = samplers.AnnealedLangevin(snr=snr)
            _, variance = moments(solver, sde, exact, grid, monkeypatch)
            true = sde.alpha(0.5) ** 2 * exact.variances[0] + sde.sigma(0.5) ** 2
            errors.append(abs(variance - float(true)))
    assert fitted_order(1.0 / np.array(sizes), errors) == pytest.approx(4.0, abs=0.2)


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
                    sde,
                    start.shape,
                    solver=samplers.DDIM(),
                    grid=grid,
                    x_init=start,
                ).x
            )
        np.testing.assert_allclose(*ends, rtol=1e-6)


@pytest.mark.parametrize("name", ["vp", "ve", "subvp"])
@pytest.mark.parametrize("corrector", [None, "langevin", "annealed_langevin"])
@pytest.mark.parametrize(
    "predictor", ["euler", "euler_maruyama", "reverse_diffusion", "ancestral", "ddim", "heun"]
)
def test_any_predictor_with_any_corrector_carries_the_prior_to_the_data(predictor, corrector, name):
    sde, dimension = SDES[name], 64  # norms of Langevin's steps concentrate in many dimensions
    exact = sd.analytic.Gaussian.of(jnp.full(dimension, 0.5), jnp.full(dimension, 0.4))
    solver = samplers.SOLVERS[predictor]()
    if corrector is not None:
        solver = samplers.PredictorCorrector(solver, samplers.CORRECTORS[corrector](snr=0.1))
    made = sd.sample(
        jax.random.key(1),
        exact.model(sde),
        sde,
        (200, dimension),
        solver=solver,
        grid=grids.log_snr(sde, 600),  # in fewer steps Euler would not be near the data
    ).x
    assert np.mean(made) == pytest.approx(0.5, abs=0.02)
    assert np.var(made - np.mean(made, 0)) == pytest.approx(0.4, rel=0.1)
