"""Flow maps in continuous time: MeanFlow and sCM, by the derivative of the map along the flow.

The flow map does not change when its start moves along the flow,

    d/dt F(x_t, t, s) = 0,    dx_t/dt = velocity(x_t, t)                                      (1)

and the derivative is one pass in forward mode. With V the velocity view of the prediction towards
s, on every SDE

    V = velocity - [ (alpha_s - alpha_t) dx0/dt + (sigma_s - sigma_t) deps/dt ]
      = V + d/dt F(x_t, t, s)                                                                 (2)

where the first line holds for the exact map. On the straight path it is the identity of MeanFlow
(Geng et al. 2025, eq. 6).
"""

from typing import Any

import jax
import jax.numpy as jnp

from sde_diffusion.model import Model
from sde_diffusion.objectives import time_density
from sde_diffusion.objectives.flow_map_loss import (
    along_flow,
    noised,
    velocity,
)
from sde_diffusion.objectives.weighting import Weighting, constant
from sde_diffusion.prediction import Prediction
from sde_diffusion.sdes import Array, expand

VELOCITY, LOGIT_NORMAL = constant("velocity"), time_density.logit_normal(-0.4, 1.0)


def meanflow_loss(
    key: Array,
    student: Model,
    x0: Array,
    *,
    cond: Any = None,
    teacher: Model | None = None,
    average: Model | None = None,
    progress: Array | float = 0.0,
    times: time_density.Times = LOGIT_NORMAL,
    apart: float = 0.25,
    weighting: Weighting = VELOCITY,
    power: float = 1.0,
    floor: float = 1e-2,
    improved: bool = False,
) -> Array:
    """L / sg(L + floor)^power, L = w || V - sg(V + dF/dt) ||^2, [B] for x0 [B, *event].

    The target is equation (2), where the velocity is that of x0 and eps, or the teacher's. t and s
    are the larger and the smaller of two draws of `times`; a share `apart` of the samples have
    s < t, the others s = t, where the loss is that of flow matching. The error is that of the view
    of `weighting`, with its weight, which is 1 on the velocity in the paper. The adaptive weight
    makes the loss of large errors less.

    With `improved` (iMF) the derivative goes along the student's own velocity, V at s = t, in place
    of that of x0 and eps, which is noisy, and only the instantaneous part of the target keeps that.

    Geng et al. 2025 (MeanFlow), alg. 1 and sec. 4, with the values of its reference code; Geng et
    al. 2025 (Improved Mean Flows), sec. 4.
    """
    del average, progress
    key_t, key_s, key_apart, key_z = jax.random.split(key, 4)
    sde, num = student.sde, len(x0)
    first, second = (times(sde, time_density.independent(k, num))[0] for k in (key_t, key_s))
    t = jnp.maximum(first, second)
    together = jax.random.uniform(key_apart, (num,)) >= apart
    s = jnp.where(together, t, jnp.minimum(first, second))

    x, eps = noised(key_z, student, x0, t)
    dx = given = velocity(student, teacher, x, t, cond, x0, eps)
    if improved and teacher is None:
        dx = jax.lax.stop_gradient(student(x, t, cond).velocity)
    prediction, derivative = along_flow(
        student, x, t, s, cond, dx, lambda towards: towards.towards(s)
    )
    target_velocity = jax.lax.stop_gradient(prediction.velocity) + derivative + given - dx
    target = Prediction("velocity", target_velocity, x, t, sde).view(weighting.on)
    error = prediction.view(weighting.on) - jax.lax.stop_gradient(target)
    squares = weighting.weight(sde, t) * jnp.sum(error**2, axis=tuple(range(1, x0.ndim)))
    return squares / jax.lax.stop_gradient(squares + floor) ** power


def scm_loss(
    key: Array,
    student: Model,
    x0: Array,
    *,
    cond: Any = None,
    teacher: Model | None = None,
    average: Model | None = None,
    progress: Array | float = 0.0,
    mean: float = -1.0,
    std: float = 1.4,
    sigma_data: float = 0.5,
    warmup: float = 0.1,
    floor: float = 0.1,
) -> Array:
    """|| N - sg(N + g / (||g|| + floor)) ||^2 / D, [B]: continuous-time consistency models, sCM.

    With phi = arctan(sigma / (alpha sigma_data)), N sigma_data = cos(phi) sigma_data eps -
    sin(phi) x0 is TrigFlow's output of the prediction towards the data, and

        g = cos(phi) dF(x, t, t_min) / dphi

    is the tangent along the flow of x0 and eps, or of the teacher. A part of it, sin(phi) (x +
    sigma_data dN/dphi) in the paper, is unstable at first, and comes in over the first `warmup` of
    the training. log(sigma / alpha) ~ N(mean, std^2).

    Lu & Song 2025 (sCM), sec. 4 and alg. 1, with its values for CIFAR-10. The paper's learned
    weight, which makes the loss the same at every t, is left out: the normalized tangent has a norm
    of nearly 1 at every t.
    """
    del average
    key_t, key_z = jax.random.split(key)
    sde, end = student.sde, student.sde.t_min
    t, _ = time_density.log_normal(mean, std)(sde, time_density.independent(key_t, len(x0)))
    x, eps = noised(key_z, student, x0, t)
    dx = velocity(student, teacher, x, t, cond, x0, eps)
    s = jnp.full_like(t, end)
    prediction, (of_map, of_x0) = along_flow(
        student, x, t, s, cond, dx, lambda towards: (towards.towards(s), towards.x0)
    )

    level = jnp.exp(-sde.log_snr(t)) / sigma_data
    cos, sin = (expand(f(jnp.arctan(level)), x) for f in (jnp.cos, jnp.sin))
    # dphi/dt, since d log(level) / dt = -dlambda/dt and dphi / dlog(level) = sin cos.
    rate = 0.5 * expand((sde.diffusion(t) / sde.sigma(t)) ** 2, x) * sin * cos
    true = Prediction("velocity", dx, x, t, sde)

    def trigflow(of: Prediction) -> Array:
        return cos * sigma_data * of.eps - sin * of.x0

    output = trigflow(prediction)
    # F = ... + c x0, and dx0/dphi = -cos (output - v) - sin (x + d output/dphi).
    c = expand(sde.alpha(s) - sde.alpha(t) * sde.sigma(s) / sde.sigma(t), x)
    unstable = c * cos * (of_x0 / rate + cos * (output - trigflow(true)))
    r = 1.0 if warmup == 0.0 else jnp.minimum(progress / warmup, 1.0)
    g = jax.lax.stop_gradient(cos * of_map / rate - (1.0 - r) * unstable)
    size = jnp.sqrt(jnp.sum(g**2, axis=tuple(range(1, g.ndim)), keepdims=True))
    change = g / (size + floor)
    target = jax.lax.stop_gradient(output / sigma_data + change)
    return jnp.mean((output / sigma_data - target) ** 2, axis=tuple(range(1, g.ndim)))
