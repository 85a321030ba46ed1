"""The README, docs/ and experiments/: links lead somewhere, and tables hold all there is."""

import re
from pathlib import Path

import pytest

from sde_diffusion import networks, objectives, parameterization, samplers, sdes
from sde_diffusion.grids import GRIDS

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page):
    return (ROOT / page).read_text()


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
        ("docs/training.md", parameterization.PARAMETERIZATIONS),
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
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in LINK.findall(prose):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_path_of_the_map_exists():
    """docs/tree.md names files below sde_diffusion/, or below the root."""
    for path in re.findall(r"`([\w/]+(?:/|\.py))`", text_of("docs/tree.md")):
        places = (ROOT, ROOT / "sde_diffusion", ROOT / "sde_diffusion" / "cli")
        inside = [*places, *(ROOT / "sde_diffusion").iterdir()]
        assert any((place / path).exists() for place in inside), path


def test_every_package_is_on_the_map():
    for path in (ROOT / "sde_diffusion").iterdir():
        if (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text_of("docs/tree.md"), path.name
