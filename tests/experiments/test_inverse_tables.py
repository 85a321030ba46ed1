"""docs/inverse.md has a table for each problem, with a row for each method."""

import re
from pathlib import Path

import jax
import numpy as np
import posteriors
import pytest
import tables

PAGE = Path(__file__).parents[2] / "docs" / "inverse.md"
PROBLEMS = {problem.name: problem for problem in posteriors.problems()}


def written(name):
    return re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_page_has_every_method_that_takes_the_operator(name):
    if written(name) == "Not measured yet.\n":
        pytest.skip("the page says that this problem is not measured yet")
    rows = re.findall(r"^\| ([^|]+) \|", written(name), re.MULTILINE)
    linear = PROBLEMS[name].operator.linear
    expected = [each.name for each in posteriors.METHODS if linear or each.nonlinear]
    before = ["method", "two exact sets", *["exact model of the posterior"] * linear]
    assert rows == [*before, *expected]


def test_exact_samples_have_no_error_beyond_the_floor_and_others_do():
    problem = PROBLEMS["mixture"]
    one, other = (np.asarray(problem.exact.sample(jax.random.key(i), 400)) for i in (0, 1))
    moved = one + np.array([0.5, 0.0])
    for f in tables.measures(problem).values():
        assert f(one, other, 0) < 0.15
    assert tables.measures(problem)["mean"](moved, other, 0) > 0.4
    weights = tables.measures(problem)["mode weights"]
    assert weights(one[one[:, 1] < 0], other, 0) > 0.5  # the lesser mode alone


def test_a_table_is_put_between_its_comments_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n")
    tables.write(page, "x", "new")
    assert page.read_text() == (
        "a\n<!-- x -->\nnew\n<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(ValueError, match="needs the comment <!-- z -->"):
        tables.write(page, "z", "new")
