"""Tabulated: exact at the times of its chain, and a smooth process between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sde_diffusion as sd
from sde_diffusion.sdes import tabulated

LINEAR = np.linspace(1e-4, 0.02, 1000)
CHAINS = {
    "linear": (tabulated("linear"), LINEAR),
    "scaled_linear": (
        tabulated("scaled_linear"),
        np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
    ),
    "squared_cosine": (tabulated("squared_cosine"), None),
}
TIMES = np.arange(1000.0, dtype=np.float32)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_alpha_and_sigma_are_the_chains_own_at_its_times(name):
    sde, betas = CHAINS[name]
    alphas_cumprod = np.cumprod(1.0 - betas)
    np.testing.assert_allclose(sde.alpha(TIMES), np.sqrt(alphas_cumprod), rtol=2e-7)
    np.testing.assert_allclose(sde.sigma(TIMES), np.sqrt(1.0 - alphas_cumprod), rtol=2e-7)
    log_snr = 0.5 * np.log(alphas_cumprod / (1.0 - alphas_cumprod))
    np.testing.assert_allclose(sde.log_snr(TIMES), log_snr, rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(sde.betas(1000), betas, rtol=1e-6)


def test_the_squared_cosine_is_that_of_the_continuous_process():
    early = TIMES[:990]  # later betas are at most 0.999
    expected = sd.Cosine().alpha((early + 1.0) / 1000.0)
    np.testing.assert_allclose(CHAINS["squared_cosine"][0].alpha(early), expected, rtol=2e-5)
    np.testing.assert_allclose(CHAINS["squared_cosine"][0].betas(1000)[-1], 0.999, rtol=1e-6)


def test_betas_and_cumulative_alphas_make_the_same_table():
    sde = sd.Tabulated.from_alphas_cumprod(np.cumprod(1.0 - LINEAR))
    for made, expected in zip(jax.tree.leaves(sde), jax.tree.leaves(tabulated()), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-10)


def test_zero_terminal_snr_is_algorithm_1_of_lin_et_al():
    sde, plain = tabulated("linear", zero_terminal_snr=True), tabulated("linear")
    root = np.sqrt(np.cumprod(1.0 - LINEAR))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(sde.alpha(TIMES), expected, rtol=1e-6)
    assert sde.alpha(999.0) == 0.0
    assert sde.sigma(999.0) == 1.0
    np.testing.assert_allclose(sde.sigma(0.0), plain.sigma(0.0), rtol=1e-6)
    # alpha falls to 0 with a finite slope, so its digits stay up to there
    late = np.float32([998.5, 998.9, 998.99])
    slope = (expected[-2] - expected[-1]) / (1.0 - expected[-1])
    np.testing.assert_allclose(sde.alpha(late) / (999.0 - late), slope, rtol=0.01)


@pytest.mark.parametrize("solver", [sd.samplers.DDIM(), sd.samplers.DPMSolverPP2M()])
def test_sampling_from_zero_terminal_snr_follows_the_flow(solver):
    sde, mean, variance = tabulated("scaled_linear", zero_terminal_snr=True), 2.0, 0.3
    exact = sd.analytic.Gaussian.of(jnp.array([mean]), jnp.array(variance)).model(sde)
    model = sd.from_v(sde, lambda x, t: exact(x, t).v)
    z, grid = jnp.linspace(-2.0, 2.0, 9)[:, None], sd.grids.trailing(sde, 49)
    made = sd.sample(jax.random.key(0), model, z.shape, solver=solver, grid=grid, x_init=z).x
    # The flow keeps z = (x_t - alpha mean) / std_t, and at its end x_t is denoised.
    alpha, sigma = sde.alpha(grid[-1]), sde.sigma(grid[-1])
    std = alpha * variance / jnp.sqrt(alpha**2 * variance + sigma**2)
    np.testing.assert_allclose(made, mean + std * z, atol=0.07)


@pytest.mark.parametrize("name", ["ddpm", "v", "flow", "smld"])
def test_labels_of_the_chains_times_are_whole_numbers_exactly(name):
    parameterization = sd.parameterization.named(name)
    label = jax.jit(lambda sde, t: parameterization.label(sde, t))
    expected = TIMES[::-1] if name == "smld" else TIMES
    np.testing.assert_array_equal(label(tabulated(), TIMES), expected)
    closed_over = jax.jit(lambda t: parameterization.label(tabulated(), t))
    np.testing.assert_array_equal(closed_over(TIMES), expected)


@pytest.mark.parametrize("grid", ["leading", "trailing", "linspace"])
def test_grids_of_the_chain_are_whole_numbers_exactly(grid):
    for steps in (1, 7, 49, 999):
        times = np.asarray(sd.grids.named(grid, tabulated(), steps))
        np.testing.assert_array_equal(times, np.round(times))
    with pytest.raises(ValueError, match="num_scales=500, but the chain of Tabulated has 1000"):
        sd.grids.named(grid, tabulated(), 10, num_scales=500)


@jax.jit
def at_many_times(sde):
    """alpha and its slope at 40 times a step of the chain, and just before and after each knot."""
    knots = jnp.arange(1.0, sde.num_scales - 1)
    t = jnp.linspace(0.0, sde.num_scales - 1, 40 * (sde.num_scales - 1) + 1)
    at = [t, knots - 1e-11, knots + 1e-11]
    return [(sde.alpha(t), sde.alpha_dot(t)) for t in at]


def test_published_schedules_are_splines_of_two_derivatives():
    for sde, _ in CHAINS.values():
        with jax.enable_x64(True):
            knots = jnp.arange(1.0, 999.0)
            curvature = jax.vmap(jax.grad(sde.alpha_dot))
            before, after = curvature(knots - 1e-9), curvature(knots + 1e-9)
            np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-10)


@given(st.lists(st.floats(1e-4, 0.9), min_size=6, max_size=6), st.booleans())
def test_between_the_times_alpha_falls_and_has_one_slope(betas, to_zero):
    sde = sd.Tabulated.from_betas([*betas, 1.0 if to_zero else 0.5])
    with jax.enable_x64(True):
        (alpha, slope), before, after = jax.tree.map(np.asarray, at_many_times(sde))
    assert np.all(np.diff(alpha) < 0)
    assert np.all(slope < 0)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_a_table_of_the_same_length_does_not_retrace():
    traces = []

    @jax.jit
    def log_snr(sde, t):
        traces.append(1)
        return sde.log_snr(t)

    made = [log_snr(sde, 500.0) for sde, _ in CHAINS.values()]
    assert len(traces) == 1
    expected = [sde.log_snr(500.0) for sde, _ in CHAINS.values()]
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_tables_compare_by_their_values():
    assert tabulated() == sd.Tabulated.from_betas(LINEAR)
    assert hash(tabulated()) == hash(sd.Tabulated.from_betas(LINEAR))
    assert tabulated() != tabulated("scaled_linear")
    assert tabulated() != tabulated(num_scales=999)
    assert tabulated() == jax.tree.map(jnp.asarray, tabulated())  # rounded to float32
    assert repr(tabulated()) == "Tabulated(1000 times, alpha 0.99995 to 0.00635282)"


def test_tables_can_be_stacked():
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(sde for sde, _ in CHAINS.values()))
    made = jax.vmap(lambda sde: sde.sigma(123.4))(stacked)
    np.testing.assert_allclose(made, [sde.sigma(123.4) for sde, _ in CHAINS.values()], rtol=1e-6)


def test_discretize_is_ddpms_chain():
    f, g = tabulated().discretize(jnp.ones((3, 1)), jnp.array([0.0, 500.0, 999.0]), 1000)
    beta = LINEAR[[0, 500, 999]]
    np.testing.assert_allclose(f[:, 0], np.sqrt(1.0 - beta) - 1.0, rtol=1e-5)
    np.testing.assert_allclose(g, np.sqrt(beta), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.Tabulated.from_betas([0.1, 0.0, 0.2]), "got 0 at index 1"),
        (lambda: sd.Tabulated.from_betas([0.1, 1.0, 0.2]), "got 1 at index 1"),
        (lambda: sd.Tabulated.from_betas([0.1, np.nan]), "got nan at index 1"),
        (lambda: sd.Tabulated.from_betas(0.1), r"must be an array \[N\] .* got shape \(\)"),
        (lambda: sd.Tabulated.from_alphas_cumprod([0.9, 0.95, 0.1]), "must decrease from below 1"),
        (lambda: sd.Tabulated.from_alphas_cumprod([1.0, 0.5]), "must decrease from below 1"),
        (lambda: tabulated("lineal"), "unknown schedule 'lineal'; did you mean 'linear'"),
        (lambda: tabulated("squared_cosine", beta_end=0.1), "takes no beta_end"),
        (lambda: tabulated(num_scales=1), "num_scales of at least 2, got 1"),
        (lambda: tabulated().betas(500), "has 1000 betas, got num_scales=500"),
    ],
)
def test_a_table_that_is_no_chain_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
