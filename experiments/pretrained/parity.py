"""The tables of README.md: how far our parts and pictures are from diffusers' and transformers'.

python experiments/pretrained/parity.py
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np

TESTS = Path(__file__).parents[2] / "tests" / "pretrained"


def measured(module, run) -> float:
    """The largest difference that a test function compares, without judging it."""
    found = []

    def record(ours, theirs, *rest):
        if rest:  # a picture: (ours, name, picture)
            name, picture = theirs, *rest
            theirs = module.outputs(name)[f"picture.{picture}"]
            found.append(float(np.max(np.abs(ours - theirs))))
        else:
            found.append(float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))))

    with mock.patch.object(module, "assert_same", record):
        run()
    return max(found)


def main() -> None:
    sys.path.insert(0, str(TESTS))
    import test_parts
    import test_pipelines

    print("| part | difference |\n|---|---|")
    for name in test_parts.PIPELINES:
        value = measured(test_parts, lambda name=name: test_parts.test_unet(name))
        print(f"| U-Net, {name} | {value:.1e} |")
    for name, suffix in test_parts.TEXTS:
        value = measured(
            test_parts, lambda name=name, suffix=suffix: test_parts.test_text_encoder(name, suffix)
        )
        print(f"| text encoder{suffix}, {name} | {value:.1e} |")
    for name in ("sd15", "flux_vae"):
        value = measured(test_parts, lambda name=name: test_parts.test_codec(name))
        print(f"| autoencoder, {name} | {value:.1e} |")
    columns = [*test_pipelines.SCHEDULERS]
    print(f"\n| | {' | '.join(columns)} | no negative text |\n|---|{'---|' * (len(columns) + 1)}")
    for name in test_pipelines.NAMES:
        values = [
            measured(
                test_pipelines,
                lambda name=name, scheduler=scheduler: (
                    test_pipelines.test_pictures_are_those_of_diffusers(name, scheduler)
                ),
            )
            for scheduler in columns
        ]
        values.append(
            measured(
                test_pipelines,
                lambda name=name: test_pipelines.test_without_negative_texts(name),
            )
        )
        print(f"| {name} | {' | '.join(f'{value:.1e}' for value in values)} |")


if __name__ == "__main__":
    main()
