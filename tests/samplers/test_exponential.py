"""Exponential integrators: phi functions, and each step against its paper's own coefficients."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sde_diffusion as sd
from sde_diffusion import noise, samplers
from sde_diffusion.samplers import Counted
from sde_diffusion.samplers.exponential import phi
from sde_diffusion.sdes import expand

SDE = sd.VP()
TIMES = [0.9, 0.7, 0.45, 0.3, 0.2]
LAM, SIGMA, ALPHA = ([float(f(t)) for t in TIMES] for f in (SDE.log_snr, SDE.sigma, SDE.alpha))
X = np.array([[0.4, -1.1, 2.0], [1.0, 0.2, -0.3]], np.float32)


def x0_of(x, t):
    return jnp.sin(x + 3.0 * expand(t, x))


def eps_of(x, t):
    return jnp.cos(2.0 * x + expand(t, x))


X0, EPS = sd.from_x0(SDE, x0_of), sd.from_eps(SDE, eps_of)


def run(solver, model, steps):
    """x after each of the first steps along TIMES."""
    state, made = solver.init(jnp.asarray(X)), []
    keys = noise.sample_keys(jax.random.key(0), len(X))
    for t, s in itertools.pairwise(jnp.array(TIMES[: steps + 1])):
        state = solver.step(keys, Counted(model), state, t, s)
        made.append(np.asarray(state.x))
    return made


def first_order_x0(x, value, i, j):
    return SIGMA[j] / SIGMA[i] * x - ALPHA[j] * np.expm1(LAM[i] - LAM[j]) * value


def first_order_eps(x, value, i, j):
    return ALPHA[j] / ALPHA[i] * x - SIGMA[j] * np.expm1(LAM[j] - LAM[i]) * value


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
@settings(deadline=None, max_examples=50)
@given(z=st.floats(-30.0, 30.0, width=32))
def test_phi_is_its_integral_in_float32(k, z):
    # Gauss-Legendre for int exp((1 - u) z) u^(k - 1) / (k - 1)! du
    if k == 0:
        expected = math.exp(z)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(40)
        u = 0.5 * (nodes + 1.0)
        expected = np.sum(0.5 * weights * np.exp((1 - u) * z) * u ** (k - 1)) / math.factorial(
            k - 1
        )
    np.testing.assert_allclose(phi(k, jnp.float32(z)), expected, rtol=5e-6)


def test_phi_at_zero_has_its_slope():
    for k in range(5):
        assert float(phi(k, jnp.float32(0.0))) == pytest.approx(1.0 / math.factorial(k))
        slope = jax.grad(lambda z, k=k: phi(k, z))(0.0)
        assert float(slope) == pytest.approx(1.0 / math.factorial(k + 1))


def middle(part):
    lam = LAM[0] + part * (LAM[1] - LAM[0])
    t = float(SDE.t_of_log_snr(lam))
    return t, float(SDE.alpha(t)), float(SDE.sigma(t))


def test_dpm_solver_2_is_algorithm_1_of_its_paper():
    h = LAM[1] - LAM[0]
    u_t, u_alpha, u_sigma = middle(0.5)
    u = u_alpha / ALPHA[0] * X - u_sigma * np.expm1(h / 2) * eps_of(X, TIMES[0])
    expected = first_order_eps(X, eps_of(u, u_t), 0, 1)
    np.testing.assert_allclose(run(samplers.DPMSolver2S(), EPS, 1)[0], expected, rtol=2e-4)


def test_dpm_solver_3_is_algorithm_2_of_its_paper():
    h, r1, r2 = LAM[1] - LAM[0], 1 / 3, 2 / 3
    (t1, alpha1, sigma1), (t2, alpha2, sigma2) = middle(r1), middle(r2)
    eps = eps_of(X, TIMES[0])
    u1 = alpha1 / ALPHA[0] * X - sigma1 * np.expm1(r1 * h) * eps
    d1 = eps_of(u1, t1) - eps
    u2 = alpha2 / ALPHA[0] * X - sigma2 * np.expm1(r2 * h) * eps
    u2 = u2 - sigma2 * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = eps_of(u2, t2) - eps
    expected = first_order_eps(X, eps, 0, 1) - SIGMA[1] / r2 * (np.expm1(h) / h - 1) * d2
    np.testing.assert_allclose(run(samplers.DPMSolver3S(), EPS, 1)[0], expected, rtol=2e-4)


def test_dpm_solver_pp_2s_is_algorithm_1_of_its_paper():
    h = LAM[1] - LAM[0]
    u_t, u_alpha, u_sigma = middle(0.5)
    u = u_sigma / SIGMA[0] * X - u_alpha * np.expm1(-h / 2) * x0_of(X, TIMES[0])
    expected = first_order_x0(X, x0_of(u, u_t), 0, 1)
    np.testing.assert_allclose(run(samplers.DPMSolverPP2S(), X0, 1)[0], expected, rtol=2e-4)


def test_res_of_order_3_has_the_weights_of_hochbruck_and_ostermann():
    # c2 = 1/2, c3 = 1 and with them gamma = 4
    h = LAM[1] - LAM[0]
    phi2, phi2_half = (float(phi(2, jnp.float32(z))) for z in (-h, -h / 2))
    u_t, u_alpha, u_sigma = middle(0.5)
    x0 = x0_of(X, TIMES[0])
    u2 = u_sigma / SIGMA[0] * X - u_alpha * np.expm1(-h / 2) * x0
    d2 = x0_of(u2, u_t) - x0
    u3 = first_order_x0(X, x0, 0, 1) + ALPHA[1] * h * (2 * phi2_half + 2 * phi2) * d2
    d3 = x0_of(u3, TIMES[1]) - x0
    expected = first_order_x0(X, x0, 0, 1) + ALPHA[1] * h * phi2 * (4 / 3 * d2 + 1 / 3 * d3)
    np.testing.assert_allclose(run(samplers.RES3S(), X0, 1)[0], expected, rtol=2e-4, atol=1e-5)


def exact(view, values, x, i, j):
    """x at time j from x at time i, where the view is a function of lambda alone, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    h = LAM[j] - LAM[i]
    lam = LAM[i] + 0.5 * (nodes + 1) * h
    if view == "x0":
        integral = np.sum(0.5 * weights * h * np.exp(lam) * values(lam))
        return SIGMA[j] / SIGMA[i] * x + SIGMA[j] * integral
    integral = np.sum(0.5 * weights * h * np.exp(-lam) * values(lam))
    return ALPHA[j] / ALPHA[i] * x - ALPHA[j] * integral


