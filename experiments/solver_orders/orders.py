"""Orders of convergence, measured where the answer is known.

All in float64, over the middle of the process in lambda = log(alpha / sigma), in equal steps: the
asymptotic order shows at a few hundred steps only if no step is long compared with what it
approximates, and near the ends all methods need many more.

    global order   deterministic solvers: the error at the end on a mixture of Gaussians, whose
                   flow RK4 gives to 1e-10
    weak order     stochastic ones: the error of the variance on a Gaussian, carried exactly
    strong order   the same: the distance to a fine solution on the same Brownian path
"""

import functools
import itertools
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import sde_diffusion as sd
from sde_diffusion import noise, samplers
from sde_diffusion.samplers import Solver
from sde_diffusion.samplers.unipc import UniPCState
from sde_diffusion.sdes import KINDS, SDE, Array

# Flow has no finite log-SNR at t = 1.
SDES = {name: kind() if name != "flow" else sd.Flow(t_max=0.99) for name, kind in KINDS.items()}
# A Gaussian would not do: being linear it satisfies order conditions that a method may lack, and
# midpoint is of order 3 on it where alpha is constant.
MIXTURE = sd.analytic.GaussianMixture.of(jnp.array([[1.0, 0.0], [-1.0, 0.5]]), 0.8)
LOW, HIGH = -1.5, 1.5
STARTS = ((3.0, -1.0), (-4.0, 2.0), (0.5, 5.0))
FINEST, SUBSTEPS = 160, 16
# Steps at which each order is fitted. Variances are cheap at any number of them, and it takes many
# until no more than a floor is left of a solver that has one.
GLOBAL, WEAK, STRONG = (40, 80, 160), (5120, 10240, 20480), (20, 40, 80)
STRONG_FINE = 640


def fitted_order(steps, errors) -> float:
    """Minus the slope of log error over log steps."""
    return float(-np.polyfit(np.log(np.asarray(steps, float)), np.log(errors), 1)[0])


def time(sde: SDE, part: Array | float) -> Array:
    """The time at which lambda has gone this part of the way."""
    return sde.t_of_log_snr(LOW + (HIGH - LOW) * part)


def grid(sde: SDE, steps: Array | int, of: tuple[int, ...]) -> Array:
    """The times of so many steps, which may be traced: beyond the last, the end again.

    As long as the longest of those compared, that one program may run them all. `init` gets it as
    it does from `sample`: the end is where a multistep method lowers its order.
    """
    return time(sde, jnp.minimum(jnp.arange(max(of) + 1) / steps, 1.0))


@functools.cache
def flow() -> Array:
    """The probability flow in x / alpha, [161, B, 2] over lambda: all SDEs share it."""
    model = MIXTURE.model(sd.EDM())

    def slope(log_snr, y):
        sigma = jnp.exp(-log_snr)
        return -sigma * model(y, sigma).eps

    def advance(y, log_snr):
        h = (HIGH - LOW) / FINEST / SUBSTEPS

        def step(i, y):
            start = log_snr + i * h
            k1 = slope(start, y)
            k2 = slope(start + h / 2, y + h / 2 * k1)
            k3 = slope(start + h / 2, y + h / 2 * k2)
            k4 = slope(start + h, y + h * k3)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        y = jax.lax.fori_loop(0, SUBSTEPS, step, y)
        return y, y

    times = jnp.linspace(LOW, HIGH, FINEST + 1)
    start = jnp.array(STARTS)
    _, ys = jax.jit(lambda: jax.lax.scan(advance, start, times[:-1]))()
    return jnp.concatenate([start[None], ys])


