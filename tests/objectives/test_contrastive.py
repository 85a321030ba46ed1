"""The contrastive loss against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_diffusion.objectives import contrastive_loss

EYE = jnp.eye(5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 12.0])
def test_vectors_that_fit_their_own_alone_leave_the_others_of_the_batch(scale):
    """s f_i . g_j is s at i = j and 0 elsewhere: L = log(e^s + B - 1) - s."""
    expected = np.log(np.exp(scale) + 4) - scale
    np.testing.assert_allclose(contrastive_loss(EYE, EYE, scale), expected, rtol=1e-5, atol=1e-6)


def test_it_is_the_mean_of_the_cross_entropies_of_rows_and_columns():
    f, g = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    logits = 2.0 * f @ g.T
    rows, columns = -jax.nn.log_softmax(logits, axis=1), -jax.nn.log_softmax(logits, axis=0)
    expected = (np.diag(rows) + np.diag(columns)) / 2
    np.testing.assert_allclose(contrastive_loss(f, g, 2.0), expected, rtol=1e-4)


def test_pictures_of_one_caption_are_no_wrong_answers_for_each_other():
    """Rows 0 and 1 have one caption: to them 4 of 5 pairs are left, to the others all."""
    captions = EYE.at[1].set(EYE[0])
    pictures = EYE.at[1].set(EYE[0])
    same = jnp.eye(5, dtype=bool).at[0, 1].set(True).at[1, 0].set(True)
    loss = contrastive_loss(pictures, captions, 1.0, same)
    few, all_of_them = np.log(np.e + 3) - 1, np.log(np.e + 4) - 1
    np.testing.assert_allclose(loss, [few, few, *[all_of_them] * 3], rtol=1e-5)