@pytest.mark.parametrize(
    ("solver", "view", "degree"),
    [
        (samplers.RES2S(), "x0", 1),
        (samplers.RES3S(), "x0", 1),
        (samplers.DEIS(order=2), "eps", 1),
        (samplers.DEIS(order=3), "eps", 2),
        (samplers.DPMSolverPP3M(), "x0", 1),
        (samplers.UniPC(p=3, corrector=False), "x0", 2),
    ],
)
def test_a_polynomial_in_lambda_is_integrated_exactly(solver, view, degree):
    make = sd.from_x0 if view == "x0" else sd.from_eps
    model = make(SDE, lambda x, t: jnp.ones_like(x) + expand(SDE.log_snr(t) ** degree, x))
    made = run(solver, model, 3)
    expected = exact(view, lambda lam: 1.0 + lam**degree, made[1], 2, 3)
    np.testing.assert_allclose(made[2], expected, rtol=1e-4)


def test_dpm_solver_pp_3m_is_that_of_its_authors_code():
    # D1 and D2 are divided differences; D2 comes with phi_2 / h - 1/2 in their signs
    made = run(samplers.DPMSolverPP3M(), X0, 3)
    values = [np.asarray(x0_of(x, t)) for x, t in zip([X, *made], TIMES, strict=False)]
    h, h1, h2 = (LAM[i + 1] - LAM[i] for i in (2, 1, 0))
    r0, r1 = h1 / h, h2 / h
    near, far = (values[2] - values[1]) / r0, (values[1] - values[0]) / r1
    d1 = near + r0 / (r0 + r1) * (near - far)
    d2 = (near - far) / (r0 + r1)
    phi_1, alpha = np.expm1(-h), ALPHA[3]
    phi_2 = phi_1 / h + 1.0
    phi_3 = phi_2 / h - 0.5
    expected = SIGMA[3] / SIGMA[2] * made[1] - alpha * phi_1 * values[2]
    expected = expected + alpha * phi_2 * d1 - alpha * phi_3 * d2
    np.testing.assert_allclose(made[2], expected, rtol=2e-4)


