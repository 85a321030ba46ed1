"""Each solver's step against its paper's formula, written with the paper's own coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import noise, samplers
from sde_diffusion.sdes import expand

KEYS = noise.sample_keys(jax.random.key(0), 2)
X = jnp.array([[0.4, -1.1, 2.0], [1.0, 0.2, -0.3]])
SCORE = jnp.array([[-0.5, 0.3, 1.0], [0.1, -2.0, 0.7]])


def step(solver, sde, t, s, x=X):
    model = samplers.Counted(sd.from_score(sde, lambda x, t: SCORE))
    state = solver.step(KEYS, model, solver.init(x), jnp.float32(t), jnp.float32(s))
    return np.asarray(state.x)


def z(keys=KEYS):
    return np.asarray(noise.normal(keys, X))


def test_reverse_diffusion_is_that_of_ddpm_and_smld():
    # eq. 46 with f = (sqrt(1 - beta) - 1) x, G = sqrt(beta); and eq. 47's VE
    vp, t, s = sd.VP(), 0.5, 0.49
    beta = 1.0 - float(vp.alpha(t) / vp.alpha(s)) ** 2
    expected = (2 - np.sqrt(1 - beta)) * X + beta * SCORE + np.sqrt(beta) * z()
    np.testing.assert_allclose(step(samplers.ReverseDiffusion(), vp, t, s), expected, rtol=1e-4)

    ve = sd.VE()
    added = float(ve.sigma(t)) ** 2 - float(ve.sigma(s)) ** 2
    expected = X + added * SCORE + np.sqrt(added) * z()
    np.testing.assert_allclose(step(samplers.ReverseDiffusion(), ve, t, s), expected, rtol=1e-4)


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_ancestral_is_that_of_ddpm(variance):
    # mean (x + beta score) / sqrt(1 - beta); variance beta, or beta (1 - abar') / (1 - abar)
    sde, t, s = sd.VP(), 0.5, 0.45
    abar_t, abar_s = float(sde.alpha(t)) ** 2, float(sde.alpha(s)) ** 2
    beta = 1 - abar_t / abar_s
    spread = beta if variance == "forward" else beta * (1 - abar_s) / (1 - abar_t)
    expected = (X + beta * SCORE) / np.sqrt(1 - beta) + np.sqrt(spread) * z()
    made = step(samplers.Ancestral(variance=variance), sde, t, s)
    np.testing.assert_allclose(made, expected, rtol=1e-4)


def test_ancestral_is_that_of_smld():
    sde, t, s = sd.VE(), 0.5, 0.45
    v_t, v_s = float(sde.sigma(t)) ** 2, float(sde.sigma(s)) ** 2
    expected = X + (v_t - v_s) * SCORE + np.sqrt(v_s * (v_t - v_s) / v_t) * z()
    np.testing.assert_allclose(step(samplers.Ancestral(), sde, t, s), expected, rtol=1e-4)


def test_ddim_with_eta_one_is_ancestral():
    sde = sd.SubVP()
    made = step(samplers.DDIM(eta=1.0), sde, 0.5, 0.4)
    np.testing.assert_allclose(made, step(samplers.Ancestral(), sde, 0.5, 0.4), rtol=1e-4)


@pytest.mark.parametrize("solver", [samplers.Heun(), samplers.EDMSampler()])
def test_heun_is_algorithm_1_of_edm(solver):
    sde, t, s = sd.EDM(), 3.0, 2.0

    def denoise(x, sigma):
        return 0.5 * x / (1 + sigma)

    model = samplers.Counted(sd.from_x0(sde, lambda x, t: denoise(x, expand(t, x))))
    made = solver.step(KEYS, model, samplers.State(X), jnp.float32(t), jnp.float32(s))
    d = (X - denoise(X, t)) / t
    euler = X + (s - t) * d
    expected = X + (s - t) * (d + (euler - denoise(euler, s)) / s) / 2
    np.testing.assert_allclose(made.x, expected, rtol=1e-5)


def test_churn_raises_the_noise_as_algorithm_2_of_edm_does():
    sde, t, s, gamma = sd.EDM(), 3.0, 2.0, 0.2
    raised = t * (1 + gamma)
    x = X + np.sqrt(raised**2 - t**2) * 1.007 * z()
    solver = samplers.EDMSampler(churn=gamma, churn_noise=1.007)
    expected = step(samplers.EDMSampler(), sde, raised, s, x=x)
    np.testing.assert_allclose(step(solver, sde, t, s), expected, rtol=1e-4)


def test_churn_acts_between_its_bounds_only():
    sde = sd.EDM()
    quiet = samplers.EDMSampler(churn=0.2, churn_min=5.0)
    np.testing.assert_allclose(
        step(quiet, sde, 3.0, 2.0), step(samplers.EDMSampler(), sde, 3.0, 2.0)
    )


def test_churn_stays_within_the_sde():
    sde = sd.EDM(t_max=3.0)
    made = step(samplers.EDMSampler(churn=0.2), sde, 3.0, 2.0)
    np.testing.assert_allclose(made, step(samplers.EDMSampler(), sde, 3.0, 2.0))


@pytest.mark.parametrize("norms", ["sample", "batch"])
def test_langevin_is_algorithms_4_and_5_of_the_paper(norms):
    # epsilon = 2 alpha (r |z| / |g|)^2;  x + epsilon g + sqrt(2 epsilon) z
    sde, t, s, r = sd.VP(), 0.5, 0.49, 0.16
    noise_z = z(noise.fold_in(KEYS, 0))
    alpha = float(sde.alpha(t) / sde.alpha(s)) ** 2
    z_norm, g_norm = (np.linalg.norm(a, axis=1, keepdims=True) for a in (noise_z, SCORE))
    if norms == "batch":
        z_norm, g_norm = z_norm.mean(), g_norm.mean()
    epsilon = 2 * alpha * (r * z_norm / g_norm) ** 2
    expected = X + epsilon * SCORE + np.sqrt(2 * epsilon) * noise_z
    made = step(samplers.Langevin(snr=r, norms=norms), sde, t, s)
    np.testing.assert_allclose(made, expected, rtol=1e-4)


def test_annealed_langevin_steps_by_the_noise_level():
    sde, t, s = sd.VE(), 0.5, 0.49
    epsilon = 2 * (0.16 * float(sde.sigma(t))) ** 2
    noise_z = z(noise.fold_in(KEYS, 0))
    expected = X + epsilon * SCORE + np.sqrt(2 * epsilon) * noise_z
    made = step(samplers.AnnealedLangevin(snr=0.16), sde, t, s)
    np.testing.assert_allclose(made, expected, rtol=1e-4)


def test_dpm_solver_is_algorithm_2_of_its_paper():
    sde = sd.VP()
    grid = jnp.array([0.9, 0.6, 0.35])
    solver = samplers.DPMSolverPP2M()
    values = [jnp.full_like(X, 0.3), jnp.full_like(X, -0.2)]
    state = solver.init(X)
    for i, value in enumerate(values):
        model = samplers.Counted(sd.from_x0(sde, lambda x, t, value=value: value))
        state = solver.step(KEYS, model, state, grid[i], grid[i + 1])

    lam, sigma, alpha = ([float(f(t)) for t in grid] for f in (sde.log_snr, sde.sigma, sde.alpha))
    h1, h2 = lam[1] - lam[0], lam[2] - lam[1]
    x1 = sigma[1] / sigma[0] * X - alpha[1] * np.expm1(-h1) * values[0]
    r = h1 / h2
    data = (1 + 1 / (2 * r)) * values[1] - 1 / (2 * r) * values[0]
    x2 = sigma[2] / sigma[1] * x1 - alpha[2] * np.expm1(-h2) * data
    np.testing.assert_allclose(state.x, x2, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.DDIM(eta=2.0), "eta from 0 to 1, got eta=2.0"),
        (lambda: samplers.EDMSampler(churn=1.0), "churn from 0"),
        (lambda: samplers.Ancestral(variance="postrior"), "did you mean 'posterior'"),
        (lambda: samplers.Langevin(snr=0.0), "snr > 0"),
        (lambda: samplers.Langevin(norms="all"), "unknown norms 'all'"),
        (lambda: samplers.BlackBox(method="tsit"), "did you mean 'tsit5'"),
    ],
)
def test_a_bad_value_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
