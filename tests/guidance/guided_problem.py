"""Two classes in the plane, each of two Gaussians, and their guided scores in closed form."""

import jax
import jax.numpy as jnp

import sde_diffusion as sd
from sde_diffusion.analytic import GaussianMixture, Labelled

SDE = sd.VP()
CLASSES = Labelled.of(
    [
        GaussianMixture.of([[-0.8, 0.3], [0.2, 0.9]], jnp.array([0.3, 0.4])),
        GaussianMixture.of([[0.7, -0.2], [-0.1, -0.8]], jnp.array([0.35, 0.25])),
    ],
    [0.4, 0.6],
)
MODEL = CLASSES.model(SDE)
NULL = 2
KEY = jax.random.key(0)
B = 6
LABELS = jnp.array([0, 1, 0, 1, 1, 0])
X = jax.random.normal(KEY, (B, 2))
KINDS = ("x0", "eps", "score", "v", "velocity")


def score(x, t, labels=None):
    """The score of p_t(x), or of p_t(x | c)."""
    return exact(CLASSES, SDE, x, t, labels, "score")


def class_score(x, t, labels):
    """grad log p(c | x_t), by automatic differentiation of the closed-form posterior."""

    def log_p(x):
        every = CLASSES.log_class(SDE, x, t)
        return jnp.sum(jnp.take_along_axis(every, labels[:, None], axis=1))

    return jax.grad(log_p)(x)


def exact(classes, sde, x, t, labels, method):
    if labels is None:
        return getattr(classes, method)(sde, x, t)
    each = [getattr(classes.given(int(c)), method)(sde, x, t)[i] for i, c in enumerate(labels)]
    return jnp.stack(each)


def of_kind(kind, model=MODEL):
    """The same model as one that predicts another kind."""
    make = getattr(sd, f"from_{kind}")
    return make(model.sde, lambda x, t, cond=None: model(x, t, cond).view(kind))
