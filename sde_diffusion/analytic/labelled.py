"""Mixtures whose components are classes: p(x | c), p(c | x_t) and guided densities are known."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sde_diffusion import noise
from sde_diffusion.analytic.exact import Exact
from sde_diffusion.analytic.mixture import Mixture, weights_of
from sde_diffusion.model import Model
from sde_diffusion.prediction import Prediction
from sde_diffusion.pytree import pytree
from sde_diffusion.sdes import EDM, SDE, Array, Time, expand


@pytree
class Labelled(Mixture):
    """x_0 ~ sum_c weights_c p(x | c): each of the C components is a class, of any exact kind.

    The model takes labels [B], integers from 0 to C: class c has the exact score of p_t(x | c), and
    C stands for no class, as does a missing condition. So `classifier_free(model, w, null=C)` is
    the exact guided score. Labels beyond C count as C.

        Labelled.of([GaussianMixture.of(means, 0.1), GaussianMixture.of(others, 0.1)])
    """

    @classmethod
    def of(cls, components: Sequence[Exact], weights: Array | None = None) -> Labelled:
        made = Mixture.of(components, weights)
        return cls(made.components, weights_of(weights, len(components)))

    def given(self, c: Array | int) -> Exact:
        """The distribution of x_0 in class c."""
        return jax.tree.map(lambda leaf: leaf[c], self.components)

    def log_class(self, sde: SDE, x: Array, t: Time) -> Array:
        """log p(c | x_t), [B, C]: the logits of the exact classifier of noisy samples."""
        return jax.nn.log_softmax(self._log_joint(sde, x, t), axis=0).T

    def model(self, sde: SDE) -> Model:
        return Model(sde, _predict, self)

    def sample_guided(self, key: Array, label: int, weight: float, num: int) -> Array:
        """Exact samples of p(x) p(c | x)^weight, normalized, [num, *event], by rejection.

        Proposals x ~ p(x | c) are accepted with p(c | x)^(weight - 1), and for a weight below 1
        x ~ p(x) with p(c | x)^weight. It takes long where p(c | x) is small wherever p(x | c) is
        not. Raises ValueError for a negative weight.
        """
        if not weight >= 0.0:
            raise ValueError(f"sample_guided: weight must be at least 0, got {weight}")
        source: Exact = self.given(label) if weight >= 1.0 else self
        power = weight - 1.0 if weight >= 1.0 else weight

        def propose(key: Array) -> tuple[Array, Array]:
            key_x, key_u = jax.random.split(key)
            x = source.sample(key_x, 1)
            # EDM at t = 0 adds no noise and scales nothing.
            log_p = self.log_class(EDM(), x, 0.0)[0, label]
            return x[0], jnp.log(jax.random.uniform(key_u)) < power * log_p

        def draw(key: Array) -> Array:
            def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                i, _, _ = carry
                return (i + 1, *propose(jax.random.fold_in(key, i)))

            return jax.lax.while_loop(lambda c: ~c[2], again, again((jnp.int32(0), *propose(key))))[
                1
            ]

        return jax.jit(jax.vmap(draw))(noise.sample_keys(key, num))


def _predict(exact: Labelled, sde: SDE, x: Array, t: Array, cond: Array | None) -> Prediction:
    posterior = exact._posterior(sde, x, t)
    if cond is not None:
        chosen = jax.nn.one_hot(cond, len(exact.weights), axis=0, dtype=posterior.dtype)
        posterior = jnp.where(cond < len(exact.weights), chosen, posterior)
    each = jax.vmap(lambda p: (p.score(sde, x, t), p.denoise(sde, x, t)))(exact.components)
    score, x0 = (jnp.einsum("kb,kb...->b...", posterior, v, precision="highest") for v in each)
    # v keeps the digits of every view, as in `Exact.model`.
    sigma = expand(sde.sigma(t), x)
    v = -expand(sde.alpha(t), x) * sigma * score - sigma * x0
    return Prediction("v", v, x, t, sde)
