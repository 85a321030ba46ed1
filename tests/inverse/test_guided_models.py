"""Methods from models to models: exact where they claim it, what they cost, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import sde_diffusion as sd
from sde_diffusion import grids, inverse, samplers
from sde_diffusion.analytic import Gaussian, posterior
from sde_diffusion.distributed import make_mesh
from sde_diffusion.inverse import Inpainting, Measurement, mmps, pigdm, sda, tmpd

SDE = sd.VP()
MATRIX = jnp.array([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0]])
SENSING = inverse.CompressedSensing(MATRIX)
GAUSSIAN = Gaussian.of(
    jnp.array([0.5, -0.2, 0.1]),
    jnp.array([[0.5, 0.2, 0.0], [0.2, 0.6, -0.1], [0.0, -0.1, 0.3]]),
)
ISOTROPIC = Gaussian.of(jnp.array([0.5, -0.2, 0.1]), 0.6)
DIAGONAL = Gaussian.of(jnp.array([0.5, -0.2, 0.1]), jnp.array([0.5, 1.5, 0.2]))
MASK = Inpainting(jnp.array([1, 0, 1]))
Y = jnp.array([0.7, -0.4])
BATCH = 4
# What each method claims to be exact for.
EXACT = {
    "mmps": (lambda model, A: mmps(model, A, iterations=2), GAUSSIAN, SENSING),
    "mmps with a mask": (lambda model, A: mmps(model, A, iterations=2), GAUSSIAN, MASK),
    "tmpd": (tmpd, GAUSSIAN, SENSING),
    "tmpd with a mask": (tmpd, GAUSSIAN, MASK),
    "diagonal tmpd": (lambda model, A: tmpd(model, A, diagonal=True), DIAGONAL, MASK),
    "pigdm": (lambda model, A: pigdm(model, A, prior_variance=0.6), ISOTROPIC, SENSING),
}
METHODS = [mmps, tmpd, pigdm, sda]


def measured(operator, std, batch=BATCH):
    y = operator(jnp.array([[0.3, 0.6, -0.5]])) + 0.1 * operator(jnp.ones((1, 3)))
    return Measurement.of(jnp.repeat(y, batch, 0), std)


def noised(prior, sde, t, num=BATCH):
    x0, z = prior.sample(jax.random.key(0), num), jax.random.normal(jax.random.key(1), (num, 3))
    mean, std = sde.marginal_prob(x0, t)
    return mean + sd.sdes.expand(std, z) * z


@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("sde", [sd.VP(), sd.EDM(), sd.Flow()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(("method", "prior", "operator"), EXACT.values(), ids=EXACT)
def test_the_posterior_of_a_gaussian_is_exact_at_every_time(method, prior, operator, sde, std):
    cond = measured(operator, std)
    exact = posterior(prior, operator.matrix((3,)), cond.y[0], std)
    guided = method(prior.model(sde), operator)
    t = sde.t_max * jnp.array([0.01, 0.1, 0.5, 0.99])
    x = noised(exact, sde, t)
    expected, made = exact.model(sde)(x, t), guided(x, t, cond)
    np.testing.assert_allclose(made.x0, expected.x0, atol=2e-4)
    np.testing.assert_allclose(made.eps, expected.eps, atol=2e-3)


def test_samples_of_a_gaussians_posterior_are_those_of_the_exact_model():
    cond, grid = measured(SENSING, 0.2, 8), grids.log_snr(SDE, 8)
    exact = posterior(GAUSSIAN, MATRIX, cond.y[0], 0.2).model(SDE)
    guided = mmps(GAUSSIAN.model(SDE), SENSING, iterations=2)
    options = {"shape": (8, 3), "solver": samplers.SDEDPMSolverPP2M(), "grid": grid}
    expected = sd.sample(jax.random.key(0), exact, **options)
    made = sd.sample(jax.random.key(0), guided, cond=cond, **options)
    np.testing.assert_allclose(made.x, expected.x, atol=2e-3)
    assert made.nfe == expected.nfe


def test_sda_is_a_kalman_update_with_the_variance_it_names():
    cond, t = measured(MASK, 0.2), 0.4
    model = ISOTROPIC.model(SDE)
    x = noised(ISOTROPIC, SDE, t)
    alpha, sigma = SDE.alpha(t), SDE.sigma(t)
    variance = 0.6 * sigma**2 / (alpha**2 * 0.6 + sigma**2)  # of x_0 given x_t
    x0 = model(x, t).x0
    total = 0.2**2 + 0.5 * (sigma / alpha) ** 2
    expected = x0 + variance / total * MASK(cond.y - x0)
    made = sda(model, MASK, gamma=0.5)(x, t, cond).x0
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


def test_mmps_linearizes_an_operator_that_is_not_linear():
    curved = inverse.Nonlinear(lambda x: jnp.sin(x[:, :2]))
    cond, x = Measurement.of(jnp.full((BATCH, 2), 0.3), 0.2), noised(GAUSSIAN, SDE, 0.3)
    model = GAUSSIAN.model(SDE)
    for i in range(BATCH):
        x0 = model(x[i : i + 1], 0.3).x0
        slope = jax.jacobian(lambda x: curved(x)[0])(x0)[:, 0]
        covariance = (
            SDE.sigma(0.3) ** 2
            / SDE.alpha(0.3)
            * jax.jacobian(lambda x: model(x, 0.3).x0[0])(x[i : i + 1])[:, 0]
        )
        inner = slope @ covariance @ slope.T + 0.04 * jnp.eye(2)
        step = covariance @ slope.T @ jnp.linalg.solve(inner, cond.y[i] - curved(x0)[0])
        made = mmps(model, curved, iterations=2)(x, 0.3, cond).x0[i]
        np.testing.assert_allclose(made, x0[0] + step, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "backward"),
    [
        (sda, 1),
        (pigdm, 1),
        (lambda model, A: mmps(model, A, iterations=3), 4),
        (lambda model, A: tmpd(model, A, diagonal=True), 2),
        (tmpd, 3),
    ],
    ids=["sda", "pigdm", "mmps", "diagonal tmpd", "tmpd"],
)
def test_forward_and_backward_passes_are_those_declared(method, backward):
    counts = {"forward": 0, "backward": 0}

    def count(which):
        jax.debug.callback(lambda: counts.update({which: counts[which] + 1}))

    @jax.custom_vjp
    def network(x):
        return 0.5 * x

    def forward(x):
        count("forward")
        return network(x), None

    def pull(_, v):
        count("backward")
        return (0.5 * v,)

    network.defvjp(forward, pull)
    guided = method(sd.from_x0(SDE, lambda x, t: network(x)), SENSING)
    made = jax.jit(lambda x, cond: guided(x, 0.5, cond))(
        jnp.ones((BATCH, 3)), measured(SENSING, 0.1)
    )
    jax.block_until_ready(made.value)
    jax.effects_barrier()
    assert counts == {"forward": 1, "backward": backward}
    assert made.evaluations == 1


TRACES = []


def denoise(x, t, labels=None):
    TRACES.append(1)
    return jnp.tanh(x) + (0.0 if labels is None else labels[:, None])


MODEL = sd.from_x0(SDE, denoise)


def draw(method, operator, cond, batch, key=0, first=0, solver=None):
    solver = samplers.DDIM(eta=1.0) if solver is None else solver
    grid = grids.uniform(SDE, 1 if solver.adaptive else 6)
    options = {"solver": solver, "grid": grid, "cond": cond, "first": first}
    return sd.sample(jax.random.key(key), method(MODEL, operator), (batch, 3), **options).x


def each_its_own(num=6):
    """Another y, std, mask and label for each sample."""
    y = jnp.linspace(-1.0, 1.0, 3 * num).reshape(num, 3)
    masks = Inpainting((jnp.arange(3 * num).reshape(num, 3) % 4) > 0)
    return Measurement.of(y, jnp.linspace(0.1, 0.5, num), masks, cond=jnp.linspace(0.0, 1.0, num))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
class TestEveryMethod:
    def test_a_sample_depends_on_its_own_measurement(self, method):
        cond = each_its_own()
        whole = draw(method, None, cond, 6)
        alone = draw(method, None, jax.tree.map(lambda leaf: leaf[4:5], cond), 1, first=4)
        np.testing.assert_allclose(alone, whole[4:5], rtol=2e-4, atol=2e-4)
        shared = Inpainting(cond.operator.mask[4])
        cond = Measurement(cond.y, cond.std, None, cond.cond)
        np.testing.assert_allclose(draw(method, shared, cond, 6)[4], whole[4], rtol=2e-4, atol=2e-4)

    def test_other_arrays_compile_nothing(self, method):
        cond = measured(MASK, 0.1)
        draw(method, MASK, cond, BATCH)
        traced = len(TRACES)
        other = Measurement.of(cond.y + 1.0, 0.3)
        draw(method, Inpainting(jnp.array([0, 1, 1])), other, BATCH, key=1)
        assert len(TRACES) == traced

    def test_bad_input_is_named_before_any_compute(self, method):
        cond = measured(MASK, 0.1)
        for operator, bad, message in (
            (
                MASK,
                Measurement.of(cond.y[:, :2], 0.1),
                r"y has shape \(4, 2\), but Inpainting gives",
            ),
            (Inpainting(jnp.ones(4)), cond, r"mask has shape \(4,\)"),
            (None, cond, "got none"),
            (MASK, Measurement(cond.y, cond.std, Inpainting(jnp.ones((4, 3)))), "got both"),
        ):
            with pytest.raises(ValueError, match=message):
                draw(method, operator, bad, BATCH)
        with pytest.raises(TypeError, match=r"cond must be a Measurement, .* got NoneType"):
            draw(method, MASK, None, BATCH)
        with pytest.raises(TypeError, match="operator must be an Operator"):
            method(MODEL, lambda x: x)
        with pytest.raises(TypeError, match="model must be a Model"):
            method(lambda x, t: x, MASK)


def test_it_is_mapped_and_spread_over_devices():
    cond = each_its_own(8)
    one = draw(mmps, None, cond, 8)
    sharding = NamedSharding(make_mesh(), PartitionSpec("data"))
    many = draw(mmps, None, jax.device_put(cond, sharding), 8)
    np.testing.assert_allclose(many, one, rtol=2e-4, atol=2e-4)

    def of_y(y):
        return draw(mmps, None, Measurement(y, cond.std, cond.operator, cond.cond), 8)

    mapped = jax.vmap(of_y)(jnp.stack([cond.y, cond.y + 1.0]))
    np.testing.assert_allclose(mapped[0], one, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "solver",
    [samplers.DPMSolverPP2M(), samplers.AdaptiveDPMSolver()],
    ids=lambda solver: type(solver).__name__,
)
def test_multistep_and_adaptive_solvers_take_a_guided_model(solver):
    cond = each_its_own()
    whole = draw(mmps, None, cond, 6, solver=solver)
    alone = draw(mmps, None, jax.tree.map(lambda leaf: leaf[4:5], cond), 1, first=4, solver=solver)
    np.testing.assert_allclose(alone, whole[4:5], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", [pigdm, tmpd])
def test_what_needs_a_transpose_refuses_what_has_none(method):
    phase = inverse.PhaseRetrieval()
    with pytest.raises(ValueError, match="needs a linear operator, but PhaseRetrieval"):
        method(MODEL, phase)
    cond = Measurement.of(jnp.ones((BATCH, 3)), 0.1, inverse.Clipping(jnp.zeros(4), jnp.ones(4)))
    with pytest.raises(ValueError, match="needs a linear operator, but Clipping"):
        draw(method, None, cond, BATCH)


def test_numbers_out_of_range_are_named():
    for call, message in (
        (lambda: mmps(MODEL, MASK, iterations=0), "mmps needs iterations >= 1, got 0"),
        (lambda: pigdm(MODEL, MASK, prior_variance=0.0), "prior_variance > 0"),
        (lambda: sda(MODEL, MASK, gamma=0.0), "sda needs gamma > 0"),
        (lambda: Measurement.of(Y[None], -0.1), "std must be at least 0"),
        (lambda: Measurement.of(Y[None], jnp.ones(2)), r"std \[\] or \[B\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_where_alpha_is_0_the_prediction_stays_as_it_is():
    sde = sd.Flow()
    model, cond = GAUSSIAN.model(sde), measured(MASK, 0.1)
    x = jax.random.normal(jax.random.key(0), (BATCH, 3))
    for method in METHODS:
        made = method(model, MASK)(x, 1.0, cond)
        np.testing.assert_allclose(made.x0, model(x, 1.0).x0, atol=1e-6)
