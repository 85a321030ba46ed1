"""Particles: resampling is unbiased, and weights turn a prior into its exponential tilt."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion import grids, noise, samplers
from sde_diffusion.analytic import Gaussian
from sde_diffusion.samplers import ParticleSolver, sample
from sde_diffusion.samplers.particles import effective_size, systematic

SDE = sd.VP()
PRIOR = Gaussian.of(jnp.array([0.5, -0.3]), jnp.array([[0.3, 0.2], [0.2, 0.25]]))
TILT = jnp.array([1.0, -0.5])
MODEL = PRIOR.model(SDE)
GRID = grids.uniform(SDE, 8)
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Tilting(ParticleSolver):
    """Ancestral steps, weighted by exp(a . E[x_0 | x_s]) / exp(a . E[x_0 | x_t])."""

    def move(self, key, model, state, t, s, cond=None):
        def value(x, t):
            return model(x, t, cond).x0 @ cond_of(cond)

        first = jnp.where(t == GRID[0], 0.0, value(state.x, t))
        moved = samplers.Ancestral().step(key, model, state, t, s, cond)
        return moved, value(moved.x, s) - first


def cond_of(cond):
    return TILT if cond is None else cond


@functools.partial(jax.jit, static_argnames=("num", "particles", "threshold", "denoise_last"))
def tilted(key, num, particles=8, threshold=0.5, first=0, denoise_last=False):
    solver = Tilting(particles=particles, threshold=threshold)
    return sample(
        key, MODEL, (num, 2), solver=solver, grid=GRID, first=first, denoise_last=denoise_last
    )


class TestResampling:
    def test_the_effective_size_is_that_of_equal_weights_and_of_one_particle(self):
        assert effective_size(jnp.full(5, 3.0)) == pytest.approx(5)
        assert effective_size(jnp.array([0.0, -jnp.inf, -jnp.inf])) == pytest.approx(1)
        assert effective_size(jnp.log(jnp.array([2.0, 1.0, 1.0]))) == pytest.approx(16 / 6)

    def test_copies_are_the_expected_number_rounded_up_or_down_and_right_in_the_mean(self):
        weights = jnp.array([0.0, 0.5, 0.26, 0.04, 0.2, 0.0])
        keys = jax.random.split(KEY, 4000)
        index = jax.vmap(systematic, (0, None))(keys, jnp.log(weights))
        copies = np.stack([np.bincount(row, minlength=6) for row in np.asarray(index)])
        expected = 6 * np.asarray(weights)
        assert np.all(copies >= np.floor(expected - 1e-5))
        assert np.all(copies <= np.ceil(expected + 1e-5))
        np.testing.assert_allclose(copies.mean(axis=0), expected, atol=4 * 0.5 / np.sqrt(4000))

    def test_equal_weights_draw_every_particle_once(self):
        keys = jax.random.split(KEY, 200)
        index = jax.vmap(systematic, (0, None))(keys, jnp.zeros(16))
        assert np.array_equal(index, np.tile(np.arange(16), (200, 1)))


class TestParticles:
    def test_weighted_particles_have_the_tilted_moments_and_evidence(self):
        # p(x) exp(a . x) of N(m, C) is N(m + C a, C), and its evidence exp(a . m + a' C a / 2).
        made = tilted(KEY, 4000, particles=32)
        covariance = PRIOR.covariance
        mean = jnp.mean(made.x, axis=0)
        # 8 ancestral steps have a bias of their own; the same steps without weights show it.
        plain = sample(KEY, MODEL, (20_000, 2), solver=samplers.Ancestral(), grid=GRID).x
        shift = np.cov(plain.T) @ TILT
        np.testing.assert_allclose(mean, plain.mean(axis=0) + shift, atol=0.04)
        spread = np.sqrt(np.diag(covariance)) / np.sqrt(4000)
        assert np.all(abs(shift) > 4 * spread)
        log_evidence = float(TILT @ plain.mean(axis=0) + 0.5 * TILT @ shift)
        evidence = float(jnp.mean(jnp.exp(made.particles.log_evidence)))
        assert np.log(evidence) == pytest.approx(log_evidence, abs=0.03)

    def test_what_is_returned_belongs_together(self):
        made = tilted(KEY, 5)
        told = made.particles
        assert told.x.shape == (5, 8, 2)
        assert told.log_weights.shape == (5, 8)
        assert told.ess.shape == (8, 5)
        np.testing.assert_allclose(jnp.sum(jnp.exp(told.log_weights), axis=1), 1, rtol=1e-5)
        assert np.all((told.ess >= 1) & (told.ess <= 8 + 1e-4))
        assert np.all(np.any(np.all(made.x[:, None] == told.x, axis=-1), axis=1))

    def test_nfe_counts_every_particle(self):
        assert np.asarray(tilted(KEY, 5).nfe) == 8 * 8 * 3  # steps, particles, calls of a move

    def test_a_sample_does_not_depend_on_its_neighbours(self):
        many, one = tilted(KEY, 5), tilted(KEY, 1, first=3)
        np.testing.assert_allclose(many.x[3], one.x[0], atol=1e-5)
        np.testing.assert_allclose(many.particles.ess[:, 3], one.particles.ess[:, 0], rtol=1e-4)

    def test_each_sample_has_its_own_condition_under_vmap_and_over_devices(self):
        cond = jnp.linspace(-1.0, 1.0, 8)[:, None] * jnp.ones(2)

        def make(keys, x, cond):
            solver = EachTilting(particles=4)
            return solver.solve(keys, MODEL, x, GRID, cond, denoise_last=False).x

        keys, x = noise.sample_keys(KEY, 8), jax.random.normal(KEY, (8, 2))
        whole = jax.jit(make)(keys, x, cond)
        alone = jax.vmap(lambda *one: make(*(leaf[None] for leaf in one))[0])(keys, x, cond)
        np.testing.assert_allclose(whole, alone, atol=1e-5)
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        over_devices = jax.jit(make)(*(jax.device_put(leaf, spread) for leaf in (keys, x, cond)))
        np.testing.assert_allclose(whole, over_devices, atol=1e-5)

    def test_a_brownian_path_gives_each_particle_its_own(self):
        made = tilted(noise.BrownianPath(KEY), 3, threshold=0.0)
        xs = np.asarray(made.particles.x)
        assert np.all(np.std(xs, axis=1) > 0.1)
        again = tilted(noise.BrownianPath(KEY), 3, threshold=0.0)
        assert np.array_equal(xs, again.particles.x)

    def test_a_start_that_is_given_is_that_of_all_particles(self):
        x = jnp.ones((2, 2))
        state = Tilting(particles=3).init(x, GRID)
        assert np.array_equal(state.states.x, jnp.ones((3, 2, 2)))

    def test_weights_that_are_not_finite_give_nan_for_their_sample_alone(self):
        solver = EachTilting(particles=4)
        cond = jnp.array([[1.0, 1.0], [jnp.nan, 1.0]])
        made = sample(KEY, MODEL, (2, 2), solver=solver, grid=GRID, cond=cond, denoise_last=False)
        assert np.all(np.isfinite(made.x[0]))
        assert np.all(np.isnan(made.x[1]))

    def test_bad_fields_are_named(self):
        with pytest.raises(ValueError, match="at least 1 of particles, got 0"):
            Tilting(particles=0)
        with pytest.raises(ValueError, match="threshold from 0 to 1, got threshold=2"):
            Tilting(threshold=2.0)


@dataclasses.dataclass(frozen=True)
class EachTilting(Tilting):
    """The tilt of each sample is its condition, of which the model knows nothing."""

    def move(self, key, model, state, t, s, cond=None):
        moved = samplers.Ancestral().step(key, model, state, t, s)
        value = jnp.sum((moved.x - state.x) * cond, axis=-1)
        return moved, value
