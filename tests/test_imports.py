"""The architecture: imports go one way, and the core is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sde_diffusion

PACKAGE = Path(__file__).parent.parent / "sde_diffusion"

CORE = {
    "sdes",
    "prediction",
    "model",
    "flow_map",
    "parameterization",
    "grids",
    "noise",
    "selection",
    "notation",
    "pytree",
}
MATHS = CORE | {"samplers", "guidance", "inverse", "density"}
ALLOWED = {
    **dict.fromkeys(CORE, CORE),
    "samplers": CORE | {"samplers"},
    "guidance": CORE | {"samplers", "guidance"},
    "inverse": CORE | {"samplers", "guidance", "inverse"},
    "density": MATHS,
    "objectives": MATHS | {"objectives"},
    "analytic": CORE | {"analytic"},
    "fitting": MATHS | {"fitting"},
    "compilation_cache": set(),
    "comparison": MATHS
    | {"analytic", "fitting", "metrics", "compilation_cache", "pipeline", "comparison"},
    "layerwise": set(),
    "tree_names": {"selection"},
    "lora": {"layerwise", "tree_names"},
    "codec": {"noise", "networks", "codec"},
    "tiles": {"networks", "codec", "tiles"},
    "networks": {"selection", "layerwise", "networks"},
    "data": {"selection", "sdes", "data"},
    "metrics": MATHS | {"metrics"},
    "distributed": {"selection", "model", "layerwise", "distributed"},
    "training": {
        "selection",
        "tree_names",
        "noise",
        "objectives",
        "compilation_cache",
        "layerwise",
        "distributed",
        "training",
    },
    "planning": CORE | {"compilation_cache", "samplers", "distributed", "training", "planning"},
    "pipeline": MATHS | {"pipeline"},
    "pretrained": MATHS
    | {"layerwise", "tree_names", "lora", "networks", "codec", "pipeline", "pretrained"},
}
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE
)


def subject(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The subjects of this package that a file imports, and every other module's name."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "sde_diffusion":
                ours.add(rest[0])
            else:
                others.add(top)
    return ours, others


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    ours, _ = imported(path)
    if subject(path) == "config":
        assert "cli" not in ours
    elif subject(path) != "cli":
        assert ours <= ALLOWED[subject(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_and_its_builder_know_configs(path):
    _, others = imported(path)
    assert "ml_collections" not in others or subject(path) in ("cli", "config")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short_and_unpickle_nothing(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    _, others = imported(path)
    assert not others & {"pickle", "dill", "cloudpickle", "joblib"}
    assert "allow_pickle=True" not in text


def test_importing_the_package_loads_jax_and_numpy_only():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, sde_diffusion; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = "flax optax orbax grain matplotlib sklearn PIL tqdm tensorboardX diffrax ml_collections"
    assert not set(heavy.split()) & set(loaded)


def test_solvers_are_compared_without_the_training_extra():
    program = """
import sys
for name in "sklearn matplotlib PIL flax optax orbax grain tqdm tensorboardX".split():
    sys.modules[name] = None  # an import of it now fails
import sde_diffusion
(row,) = sde_diffusion.compare("gaussian", "ddim", (5,), num=32)
print(row["wasserstein2"] > 0, row["kl"] > 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


def test_what_loads_more_is_there_when_it_is_used():
    script = (
        "import sde_diffusion as sd; print(sd.pretrained.load.__name__, sd.networks.DiT.__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout == "load DiT\n"
    with pytest.raises(AttributeError, match="no attribute 'pretraned'"):
        sde_diffusion.pretraned  # noqa: B018
