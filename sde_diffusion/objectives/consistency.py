"""Consistency models in discrete time: the map to the data agrees at neighbouring times.

    E [ w(t, r) d( F(x_t, t, e), sg F(x_r, r, e) ) ],    r < t, e the SDE's t_min

x_r lies on the flow through x_t. In distillation a step of a solver of the teacher's flow goes from
x_t to x_r (Song et al. 2023, eq. 7). In training without a teacher x_r has the same x0 and eps as
x_t (eq. 10). A schedule gives t, r and w; those of the papers are in SCHEDULES. Levels of noise are
rho = sigma / alpha, as in EDM.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.model import Model
from sde_diffusion.objectives.flow_map_loss import (
    Distance,
    noised,
    pseudo_huber,
    without_gradient,
)
from sde_diffusion.samplers import Counted, Heun, Solver
from sde_diffusion.sdes import SDE, Array, expand

# Where rho is infinite at t_max, the last level of a schedule.
LARGEST = 6.0


class Pair(NamedTuple):
    """Times t > r and the weight of the loss, each [B]."""

    t: Array
    r: Array
    weight: Array


# (sde, u [B] uniform in (0, 1), progress) -> pairs
Schedule = Callable[[SDE, Array, Array | float], Pair]


def karras(steps: int = 18, rho: float = 7.0) -> Schedule:
    """Neighbours on a Karras grid of `steps` levels, all equally likely, with weight 1.

    Song et al. 2023, sec. 3 and app. C, for consistency distillation.
    """

    def pairs(sde: SDE, u: Array, progress: Array | float) -> Pair:
        i = jnp.floor(u * (steps - 1))
        t, r = (_level(sde, (i + k) / (steps - 1), rho) for k in (1.0, 0.0))
        return Pair(_time(sde, t), _time(sde, r), jnp.ones_like(u))

    return pairs


def ict(
    s0: int = 10, s1: int = 1280, mean: float = -1.1, std: float = 2.0, rho: float = 7.0
) -> Schedule:
    """Neighbours on a Karras grid whose number of steps doubles from s0 to s1 over the training.

    log of the levels ~ N(mean, std^2), and the weight is 1 / (rho_t - rho_r). Song & Dhariwal 2024
    (iCT), sec. 3.
    """
    stages = math.floor(math.log2(s1 / s0)) + 1

    def pairs(sde: SDE, u: Array, progress: Array | float) -> Pair:
        stage = jnp.floor(jnp.minimum(progress, 1.0 - 1e-6) * stages)
        intervals = jnp.minimum(s0 * 2.0**stage, s1)
        low, high = (jnp.log(level) for level in _ends(sde))
        cdf = jax.scipy.stats.norm.cdf
        first, last = (cdf((end - mean) / std) for end in (low, high))
        log_level = mean + std * jax.scipy.special.ndtri(first + u * (last - first))
        roots = [jnp.exp(end / rho) for end in (low, high)]
        share = (jnp.exp(log_level / rho) - roots[0]) / (roots[1] - roots[0])
        i = jnp.clip(jnp.floor(share * intervals), 0.0, intervals - 1.0)
        t, r = (_level(sde, (i + k) / intervals, rho) for k in (1.0, 0.0))
        return Pair(_time(sde, t), _time(sde, r), 1.0 / (t - r))

    return pairs


def ect(
    q: float = 2.0,
    stages: int = 8,
    k: float = 8.0,
    b: float = 1.0,
    mean: float = -1.1,
    std: float = 2.0,
) -> Schedule:
    """rho_r = rho_t max(0, 1 - q^-(a + 1) (1 + k sigmoid(-b rho_t))) at stage a of `stages`.

    The first stage is close to denoising, and each divides the distance by q. log rho_t ~ N(mean,
    std^2) and the weight is 1 / (rho_t - rho_r). Geng et al. 2025 (ECT), with its values for
    CIFAR-10.
    """

    def pairs(sde: SDE, u: Array, progress: Array | float) -> Pair:
        stage = jnp.floor(jnp.minimum(progress, 1.0 - 1e-6) * stages)
        low, high = _ends(sde)
        t = jnp.exp(mean + std * jax.scipy.special.ndtri(u))
        t = jnp.clip(t, 1.01 * low, high)
        part = q ** -(stage + 1.0) * (1.0 + k * jax.nn.sigmoid(-b * t))
        r = jnp.clip(t * (1.0 - part), low, 0.9999 * t)
        return Pair(_time(sde, t), _time(sde, r), 1.0 / (t - r))

    return pairs


def skipping(num_scales: int = 1000, skip: int = 20) -> Schedule:
    """Times of a chain that are `skip` steps apart, all equally likely, with weight 1.

    Luo et al. 2023 (LCM), sec. 4.3, with its values.
    """

    def pairs(sde: SDE, u: Array, progress: Array | float) -> Pair:
        n = jnp.floor(u * (num_scales - skip))
        scale = sde.t_max / (num_scales - 1)
        r = jnp.maximum(n * scale, sde.t_min)
        return Pair((n + skip) * scale, r, jnp.ones_like(u))

    return pairs


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "karras": karras,
    "ict": ict,
    "ect": ect,
    "skipping": skipping,
}


def consistency_loss(
    key: Array,
    student: Model,
    x0: Array,
    *,
    cond: Any = None,
    teacher: Model | None = None,
    average: Model | None = None,
    progress: Array | float = 0.0,
    schedule: Schedule | None = None,
    distance: Distance | None = None,
    solver: Solver | None = None,
) -> Array:
    """w d(F(x_t, t, e), F(x_r, r, e)), [B] for x0 [B, *event]: consistency models.

    With a teacher the schedule is `karras` unless given, and `solver` (Heun's, as in the paper)
    goes from x_t to x_r; it must be a one-step solver that draws no noise. Without a teacher the
    schedule is `ect`. The distance is the pseudo-Huber one of iCT unless given.
    """
    if schedule is None:
        schedule = ect() if teacher is None else karras()
    distance = pseudo_huber() if distance is None else distance
    sde, end = student.sde, student.sde.t_min
    key_u, key_z = jax.random.split(key)
    u = jax.random.uniform(key_u, (len(x0),), minval=1e-6, maxval=1.0 - 1e-6)
    t, r, weight = schedule(sde, u, progress)
    x_t, eps = noised(key_z, student, x0, t)
    if teacher is None:
        mean, std = sde.marginal_prob(x0, r)
        x_r = mean + expand(std, x0) * eps
    else:
        x_r = one_step(teacher, Heun() if solver is None else solver, x_t, t, r, cond)
    target = without_gradient(student if average is None else average).flow_map(x_r, r, end, cond)
    mapped = student.flow_map(x_t, t, end, cond)
    return weight * distance(mapped.x, jax.lax.stop_gradient(target.x))


def one_step(model: Model, solver: Solver, x: Array, t: Array, s: Array, cond: Any) -> Array:
    """x [B, *event] at times s [B], by one step of the solver from times t [B]; no gradient."""
    if solver.stochastic or solver.adaptive:
        raise ValueError(f"a step along the flow needs a deterministic solver, got {solver}")
    key = noise.sample_keys(jax.random.key(0), 1)  # the contract's; it draws nothing

    def one(x: Array, t: Array, s: Array, cond: Any) -> Array:
        row = jax.tree.map(lambda leaf: leaf[None], (x, cond))
        state = solver.init(row[0], jnp.stack([t, s]))
        stepped: Array = solver.step(key, Counted(model), state, t, s, row[1]).x[0]
        return stepped

    return jax.lax.stop_gradient(jax.vmap(one)(x, t, s, cond))


def _ends(sde: SDE) -> tuple[Array, Array]:
    """The least and the largest level, rho at t_min and t_max."""
    low, high = -sde.log_snr(sde.t_min), jnp.minimum(-sde.log_snr(sde.t_max), LARGEST)
    return jnp.exp(low), jnp.exp(high)


def _level(sde: SDE, share: Array, rho: float) -> Array:
    """The level at a share of the way from the least to the largest, in Karras' spacing."""
    first, last = (end ** (1.0 / rho) for end in _ends(sde))
    return (first + share * (last - first)) ** rho


def _time(sde: SDE, level: Array) -> Array:
    return jnp.clip(sde.t_of_log_snr(-jnp.log(level)), sde.t_min, sde.t_max)
