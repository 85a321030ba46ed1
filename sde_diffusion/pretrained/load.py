"""load(folder): a pretrained folder, or a single file, as a Pipeline."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from sde_diffusion.pipeline import Pipeline, Text
from sde_diffusion.pretrained.bert_text import bert_text
from sde_diffusion.pretrained.convert import INDEX, opened
from sde_diffusion.pretrained.flow_pipelines import (
    dit,
    flux,
    flux_text,
    stable_diffusion_3,
    stable_diffusion_3_text,
)
from sde_diffusion.pretrained.folder import PICKLED, read_json
from sde_diffusion.pretrained.stable_diffusion import (
    stable_diffusion,
    stable_diffusion_text,
    stable_diffusion_xl,
    stable_diffusion_xl_text,
)
from sde_diffusion.pretrained.unconditional import ddpm, score_sde_ve
from sde_diffusion.selection import choose

PIPELINES: dict[str, Callable[..., Pipeline]] = {
    "StableDiffusionPipeline": stable_diffusion,
    "LatentConsistencyModelPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusionInpaintPipeline": stable_diffusion,
    "StableDiffusionXLInpaintPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
    "DiTPipeline": dit,
    "DDPMPipeline": ddpm,
    "DDIMPipeline": ddpm,
    "PNDMPipeline": ddpm,
    "ScoreSdeVePipeline": score_sde_ve,
}
"""By the class that model_index.json names; each is called as f(folder, index, **options)."""
TEXTS: dict[str, Callable[..., Text]] = {
    "StableDiffusionPipeline": stable_diffusion_text,
    "StableDiffusionXLPipeline": stable_diffusion_xl_text,
    "StableDiffusion3Pipeline": stable_diffusion_3_text,
    "FluxPipeline": flux_text,
}
"""The text encoders alone, by the same names."""


def load(
    folder: str | os.PathLike[str],
    *,
    like: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Pipeline:
    """The pipeline in a folder as diffusers writes it: model_index.json and a folder for each part.

    Or that in a single file of safetensors with the original names of Stable Diffusion 1.x or SDXL.
    Nothing is downloaded, and nothing is unpickled.

    Args:
        like: for a single file, which has weights only: a folder with CLIP's tokenizer, vocab.json
            and merges.txt, where the model has the published shape; or a pipeline's folder, of
            which all but the weights is read.
        variant: which of the folder's weights are read, such as "fp16"; by default those without a
            variant, or the only ones that are there.
        dtype: of the parameters and of the computation, such as jnp.bfloat16.
        options: see `part.read_part`, such as `put`.

    Raises FileNotFoundError or ValueError, in one line, for a folder that is not whole, a pipeline
    or a config that is not supported (those that are are named), and tensors that do not fit.

        pipe = pretrained.load("stable-diffusion-v1-5", dtype=jnp.bfloat16)
        pictures = pipe.sample(jax.random.key(0), ["a red fox"])
    """
    folder = Path(folder)
    if folder.is_file() or folder.suffix in PICKLED:
        if variant is not None:
            raise ValueError(f"{folder} is one file, which has no variants: leave out variant")
        with opened(folder, like) as (configs, weights):
            return _made(configs, dtype=dtype, weights=weights, **options)
    if like is not None:
        raise ValueError(f"{folder} is no single file: leave out like")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} is no pipeline of diffusers: there is no {INDEX}")
    return _made(folder, variant=variant, dtype=dtype, **options)


def load_text(folder: str | os.PathLike[str], *, tokens: int | None = None, **options: Any) -> Text:
    """The text encoders alone of a pipeline's folder, as `Pipeline.text` has them.

    Or the states of a BERT, such as MiniLM, in a folder of transformers; see `bert_text`.

    Args:
        tokens: how many a text has for a BERT. The encoders of a pipeline have a length of their
            own.
        options: those of `part.read_part`.

    Raises what `load` does, and ValueError for a BERT without `tokens`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / INDEX).is_file():
        _require_bert(folder)
        if tokens is None:
            raise ValueError(
                f"{folder}: a BERT takes texts of any length: say to how many tokens they are "
                "filled up (data.tokens of a config)"
            )
        return bert_text(folder, tokens, **options)
    index = read_json(folder / INDEX)
    make = choose("pipeline with a text encoder", index.get("_class_name", "none"), TEXTS)
    return make(folder, index, **options)


def _require_bert(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no text encoders: there is no {INDEX}, of a pipeline of diffusers, and "
            "no config.json, of a BERT of transformers"
        )
    kind = read_json(folder / "config.json").get("model_type", "none")
    if kind != "bert":
        raise ValueError(f"{folder}: a text encoder of transformers must be a bert, and is {kind}")


def _made(folder: Path, **options: Any) -> Pipeline:
    index = read_json(folder / INDEX)
    make = choose("pipeline", index.get("_class_name", "none"), PIPELINES)
    return make(folder, index, **options)