def step(solver, state, t, s):
    """One step with an x0 that does not depend on x, so that all methods have the same past."""
    model = sd.from_x0(SDE, lambda x, t: jnp.sin(5.0 * expand(t, x)) + 0.0 * x)
    return solver.step(noise.sample_keys(jax.random.key(0), len(X)), Counted(model), state, t, s)


def walk(solver, times, grid, denoise_last=True):
    """The states along the times, of a solver that takes them for the steps of `grid`."""
    states = [solver.init(jnp.asarray(X), grid, denoise_last)]
    for t, s in itertools.pairwise(times):
        states.append(step(solver, states[-1], t, s))
    return states


@pytest.mark.parametrize(
    ("third", "second"),
    [
        (samplers.DEIS(order=3), samplers.DEIS(order=2)),
        (samplers.IPNDM(order=4), samplers.IPNDM(order=2)),
        (samplers.DPMSolverPP3M(), samplers.DPMSolverPP2M()),
        (samplers.UniPC(p=3, corrector=False), samplers.UniPC(p=2, corrector=False)),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_the_last_of_few_steps_is_of_order_2(third, second):
    times = jnp.array(TIMES)
    made, endless = walk(third, times, times), walk(third, times, None)
    start = walk(second, times, None)[-2]._replace(x=made[-2].x)
    expected = step(second, start, *times[-2:])
    np.testing.assert_allclose(made[-1].x, expected.x, rtol=1e-4)
    assert not np.allclose(made[-1].x, endless[-1].x, rtol=1e-3)


FEW_AND_MANY = [jnp.array(TIMES), jnp.concatenate([jnp.linspace(1.0, 0.91, 11), jnp.array(TIMES)])]


@pytest.mark.parametrize("times", FEW_AND_MANY, ids=["few", "many"])
@pytest.mark.parametrize(
    ("third", "second", "second_of_many"),
    [
        (samplers.DPMSolverPP3M(), samplers.DPMSolverPP2M(), False),
        (samplers.UniPC(p=3, corrector=False), samplers.UniPC(p=2, corrector=False), True),
    ],
    ids=["DPMSolverPP3M", "UniPC"],
)
def test_orders_end_with_2_and_1_where_nothing_denoises(third, second, second_of_many, times):
    made, few = walk(third, times, times, denoise_last=False), len(times) - 1 < 15
    start = walk(second, times[:-1], None)[-2]._replace(x=made[-3].x)
    before = step(second, start, *times[-3:-1])
    last = step(samplers.DDIM(), samplers.State(made[-2].x), *times[-2:])
    assert np.allclose(made[-2].x, before.x, rtol=1e-4) == (few or second_of_many)
    assert np.allclose(made[-1].x, last.x, rtol=1e-4) == few


def test_a_long_last_step_of_unipc_is_of_order_1_of_however_many_steps():
    times = jnp.concatenate([jnp.linspace(0.9, 0.3, 20), jnp.array([0.1])])
    *_, before, last = walk(samplers.UniPC(), times, times, denoise_last=False)
    corrected = before.base + before.weight * (jnp.sin(5.0 * times[-2]) - before.expected)
    expected = step(samplers.DDIM(), samplers.State(corrected), *times[-2:])
    np.testing.assert_allclose(last.x, expected.x, rtol=1e-5)


@pytest.mark.parametrize(
    ("order", "constants"), [(2, [3, -1]), (3, [23, -16, 5]), (4, [55, -59, 37, -9])]
)
def test_ipndm_has_the_constants_of_its_paper_where_steps_are_equal(order, constants):
    # in x / alpha against sigma / alpha, which for EDM are x and t
    sde, times = sd.EDM(), [5.0, 4.0, 3.0, 2.0, 1.0]
    solver, model = samplers.IPNDM(order=order), Counted(sd.from_eps(sde, eps_of))
    state, values = solver.init(jnp.asarray(X)), []
    for t, s in itertools.pairwise(jnp.array(times)):
        before, values = state.x, [eps_of(state.x, t), *values]
        state = solver.step(None, model, state, t, s)
    slope = sum(c * value for c, value in zip(constants, values, strict=False)) / sum(constants)
    np.testing.assert_allclose(state.x, before - slope, rtol=1e-4, atol=1e-5)


def test_ipndm_integrates_a_cubic_in_sigma_over_alpha_exactly():
    def cubic(x, t):
        return jnp.exp(-3.0 * expand(SDE.log_snr(t), x)) + 0.0 * x

    made = run(samplers.IPNDM(), sd.from_eps(SDE, cubic), 4)
    ratio = np.exp(-np.array(LAM))
    added = (ratio[4] ** 4 - ratio[3] ** 4) / 4
    np.testing.assert_allclose(made[3] / ALPHA[4], made[2] / ALPHA[3] + added, rtol=1e-4)


def unipc(p, variant, corrector, model, steps):
    """The paper's own formulation, R rho B(h) = (k! h phi_{k+1})_k, step by step."""
    x, values, made = X, [], []
    for i in range(steps):
        values.append(np.asarray(model(made[-1] if i > 0 else X, TIMES[i])))
        if i > 0 and corrector:
            x = advance(x, values, i - 1, [*range(max(i - p, 0), i - 1), i], variant)
        elif i > 0:
            x = made[-1]
        made.append(advance(x, values, i, [*range(max(i - p + 1, 0), i)], variant))
    return made


def advance(x, values, i, others, variant):
    """From time i to i + 1, by the differences of the values at the `others` to that at i."""
    h, value = LAM[i + 1] - LAM[i], values[i]
    x = first_order_x0(x, value, i, i + 1)
    if not others:
        return x
    b = h if variant == "bh1" else -np.expm1(-h)
    r = np.array([(LAM[m] - LAM[i]) / h for m in others])
    if len(others) == 1:
        rho = np.array([0.5])
    else:
        # k! h phi_{k+1}(-h) / B as the moment that it is
        nodes, weights = np.polynomial.legendre.leggauss(40)
        u = 0.5 * (nodes + 1)
        powers = range(1, len(others) + 1)
        moments = [h * np.sum(0.5 * weights * np.exp(-h * (1 - u)) * u**k) / b for k in powers]
        rho = np.linalg.solve(np.array([r ** (k - 1) for k in powers]), np.array(moments))
    slopes = [(values[m] - value) / r_m for m, r_m in zip(others, r, strict=True)]
    return x + ALPHA[i + 1] * b * sum(c * d for c, d in zip(rho, slopes, strict=True))


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc_solves_the_linear_system_of_its_paper(p, corrector, variant):
    made = run(samplers.UniPC(p=p, variant=variant, corrector=corrector), X0, 4)
    expected = unipc(p, variant, corrector, x0_of, 4)
    np.testing.assert_allclose(made, expected, rtol=3e-4, atol=3e-5)


HIGHER = ["dpm_2s", "dpm_3s", "dpm_fast", "dpmpp_2s", "dpmpp_3m", "deis", "ipndm", "unipc"]
HIGHER += ["res_2s", "res_3s"]


@pytest.mark.parametrize("name", [*HIGHER, "midpoint", "rk4"])
def test_flow_is_sampled_from_alpha_zero(name):
    # The first step is of order 1: no polynomial in lambda reaches back to lambda = -inf.
    flow = sd.Flow()
    grid = jnp.linspace(1.0, 0.05, 40)
    exact = sd.analytic.Gaussian.of(jnp.array([0.7, -0.4]), jnp.array([0.8, 0.1]))
    start = jnp.array([[1.3, -0.2], [-0.5, 0.9]])
    made = sd.sample(
        jax.random.key(0),
        exact.model(flow),
        start.shape,
        solver=samplers.named(name),
        grid=grid,
        x_init=start,
        denoise_last=False,
    ).x
    spread = jnp.sqrt(flow.alpha(0.05) ** 2 * exact.variances + 0.05**2)
    np.testing.assert_allclose(made, flow.alpha(0.05) * exact.mean + spread * start, atol=5e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.DEIS(order=4), "DEIS takes order 1, 2 or 3, got 4"),
        (lambda: samplers.IPNDM(order=5), "IPNDM takes order 1, 2, 3 or 4, got 5"),
        (lambda: samplers.UniPC(p=0), "UniPC takes p 1, 2 or 3, got 0"),
        (lambda: samplers.UniPC(variant="bh3"), "choices: bh1, bh2"),
    ],
)
def test_a_bad_value_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
