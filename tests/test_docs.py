"""The README and docs/: every Python example runs and prints what it says; links lead somewhere.

The blocks of a page run in order and share their names. A comment behind a print statement is what
it prints, where "..." stands for anything. docs/data.md has its own test beside the sources.
"""

import ast
import contextlib
import doctest
import importlib.util
import io
import itertools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from sde_diffusion import networks, objectives, parameterization, samplers, sdes
from sde_diffusion.grids import GRIDS
from sde_diffusion.samplers import sample as sample_module

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TOLD = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def text_of(page):
    return (ROOT / page).read_text()


def blocks(page):
    return [match[1] for match in BLOCK.finditer(text_of(page))]


WITH_EXAMPLES = [
    name for page in PAGES if blocks(name := str(page.relative_to(ROOT))) and name != "docs/data.md"
]


def absent(block):
    """The libraries that a block imports and that are not installed."""
    names = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


def run(block, names, page):
    """Execute a block and compare what its print statements print with the comments behind them."""
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module([statement], []), page, "exec"), names)
        _, has_comment, told = lines[statement.end_lineno - 1].rpartition("  # ")
        if printed.getvalue() and has_comment:
            right = doctest.OutputChecker().check_output(told + "\n", printed.getvalue(), TOLD)
            assert right, f"{page}: {lines[statement.lineno - 1]} prints {printed.getvalue()}"


@pytest.fixture(scope="module")
def ran():
    """page -> the names that its examples defined; each page runs once."""
    done = {}

    def names_of(page):
        if page not in done:
            done[page] = {"__name__": "example"}
            for block in blocks(page):
                if not absent(block):
                    run(block, done[page], page)
        return done[page]

    return names_of


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_examples_run_and_print_what_they_say(page, ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran(page)


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_no_example_of_a_page_needs_what_is_not_installed(page):
    missing = sorted(set(itertools.chain.from_iterable(absent(b) for b in blocks(page))))
    if missing:
        pytest.skip(f"{page}: examples that import {', '.join(missing)} did not run")


def test_the_readme_samples_its_data(ran):
    x = np.asarray(ran("README.md")["samples"].x)
    np.testing.assert_allclose([x.mean(), x.std()], [3.0, 0.5], atol=0.05)


def test_the_network_of_one_s_own_learns_its_data():
    names = {"__name__": "example"}
    (block,) = [block for block in blocks("docs/models.md") if "optax" in block]
    with contextlib.redirect_stdout(io.StringIO()):
        run(block, names, "docs/models.md")
    x = np.asarray(names["samples"].x)
    np.testing.assert_allclose(x.mean(axis=0), [1.0, -1.0], atol=0.1)
    np.testing.assert_allclose(x.std(axis=0), 0.2, atol=0.1)


def test_the_example_of_what_compiles_compiles_once(ran):
    names = ran("docs/models.md")
    compiled = sample_module._sample._cache_size()
    names["draw"](jax.numpy.array(0.5))
    assert sample_module._sample._cache_size() == compiled


def test_the_example_of_a_solver_is_the_librarys_own(ran):
    assert ran("docs/extending.md")["Euler"]().order == samplers.Euler.order


@pytest.mark.parametrize("name", [*samplers.SOLVERS, *samplers.CORRECTORS])
def test_the_table_of_solvers_has_every_one_with_its_order(name):
    row = re.search(rf"^\| `{name}` \| (\S+) \|", text_of("docs/sampling.md"), re.MULTILINE)
    assert row, f"{name} is not in the table of docs/sampling.md"
    solver = (samplers.SOLVERS | samplers.CORRECTORS)[name]()
    assert row[1] == str(solver.order)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/sdes.md", [type(kind()).__name__ for kind in sdes.KINDS.values()]),
        ("docs/sampling.md", GRIDS),
        ("docs/training.md", objectives.WEIGHTINGS),
        ("docs/training.md", objectives.time_density.TIMES),
        ("docs/training.md", [network.__name__ for network in networks.NETWORKS.values()]),
        ("docs/models.md", parameterization.PARAMETERIZATIONS),
    ],
)
def test_every_name_that_can_be_chosen_is_told(page, names):
    for name in names:
        assert re.search(rf"`{name}[`(.]", text_of(page)), name


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"
