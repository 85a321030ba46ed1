"""A variational bound on the log-likelihood, in continuous time."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.density.reductions import mean_and_error, sum_of_event
from sde_diffusion.model import Model, require_model
from sde_diffusion.samplers.sample import require_batch
from sde_diffusion.sdes import Array, expand


class Bound(NamedTuple):
    """The three losses of the variational bound and the diffusion loss's standard error, [B], nats.

    The standard error assumes independent draws. The draws are spread evenly, so the true error is
    smaller.
    """

    prior: Array
    reconstruction: Array
    diffusion: Array
    standard_error: Array

    @property
    def log_prob(self) -> Array:
        """The lower bound on log p(x), [B] in nats."""
        return -(self.prior + self.reconstruction + self.diffusion)


def variational_bound(
    key: Array,
    model: Model,
    x: Array,
    *,
    num: int,
    cond: Any = None,
    first: Array | int = 0,
) -> Bound:
    """A lower bound on log p(x_0 = x), x [B, *event], in continuous time, by `num` draws each.

        prior            KL(q(x_T | x) || prior)
        reconstruction   E[-log N(x; x_s / alpha_s, (sigma_s / alpha_s)^2)],   s = t_min
        diffusion        (lambda_s - lambda_T) E || eps - eps_model(x_t, t) ||^2

    The draws of a sample have evenly spaced lambdas with one random shift. The decoder is
    q(x_s | x) itself, normalized in x, and its loss has a closed form. In contrast to the
    probability flow, the bound is for x at time 0 and for the reverse SDE. The draws of sample i
    depend on (key, first + i) alone. Kingma et al. 2021 (variational diffusion models).

    Raises ValueError for num below 1, or an SDE with an infinite log-SNR at t_max.
    """
    if num < 1:
        raise ValueError(f"variational_bound needs at least 1 draw, got num={num}")
    require_model(model)
    require_batch(cond, len(x))
    sde = model.sde
    low = sde.log_snr(sde.t_max)
    if not isinstance(low, jax.core.Tracer) and not jnp.isfinite(low):
        raise ValueError(
            f"{type(sde).__name__} has no finite log-SNR at t_max={sde.t_max:g}: "
            "use a smaller t_max such as 0.999"
        )
    keys = noise.sample_keys(key, len(x), first)
    return _bound(keys, model, jnp.asarray(x), cond, num=num)


@partial(jax.jit, static_argnames=("num",))
def _bound(keys: Array, model: Model, x: Array, cond: Any, *, num: int) -> Bound:
    sde = model.sde
    high, low = sde.log_snr(sde.t_min), sde.log_snr(sde.t_max)
    shift = jax.vmap(jax.random.uniform)(noise.fold_in(keys, num))

    def draw(_: None, i: Array) -> tuple[None, Array]:
        t = sde.t_of_log_snr(low + (i + shift) / num * (high - low))
        t = jnp.clip(t, sde.t_min, sde.t_max)
        mean, std = sde.marginal_prob(x, t)
        eps = noise.normal(noise.fold_in(keys, i), x)
        error = model(mean + expand(std, x) * eps, t, cond).error("eps", x, eps)
        return None, (high - low) * sum_of_event(error**2)

    _, terms = jax.lax.scan(draw, None, jnp.arange(num))
    diffusion, error = mean_and_error(terms.T)
    size = math.prod(x.shape[1:])
    mean, std = sde.marginal_prob(x, sde.t_max)
    variance = (std / sde.prior_std) ** 2
    return Bound(
        prior=0.5 * sum_of_event((mean / sde.prior_std) ** 2)
        + 0.5 * size * (variance - 1.0 - jnp.log(variance)),
        reconstruction=jnp.full_like(diffusion, size * (0.5 + 0.5 * math.log(2 * math.pi) - high)),
        diffusion=diffusion,
        standard_error=error,
    )
