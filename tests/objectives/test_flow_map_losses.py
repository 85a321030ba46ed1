"""Losses of flow maps: derivatives along the flow, and their minimum, the exact map of a Gaussian.

The Gaussian's flow is linear, so a student can be exact, and off it by a known amount.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import flow_map, grids, objectives, samplers
from sde_diffusion.analytic import Gaussian
from sde_diffusion.objectives import consistency, time_density
from sde_diffusion.objectives.flow_map_loss import along_flow, line_through, noised
from sde_diffusion.sdes import expand

EDM = sd.EDM(t_min=0.02, t_max=10.0)
DATA = Gaussian.of(jnp.array([0.4, -0.3]), jnp.array([0.3, 0.05]))


class Times(sd.parameterization.Parameterization):
    """x0 with the times themselves for labels."""

    kind = "x0"

    def label(self, sde, t):
        return t


jax.tree_util.register_static(Times)
TIMES = Times()


def exact_x0(sde, x, t, s):
    """The prediction towards s of the exact map; that at t where s = t."""
    apart = t - s > 1e-6 * t
    r = jnp.where(apart, s, 0.5 * t)
    ratio = expand(sde.sigma(r) / sde.sigma(t), x)
    of_x0 = expand(sde.alpha(r), x) - expand(sde.alpha(t), x) * ratio
    jump = (DATA.flow_map(sde, x, t, r).x - ratio * x) / of_x0
    return jnp.where(expand(apart, x), jump, DATA.denoise(sde, x, t))


def student(sde, theta):
    """The exact map, off by theta cos(x)."""

    def apply(theta, x, t, s):
        return exact_x0(sde, x, t, s) + theta * jnp.cos(x)

    return sd.from_flow_map_network(sde, apply, theta, TIMES)


def slopes(loss, sde, num, **options):
    """d loss / d theta for theta = 0 and 0.2."""

    @jax.jit
    def slope(theta):
        key, key_x = jax.random.split(jax.random.key(0))
        x0 = DATA.sample(key_x, num)
        return jax.grad(lambda theta: jnp.mean(loss(key, student(sde, theta), x0, **options)))(
            theta
        )

    return [float(slope(jnp.asarray(theta))) for theta in (0.0, 0.2)]


UNIFORM = time_density.uniform()
# Without a teacher the targets are noisy, and their mean is the exact one.
FROM_DATA = {
    "meanflow": partial(objectives.meanflow_loss, times=UNIFORM, apart=0.5, power=0.0),
    "improved meanflow": partial(
        objectives.meanflow_loss, times=UNIFORM, apart=0.5, power=0.0, improved=True
    ),
    "shortcut": partial(objectives.shortcut_loss, steps=8, bootstrap=0.5),
    "ect": partial(
        objectives.consistency_loss,
        schedule=consistency.ect(stages=8),
        progress=1.0,
        distance=objectives.flow_map_loss.squared,
    ),
    "scm": partial(objectives.scm_loss, sigma_data=0.4, progress=1.0, floor=10.0),
}
# With a teacher each target is exact, up to its solver.
FROM_TEACHER = {
    "meanflow": FROM_DATA["meanflow"],
    "scm": partial(objectives.scm_loss, sigma_data=0.4, progress=1.0),
    "shortcut": FROM_DATA["shortcut"],
    "consistency": partial(objectives.consistency_loss, schedule=consistency.karras(200)),
    "progressive": partial(objectives.progressive_loss, steps=4, grid=grids.karras),
    "trajectory": partial(objectives.trajectory_loss, steps=32),
}


@pytest.mark.parametrize("name", FROM_DATA)
def test_the_exact_map_is_stationary_in_the_mean_for_losses_of_the_data(name):
    with jax.enable_x64(True):
        sde = sd.VP(t_min=0.05)
        at_exact, off = slopes(FROM_DATA[name], sde, 40_000)
    assert abs(at_exact) < 0.06 * abs(off)
    assert off > 0.0


@pytest.mark.parametrize("name", FROM_TEACHER)
def test_the_exact_map_is_stationary_for_losses_of_a_teacher(name):
    with jax.enable_x64(True):
        teacher = flow_map.solved(DATA.model(EDM), steps=8)
        if name == "progressive":  # its teacher's steps are then exact ones
            teacher = DATA.model(EDM)
        at_exact, off = slopes(FROM_TEACHER[name], EDM, 500, teacher=teacher)
    assert abs(at_exact) < 0.02 * abs(off)
    assert off > 0.0


@pytest.mark.parametrize("sde", [sd.VP(), sd.Flow()], ids=lambda sde: type(sde).__name__)
def test_the_derivative_along_the_flow_is_that_of_finite_differences(sde):
    with jax.enable_x64(True):
        model = student(sde, 0.3)
        x0 = DATA.sample(jax.random.key(0), 5)
        t = jnp.linspace(0.3, 0.7, 5)
        s = 0.5 * t
        x, eps = noised(jax.random.key(1), model, x0, t)
        dx = expand(sde.alpha_dot(t), x) * x0 + expand(sde.sigma_dot(t), x) * eps
        mapped = lambda prediction: prediction.towards(s)  # noqa: E731
        prediction, derivative = jax.jit(lambda x, t: along_flow(model, x, t, s, None, dx, mapped))(
            x, t
        )
        h = 1e-5
        ends = [model.flow_map(x + k * h * dx, t + k * h, s).x for k in (1, -1)]
        np.testing.assert_allclose(derivative, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(prediction.towards(s), model.flow_map(x, t, s).x)


def test_a_derivative_under_remat_and_a_mesh_is_the_same():
    mesh = jax.make_mesh((8,), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x0 = DATA.sample(jax.random.key(0), 8)
    loss = partial(objectives.meanflow_loss, times=UNIFORM, apart=1.0)

    def value(theta, x0, remat):
        def call(theta):
            return jnp.mean(loss(jax.random.key(1), student(EDM, theta), x0))

        return jax.grad(jax.checkpoint(call) if remat else call)(theta)

    plain = jax.jit(partial(value, remat=False))(0.2, x0)
    np.testing.assert_allclose(jax.jit(partial(value, remat=True))(0.2, x0), plain, rtol=1e-5)
    spread = jax.jit(partial(value, remat=False))(0.2, jax.device_put(x0, split))
    np.testing.assert_allclose(spread, plain, rtol=1e-4)


def test_the_target_of_meanflow_is_the_papers_on_the_straight_path():
    # u_tgt = v - (t - s) du/dt with the tangent (v, 1)
    sde = sd.Flow()
    model = student(sde, 0.3)
    x0 = DATA.sample(jax.random.key(0), 6)
    t, s = jnp.linspace(0.5, 0.9, 6), jnp.linspace(0.1, 0.5, 6)
    x, eps = noised(jax.random.key(1), model, x0, t)
    v = eps - x0

    def u(x, t):
        return flow_map.predicted_towards(model, x, t, s).velocity

    value, change = jax.jvp(u, (x, t), (v, jnp.ones_like(t)))
    prediction, derivative = along_flow(model, x, t, s, None, v, lambda p: p.towards(s))
    np.testing.assert_allclose(
        prediction.velocity + derivative, v - expand(t - s, x) * change, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(prediction.velocity, value, rtol=1e-6)


def test_a_line_ends_where_it_was_drawn_through():
    model = student(EDM, 0.0)
    x, t = 3.0 * jnp.ones((2, 2)), jnp.array([3.0, 2.0])
    mapped = jnp.array([[0.3, 0.1], [0.0, -0.2]])
    line = line_through(x, t, mapped, jnp.array([1.0, 0.5]), model)
    np.testing.assert_allclose(line.towards(jnp.array([1.0, 0.5])), mapped, atol=1e-6)


@pytest.mark.parametrize("name", consistency.SCHEDULES)
def test_schedules_come_nearer_and_stay_within_the_sde(name):
    schedule, u = consistency.SCHEDULES[name](), jnp.linspace(1e-4, 1.0 - 1e-4, 200)
    near = []
    for progress in (0.0, 1.0):
        pair = schedule(EDM, u, progress)
        assert jnp.all((pair.r < pair.t) & (pair.r >= EDM.t_min) & (pair.t <= EDM.t_max))
        assert jnp.all(pair.weight > 0.0)
        near.append(float(jnp.mean((pair.t - pair.r) / pair.t)))
    assert near[1] < 0.1 * near[0] or name in ("karras", "skipping")


def test_schedules_are_those_of_the_papers():
    # iCT: 10 intervals at first, 1,280 at last, by sigma^(1/7); weights 1 / (sigma_{i+1} - sigma_i)
    u = jnp.linspace(0.01, 0.99, 50)
    pair = consistency.ict()(EDM, u, 0.0)
    levels = np.linspace(EDM.t_min ** (1 / 7), EDM.t_max ** (1 / 7), 11) ** 7
    assert np.allclose(np.min(np.abs(np.asarray(pair.t)[:, None] - levels), axis=1), 0.0, atol=1e-4)
    np.testing.assert_allclose(pair.weight, 1.0 / (pair.t - pair.r), rtol=1e-5)
    # ECT: r / t = 1 - (1 + 8 sigmoid(-t)) / 2^(a + 1), here at the last stage a = 7
    pair = consistency.ect()(EDM, jnp.array([0.9]), 1.0)
    t = float(pair.t[0])
    np.testing.assert_allclose(pair.r / t, 1.0 - (1.0 + 8.0 / (1.0 + np.exp(t))) / 256.0, rtol=1e-5)


def test_a_step_along_the_flow_is_that_of_the_solver_for_each_samples_times():
    model = DATA.model(EDM)
    x, t, s = jnp.ones((2, 2)), jnp.array([3.0, 1.0]), jnp.array([2.0, 0.5])
    made = consistency.one_step(model, samplers.DDIM(), x, t, s, None)
    np.testing.assert_allclose(made, model(x, t).towards(s), rtol=1e-6)


def test_a_guided_teacher_has_for_each_sample_the_weight_that_the_student_is_told():
    start = jnp.zeros((8, 2))

    # Guidance here moves x0 to the label's mean, weight times as far.
    def x0(x, t, label):
        return jnp.where(label[:, None] < 0, 0.0, label[:, None].astype(x.dtype)) + 0.0 * x

    def guide(model, weight):
        def combined(x, t, label):
            without = model(x, t, -jnp.ones_like(label)).x0
            return without + expand(weight, x) * (model(x, t, label).x0 - without)

        return sd.from_x0(EDM, combined)

    def apply(theta, x, t, s, cond):
        return theta * expand(cond["guidance"] * cond["label"], x) + 0.0 * x

    @jax.jit
    def value(theta):
        trained = sd.from_flow_map_network(EDM, apply, theta, TIMES)
        labels = jnp.arange(8) % 3
        options = {"cond": labels, "teacher": sd.from_x0(EDM, x0)}
        return [
            jnp.max(objectives.guided(loss, guide)(jax.random.key(0), trained, start, **options))
            for loss in (
                partial(objectives.consistency_loss, solver=samplers.DDIM()),
                partial(objectives.trajectory_loss, steps=2, solver=samplers.DDIM()),
            )
        ]

    np.testing.assert_allclose(value(1.0), 0.0, atol=1e-4)
    assert min(value(0.8)) > 1e-2


def test_what_is_refused():
    x0, key = jnp.ones((2, 2)), jax.random.key(0)
    for name in ("progressive_loss", "trajectory_loss"):
        with pytest.raises(ValueError, match=f"{name} needs a teacher, and none is given"):
            getattr(objectives, name)(key, student(EDM, 0.0), x0)
    with pytest.raises(ValueError, match="steps must be a power of two of at least 2, got 6"):
        objectives.shortcut_loss(key, student(EDM, 0.0), x0, steps=6)
    with pytest.raises(ValueError, match="no prediction towards a second time"):
        objectives.meanflow_loss(key, DATA.model(EDM), x0)
    with pytest.raises(ValueError, match="guided needs a teacher, and none is given"):
        objectives.guided(objectives.consistency_loss, None)(key, student(EDM, 0.0), x0)
    with pytest.raises(ValueError, match="needs low < high, got 4 and 1"):
        objectives.guided(objectives.consistency_loss, None, 4, 1)
    teacher, noisy = DATA.model(EDM), samplers.DDIM(eta=1.0)
    with pytest.raises(ValueError, match="trajectory_loss needs a deterministic solver of a grid"):
        objectives.trajectory_loss(key, student(EDM, 0.0), x0, teacher=teacher, solver=noisy)
    with pytest.raises(ValueError, match="needs a deterministic solver"):
        consistency.one_step(DATA.model(EDM), samplers.DDIM(eta=1.0), x0, x0[:, 0], x0[:, 0], None)

    def objective(teacher, **options):
        made = objectives.flow_map_objective(
            lambda params, key: student(EDM, params),
            lambda key, batch, frozen: (batch, None),
            objectives.trajectory_loss,
            steps=10,
            teacher=lambda frozen: teacher,
            **options,
        )
        return made(0.1, key, x0, frozen=None, ema=(), step=jnp.int32(0))

    loss, metrics = jax.eval_shape(lambda: objective(DATA.model(EDM)))
    assert (loss.shape, metrics) == ((2,), {})
    with pytest.raises(ValueError, match=r"the teacher's SDE is VP.*the student's EDM"):
        objective(DATA.model(sd.VP()))
    with pytest.raises(ValueError, match=r"the teacher's SDE is EDM.*the student's EDM"):
        objective(DATA.model(sd.EDM()))
    with pytest.raises(ValueError, match="by_average needs a moving average"):
        objective(DATA.model(EDM), by_average=True)
