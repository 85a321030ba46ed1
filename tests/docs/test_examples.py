"""The README and docs/: every Python example runs and prints what it says.

The blocks of a page run in order and share their names. A comment behind a print statement is what
it prints, where "..." stands for anything. tests/data runs the examples of docs/data.md.
"""

import ast
import contextlib
import doctest
import importlib.util
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import samplers

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text())


PAGES = [
    page
    for path in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
    if blocks(page := str(path.relative_to(ROOT))) and page != "docs/data.md"
]


def missing(block):
    """The libraries that a block imports and that are not installed."""
    names = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


def run(block, names):
    """Execute a block, and compare what its print statements print with their comments."""
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(ast.Module([statement], []), "example", "exec"), names)
        _, has_comment, expected = lines[statement.end_lineno - 1].rpartition("  # ")
        if output.getvalue() and has_comment:
            checker = doctest.OutputChecker()
            same = checker.check_output(f"{expected}\n", output.getvalue(), FLAGS)
            assert same, f"{lines[statement.lineno - 1]} prints {output.getvalue()}"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """page -> the names that its examples define. A page runs once."""
    done = {}

    def names_of(page):
        if page not in done:
            done[page] = {"__name__": "example"}
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.mktemp("page"))
                Path("tests").symlink_to(ROOT / "tests")
                for block in blocks(page):
                    if not missing(block):
                        run(block, done[page])
        return done[page]

    return names_of


@pytest.mark.parametrize("page", PAGES)
def test_examples_run_and_print_what_they_say(page, example):
    example(page)


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(missing, blocks(page)))])
def test_examples_of_libraries_that_are_not_installed(page):
    names = {name for block in blocks(page) for name in missing(block)}
    pytest.skip(f"{page}: examples that import {', '.join(sorted(names))} did not run")


def test_the_readme_samples_its_data(example):
    x = np.asarray(example("README.md")["samples"].x)
    np.testing.assert_allclose([x.mean(), x.std()], [3.0, 0.5], atol=0.05)


def test_the_example_network_learns_its_data(example):
    x = np.asarray(example("docs/models.md")["learned"].x)
    np.testing.assert_allclose(x.mean(axis=0), [1.0, -1.0], atol=0.1)
    np.testing.assert_allclose(x.std(axis=0), 0.2, atol=0.1)


def test_a_second_call_with_other_parameters_compiles_nothing(example, caplog):
    draw = example("docs/models.md")["draw"]
    draw(jax.numpy.array(0.25))  # what the page compiled may have been cleared since
    with caplog.at_level("WARNING"), jax.log_compiles():
        draw(jax.numpy.array(0.5))
        assert not [line for line in caplog.messages if "_sample" in line]
        jax.jit(lambda x: x + 1.0)(1.0)
        assert caplog.messages  # compilations are logged


def test_the_example_of_a_solver_is_the_librarys_own(example):
    names = example("docs/extending.md")
    drawn = [np.asarray(names["draw"](solver).x) for solver in (names["Euler"](), samplers.Euler())]
    np.testing.assert_allclose(*drawn, rtol=1e-6)
