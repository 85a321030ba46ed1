"""DPM-Solver-fast: steps of DPM-Solver-3, 2 and 1 with one evaluation each interval of the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, samplers

SDES = {"vp": sd.VP(), "ve": sd.VE(), "flow": sd.Flow(t_max=0.99)}
EXACT = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.3)
# Lu et al. 2022 (DPM-Solver), sec. 3.3: the orders of the steps that use up n evaluations.
BLOCKS = {
    1: [1],
    2: [2],
    3: [2, 1],
    4: [3, 1],
    5: [3, 2],
    9: [3, 3, 2, 1],
}
OF_ORDER = {1: samplers.DDIM(), 2: samplers.DPMSolver2S(), 3: samplers.DPMSolver3S()}


def draw(sde, grid, solver, **options):
    model, shape = EXACT.model(sde), (5, 2)
    options = {"solver": solver, "grid": grid, "denoise_last": False, **options}
    return sd.sample(jax.random.key(0), model, shape, **options)


@pytest.mark.parametrize(("name", "n"), [*(("vp", n) for n in BLOCKS), ("ve", 5), ("flow", 5)])
def test_on_steps_equal_in_log_snr_it_is_the_singlestep_solvers_one_after_the_other(name, n):
    with jax.enable_x64(True):
        sde = SDES[name]
        grid = grids.log_snr(sde, n)
        made = draw(sde, grid, samplers.DPMSolverFast(), trajectory=True)
        x = made.trajectory[0]
        ends = np.cumsum([0, *BLOCKS[n]])
        for order, i, j in zip(BLOCKS[n], ends[:-1], ends[1:], strict=True):
            x = draw(sde, grid[np.array([i, j])], OF_ORDER[order], x_init=x).x
        np.testing.assert_allclose(made.x, x, rtol=1e-9, atol=1e-9)
    assert int(made.nfe) == n


def test_on_another_grid_its_stages_are_where_the_grid_has_them():
    # Algorithm 2 of the paper at the r1 and r2 that the grid gives, and the first order after it.
    sde = SDES["vp"]
    with jax.enable_x64(True):
        times = np.array([0.9, 0.75, 0.4, 0.2, 0.1])
        model = EXACT.model(sde)
        alpha, sigma = np.asarray(sde.alpha(times)), np.asarray(sde.sigma(times))
        u = np.log(alpha / sigma)
        h, r1, r2 = u[3] - u[0], (u[1] - u[0]) / (u[3] - u[0]), (u[2] - u[0]) / (u[3] - u[0])
        x = np.random.default_rng(0).normal(size=(5, 2))

        def eps(x, i):
            return np.asarray(model(jnp.asarray(x), jnp.asarray(times[i])).eps)

        first = eps(x, 0)
        x1 = alpha[1] / alpha[0] * x - sigma[1] * np.expm1(r1 * h) * first
        d1 = eps(x1, 1) - first
        x2 = alpha[2] / alpha[0] * x - sigma[2] * np.expm1(r2 * h) * first
        x2 = x2 - sigma[2] * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = eps(x2, 2) - first
        x3 = alpha[3] / alpha[0] * x - sigma[3] * np.expm1(h) * first
        x3 = x3 - sigma[3] / r2 * (np.expm1(h) / h - 1) * d2
        x4 = alpha[4] / alpha[3] * x3 - sigma[4] * np.expm1(u[4] - u[3]) * eps(x3, 3)
        made = draw(
            sde,
            jnp.asarray(times),
            samplers.DPMSolverFast(),
            x_init=jnp.asarray(x),
            trajectory=True,
        )
        np.testing.assert_allclose(made.trajectory, [x, x1, x2, x3, x4], rtol=1e-9)


def test_without_its_grid_it_cannot_know_its_last_steps():
    with pytest.raises(ValueError, match="DPMSolverFast needs the grid"):
        samplers.DPMSolverFast().init(jnp.ones((1, 2)))
