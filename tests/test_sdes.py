"""SDEs against the reference's figures, their own moment equations, and float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import sde_diffusion as sd
from sde_diffusion.sdes import KINDS

REFERENCE = np.load(Path(__file__).parent / "reference" / "score_sde" / "sdes.npz")
OF_REFERENCE = {
    "vp": (sd.VP(), 1000),
    "subvp": (sd.SubVP(), 1000),
    "ve": (sd.VE(), 1000),
    "vp_b": (sd.VP(beta_min=0.3, beta_max=12.0), 500),
    "ve_b": (sd.VE(sigma_min=0.02, sigma_max=348.0), 2000),
}
ALL = {
    **{name: kind() for name, kind in KINDS.items()},
    "cosine shifted": sd.Cosine(shift=0.25),
    "tabulated to alpha = 0": sd.sdes.tabulated("scaled_linear", zero_terminal_snr=True),
}


def times(sde, num=40):
    """Times from 1e-5 t_max to where the SDE still has a finite drift."""
    end = 0.999 if sde.alpha(sde.t_max) == 0.0 else 1.0
    return (np.geomspace(1e-5, end, num) * sde.t_max).astype(np.float32)


@pytest.fixture(params=OF_REFERENCE)
def reference(request):
    name = request.param
    sde, num_scales = OF_REFERENCE[name]
    figures = {key: REFERENCE[f"{name}/{key}"] for key in ("mean_coef", "std", "drift_coef")}
    figures |= {key: REFERENCE[f"{name}/{key}"] for key in ("diffusion", "prior_z", "prior_logp")}
    figures |= {key: REFERENCE[f"{name}/discretize_{key}"] for key in ("f", "G")}
    return sde, num_scales, jnp.asarray(REFERENCE["t"]), figures


class TestReference:
    def test_marginal_mean_and_drift(self, reference):
        sde, _, t, figures = reference
        mean, _ = sde.marginal_prob(jnp.ones((t.size, 1)), t)
        drift, _ = sde.sde(jnp.ones((t.size, 1)), t)
        np.testing.assert_allclose(mean[:, 0], figures["mean_coef"], rtol=1e-6)
        np.testing.assert_allclose(drift[:, 0], figures["drift_coef"], rtol=1e-6)

    def test_std_and_diffusion_where_the_reference_has_its_digits(self, reference):
        sde, _, t, figures = reference
        late = np.asarray(t) > 0.05  # before, its float32 1 - exp(-x) is off by up to 5 %
        np.testing.assert_allclose(sde.sigma(t)[late], figures["std"][late], rtol=1e-5)
        np.testing.assert_allclose(sde.diffusion(t)[late], figures["diffusion"][late], rtol=1e-5)

    def test_discretization(self, reference):
        sde, num_scales, t, figures = reference
        f, G = sde.discretize(jnp.ones((t.size, 1)), t, num_scales)
        # sqrt(1 - beta) - 1 and sigma_i^2 - sigma_{i-1}^2 cancel in the reference's float32; its
        # sub-VP has the digits of its diffusion.
        np.testing.assert_allclose(f[:, 0], figures["f"].reshape(t.shape), rtol=3e-4)
        late = np.asarray(t) > (0.05 if type(sde) is sd.SubVP else -1)
        np.testing.assert_allclose(G[late], figures["G"].reshape(t.shape)[late], rtol=3e-4)

    def test_prior(self, reference):
        sde, _, _, figures = reference
        log_prob = sde.prior_log_prob(jnp.asarray(figures["prior_z"]))
        np.testing.assert_allclose(log_prob, figures["prior_logp"], rtol=1e-6)


@pytest.mark.parametrize("sde", ALL.values(), ids=ALL)
class TestEveryKind:
    @pytest.mark.parametrize("name", ["alpha", "sigma", "diffusion", "f", "alpha_dot", "sigma_dot"])
    def test_float32_has_its_digits_from_1e_5_on(self, sde, name):
        t = times(sde)
        single = np.asarray(getattr(sde, name)(jnp.asarray(t)), np.float64)
        assert getattr(sde, name)(jnp.asarray(t)).dtype == jnp.float32
        with jax.enable_x64(True):
            double = np.asarray(getattr(sde, name)(jnp.asarray(t, jnp.float64)))
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-12)

    def test_alpha_and_sigma_solve_the_moment_equations(self, sde):
        # d alpha / dt = f alpha,  d sigma^2 / dt = 2 f sigma^2 + g^2, integrated by scipy
        start, end = 0.01 * sde.t_max, 0.9 * sde.t_max
        with jax.enable_x64(True):

            def rates(t, moments):
                alpha, variance = moments
                f, g = float(sde.f(t)), float(sde.diffusion(t))
                return [f * alpha, 2.0 * f * variance + g**2]

            first = [float(sde.alpha(start)), float(sde.sigma(start)) ** 2]
            solved = solve_ivp(rates, (start, end), first, rtol=1e-7, atol=1e-12)
            expected = [float(sde.alpha(end)), float(sde.sigma(end)) ** 2]
        np.testing.assert_allclose(solved.y[:, -1], expected, rtol=1e-5)

    def test_closed_forms_equal_what_the_base_class_derives(self, sde):
        with jax.enable_x64(True):
            t = jnp.asarray(times(sde), jnp.float64)
            for name in ("f", "diffusion", "log_snr", "alpha_dot", "sigma_dot"):
                derived = getattr(sd.SDE, name)(sde, t)
                np.testing.assert_allclose(getattr(sde, name)(t), derived, rtol=1e-8, atol=1e-10)
            log_snr = sde.log_snr(t)
            derived = sd.SDE.t_of_log_snr(sde, log_snr)
            np.testing.assert_allclose(sde.t_of_log_snr(log_snr), derived, rtol=1e-8)

    @given(u=st.floats(0.0, 1.0))
    def test_t_of_log_snr_inverts_log_snr(self, sde, u):
        low, high = (float(sde.log_snr(t)) for t in (times(sde)[-1], times(sde)[0]))
        log_snr = low + u * (high - low)
        t = sde.t_of_log_snr(log_snr)
        np.testing.assert_allclose(sde.log_snr(t), log_snr, rtol=1e-4, atol=1e-4)

    def test_log_snr_falls(self, sde):
        assert np.all(np.diff(sde.log_snr(times(sde))) < 0)

    @given(u=st.floats(0.01, 0.98), v=st.floats(0.01, 0.98))
    def test_transitions_carry_the_marginal_at_s_to_that_at_t(self, sde, u, v):
        s, t = sorted((u * sde.t_max, v * sde.t_max))
        a, b = sde.transition(t, s)
        np.testing.assert_allclose(a * sde.alpha(s), sde.alpha(t), rtol=1e-5)
        variance = (a * sde.sigma(s)) ** 2 + b**2
        np.testing.assert_allclose(variance, sde.sigma(t) ** 2, rtol=1e-5)

    def test_a_step_of_no_length_does_nothing_and_has_derivatives(self, sde):
        # Flow has alpha = 0 at the end, and EDM sigma = 0 at the start.
        t = jnp.array([0.0, 1e-5, 0.5, 1.0]) * sde.t_max

        def step(sde, t):
            return jnp.stack([*sde.transition(t, t), sde.log_snr_rise(t, t)])

        made, pullback = jax.vjp(step, sde, t)
        np.testing.assert_array_equal(made, [[1.0] * 4, [0.0] * 4, [0.0] * 4])
        ones = jax.tree.map(jnp.ones_like, (sde, t))
        slopes = [*pullback(jnp.ones_like(made)), jax.jvp(step, (sde, t), ones)[1]]
        for slope in jax.tree.leaves(slopes):
            np.testing.assert_array_equal(slope, 0.0)

    def test_a_step_is_as_long_as_its_parts(self, sde):
        t, u, s = (jnp.float32(part * sde.t_max) for part in (0.9, 0.5, 0.1))
        parts = sde.log_snr_rise(t, u) + sde.log_snr_rise(u, s)
        np.testing.assert_allclose(parts, sde.log_snr(s) - sde.log_snr(t), rtol=1e-5)

    def test_is_a_hashable_pytree(self, sde):
        leaves, structure = jax.tree.flatten(sde)
        assert jax.tree.unflatten(structure, leaves) == sde
        assert hash(sde) == hash(jax.tree.unflatten(structure, leaves))

    def test_as_a_static_argument_an_equal_one_does_not_retrace(self, sde):
        traces = []
        log_snr = jax.jit(lambda sde, t: traces.append(1) or sde.log_snr(t), static_argnums=0)
        log_snr(sde, 0.5)
        log_snr(jax.tree.unflatten(*reversed(jax.tree.flatten(sde))), 0.5)
        assert len(traces) == 1

    def test_prior_has_the_spread_of_x_at_t_max(self, sde):
        x = sde.prior_sample(jax.random.key(0), (2000, 10))
        np.testing.assert_allclose(np.std(x), sde.sigma(sde.t_max), rtol=0.02)


def test_vp_and_edm_are_one_process_after_rescaling():
    vp, t = sd.VP(), jnp.linspace(0.01, 1.0, 20)
    edm_time = vp.sigma(t) / vp.alpha(t)
    np.testing.assert_allclose(vp.log_snr(t), sd.EDM().log_snr(edm_time), rtol=1e-4, atol=1e-5)


def test_shift_adds_its_logarithm_to_log_snr_and_stays_variance_preserving():
    t = jnp.linspace(0.01, 0.99, 20)
    shifted, plain = sd.Cosine(shift=0.25), sd.Cosine()
    np.testing.assert_allclose(
        shifted.log_snr(t), plain.log_snr(t) + np.log(0.25), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(shifted.alpha(t) ** 2 + shifted.sigma(t) ** 2, 1.0, rtol=1e-6)


def test_cosine_is_that_of_nichol_and_dhariwal():
    t = np.linspace(0.0, 0.99, 50)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # eq. 17
    np.testing.assert_allclose(sd.Cosine().alpha(t) ** 2, f / f[0], rtol=1e-5, atol=1e-7)


def test_derivative_with_respect_to_a_parameter():
    slope = jax.grad(lambda beta_max: sd.VP(beta_max=beta_max).sigma(0.3))(20.0)
    sigma = [float(sd.VP(beta_max=20.0 + d).sigma(0.3)) for d in (-0.1, 0.1)]
    np.testing.assert_allclose(slope, (sigma[1] - sigma[0]) / 0.2, rtol=1e-2)


def test_vmap_over_a_parameter():
    sdes = jax.vmap(lambda beta_max: sd.VP(beta_max=beta_max))(jnp.array([10.0, 20.0]))
    sigma = jax.vmap(lambda sde: sde.sigma(0.5))(sdes)
    expected = [sd.VP(beta_max=b).sigma(0.5) for b in (10.0, 20.0)]
    np.testing.assert_allclose(sigma, expected, rtol=1e-6)


@sd.kind
class Quadratic(sd.SDE):
    sigma_max: float = 10.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return self.sigma_max * t**2


def test_two_functions_make_an_sde():
    t = jnp.array([0.1, 0.7])
    sde = Quadratic()
    np.testing.assert_allclose(sde.diffusion(t) ** 2, 400.0 * t**3, rtol=1e-5)  # d sigma^2 / dt
    np.testing.assert_allclose(sde.f(t), 0.0)
    np.testing.assert_allclose(sde.t_of_log_snr(sde.log_snr(t)), t, rtol=1e-5)
    x = jnp.ones((2, 3))
    drift, diffusion = sde.sde(x, t)
    assert drift.shape == (2, 3)
    assert diffusion.shape == (2,)


def test_reverse_sde_and_probability_flow_are_those_of_the_paper():
    sde, x, t = sd.VP(), jnp.array([[0.3, -1.0]]), jnp.array([0.4])
    score = jnp.array([[0.5, 2.0]])
    model = sd.from_score(sde, lambda x, t: score)
    beta = 0.1 + 0.4 * 19.9
    drift, diffusion = model.reverse_sde(x, t)
    np.testing.assert_allclose(drift, -beta / 2 * x - beta * score, rtol=1e-5)  # eq. 6
    np.testing.assert_allclose(diffusion, np.sqrt(beta), rtol=1e-6)
    flow = model.probability_flow(x, t)
    np.testing.assert_allclose(flow, -beta / 2 * (x + score), rtol=1e-5)  # eq. 13


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.VP(beta_min=-1.0), "beta_min=-1.0"),
        (lambda: sd.VP(beta_min=2.0, beta_max=1.0), "beta_max=1.0"),
        (lambda: sd.VE(sigma_min=0.0), "sigma_min=0.0"),
        (lambda: sd.VP().betas(10), "num_scales=10"),
        (lambda: sd.VP(t_min=2.0), "t_min=2.0"),
        (lambda: sd.Cosine(t_max=1.0), "t_max=1.0"),
        (lambda: sd.Flow(t_max=2.0), "t_max=2.0"),
    ],
)
def test_a_value_out_of_range_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_sde_without_its_decorator_is_named():
    class Forgotten(sd.SDE):
        sigma_max: float = 10.0

    with pytest.raises(TypeError, match="Forgotten is a subclass of SDE without its decorator"):
        Forgotten(sigma_max=3.0)


def test_a_log_snr_that_does_not_fall_is_named():
    @sd.kind
    class Rising(Quadratic):
        def sigma(self, t):
            return jnp.sin(2.0 * jnp.pi * t) + 1.5

    with pytest.raises(ValueError, match=r"Rising needs a log-SNR.* that falls .* at t = 0\.25"):
        sd.grids.uniform(Rising(), 10)


def test_an_alpha_below_0_is_named():
    @sd.kind
    class Turned(sd.SDE):
        def alpha(self, t):
            return jnp.cos(0.5 * jnp.pi * t)  # -4.4e-8 at t = 1, as pi is rounded

        def sigma(self, t):
            return jnp.sin(0.5 * jnp.pi * t)

    with pytest.raises(ValueError, match=r"Turned has alpha\(t\) = -4.37114e-08 at t = 1"):
        sd.grids.uniform(Turned(), 10)
