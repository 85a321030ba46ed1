"""The starts that a solver is fitted to: as `sample` draws them, and chosen without bias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion.fitting import starts

SDE = sd.VP()


def drawn(num, conditions=None):
    return starts.draw(jax.random.key(0), SDE, (num, 2), conditions)


def test_they_are_those_of_sample():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Looking(sd.samplers.Euler):
        def init(self, x, grid=None, denoise_last=True):
            seen.append(x)
            return super().init(x, grid, denoise_last)

    model = sd.from_x0(SDE, lambda x, t: jnp.zeros_like(x))
    with jax.disable_jit():
        sd.sample(jax.random.key(0), model, (5, 2), solver=Looking(), grid=sd.grids.uniform(SDE, 1))
    np.testing.assert_allclose(drawn(5).x, seen[0], rtol=1e-6)


def test_weighted_means_over_the_chosen_are_those_over_all():
    # one in a hundred carries the mean, as where few starts end at another mode
    rng = np.random.default_rng(0)
    error = np.where(np.arange(20_000) % 100 == 0, 5.0, 0.01) * rng.uniform(0.5, 1.5, 20_000)
    everything = drawn(20_000)._replace(target=error)
    square = np.mean(error**2)
    means, plain = [], []
    for key in range(20):
        chosen = starts.choose(jax.random.key(key), everything, [error], 500)
        means.append(np.mean(chosen.weight * chosen.target**2))
        plain.append(np.mean(rng.choice(error, 500) ** 2))
    assert np.mean(means) == pytest.approx(square, rel=0.03)
    assert np.std(means) < 0.25 * np.std(plain)


def test_starts_that_are_hard_for_either_solver_are_chosen():
    # ten are hard for the one, ten others for the other; both carry as much of the mean
    rows = np.arange(10_000)
    errors = [np.where(rows // 10 == place, size, 1e-4) for place, size in ((0, 5.0), (1, 0.5))]
    everything = drawn(10_000)._replace(target=rows)
    chosen = [starts.choose(jax.random.key(key), everything, errors, 500) for key in range(20)]
    for place in (0, 1):
        share = [np.mean(of.target // 10 == place) for of in chosen]
        weighed = [np.mean(of.weight * (of.target // 10 == place)) for of in chosen]
        assert np.mean(share) > 0.1
        assert np.mean(weighed) == pytest.approx(1e-3, rel=0.1)


def test_a_chosen_start_keeps_its_condition():
    everything = drawn(100, lambda rows: {"label": rows})
    error = np.linspace(0.1, 1.0, 100)
    chosen = starts.choose(jax.random.key(0), everything, [error], 30)
    np.testing.assert_array_equal(chosen.x, everything.x[chosen.cond["label"]])


@pytest.mark.parametrize("error", [0.3, 0.0])
def test_where_all_errors_are_equal_all_weights_are_one(error):
    chosen = starts.choose(jax.random.key(0), drawn(100), [np.full(100, error)], 40)
    np.testing.assert_allclose(chosen.weight, 1.0, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_the_standard_solver_loses_counts_as_one_of_the_hardest(bad):
    error = np.where(np.arange(1000) < 10, bad, np.where(np.arange(1000) < 20, 5.0, 0.01))
    everything = drawn(1000)._replace(target=np.arange(1000))
    chosen = starts.choose(jax.random.key(1), everything, [error], 500)
    lost, hard = (np.sum((chosen.target >= low) & (chosen.target < low + 10)) for low in (0, 10))
    assert np.all(np.isfinite(chosen.weight))
    assert 0.7 < lost / hard < 1.4


def test_where_the_standard_solver_loses_all_any_may_be_chosen():
    chosen = starts.choose(jax.random.key(1), drawn(100), [np.full(100, np.nan)], 50)
    np.testing.assert_allclose(chosen.weight, 1.0)


def test_the_targets_are_the_ends_of_the_probability_flow():
    exact = sd.analytic.Gaussian.of(jnp.array([0.5, -1.0]), 0.09)
    model = exact.model(SDE)
    found = starts.solved(model, drawn(64), steps=128, size=32)

    def spread(t):
        return jnp.sqrt((SDE.alpha(t) * 0.3) ** 2 + SDE.sigma(t) ** 2)

    z = (found.x - SDE.alpha(1.0) * exact.mean) / spread(1.0)
    end = SDE.alpha(SDE.t_min) * exact.mean + spread(SDE.t_min) * z
    np.testing.assert_allclose(found.target, exact.denoise(SDE, end, SDE.t_min), atol=1e-4)
