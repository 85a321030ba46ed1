"""What a pretrained network is trained on: latents of images with captions, or prompts alone."""

import dataclasses
import hashlib
import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sde_diffusion import data, noise
from sde_diffusion.cli import pretrained, prompts, run, start, texts
from sde_diffusion.config import build, flow_maps
from sde_diffusion.config import schema as configs
from sde_diffusion.objectives.guided import GUIDANCE
from sde_diffusion.pipeline import Pipeline, Size


def source(args: Namespace, overrides: dict[str, str]) -> data.Source | None:
    """The data of --config.data.source, or None where none is given."""
    if not any(field.startswith("data.source.") for field in overrides):
        return None
    found = build.source(configs.override(configs.default(), _only(overrides, "data.source.")))
    event = found.features.event
    if found.features.event_name != "image" or event.shape[-1] != 3:
        raise ValueError(
            f"the data has {found.features.event_name} of shape {event.shape}, and a pretrained "
            "codec takes images [H, W, 3]"
        )
    if "text" not in found.features:
        raise ValueError(
            f"the data {found.name} has no captions (text), which the network reads; those of a "
            "folder are read with --config.data.source.captions=txt"
        )
    if prompts.given(args) is not None or args.size is not None:
        raise ValueError("--prompt, --prompts and --size are the data's where there is data")
    return found


def _only(overrides: dict[str, str], group: str) -> dict[str, str]:
    return {field: value for field, value in overrides.items() if field.startswith(group)}


@dataclasses.dataclass
class Batches:
    """Batches without end: {"latent" [B, h, w, c], "cond"}, from `records` or from `texts` alone.

    read(step) -> texts [B], and latents or None. weight: of the guidance, for a network that is
    told it.
    """

    pipe: Pipeline
    size: Size
    read: Callable[[int], tuple[list[str], Any]]
    weight: float
    records: Any = None
    step: int = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        given, latents = self.read(self.step)
        self.step += 1
        assert self.pipe.text is not None  # `distill` refuses pipelines without
        cond = texts.encode(self.pipe.text, given, self.size)
        if self.pipe.told:
            cond = cond | {GUIDANCE: np.full(len(given), self.weight, np.float32)}
        if latents is None:
            latents = np.zeros(self.pipe.latent_shape(len(given), self.size), np.float32)
        return jax.tree.map(np.asarray, {"latent": latents, "cond": cond})

    def get_state(self) -> Any:
        return {
            "step": self.step,
            "records": None if self.records is None else self.records.get_state(),
        }

    def set_state(self, position: Any) -> None:
        self.step = position["step"]
        if self.records is not None:
            self.records.set_state(position["records"])


def batches(
    args: Namespace, config: ConfigDict, pipe: Pipeline, source: data.Source | None
) -> tuple[Batches, run.Described, Size]:
    hosts, num = jax.process_count(), config.training.batch_size
    if num < 1 or num % hosts:
        raise ValueError(f"config.training.batch_size {num} does not fit {hosts} hosts")
    if source is None:
        return _of_prompts(args, config, pipe, num // hosts)
    height, width, _ = source.features.event.shape
    size, (low, high) = (height, width), source.features.event.range
    pipe.latent_shape(1, size)
    chosen = data.select(start.enough(source, num), ["image", "text"])
    records = data.batches(chosen, num, config.seed, host=jax.process_index(), hosts=hosts)
    key = jax.random.fold_in(noise.key(config.seed), jax.process_index())

    def read(step: int) -> tuple[list[str], Any]:
        batch = next(records)
        pictures = (np.asarray(batch["image"], np.float32) - low) / (high - low)
        return [str(text) for text in batch["text"]], pipe.encode(
            jax.random.fold_in(key, step), pictures
        )

    described = run.Described(len(source), source.features)
    return Batches(pipe, size, read, _weight(config), records), described, size


def _weight(config: ConfigDict) -> float:
    return flow_maps.fixed_weight(config) or 0.0


def _of_prompts(
    args: Namespace, config: ConfigDict, pipe: Pipeline, num: int
) -> tuple[Batches, run.Described, Size]:
    asked, size = prompts.given(args), pretrained.size_of(args, pipe)
    if asked is None:
        raise ValueError(
            "distill --pretrained needs --prompts, a file with a prompt on each line, or data with "
            "captions (--config.data.source.name)"
        )

    def read(step: int) -> tuple[list[str], Any]:
        draw = np.random.default_rng((config.seed, step, jax.process_index()))
        return [asked[i] for i in draw.integers(len(asked), size=num)], None

    features = data.Features({"image": data.Feature((*size, 3), "float32", 0.0, 1.0)})
    mark = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    described = run.Described(len(asked), features, mark)
    return Batches(pipe, size, read, _weight(config)), described, size
