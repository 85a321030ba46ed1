"""The study of guidance: its exact sets, its errors, and the table that it writes."""

import json

import guided_densities
import jax
import numpy as np
import pytest


def test_guided_modes_of_both_classes_are_half_as_frequent():
    # p(x | c) has four modes of a quarter each, and p(c | x) is 1 at two of them and 1/2 at two.
    exact, means = guided_densities.mixture64d()
    x = np.asarray(exact.sample_guided(jax.random.key(0), 0, 2.0, 2000))
    nearest = np.argmin(np.sum((x[:, None] - means) ** 2, axis=-1), axis=1)
    shares = np.bincount(nearest, minlength=6) / 2000
    expected = np.array([1 / 3, 1 / 3, 1 / 6, 1 / 6, 0, 0])
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / 2000))


def test_equal_sets_have_no_error_and_moved_ones_have():
    rng = np.random.default_rng(0)
    x, means = rng.standard_normal((200, 2)), np.array([[-1.0, 0.0], [1.0, 0.0]])
    assert guided_densities.errors(x, x, means) == pytest.approx([0.0] * 4, abs=1e-6)
    assert all(error > 0.1 for error in guided_densities.errors(2.0 * x + 1.0, x, means))


def test_the_table_has_a_row_for_each_method(tmp_path, monkeypatch, capsys):
    row = {"errors": [0.1, 0.2, 0.3, 0.4], "half": [0.01] * 4, "nfe": 31.0, "ess": None}
    for name in guided_densities.PROBLEMS:
        (tmp_path / f"{name}.json").write_text(json.dumps({"plain": row}))
    monkeypatch.setattr(guided_densities, "RESULTS", tmp_path)
    guided_densities.table()
    told = capsys.readouterr().out
    assert told.count("| plain | 31 |  | 0.100 ± 0.010 | 0.200 ± 0.010 |") == 3
