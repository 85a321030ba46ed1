"""What sample() guarantees, whatever the solver."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

import sde_diffusion as sd
from sde_diffusion import grids, samplers

SDE = sd.VP()
EXACT = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
TRACES = []


def denoise(shift, x, t):
    """Nonlinear, and compiled in no time: what is tested is the same for every model."""
    TRACES.append(1)
    return jnp.tanh(x) + shift


def model_of(shift):
    return sd.from_x0(SDE, Partial(denoise, jnp.float32(shift)))


MODEL = model_of(0.0)
CORRECTED = samplers.PredictorCorrector(samplers.ReverseDiffusion(), samplers.Langevin())
# A choice of steps turns rounding into a difference within the tolerance.
TIGHT = {"rtol": 1e-5, "atol": 1e-5}
SOLVERS = [make() for make in samplers.SOLVERS.values()]
SOLVERS = [
    type(solver)(**TIGHT) if solver.adaptive and not solver.stochastic else solver
    for solver in SOLVERS
]
SOLVERS += [CORRECTED, samplers.EDMSampler(churn=0.1), samplers.DDIM(eta=1.0), samplers.Langevin()]
FIXED = [solver for solver in SOLVERS if not solver.adaptive]
SOLVERS += [samplers.ParaDiGMS(samplers.DPMSolverPP2M(), window=4)]

# Backward passes and eight devices compile for long: one solver for each mechanism.
ONE_OF_A_KIND = [
    samplers.DDIM(),
    samplers.EDMSampler(churn=0.1),
    samplers.RK4(),
    samplers.RES2S(),
    samplers.DPMSolverPP2M(),
    samplers.UniPC(),
    samplers.EulerMaruyama(),
    CORRECTED,
]


def ids(solver):
    return type(solver).__name__ + ("-noisy" if solver.stochastic else "")


def draw(solver, key=0, batch=6, steps=8, model=None, **options):
    return sd.sample(
        jax.random.key(key),
        MODEL if model is None else model,
        (batch, 2),
        solver=solver,
        grid=grids.uniform(SDE, 1 if solver.adaptive else steps),
        **options,
    )


@cache
def one_counted(solver):
    """Sample 5 alone, and how often the network was called for it."""
    calls = []

    def counted(params, sde, x, t, cond):
        # called for each x [B, *event] where several are evaluated in parallel
        jax.debug.callback(lambda _: calls.append(1), x)
        return MODEL(x, t)

    made = draw(solver, batch=1, first=5, model=sd.Model(SDE, counted))
    jax.effects_barrier()
    return made, len(calls)


@pytest.mark.parametrize("solver", SOLVERS, ids=ids)
class TestEverySolver:
    def test_a_sample_does_not_depend_on_its_batch(self, solver):
        whole = draw(solver, batch=6).x
        close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
        close(draw(solver, batch=6, first=2).x[:4], whole[2:])
        close(one_counted(solver)[0].x, whole[5:])

    def test_evaluations_are_the_calls_that_the_network_gets(self, solver):
        made, calls = one_counted(solver)
        assert np.max(made.nfe) == calls

    def test_a_second_call_compiles_nothing(self, solver):
        first, traced = draw(solver, key=0).x, len(TRACES)
        second = draw(solver, key=1, model=model_of(0.1)).x
        assert len(TRACES) == traced
        assert not np.allclose(first, second)

    def test_inside_jit_and_vmap(self, solver):
        alone = [draw(solver, key=k).x for k in (0, 1)]
        together = jax.jit(jax.vmap(lambda k: draw(solver, key=k).x))(jnp.arange(2))
        np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", FIXED, ids=ids)
class TestEveryFixedGridSolver:
    def test_evaluations_are_those_it_declares(self, solver):
        declared = 8 * solver.evaluations + solver.extra_evaluations
        assert int(draw(solver, steps=8).nfe) == declared + 1

    def test_its_program_is_as_long_for_any_number_of_steps(self, solver):
        # from 15 on: before, some take a last step of lower order
        few, many = (str(jax.make_jaxpr(lambda n=n: draw(solver, steps=n).x)()) for n in (15, 500))
        assert few.count(" = ") == many.count(" = ") > 10

    def test_deterministic_ones_ignore_the_key(self, solver):
        options = {"batch": 2, "x_init": jnp.ones((2, 2)), "denoise_last": False}
        one, other = (draw(solver, key=k, **options) for k in (0, 1))
        assert np.allclose(one.x, other.x) != solver.stochastic
        declared = 8 * solver.evaluations + solver.extra_evaluations
        assert int(one.nfe) == declared  # one less than with the one that denoises


@pytest.mark.parametrize("solver", ONE_OF_A_KIND, ids=ids)
def test_gradient_with_respect_to_the_model_with_and_without_remat(solver):
    def spread(std, remat=False):
        exact = sd.analytic.Gaussian.of(jnp.zeros(2), std**2 * jnp.ones(2))
        x = draw(solver, model=exact.model(SDE), batch=4, remat=remat).x
        return jnp.sum(x**2)

    step = 1e-2
    difference = (spread(0.5 + step) - spread(0.5 - step)) / (2 * step)
    slope = jax.grad(spread)(0.5)
    np.testing.assert_allclose(slope, difference, rtol=2e-2)
    np.testing.assert_allclose(jax.grad(partial(spread, remat=True))(0.5), slope, rtol=1e-4)


@pytest.mark.parametrize("solver", ONE_OF_A_KIND, ids=ids)
def test_on_eight_devices(solver):
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    sampled = jax.jit(lambda: draw(solver, batch=16).x, out_shardings=sharding)()
    assert len(sampled.sharding.device_set) == 8
    np.testing.assert_allclose(sampled, draw(solver, batch=16).x, rtol=2e-5, atol=2e-5)


def test_starts_from_the_noise_of_the_first_time_of_the_grid():
    sde = sd.EDM()
    start = sd.sample(
        jax.random.key(0),
        EXACT.model(sde),
        (4000, 2),
        solver=samplers.DDIM(),
        grid=jnp.array([10.0, 1.0]),
        trajectory=True,
    ).trajectory[0]
    assert np.std(start) == pytest.approx(10.0, rel=0.03)


def test_the_trajectory_holds_every_time_of_the_grid():
    made = draw(samplers.DDIM(), steps=8, trajectory=True, denoise_last=False)
    assert made.trajectory.shape == (9, 6, 2)
    np.testing.assert_array_equal(made.trajectory[-1], made.x)


def test_the_last_evaluation_leaves_no_noise():
    # All data at one point: whatever is left besides it is noise.
    point = sd.analytic.Gaussian.of(jnp.array([0.3, -0.3]), 0.0)
    for solver in (samplers.EulerMaruyama(), CORRECTED):
        made = draw(solver, model=point.model(SDE), batch=50, steps=50).x
        np.testing.assert_allclose(made, np.tile([0.3, -0.3], (50, 1)), atol=1e-5)


# All but Langevin: by itself it stays at its time, and as a corrector, its step being chosen by a
# norm of two dimensions, it has a bias.
LANGEVIN = (samplers.Langevin, samplers.PredictorCorrector)
FROM_ALPHA_ZERO = [
    solver
    for solver in SOLVERS
    if not (solver.reads_diffusion or solver.reads_log_snr or isinstance(solver, LANGEVIN))
]


@pytest.mark.parametrize("solver", FROM_ALPHA_ZERO, ids=ids)
class TestFromAlphaZero:
    EXACT = sd.analytic.Gaussian.of(jnp.array([0.7, -0.4]), jnp.array([0.8, 0.1]))
    END = 0.05

    def samples(self, solver, t_max):
        flow = sd.Flow(t_max=t_max)
        rest = jnp.linspace(1.0, self.END, 2 if solver.adaptive else 80)[1:]
        return sd.sample(
            jax.random.key(0),
            self.EXACT.model(flow),
            (10_000, 2),
            solver=solver,
            grid=jnp.append(t_max, rest),
            denoise_last=False,
        ).x

    def test_flow_is_sampled(self, solver):
        made, flow = self.samples(solver, 1.0), sd.Flow()
        mean = flow.alpha(self.END) * self.EXACT.mean
        variances = flow.alpha(self.END) ** 2 * self.EXACT.variances + self.END**2
        np.testing.assert_allclose(np.mean(made, axis=0), mean, atol=0.03)
        # Those of order 1 are 9 % off in so many steps.
        np.testing.assert_allclose(np.var(made, axis=0), variances, rtol=0.1)

    def test_an_alpha_that_is_rounding_is_taken_for_zero(self, solver):
        made = self.samples(solver, 0.9999999)
        np.testing.assert_allclose(made, self.samples(solver, 1.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": jnp.array([0.1, 0.5])}, "grid must decrease"),
        ({"grid": jnp.array([0.5])}, "at least two times"),
        ({"x_init": jnp.zeros((3, 2))}, r"x_init has shape \(3, 2\), but shape is \(6, 2\)"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"solver": samplers.DDIM(), "grid": grids.uniform(SDE, 4)} | options
    with pytest.raises(ValueError, match=message):
        sd.sample(jax.random.key(0), EXACT.model(SDE), (6, 2), **arguments)


@pytest.mark.parametrize("t_max", [1.0, 0.9999999])
def test_a_solver_that_reads_an_infinite_diffusion_says_so(t_max):
    flow = sd.Flow(t_max=t_max)
    with pytest.raises(ValueError, match="EulerMaruyama needs a finite diffusion"):
        sd.sample(
            jax.random.key(0),
            EXACT.model(flow),
            (2, 2),
            solver=samplers.EulerMaruyama(),
            grid=grids.uniform(flow, 4),
        )


def test_an_unknown_solver_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown solver 'dpm_2m'; did you mean 'dpmpp_2m'\?"):
        samplers.named("dpm_2m")
