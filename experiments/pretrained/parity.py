"""The tables of README.md: how far our parts and pictures are from diffusers' and transformers'.

python experiments/pretrained/parity.py
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

TESTS = Path(__file__).parents[2] / "tests"


def measured(module, run: Callable[..., None], *arguments) -> float:
    """The largest difference that a test function compares, without judging it."""
    found = []

    def record(ours, theirs, *rest, **_):
        if rest:  # a picture: (ours, name, picture)
            name, picture = theirs, *rest
            theirs = module.outputs(name)[f"picture.{picture}"]
            found.append(float(np.max(np.abs(ours - theirs))))
        else:
            found.append(float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))))

    with mock.patch.object(module, "assert_same", record):
        run(*arguments)
    return max(found)


def parts() -> dict[str, float]:
    import test_parts
    import test_transformer_parts
    import test_unet2d

    told = {}
    for name in test_parts.PIPELINES:
        told[f"U-Net, {name}"] = measured(test_parts, test_parts.test_unet, name)
    for name in ("ddpm", "ncsnpp", "unet2d", "adm", "adm_vector", "ncsnpp_shift"):
        run = test_unet2d.test_the_network_is_that_of_diffusers
        told[f"U-Net without text, {name}"] = measured(test_unet2d, run, name)
    for name, suffix in test_parts.TEXTS:
        value = measured(test_parts, test_parts.test_text_encoder, name, suffix)
        told[f"text encoder{suffix}, {name}"] = value
    for name in ("sd15", "flux_vae"):
        told[f"autoencoder, {name}"] = measured(test_parts, test_parts.test_codec, name)
    module = test_transformer_parts
    for name in ("mmdit_sd3", "mmdit_sd35", "flux_dev", "flux_schnell"):
        run = module.test_a_transformer_of_image_and_text
        told[f"transformer, {name}"] = measured(module, run, name)
    for name in ("dit", "t5", "bert"):
        told[f"transformer, {name}"] = measured(module, getattr(module, f"test_{name}"))
    return told


def with_folder(run: Callable[..., None], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(name, Path(folder))


def pipelines() -> dict[str, float]:
    """The pipelines that have one picture, or sample, each."""
    import test_flow_pipelines
    import test_unet2d

    told, module = {}, test_flow_pipelines
    for name in module.OPTIONS:
        run = partial(with_folder, module.test_pictures_are_those_of_diffusers)
        told[name] = measured(module, run, name)
    for name in test_unet2d.SCHEDULERS:
        run = partial(with_folder, test_unet2d.test_samples_of_ddpm_are_those_of_diffusers)
        told[f"ddpm, {name}"] = measured(test_unet2d, run, name)
    run = test_unet2d.test_samples_of_ncsnpp_are_those_of_diffusers
    told["ncsnpp"] = measured(test_unet2d, run)
    return told


def main() -> None:
    sys.path.insert(0, str(TESTS / "pretrained"))
    import test_pipelines

    print("| part | difference |\n|---|---|")
    for name, value in parts().items():
        print(f"| {name} | {value:.1e} |", flush=True)
    columns = [*test_pipelines.SCHEDULERS]
    print(f"\n| | {' | '.join(columns)} | no negative text |\n|---|{'---|' * (len(columns) + 1)}")
    for name in test_pipelines.NAMES:
        run = test_pipelines.test_pictures_are_those_of_diffusers
        values = [measured(test_pipelines, run, name, scheduler) for scheduler in columns]
        values.append(measured(test_pipelines, test_pipelines.test_without_negative_texts, name))
        print(f"| {name} | {' | '.join(f'{value:.1e}' for value in values)} |", flush=True)
    print("\n| pipeline | difference |\n|---|---|")
    for name, value in pipelines().items():
        print(f"| {name} | {value:.1e} |", flush=True)


if __name__ == "__main__":
    main()
