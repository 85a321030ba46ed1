"""Particles: K weighted copies of each sample, resampled, so that K to infinity is exact.

A method that moves particles by a law q and corrects by weights is written as one `move` of one
particle of each sample. `ParticleSolver` does the rest. After each step, with normalized weights W,

    ESS = 1 / sum_k W_k^2,   the effective sample size, from 1 to K                          (1)
    where ESS < threshold K:  K particles are drawn by W, and their weights are made equal   (2)
    log_evidence += log sum_k W_k exp(log_weight_k)                                          (3)

(1) is Kong 1992; (2) is systematic resampling, of one uniform number for all K particles, as
compared by Douc & Cappe 2005, "Comparison of Resampling Schemes for Particle Filtering". exp of (3)
is an unbiased estimate of the ratio of the target's normalizing constant to that at the start.

The particles of a sample see no other sample, so sample i depends on (key, i, cond_i) alone.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.model import Model
from sde_diffusion.noise import Keys
from sde_diffusion.samplers.solver import Counted, Samples, Solver, State
from sde_diffusion.sdes import Array
from sde_diffusion.sdes.base import require


class Particles(NamedTuple):
    """The particles x [B, K, *event] that the samples were drawn from.

    `log_weights` [B, K] are normalized, `ess` [n, B] is the effective sample size after each step,
    before any resampling, and `log_evidence` [B] is (3).
    """

    x: Array
    log_weights: Array
    ess: Array
    log_evidence: Array


class Starts(NamedTuple):
    """A start for each particle, x [K, B, *event]: what `draw` gives to `solve`."""

    x: Array

    @property
    def dtype(self) -> Any:
        return self.x.dtype


class ParticleState(NamedTuple):
    """One particle of each sample, x [B, *event], drawn by the weights; and all of them.

    Leaves of `states` are [K, ...], log_weights are [K, B], and step i writes row i of ess [n, B].
    """

    x: Array
    states: Any
    log_weights: Array
    log_evidence: Array
    ess: Array
    i: Array


def effective_size(log_weights: Array) -> Array:
    """(sum_k w_k)^2 / sum_k w_k^2 of log weights [K, ...], which need not be normalized."""
    normalized = jax.nn.log_softmax(log_weights, axis=0)
    return jnp.exp(-jax.nn.logsumexp(2.0 * normalized, axis=0))


def systematic(key: Array, log_weights: Array) -> Array:
    """Indices [K] of systematic resampling by log weights [K]: k appears K W_k times, rounded.

    Every number of copies is the integer below or above K W_k, and its mean is K W_k. A particle
    of weight zero is never drawn.
    """
    num = len(log_weights)
    total = jnp.cumsum(jax.nn.softmax(log_weights))
    places = (jnp.arange(num) + jax.random.uniform(key, (), total.dtype)) / num
    # Rounding can make the last place 1, beyond every particle.
    places = jnp.minimum(places, 1.0 - jnp.finfo(total.dtype).epsneg)
    return jnp.searchsorted(total / total[-1], places, side="right")


@dataclasses.dataclass(frozen=True)
class ParticleSolver(Solver):
    """Base of the particle methods: a subclass defines `move`, for one particle of each sample.

    `particles` is K, and `threshold` the share of K below which the effective sample size leads to
    resampling: 0 never resamples, 1 does so whenever the weights differ. Each sample of the result
    is one particle, drawn by the weights. `Samples.particles` has all of them. `nfe` counts the
    evaluations of all particles of a sample. A sample whose weights are not finite becomes NaN.

    A start that is drawn is drawn for each particle; a given x_init is where all of them start.
    """

    particles: int = 16
    threshold: float = 0.5

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.particles < 1:
            raise ValueError(f"{name} takes at least 1 of particles, got {self.particles}")
        require(
            lambda threshold: 0.0 <= threshold <= 1.0,
            f"{name} takes a threshold from 0 to 1",
            threshold=self.threshold,
        )

    @property
    def stochastic(self) -> bool:
        return True

    def begin(self, x: Array, grid: Array | None, denoise_last: bool) -> Any:
        """The state of one particle of each sample, with the particle [B, *event] as `.x`."""
        return State(x)

    def move(
        self, key: Keys, model: Counted, state: Any, t: Array, s: Array, cond: Any = None
    ) -> tuple[Any, Array]:
        """(the state at s, the log weight [B] of the move), for one particle of each sample.

        The arguments are those of `Solver.step`. The log weights of a particle's moves add up to
        the log ratio of the target to the law by which it moved.
        """
        raise NotImplementedError

    def draw(
        self, keys: Any, model: Model, grid: Array, shape: tuple[int, ...], cond: Any = None
    ) -> Any:
        sigma = model.sde.sigma(grid[0])

        def of_particle(k: Array) -> Array:
            return sigma * noise.normal(noise.fold_in(noise.fold_in(keys, 0), k), jnp.zeros(shape))

        return Starts(jax.vmap(of_particle)(jnp.arange(self.particles)))

    def init(self, x: Any, grid: Array | None = None, denoise_last: bool = True) -> ParticleState:
        if not isinstance(x, Starts):
            x = Starts(jnp.broadcast_to(x, (self.particles, *x.shape)))
        num, batch = x.x.shape[:2]
        states = jax.vmap(lambda each: self.begin(each, grid, denoise_last))(x.x)
        steps = 1 if grid is None else len(grid) - 1
        return ParticleState(
            x.x[0],
            states,
            jnp.full((num, batch), -jnp.log(num), x.dtype),
            jnp.zeros(batch, x.dtype),
            jnp.full((steps, batch), num, x.dtype),
            jnp.zeros((), jnp.int32),
        )

    def step(
        self, key: Keys, model: Counted, state: ParticleState, t: Array, s: Array, cond: Any = None
    ) -> ParticleState:
        aside, own = noise.split(key)

        def move(k: Array, state: Any) -> tuple[Any, Array, Array]:
            counted = Counted(model.uncounted)
            moved, log_weight = self.move(_of_particle(own, k), counted, state, t, s, cond)
            return moved, log_weight, jnp.asarray(counted.calls)

        states, moved, calls = jax.vmap(move)(jnp.arange(self.particles), state.states)
        model.calls = model.calls + jnp.sum(calls, axis=0)

        log_weights = state.log_weights + moved
        total = jax.nn.logsumexp(log_weights, axis=0)
        log_weights = log_weights - total
        ess = effective_size(log_weights)
        states, log_weights = self._resampled(noise.fold_in(aside, 0), states, log_weights, ess)
        chosen = jax.vmap(jax.random.categorical)(noise.fold_in(aside, 1), log_weights.T)
        x = jax.vmap(lambda xs, k: xs[k], (1, 0))(states.x, chosen)
        known = jnp.isfinite(total).reshape((-1,) + (1,) * (x.ndim - 1))
        return ParticleState(
            jnp.where(known, x, jnp.nan),
            states,
            log_weights,
            state.log_evidence + total,
            state.ess.at[state.i].set(ess),
            state.i + 1,
        )

    def moved(self, state: Any, x: Array) -> Any:
        raise TypeError(
            f"{type(self).__name__} has many particles: nothing else can move its sample"
        )

    def solve(self, keys: Any, model: Model, x: Any, *args: Any, **kwargs: Any) -> Samples:
        state, nfe, xs = self.walk(keys, model, x, *args, **kwargs)
        cloud = jnp.swapaxes(state.states.x, 0, 1)
        told = Particles(cloud, state.log_weights.T, state.ess, state.log_evidence)
        return Samples(state.x, nfe, xs, told)

    def _resampled(
        self, keys: Array, states: Any, log_weights: Array, ess: Array
    ) -> tuple[Any, Array]:
        """The particles and their log weights [K, B] after resampling where ess [B] is small."""
        num = len(log_weights)
        few = ess < self.threshold * num
        drawn = jax.vmap(systematic, (0, 1), 1)(keys, log_weights)
        index = jnp.where(few, drawn, jnp.arange(num)[:, None])
        return (
            jax.tree.map(lambda leaf: _gathered(leaf, index, states.x.shape), states),
            jnp.where(few, -jnp.log(num), log_weights),
        )


def _of_particle(keys: Keys, k: Array) -> Keys:
    """The keys or the paths [B] of particle k."""
    if isinstance(keys, noise.PathStep):
        return keys._replace(key=noise.fold_in(keys, k), path=noise.fold_in(keys.path, k))
    return noise.fold_in(keys, k)


def _gathered(leaf: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """A leaf of the particles' states, with particle index[k, b] of sample b in place of k.

    `shape` is [K, B, *event]. A leaf is [K, B], [K, B, *event] or [K, n, B, *event]; whatever else
    a state holds is a coefficient, which is the same for all particles.
    """
    if leaf.shape in (shape, shape[:2]):
        axis = 1
    elif leaf.ndim == len(shape) + 1 and (leaf.shape[0], *leaf.shape[2:]) == shape:
        axis = 2
    else:
        return leaf
    return jax.vmap(lambda row, k: row[k], (axis, 1), axis)(leaf, index)
