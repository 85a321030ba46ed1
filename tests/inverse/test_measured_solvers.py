"""Methods that change a solver's step: their formulas, what they leave exact, what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import sde_diffusion as sd
from sde_diffusion import grids, inverse, noise, samplers
from sde_diffusion.analytic import Gaussian, posterior
from sde_diffusion.distributed import make_mesh
from sde_diffusion.inverse import (
    DAPS,
    DDRM,
    DPS,
    TDS,
    DiffPIR,
    FKSteering,
    Inpainting,
    Measurement,
    RePaint,
    Replacement,
    likelihood,
)

SDE = sd.VP()
MASK = Inpainting(jnp.array([1, 0, 1]))
SENSING = inverse.CompressedSensing(jnp.array([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]]))
KEY = jax.random.key(0)
METHODS = {
    "Replacement": lambda A: Replacement(samplers.DDIM(), A),
    "RePaint": lambda A: RePaint(samplers.Ancestral(), A, repeats=2),
    "DPS": lambda A: DPS(samplers.Ancestral(), A, zeta=0.1),
    "DiffPIR": lambda A: DiffPIR(A, zeta=0.5),
    "DDRM": lambda A: DDRM.of(A, (3,)),
    "DAPS": lambda A: DAPS(samplers.DDIM(), A, ode_steps=2),
    "TDS": lambda A: TDS(particles=3, reward=likelihood(A)),
    "FKSteering": lambda A: FKSteering(
        particles=3, reward=likelihood(A), solver=samplers.Ancestral()
    ),
}
EVERY = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
# These fit a measurement without noise exactly.
EXACT = ["Replacement", "RePaint", "DiffPIR", "DDRM", "DAPS"]
TRACES = []


def denoise(x, t, labels=None):
    TRACES.append(1)
    return jnp.tanh(x) + (0.0 if labels is None else labels[:, None])


MODEL = sd.from_x0(SDE, denoise)


def draw(solver, cond, batch, model=MODEL, key=0, grid=None, **options):
    grid = grids.uniform(SDE, 5) if grid is None else grid
    shape = (batch, 3)
    options |= {"solver": solver, "grid": grid, "cond": cond}
    return sd.sample(jax.random.key(key), model, shape, **options)


def each_its_own(num=6, shared=False):
    """Another y, std and label for each sample, and another mask unless it is shared."""
    y = jnp.linspace(-1.0, 1.0, 3 * num).reshape(num, 3)
    masks = None if shared else Inpainting((jnp.arange(3 * num).reshape(num, 3) % 4) > 0)
    return Measurement.of(y, jnp.linspace(0.1, 0.5, num), masks, cond=jnp.linspace(0.0, 1.0, num))


@EVERY
class TestEveryMethod:
    def test_a_sample_depends_on_its_own_measurement(self, make):
        whole_operator = make is METHODS["DDRM"]
        cond = each_its_own(shared=whole_operator)
        solver = make(MASK if whole_operator else None)
        whole = draw(solver, cond, 6).x
        alone = draw(solver, jax.tree.map(lambda leaf: leaf[4:5], cond), 1, first=4).x
        np.testing.assert_allclose(alone, whole[4:5], rtol=5e-4, atol=5e-4)

    def test_evaluations_are_the_calls_that_the_network_gets(self, make):
        calls = []

        def counted(params, sde, x, t, cond):
            jax.debug.callback(lambda _: calls.append(1), x)
            return sd.from_x0(SDE, lambda x, t: 0.5 * x)(x, t)

        solver = make(MASK)
        cond = Measurement.of(jnp.zeros((2, 3)), 0.1)
        made = draw(solver, cond, 2, model=sd.Model(SDE, counted), grid=grids.uniform(SDE, 3))
        jax.effects_barrier()
        assert np.max(made.nfe) == len(calls)
        particles = getattr(solver, "particles", 1)
        assert len(calls) == particles * (3 * solver.evaluations + 1)

    def test_other_arrays_compile_nothing(self, make):
        cond = Measurement.of(jnp.ones((4, 3)), 0.1)
        first = draw(make(MASK), cond, 4).x
        traced = len(TRACES)
        other = Measurement.of(jnp.zeros((4, 3)), 0.3)
        second = draw(make(Inpainting(jnp.array([0, 1, 1]))), other, 4, key=1).x
        assert len(TRACES) == traced
        assert not np.allclose(first, second)

    def test_bad_input_is_named_before_any_compute(self, make):
        cond = Measurement.of(jnp.ones((4, 3)), 0.1)
        with pytest.raises(ValueError, match=r"y has shape \(4, 2\), but Inpainting gives"):
            draw(make(MASK), Measurement.of(cond.y[:, :2], 0.1), 4)
        with pytest.raises(TypeError, match="cond must be a Measurement"):
            draw(make(MASK), None, 4)
        with pytest.raises((TypeError, AttributeError)):
            make(jnp.ones(3))


@pytest.mark.parametrize("name", [*EXACT, "DPS"])
def test_no_noise_is_left_and_what_was_measured_without_noise_is_exact(name):
    # Data of almost no variance: what varies in a sample is noise.
    point = Gaussian.of(jnp.array([0.5, -0.2, 0.8]), 1e-6)
    y = jnp.broadcast_to(MASK(point.mean[None] + 0.01), (64, 3))
    sde = sd.VP(t_min=0.02)
    solver, grid = METHODS[name](MASK), grids.uniform(sde, 6)
    assert float(sde.sigma(grid[-1])) > 0.03
    options = {"solver": solver, "grid": grid, "cond": Measurement.of(y, 0.0)}
    x = sd.sample(KEY, point.model(sde), (64, 3), **options).x
    assert np.abs(x[:, 1] - point.mean[1]).max() < 5e-3
    if name in EXACT:
        np.testing.assert_allclose(MASK(x), y, atol=1e-5)
    noisy = sd.sample(KEY, point.model(sde), (64, 3), **options, denoise_last=False).x
    assert np.std(noisy[:, 1]) > 0.02


@pytest.mark.parametrize("name", EXACT)
def test_any_linear_measurement_without_noise_is_fitted_exactly(name):
    y = jnp.array([[0.7, -0.4], [0.1, 0.9]])
    x = draw(METHODS[name](SENSING), Measurement.of(y, 0.0), 2).x
    np.testing.assert_allclose(SENSING(x), y, atol=1e-4)


def test_samples_spread_over_devices_are_the_same():
    cond, solver = each_its_own(8), METHODS["RePaint"](None)
    sharding = NamedSharding(make_mesh(), PartitionSpec("data"))
    many = draw(solver, jax.device_put(cond, sharding), 8).x
    np.testing.assert_allclose(many, draw(solver, cond, 8).x, rtol=2e-4, atol=2e-4)


class TestFormulas:
    """One step from t to s at a fixed prediction, by the papers' own terms."""

    t, s, x = jnp.float32(0.5), jnp.float32(0.4), jnp.array([[0.4, -1.1, 2.0], [1.0, 0.2, -0.3]])
    x0 = jnp.array([[0.3, 0.1, -0.2], [0.5, -0.4, 0.2]])
    keys = noise.sample_keys(KEY, 2)
    y = jnp.array([[0.7, -0.4], [0.1, 0.9]])

    def step(self, solver, std, operator_y=None):
        model = samplers.Counted(sd.from_x0(SDE, lambda x, t: self.x0))
        cond = Measurement.of(self.y if operator_y is None else operator_y, std)
        grid = jnp.stack([self.t, self.s])
        return solver.step(self.keys, model, solver.init(self.x, grid), self.t, self.s, cond).x

    def test_diffpir_noises_the_minimum(self):
        ratio = (SDE.alpha(self.t) / SDE.sigma(self.t)) ** 2
        matrix, strength, std, zeta = SENSING.rows, 2.0, 0.3, 0.25
        normal = matrix.T @ matrix / std**2 + strength * ratio * jnp.eye(3)
        right = self.y @ matrix / std**2 + strength * ratio * self.x0
        x0 = jnp.linalg.solve(normal, right.T).T
        eps = (self.x - SDE.alpha(self.t) * x0) / SDE.sigma(self.t)
        mixed = np.sqrt(1 - zeta) * eps + np.sqrt(zeta) * noise.normal(self.keys, self.x)
        expected = SDE.alpha(self.s) * x0 + SDE.sigma(self.s) * mixed
        made = self.step(DiffPIR(SENSING, strength=strength, zeta=zeta), std)
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("std", [0.1, 3.0])  # below and above the noise of x_s
    def test_ddrm_with_a_mask_is_by_coordinate(self, std):
        ratio = SDE.sigma(self.s) / SDE.alpha(self.s)
        y = jnp.array([[0.7, 0.0, -0.4], [0.1, 0.0, 0.9]])
        eps = (self.x - SDE.alpha(self.t) * self.x0) / SDE.sigma(self.t)
        eta, eta_b = 0.7, 0.9
        solver = DDRM.of(MASK, (3,), eta=eta, eta_b=eta_b)
        # The noise is drawn in the basis, which is made of the axes, in any order and sign.
        z = noise.normal(self.keys, self.x) @ solver.basis @ solver.basis.T
        free = self.x0 + ratio * (np.sqrt(1 - eta**2) * eps + eta * z)
        noisy = self.x0 + ratio * (np.sqrt(1 - eta**2) * (y - self.x0) / std + eta * z)
        clean = (1 - eta_b) * self.x0 + eta_b * y
        clean += jnp.sqrt(jnp.maximum(ratio**2 - (eta_b * std) ** 2, 0.0)) * z
        known = noisy if ratio < std else clean
        expected = SDE.alpha(self.s) * jnp.where(jnp.array([True, False, True]), known, free)
        made = self.step(solver, std, operator_y=y)
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)

    def test_dps_steps_down_the_distance_after_the_solver(self):
        y = jnp.array([[0.7, 0.0, -0.4], [0.1, 0.0, 0.9]])
        network = sd.from_x0(SDE, lambda x, t: jnp.tanh(x))

        def distance(x):
            return jnp.sum(jnp.linalg.norm(y - MASK(network(x, self.t).x0), axis=1))

        model, solver = samplers.Counted(network), samplers.EDMSampler()
        plain = solver.step(self.keys, model, solver.init(self.x), self.t, self.s).x
        expected = plain - 0.3 * jax.grad(distance)(self.x)
        counted, cond = samplers.Counted(network), Measurement.of(y, 0.1)
        method = DPS(solver, MASK, zeta=0.3)
        made = method.step(self.keys, counted, method.init(self.x), self.t, self.s, cond).x
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
        assert counted.calls == 2

    def test_replacement_draws_the_known_part_by_y(self):
        y = jnp.zeros((4000, 3)).at[:, 0].set(1.0)
        cond, keys = Measurement.of(y, 0.2), noise.sample_keys(KEY, 4000)
        solver = Replacement(samplers.DDIM(), MASK)
        model = samplers.Counted(sd.from_x0(SDE, lambda x, t: 0.0 * x))
        x = solver.step(keys, model, solver.init(y), self.t, self.s, cond).x
        alpha, sigma = SDE.alpha(self.s), SDE.sigma(self.s)
        np.testing.assert_allclose(x.mean(0)[::2], [alpha, 0.0], atol=4 * sigma / np.sqrt(4000))
        std = np.sqrt(sigma**2 - alpha**2 * 0.04)
        np.testing.assert_allclose(x.std(0)[::2], [std, std], rtol=0.05)

    @pytest.mark.parametrize("linear", [True, False])
    def test_daps_draws_x0_given_its_mean_and_y(self, linear):
        # Of N(mean, v I): the exact draw, and Langevin dynamics for a function that is linear.
        operator = SENSING if linear else inverse.Nonlinear(SENSING)
        mean, variance, std = jnp.array([0.3, 0.1, -0.2]), 0.4, 0.3
        exact = posterior(Gaussian.of(mean, variance), SENSING.rows, self.y[0], std)
        num = 4000
        cond = Measurement.of(jnp.repeat(self.y[:1], num, 0), std)
        solver = DAPS(samplers.DDIM(), operator, langevin_steps=500, size=0.1, steepness=5.4)
        sampler = solver._exactly if linear else solver._by_langevin
        repeated = jnp.repeat(mean[None], num, 0)
        x = jax.jit(lambda keys: sampler(keys, operator, cond, repeated, jnp.float32(variance)))(
            noise.sample_keys(KEY, num)
        )
        np.testing.assert_allclose(x.mean(0), exact.mean, atol=0.06)
        np.testing.assert_allclose(np.cov(x.T), exact.covariance, atol=0.03)