def global_order(solver: Solver, sde: SDE) -> float:
    """The measured order of a deterministic solver.

    That of a multistep method is from exact starting values: its own first step, of order 1,
    leaves an error of h^2 whatever the order of the others. Its last steps are those that it takes
    in `sample`.
    """
    starting, keys = 3, noise.sample_keys(jax.random.key(0), len(STARTS))

    def restarted(state, x):
        # Of the sample UniPC keeps the part before correction as well.
        if isinstance(state, UniPCState):
            return state._replace(x=x, base=x, weight=jnp.zeros_like(state.weight))
        return state._replace(x=x)

    @jax.jit
    def error(sde, steps, reference):
        def exact(i):
            return sde.alpha(time(sde, i / steps)) * reference[i * (FINEST // steps)]

        times = grid(sde, steps, GLOBAL)

        def step(i, state):
            model = samplers.Counted(MIXTURE.model(sde))
            state = solver.step(keys, model, state, times[i], times[i + 1])
            again = restarted(state, exact(i + 1))
            return jax.tree.map(lambda a, b: jnp.where(i < starting, a, b), again, state)

        state = jax.lax.fori_loop(0, steps, step, solver.init(exact(0), times))
        return jnp.sqrt(jnp.mean((state.x - exact(steps)) ** 2))

    with jax.enable_x64(True):
        return fitted_order(GLOBAL, [float(error(sde, n, flow())) for n in GLOBAL])


def weak_order(solver: Solver, sde: SDE) -> float:
    """The measured order of a stochastic solver in the variance of its samples of a Gaussian."""
    with jax.enable_x64(True):
        error = weak_error(solver, sde)
        return fitted_order(WEAK, [error(n) for n in WEAK])


def weak_error(solver: Solver, sde: SDE) -> Callable[[int], float]:
    """steps -> the error of the variance at the end."""
    exact = sd.analytic.Gaussian.of(jnp.array([0.7]), jnp.array([2.0]))
    end = time(sde, 1.0)
    true = sde.alpha(end) ** 2 * exact.variances[0] + sde.sigma(end) ** 2
    run = variance_after(solver, sde, exact)
    return lambda steps: abs(float(run(steps) - true))


def variance_after(solver: Solver, sde: SDE, exact: sd.analytic.Gaussian) -> Callable:
    """steps -> the exact variance of the solver's samples, in one dimension; the steps are traced.

    All that a solver carries is affine in what it carried and in the noise, so that the
    derivatives of a step carry the covariance of it all.
    """
    keys, draws = noise.sample_keys(jax.random.key(0), 1), 3
    first = jnp.full((1, 1), sde.alpha(time(sde, 0.0)) * exact.mean[0])
    state = solver.init(first, grid(sde, 1, WEAK))
    leaves, structure = jax.tree.flatten(state)
    random = [leaf.shape == (1, 1) for leaf in leaves]
    fixed = [not known for known in random]

    def parts(state):
        leaves = jax.tree.leaves(state)
        drawn = jnp.array([leaf[0, 0] for leaf in itertools.compress(leaves, random)])
        return drawn, list(itertools.compress(leaves, fixed))

    def whole(drawn, others):
        drawn, others = iter(drawn), iter(others)
        leaves = [next(drawn).reshape(1, 1) if known else next(others) for known in random]
        return jax.tree.unflatten(structure, leaves)

    def step(drawn, z, others, t, s):
        given = iter(z)
        with mock.patch.object(noise, "normal", lambda keys, x: jnp.full_like(x, next(given))):
            model = samplers.Counted(exact.model(sde))
            after = parts(solver.step(keys, model, whole(drawn, others), t, s))
        return after[0], after

    @jax.jit
    def run(steps):
        times = grid(sde, steps, WEAK)

        def advance(i, carry):
            drawn, others, covariance = carry
            derivatives = jax.jacfwd(step, argnums=(0, 1), has_aux=True)
            ends = times[i], times[i + 1]
            (a, b), (drawn, others) = derivatives(drawn, jnp.zeros(draws), others, *ends)
            return drawn, others, a @ covariance @ a.T + b @ b.T

        start, (drawn, others) = time(sde, 0.0), parts(state)
        is_x = jnp.array([1.0 * (leaf is state.x) for leaf in itertools.compress(leaves, random)])
        variance = sde.alpha(start) ** 2 * exact.variances[0] + sde.sigma(start) ** 2
        carry = drawn, others, variance * jnp.outer(is_x, is_x)
        return jax.lax.fori_loop(0, steps, advance, carry)[2][0, 0]

    return run


def strong_order(solver: Solver, sde: SDE) -> float:
    """The measured order of a stochastic solver along the paths of BrownianPath."""
    with jax.enable_x64(True):
        fine, run = fine_paths(), along_a_path(solver)
        errors = [jnp.sqrt(jnp.mean((run(sde, n) - fine) ** 2)) for n in STRONG]
        return fitted_order(STRONG, [float(error) for error in errors])


@functools.cache
def fine_paths() -> Array:
    """The ends in x / alpha of fine solutions: all SDEs share them."""
    return along_a_path(samplers.SDEDPMSolverPP2S())(sd.EDM(), STRONG_FINE)


def along_a_path(solver: Solver, batch: int = 256) -> Callable:
    """(sde, steps) -> x / alpha at the end, [B, 2], of samples with the same noise at any steps."""

    @jax.jit
    def run(sde, steps):
        path = noise.BrownianPath(noise.sample_keys(jax.random.key(1), batch))
        x = np.exp(-LOW) * jax.random.normal(jax.random.key(0), (batch, 2))
        times = grid(sde, steps, (*STRONG, STRONG_FINE))

        def step(i, state):
            t, s = times[i], times[i + 1]
            keys = noise.step_keys(path, i, sde, t, s)
            return solver.step(keys, samplers.Counted(MIXTURE.model(sde)), state, t, s)

        state = solver.init(sde.alpha(times[0]) * x, times)
        return jax.lax.fori_loop(0, steps, step, state).x / sde.alpha(time(sde, 1.0))

    return run
