"""Twelve drawings in another style, outlines, teach a text-to-image run the style by adapters.

    python experiments/lora/style.py --base runs/emoji --out runs/outlines

The base draws OpenMoji's coloured drawings. The twelve are the outlines alone of twelve others of
them. The prompts that are drawn are of drawings whose outlines the adapters never saw. The script
trains the adapters, draws each prompt before, with half the weight and after, measures how
colourful the pictures are and how many bytes a run trains and stores. A run that is there goes on.
"""

import argparse
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jax
import numpy as np
import resvg_py
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion.cli import draw, picture, prompts, run
from sde_diffusion.cli import main as command
from sde_diffusion.config import adapters, build, conditions
from sde_diffusion.data import Features
from sde_diffusion.data.images import Decoder
from sde_diffusion.data.sources.openmoji import named_drawings
from sde_diffusion.training import abstract_state

TAUGHT = (
    *("fox", "red apple", "umbrella", "house", "dog face", "sun"),
    *("hot beverage", "guitar", "snowman", "key", "rocket", "mushroom"),
)
ASKED = (
    *("cat face", "green apple", "red heart", "bicycle", "tiger face", "star"),
    *("pizza", "wolf", "cloud", "blue circle"),
)
WEIGHTS = (0.0, 0.5, 1.0)
NUM = 3  # pictures of a prompt and a weight
SVG = "{http://www.w3.org/2000/svg}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--base", required=True, help="the folder of a run of configs/emoji.py")
    parser.add_argument("--out", required=True, help="the folder of the adapters' run")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--picture", default="experiments/lora/outlines.png")
    args = parser.parse_args()
    folder, size = Path(args.out), run.read_data(epath.Path(args.base)).features.event.shape[0]
    write_pictures(folder.parent / f"{folder.name}_pictures", size)
    options = {
        "init_from.path": args.base,
        "data.source.path": folder.parent / f"{folder.name}_pictures",
        "data.source.size": size,
        "training.steps": args.steps,
        "training.sample_every": 10 * args.steps,
    }
    given = [f"--config.{field}={value}" for field, value in options.items()]
    code = command(["train", "--config", "configs/lora.py", "--workdir", args.out, *given])
    if code:
        raise SystemExit(code)
    config = run.read_config(epath.Path(args.out), {})
    features = run.read_data(epath.Path(args.out)).features
    drawn = {weight: drawings(args.out, features, weight) for weight in WEIGHTS}
    outlines = np.stack([outline(name, size) for name in ASKED])
    save(Path(args.picture), drawn, outlines, features)
    report = {
        "step": args.steps,
        "saturation": {str(weight): saturation(x) for weight, x in drawn.items()},
        "saturation of the outlines": saturation(outlines),
        "bytes": stored_bytes(config, features),
        "bytes of the newest checkpoint on disk": {
            "adapters": on_disk(Path(args.out)),
            "base": on_disk(Path(args.base)),
        },
    }
    (folder / "style.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def write_pictures(folder: Path, size: int) -> None:
    """The outlines that the adapters are trained on, each with its name in a text file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TAUGHT:
        stem = folder / name.replace(" ", "_")
        stem.with_suffix(".png").write_bytes(rendered(name, size))
        stem.with_suffix(".txt").write_text(name)


def rendered(name: str, size: int) -> bytes:
    """A PNG of the outlines of the drawing of that name: the groups of its lines alone."""
    files, names = named_drawings()
    root = ET.parse(files[names.index(name)]).getroot()
    for group in list(root):
        if not group.get("id", "").startswith("line"):
            root.remove(group)
    text = ET.tostring(root, encoding="unicode").replace("ns0:", "").replace(":ns0", "")
    png = resvg_py.svg_to_bytes(
        svg_string=text, width=size, height=size, background="white", skip_system_fonts=True
    )
    return bytes(png)


def outline(name: str, size: int) -> np.ndarray:
    """The outlines as uint8 [size, size, 3]."""
    return np.asarray(Decoder(3, size).decode(rendered(name, size), name))


def drawings(workdir: str, features: Features, weight: float) -> np.ndarray:
    """NUM pictures of each prompt, with so much of the adapters' change."""
    folder = epath.Path(workdir)
    config = run.read_config(folder, {"lora.weight": str(weight)})
    params, _ = run.restore_params(folder, config, features)
    tokens = prompts.tokens(ASKED, features[config.conditions.tokens.field], null=True)
    under = draw.Under(conditions.cond({"tokens": np.repeat(tokens, NUM, axis=0)}))
    return draw.draw(config, params, features, NUM * len(ASKED), seed=0, under=under)[0]


def save(
    path: Path, drawn: dict[float, np.ndarray], outlines: np.ndarray, features: Features
) -> None:
    """A row for each prompt: its pictures by weight, then the outline that was not trained on."""
    parts = [x.reshape(len(ASKED), NUM, *x.shape[1:]) for x in drawn.values()]
    x = np.concatenate([*parts, outlines[:, None]], axis=1)
    columns = x.shape[1]
    picture.save(
        epath.Path(path), x.reshape(-1, *x.shape[2:]), features.event, columns, prompts=ASKED
    )


def saturation(x: np.ndarray) -> float:
    """The mean over all pixels of their largest minus their smallest value, in [0, 1]."""
    x = x.astype(np.float32) / 255.0
    return float(np.mean(x.max(axis=-1) - x.min(axis=-1)))


def stored_bytes(config: ConfigDict, features: Features) -> dict[str, int]:
    """The bytes of the training state: of the adapters' run, and if all parameters were trained."""
    whole = config.copy_and_resolve_references().unlock()
    whole.lora.rank, whole.lora.names = None, "*"

    def size(of: Any) -> int:
        state = abstract_state(build.recipe(of, features))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    assert adapters.has_adapters(config)
    return {"adapters": size(config), "all parameters": size(whole)}


def on_disk(workdir: Path) -> int:
    """The bytes of the newest checkpoint."""
    steps = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    newest = max(steps, key=lambda path: int(path.name))
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