class TestParticles:
    """Weights make many particles exact: the evidence, and the mean of the samples."""

    prior = Gaussian.of(
        jnp.array([0.5, -0.3, 0.0]),
        jnp.array([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]]),
    )
    y = MASK(jnp.array([[1.2, 0.3, -0.6]]))
    grid = grids.log_snr(SDE, 15)

    @pytest.mark.parametrize("name", ["TDS", "multistep"])
    def test_the_target_is_the_samplers_distribution_tilted_by_the_likelihood(self, name):
        reward, num, many, std = likelihood(MASK, gamma=0.7), 4000, 40_000, 0.6
        solver = {
            "TDS": TDS(particles=8, reward=reward),
            "multistep": FKSteering(particles=8, reward=reward, solver=samplers.SDEDPMSolverPP2M()),
        }[name]
        model, cond = self.prior.model(SDE), Measurement.of(jnp.repeat(self.y, num, 0), std)
        made = draw(solver, cond, num, model=model, grid=self.grid)
        plain = samplers.SDEDPMSolverPP2M() if name == "multistep" else samplers.Ancestral()
        free = draw(plain, None, many, model=model, grid=self.grid, key=1).x
        repeated = Measurement.of(jnp.repeat(self.y, many, 0), std)
        log_reward = reward(free, jnp.zeros(()), repeated)
        evidence = jnp.mean(jnp.exp(log_reward))
        spread = jnp.std(jnp.exp(log_reward)) / evidence / np.sqrt(many)
        estimates = jnp.exp(made.particles.log_evidence) / evidence
        error = 4 * np.hypot(spread, np.std(estimates) / np.sqrt(num))
        assert error < 0.08
        np.testing.assert_allclose(estimates.mean(), 1.0, atol=error)
        weights = jax.nn.softmax(log_reward)
        mean = weights @ free
        spread = np.sqrt(np.var(np.asarray(free), 0) / num) + 0.01
        assert np.all(np.abs(made.x.mean(0) - mean) < 4 * spread)
        assert np.all(np.abs(free.mean(0) - mean)[::2] > 8 * spread[::2])

    def test_a_reward_of_ones_own_needs_no_derivative(self):
        def count(x0, level, cond):
            return 3.0 * jnp.sum(x0 > 0.0, axis=1)

        solver = FKSteering(particles=16, reward=count, solver=samplers.Ancestral())
        model = self.prior.model(SDE)
        steered, free = (
            draw(each, None, 300, model=model).x for each in (solver, samplers.Ancestral())
        )
        assert np.mean(steered > 0) > np.mean(free > 0) + 0.2

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: TDS(particles=2), TypeError, "TDS needs a reward"),
            (
                lambda: FKSteering(reward=likelihood(MASK), solver=samplers.DDIM()),
                ValueError,
                "draws noise on the grid, got DDIM",
            ),
            (lambda: likelihood(MASK, gamma=0.0), ValueError, "gamma > 0"),
            (lambda: likelihood(jnp.ones(3)), TypeError, "operator must be an Operator"),
        ],
    )
    def test_bad_input_is_named(self, make, error, message):
        with pytest.raises(error, match=message):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RePaint(samplers.DDIM(), MASK, repeats=0), "repeats >= 1, got 0"),
        (lambda: DPS(samplers.DDIM(), MASK, zeta=0.0), "zeta > 0"),
        (lambda: DiffPIR(MASK, strength=0.0), "strength > 0"),
        (lambda: DiffPIR(MASK, zeta=1.5), "zeta from 0 to 1"),
        (lambda: DDRM.of(MASK, (3,), eta=2.0), "eta from 0 to 1"),
        (lambda: DDRM(None, *[jnp.ones(3)] * 3), "make it by DDRM.of"),
        (lambda: DAPS(samplers.DDIM(), MASK, ode_steps=0), "ode_steps >= 1"),
        (lambda: Replacement(samplers.AdaptiveDPMSolver(), MASK), "keeps to the grid"),
        (lambda: Replacement(samplers.DDIM(), inverse.PhaseRetrieval()), "PhaseRetrieval is not"),
        (lambda: DiffPIR(inverse.Clipping(0.0, 1.0)), "Clipping is not linear"),
        (lambda: DDRM.of(inverse.Quantization(0.1), (8, 8, 1)), "Quantization is not linear"),
    ],
)
def test_numbers_out_of_range_and_operators_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
