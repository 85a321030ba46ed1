"""The classifier's objective against the exact classifier of noisy samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion.analytic import Gaussian, Labelled
from sde_diffusion.objectives import classification_loss, classification_objective

SDE = sd.VP()
CLASSES = Labelled.of(
    [Gaussian.of(jnp.array([0.6, 0.0]), 0.3), Gaussian.of(jnp.array([-0.4, 0.5]), 0.1)], [0.3, 0.7]
)
KEY = jax.random.key(0)
NUM = 20_000


def drawn():
    key_c, key_x = jax.random.split(jax.random.key(1))
    labels = jax.random.categorical(key_c, jnp.log(CLASSES.weights), shape=(NUM,))
    each = jnp.stack([CLASSES.given(c).sample(key_x, NUM) for c in (0, 1)])
    return each[labels, jnp.arange(NUM)], labels


X0, LABELS = drawn()


def shifted(params, x, t):
    """The exact logits, and to them an affine function of x."""
    weight, bias = params
    return CLASSES.log_class(SDE, x, t) + x @ weight + bias


EXACT = (jnp.zeros((2, 2)), jnp.zeros(2))


def loss(params):
    return classification_loss(KEY, functools.partial(shifted, params), SDE, X0, LABELS)


def test_the_exact_classifier_has_the_entropy_of_the_class_as_its_loss():
    seen = []

    def logits(x, t):
        seen.append(CLASSES.log_class(SDE, x, t))
        return seen[0]

    made = np.asarray(classification_loss(KEY, logits, SDE, X0, LABELS))
    log_p = np.asarray(seen[0])
    difference = made + np.sum(np.exp(log_p) * log_p, axis=1)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(NUM)
    assert 0.1 < made.mean() < np.log(2)


def test_the_exact_classifier_is_a_minimum():
    slope = jax.jit(jax.jacfwd(loss))(EXACT)
    for each in jax.tree.leaves(slope):
        each = np.asarray(each).reshape(NUM, -1)
        assert np.all(abs(each.mean(axis=0)) < 4.5 * each.std(axis=0) / np.sqrt(NUM))
        assert np.all(each.std(axis=0) > 0.05)
    worse = (jnp.array([[0.5, 0.0], [0.0, 0.0]]), jnp.zeros(2))
    assert jnp.mean(loss(worse)) > jnp.mean(loss(EXACT)) + 0.005


def test_the_objective_reports_the_accuracy():
    """With the exact classifier, it is the mean of the greatest probability."""
    seen = []

    def logits(x, t):
        seen.append(CLASSES.log_class(SDE, x, t))
        return seen[0]

    objective = classification_objective(
        lambda params, key: logits, SDE, lambda key, batch, frozen: (batch["x"], batch["label"])
    )
    batch = {"x": X0, "label": LABELS}
    made, metrics = objective(None, KEY, batch, frozen=None, ema=(), step=jnp.int32(0))
    assert made.shape == (NUM,)
    assert float(jnp.mean(made)) == pytest.approx(float(jnp.mean(loss(EXACT))), rel=0.03)
    expected = float(jnp.mean(jnp.exp(jnp.max(seen[0], axis=1))))
    assert float(metrics["accuracy"]) == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(NUM))
