"""What the options of the command sample ask for, as values that samples are drawn with."""

from argparse import Namespace
from typing import NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.cli import asked, classes, draw, image_file, measured, prompts, texts
from sde_diffusion.config import conditions

STRENGTH = 0.6  # of --edit
# Samples where --num is absent: in all, and of a given image or each of several prompts.
NUM, NUM_OF_IMAGE = 100, 10
NUM_OF_TEXT = 1  # of a prompt to a network that is told embeddings
ONE_OF = ("image", "super_resolve", "edit")


class Wish(NamedTuple):
    """What is drawn.

    num: how many samples.
    under: their conditions, and what steers them.
    labels: {"label": [num], "text": [num]}, as far as there are classes and prompts.
    columns: of a picture of all classes or of several prompts, else None.
    given: images to show beside the samples, [G, K, h, w, C]; see `picture.save`.
    prompts: as many samples for each, one after the other; None where there is no prompt.
    """

    num: int
    under: draw.Under
    labels: dict[str, np.ndarray]
    columns: int | None
    given: np.ndarray | None
    prompts: tuple[str, ...] | None = None


def wish(
    config: ConfigDict,
    features: data.Features,
    args: Namespace,
    size: tuple[int, ...],
    workdir: epath.Path,
) -> Wish:
    """What the options ask for. `size` is height and width in pixels of the pictures, if they are.

    Raises ValueError, which names the option, for what the network or the images do not fit.
    """
    _check_options(args)
    if conditions.reads_text(config):
        return _of_embeddings(config, args, size, workdir)
    told = "image" in conditions.names(config) and args.edit is None
    images, option = _images(config, features, args, told)
    words = prompts.given(args)
    num = _num(args.num, images, words)
    given = _shown(config, features, images, told)
    named = asked.asked(
        config,
        features,
        num,
        label=args.label,
        texts=words,
        image=images if told else None,
        option="--image" if args.edit is not None else option,
    )
    columns = None
    if "label" in named and args.label is None and images is None:
        columns = len(classes.classes_with_data(features))
    labels = {"label": named["label"]} if "label" in named else {}
    if words is not None:
        labels["text"] = np.repeat(np.array(words), num // len(words))
        columns = num // len(words) if len(words) > 1 else None
    under = draw.Under(conditions.cond(named))
    if images is not None and not told and args.edit is None:
        under, given = measured.measured(config, features, images, num, args, under.cond, option)
    else:
        _refuse(args, ("method", "noise"), "fills in or super-resolves without a network for it")
    if images is not None and args.edit is not None:
        strength = STRENGTH if args.strength is None else args.strength
        start = draw.Start(image_file.repeated(images, num, "--edit"), strength)
        under = under._replace(start=start)
    return Wish(num, under, labels, columns, given, words)


def _of_embeddings(
    config: ConfigDict, args: Namespace, size: tuple[int, ...], workdir: epath.Path
) -> Wish:
    """What is asked of a network that is told embeddings of texts."""
    given = [name for name in ("label", *ONE_OF) if getattr(args, name) is not None]
    if given:
        option = {"label": "class"}.get(given[0], given[0].replace("_", "-"))
        raise ValueError(f"--{option}: the network of this run takes texts alone")
    asked_for = prompts.given(args)
    if asked_for is None:
        raise ValueError("--prompt is needed: the network of this run takes the embeddings of one")
    if not config.text.path:
        raise ValueError("--prompt needs config.text.path, the pretrained folder that encodes it")
    if others := conditions.names(config):
        raise ValueError(f"--prompt: the network of this run takes a text and {others[0]} together")
    encoder, pixels = texts.read(config.text.path, config.data.tokens), (size[0], size[1])
    known = texts.as_in(workdir, texts.known(encoder, pixels))
    each = NUM_OF_TEXT if args.num is None else args.num
    rows = np.repeat(np.arange(len(asked_for)), each)
    encoded = texts.told(config, encoder, asked_for, pixels)
    told = {name: encoded[name][rows] for name in conditions.entries(config)}
    if "guidance" in conditions.told(config):
        told["guidance"] = np.full(len(rows), config.conditions.text.guidance, np.float32)
    under = draw.Under(told, no_text=texts.of_no_text(config, encoder, known, pixels))
    for prompt in asked_for:
        if not prompt.strip():
            prompts.say_no_text(prompt)
    labels = {"text": np.array(asked_for)[rows]}
    return Wish(len(rows), under, labels, each if len(asked_for) > 1 else None, None, asked_for)


def _check_options(args: Namespace) -> None:
    """ValueError for options that do not go together."""
    options = [f"--{name.replace('_', '-')}" for name in ONE_OF if getattr(args, name) is not None]
    if len(options) > 1:
        raise ValueError(f"{' and '.join(options)} cannot be used together")
    if args.mask is not None and args.image is None:
        raise ValueError("--mask needs --image, the image that is to be filled in")
    if args.edit is None:
        _refuse(args, ("strength",), "is of --edit")
    elif args.strength is not None and not 0 < args.strength <= 1:
        raise ValueError(f"--strength must be above 0 and at most 1, got {args.strength}")


def _refuse(args: Namespace, names: tuple[str, ...], what: str) -> None:
    """ValueError for an option that would have no effect."""
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} {what}, which this command does not do")


def _shown(
    config: ConfigDict, features: data.Features, images: np.ndarray | None, told: bool
) -> np.ndarray | None:
    """The given images in the units of the samples, [N, 1, h, w, C]; None if they have no place."""
    if images is None or images.shape[-1] not in (1, features.event.shape[-1]):
        return None
    return (asked.in_units_of_samples(config, features, images) if told else images)[:, None]


def _images(
    config: ConfigDict, features: data.Features, args: Namespace, told: bool
) -> tuple[np.ndarray | None, str]:
    """The images [N, h, w, C] of --image, --super-resolve or --edit, and the option."""
    event = features.event
    if args.edit is not None:
        return image_file.read(args.edit, "--edit", event, event.shape), "--edit"
    option = "--image" if args.super_resolve is None else "--super-resolve"
    path = args.super_resolve or args.image
    if path is None:
        return None, option
    if told:
        return asked.given_images(config, features, path, option, args.mask), option
    if option == "--image" and args.mask is None:
        raise ValueError(
            "--image: the network of this run takes no image; with --mask FILE it fills in a part "
            "of one, and --edit FILE changes one"
        )
    if option == "--image":
        return image_file.read(path, option, event, event.shape), option
    return measured.small_images(path, event), option


def _num(num: int | None, images: np.ndarray | None, texts: tuple[str, ...] | None) -> int:
    """How many samples in all: --num for each prompt, or as many as suit images and prompts."""
    if texts is not None and len(texts) > 1:
        if images is not None and len(images) > 1:
            raise ValueError(f"{len(texts)} prompts and {len(images)} images: give one of either")
        return (NUM_OF_IMAGE if num is None else num) * len(texts)
    if num is not None:
        return num
    return NUM if images is None else len(images) * -(-NUM_OF_IMAGE // len(images))
