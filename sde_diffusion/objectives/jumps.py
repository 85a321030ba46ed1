"""Flow maps over whole steps of a grid: shortcut models, progressive distillation, trajectories.

The target of the map over a step is made of maps over shorter ones:

    shortcut       F(x_t, t, s) <- F(F(x_t, t, m), m, s), of the student itself, m halfway
    progressive    F(x_t, t, s) <- two DDIM steps of a teacher, t to m to s
    trajectories   F(x_t, t, s) <- the teacher's flow, solved in many steps once for many pairs

A grid is a function of steps: `grid(sde, n)` gives n + 1 times (see `grids`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion import grids, noise
from sde_diffusion.flow_map import predicted_towards
from sde_diffusion.model import Model
from sde_diffusion.objectives.flow_map_loss import (
    Distance,
    line_through,
    noised,
    pseudo_huber,
    require_teacher,
    squared,
    velocity,
    without_gradient,
)
from sde_diffusion.objectives.weighting import Weighting, constant
from sde_diffusion.prediction import Prediction
from sde_diffusion.samplers import Solver, UniPC
from sde_diffusion.sdes import SDE, Array, expand

Grid = Callable[[SDE, int], Array]

VELOCITY = constant("velocity")


def truncated_snr() -> Weighting:
    """max(SNR, 1) on x0, SNR = (alpha / sigma)^2. Salimans & Ho 2022, sec. 4."""
    return Weighting("x0", lambda sde, t: jnp.maximum(jnp.exp(2.0 * sde.log_snr(t)), 1.0))


def shortcut_loss(
    key: Array,
    student: Model,
    x0: Array,
    *,
    cond: Any = None,
    teacher: Model | None = None,
    average: Model | None = None,
    progress: Array | float = 0.0,
    steps: int = 128,
    grid: Grid = grids.uniform,
    bootstrap: float = 0.25,
    weighting: Weighting = VELOCITY,
) -> Array:
    """Shortcut models, [B]: steps of 1, 1/2, ..., 1/steps of the way, each made of two halves.

    A share `bootstrap` of the samples start at a time of the grid with 1, 2, 4, ..., steps / 2
    steps, all numbers equally likely, and go one such step; the target is two steps of half the
    length, by `average`. The others have s = t, where the loss is that of flow matching, from x0
    and eps or from the teacher. The error is that of the view of `weighting`.

    Frans et al. 2025 (Shortcut Models), sec. 3 and alg. 1. Raises ValueError unless `steps` is a
    power of two of at least 2.
    """
    del progress
    levels = steps.bit_length() - 1
    if steps < 2 or steps != 2**levels:
        raise ValueError(f"shortcut_loss: steps must be a power of two of at least 2, got {steps}")
    sde, num = student.sde, len(x0)
    key_k, key_i, key_j, key_z, key_t = jax.random.split(key, 5)
    nodes = grid(sde, steps)
    # A step at level k goes over 2^k intervals of the grid.
    width = 2 ** jax.random.randint(key_k, (num,), 1, levels + 1)
    start = jax.random.randint(key_i, (num,), 0, steps // width) * width
    jumps = jax.random.uniform(key_t, (num,)) < bootstrap
    t = jnp.where(jumps, nodes[start], nodes[jax.random.randint(key_j, (num,), 0, steps)])
    middle, s = nodes[start + width // 2], nodes[start + width]
    x, eps = noised(key_z, student, x0, t)
    dx = velocity(student, teacher, x, t, cond, x0, eps)
    made = without_gradient(student if average is None else average)
    halfway = made.flow_map(x, t, middle, cond).x
    mapped = made.flow_map(halfway, middle, s, cond).x
    prediction = predicted_towards(student, x, t, jnp.where(jumps, s, t), cond)
    # Where there is no jump, a line to another time, which is not used.
    line = line_through(x, t, mapped, jnp.where(jumps, s, 0.5 * t), student)
    on = weighting.on
    target = jnp.where(
        expand(jumps, x), line.view(on), Prediction("velocity", dx, x, t, sde).view(on)
    )
    return weighting.weight(sde, t) * squared(prediction.view(on), target)


def progressive_loss(
    key: Array,
    student: Model,
    x0: Array,
    *,
    cond: Any = None,
    teacher: Model | None = None,
    average: Model | None = None,
    progress: Array | float = 0.0,
    steps: int = 8,
    grid: Grid = grids.uniform,
    weighting: Weighting | None = None,
) -> Array:
    """Progressive distillation, [B]: one step of the student's is two of the teacher's.

    The student has `steps` steps, those of grid(sde, steps), and the teacher twice as many, by
    DDIM, or by its flow map where it has one, as the student of an earlier round has. The weighting
    is max(SNR, 1) on x0 unless given.

    Salimans & Ho 2022, alg. 2. Raises ValueError without a teacher.
    """
    del average, progress
    teacher = require_teacher("progressive_loss", teacher)
    weighting = truncated_snr() if weighting is None else weighting
    sde = student.sde
    key_i, key_z = jax.random.split(key)
    nodes = grid(sde, 2 * steps)
    start = 2 * jax.random.randint(key_i, (len(x0),), 0, steps)
    t, middle, s = (nodes[start + k] for k in range(3))
    x, _ = noised(key_z, student, x0, t)
    halfway = _teachers_step(teacher, x, t, middle, cond)
    mapped = _teachers_step(teacher, halfway, middle, s, cond)
    target = line_through(x, t, mapped, s, student).view(weighting.on)
    prediction = predicted_towards(student, x, t, s, cond).view(weighting.on)
    return weighting.weight(sde, t) * squared(prediction, target)


def trajectory_loss(
    key: Array,
    student: Model,
    x0: Array,
    *,
    cond: Any = None,
    teacher: Model | None = None,
    average: Model | None = None,
    progress: Array | float = 0.0,
    steps: int = 16,
    grid: Grid = grids.karras,
    pairs: int = 4,
    from_start: float = 0.5,
    to_end: float = 0.6,
    solver: Solver | None = None,
    distance: Distance | None = None,
) -> Array:
    """Regression on the teacher's own trajectories, [B]: from noise, `pairs` pairs of each.

    Each trajectory starts from noise and is solved once, in `steps` steps of `solver` (UniPC) on
    grid(sde, steps). Of its times, t is the first with probability `from_start` and else any but
    the last; s is the last with probability `to_end` and else any after t. The distance is the
    pseudo-Huber one with c = 0.03 sqrt(D) unless given, on x0. Of x0 it reads only the shape.

    With t the first time and s the last it is knowledge distillation (Luhman & Luhman 2021).
    Raises ValueError without a teacher, and for a solver that draws noise or chooses its steps.
    """
    del average, progress
    teacher = require_teacher("trajectory_loss", teacher)
    distance = pseudo_huber(0.03) if distance is None else distance
    sde, num = student.sde, len(x0)
    key_x, key_t, key_s = jax.random.split(key, 3)
    nodes = grid(sde, steps)
    start = sde.sigma(nodes[0]) * jax.random.normal(key_x, x0.shape, x0.dtype)
    keys = noise.sample_keys(key_x, num)
    solver = UniPC() if solver is None else solver
    if solver.stochastic or solver.adaptive:
        raise ValueError(f"trajectory_loss needs a deterministic solver of a grid, got {solver}")
    solved = solver.solve(keys, teacher, start, nodes, cond, trajectory=True)
    trajectory = jax.lax.stop_gradient(solved.trajectory)
    assert trajectory is not None

    first, later = (jax.random.uniform(k, (2, pairs, num)) for k in (key_t, key_s))
    i = jnp.where(first[0] < from_start, 0, jnp.floor(first[1] * steps).astype(int))
    j = i + 1 + jnp.floor(later[1] * (steps - i)).astype(int)
    j = jnp.where(later[0] < to_end, steps, j)
    x, mapped = (trajectory[k, jnp.arange(num)].reshape(pairs * num, *x0.shape[1:]) for k in (i, j))
    t, s = (nodes[k].reshape(-1) for k in (i, j))
    repeated = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * pairs), cond)
    target = line_through(x, t, mapped, s, student)
    prediction = predicted_towards(student, x, t, s, repeated)
    return jnp.mean(distance(prediction.x0, target.x0).reshape(pairs, num), axis=0)


def _teachers_step(teacher: Model, x: Array, t: Array, s: Array, cond: Any) -> Array:
    if teacher.mapping is not None:
        return teacher.flow_map(x, t, s, cond).x
    return teacher(x, t, cond).towards(s)
