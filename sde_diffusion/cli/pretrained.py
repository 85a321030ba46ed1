"""Options of a pretrained pipeline, and sample --pretrained: pictures of a prompt."""

import dataclasses
import time
from argparse import Namespace
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from tqdm import tqdm

from sde_diffusion import data, distributed, fitting, grids, noise, notation, samplers
from sde_diffusion.cli import image_file, picture, prompts, run
from sde_diffusion.cli.draw import NonFiniteSamples
from sde_diffusion.cli.say import counted, say
from sde_diffusion.codec import Codec
from sde_diffusion.pipeline import Pipeline, Size
from sde_diffusion.tiles import tiled

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
# Options that only a network of one's own takes.
OF_A_RUN = (
    "step",
    "ema",
    "label",
    "super_resolve",
    "edit",
    "strength",
    "method",
    "noise",
    "guidance_interval",
)


def sample(args: Namespace, overrides: dict[str, str], out: epath.Path) -> None:
    """Draw pictures by the pipeline in the folder --pretrained into the file `out`."""
    _require_fitting_options(args, overrides)
    from sde_diffusion.pretrained import add_lora
    from sde_diffusion.pretrained.consistency import as_consistency, is_consistency

    run.enable_cache()
    pipe = load(args)
    for file, weight in map(_lora, args.lora or ()):
        pipe = add_lora(pipe, file, weight)
    if (args.solver or "").startswith("flow_map") and not is_consistency(pipe):
        pipe = as_consistency(pipe)
    filled = _filled(args, pipe)
    size = filled["picture"].shape[:2] if filled and args.size is None else size_of(args, pipe)
    options: dict[str, Any] = {"size": size} | _solver(args, pipe) | filled
    if args.guidance is not None:
        options["guidance"] = args.guidance
    texts, each, began = prompts.given(args) or (), args.num or 1, time.perf_counter()
    require_prompt(pipe, bool(texts))
    num, pictures = each * max(1, len(texts)), []
    for first in tqdm(range(num), desc="sampling", unit="picture", disable=num == 1):
        drawn = pipe.latents(
            noise.key(args.seed),
            [texts[first // each]] if texts else 1,
            negative=args.negative_prompt,
            first=first,
            **options,
        )
        pictures.append(pipe.decode(drawn.x))
    x = np.concatenate(pictures)
    bad = np.flatnonzero(~np.isfinite(x).reshape(num, -1).all(axis=1))
    if len(bad):
        raise NonFiniteSamples(
            f"{len(bad)} of {num} pictures are not finite, the first of them picture {bad[0]}"
        )
    seconds = time.perf_counter() - began
    if distributed.is_first_process():
        _save(out, x, texts)
    say(
        f"{counted(num, 'picture')} of {size[0]}x{size[1]} by {_name(options, pipe)}, "
        f"{counted(int(np.max(drawn.nfe)), 'evaluation')} each, in {seconds:.1f} s "
        f"(compilation included): {out}"
    )


def load(args: Namespace) -> Pipeline:
    """The pipeline that --pretrained and the options beside it name."""
    from sde_diffusion import pretrained

    dtype = jnp.float32 if args.dtype is None else DTYPES[args.dtype]
    pipe = pretrained.load(args.pretrained, like=args.like, variant=args.variant, dtype=dtype)
    if getattr(args, "tile", None) is None:
        return pipe
    codec, factor = pipe.codec, pipe.codec.factor
    if not isinstance(codec, Codec):
        raise ValueError("--tile is for models of latents, and this one has pixels")
    if args.tile % factor or args.tile < 2 * factor:
        raise ValueError(
            f"--tile must be a multiple of {factor}, from {2 * factor}, got {args.tile}"
        )
    return dataclasses.replace(pipe, codec=tiled(codec, args.tile // factor))


def size_of(args: Namespace, pipe: Pipeline) -> Size:
    """--size as height and width, or the pipeline's own; ValueError where it has no latents."""
    size = pipe.size if args.size is None else _size(args.size)
    pipe.latent_shape(1, size)
    return size


def require_prompt(pipe: Pipeline, given: bool) -> None:
    """Raise ValueError for a pipeline with texts and no prompt, and the other way round."""
    if pipe.text is None and given:
        raise ValueError("--prompt: this pretrained model has no texts")
    if pipe.text is not None and not given:
        raise ValueError("--pretrained needs --prompt, the text of the picture")


def _require_fitting_options(args: Namespace, overrides: dict[str, str]) -> None:
    """Raise ValueError for what --pretrained does not take."""
    if args.workdir is not None:
        raise ValueError("--pretrained and --workdir are two networks: give one of them")
    given = [name for name in OF_A_RUN if getattr(args, name, None) is not None]
    if given:
        option = {"label": "class"}.get(given[0], given[0].replace("_", "-"))
        raise ValueError(f"--{option} is for the networks of --workdir, not for --pretrained")
    if overrides:
        raise ValueError(f"--config.{next(iter(overrides))}: a pretrained folder has no config")


def _filled(args: Namespace, pipe: Pipeline) -> dict[str, Any]:
    """--image and --mask as options of `Pipeline.latents`."""
    if not pipe.fills_in:
        if args.image is not None or args.mask is not None:
            raise ValueError("--image and --mask: this pretrained model fills in no picture")
        return {}
    if args.image is None or args.mask is None:
        raise ValueError("this pretrained model fills in a picture: give --image and --mask")
    feature = data.Feature((*pipe.size, 3), "float32", low=0.0, high=1.0)
    shape = (*image_file.size(args.image, "--image", feature), 3)
    picture = image_file.read(args.image, "--image", feature, shape)[0]
    return {"picture": picture, "mask": ~image_file.read_mask(args.mask, shape)[..., 0]}


def _lora(text: str) -> tuple[str, float]:
    """The file and the weight of FILE or FILE:WEIGHT."""
    file, _, weight = text.rpartition(":")
    try:
        return (file, float(weight)) if file else (text, 1.0)
    except ValueError:
        return text, 1.0


def _size(text: str) -> Size:
    """(512, 768) of "512x768", height and width."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"--size is written as HEIGHTxWIDTH, such as 512x768, got {text!r}")
    return int(parts[0]), int(parts[1])


def _solver(args: Namespace, pipe: Pipeline) -> dict[str, Any]:
    """--solver, --grid and --steps as options of `Pipeline.latents`."""
    steps = pipe.steps if args.steps is None else args.steps
    if args.solver is not None and args.solver.endswith(".json"):
        if args.grid is not None or args.steps is not None:
            raise ValueError(
                f"--solver {args.solver} brings its own grid: leave out --grid and --steps"
            )
        fitted = fitting.load(args.solver, pipe.model.sde)
        return {"solver": fitted, "grid": jnp.asarray(fitted.times)}
    options: dict[str, Any] = {"steps": steps}
    if args.solver is not None:
        name, fields = notation.read("solver", args.solver)
        options["solver"] = samplers.named(name, **fields)
    if args.grid is not None:
        name, fields = notation.read("grid", args.grid)
        # As many evaluations as the pipeline's own grid has, the last of which denoises.
        ends = options.get("solver", pipe.solver).denoises
        num = steps if ends else steps - 1
        options["grid"] = grids.named(name, pipe.model.sde, num, **fields)
    return options


def _name(options: dict[str, Any], pipe: Pipeline) -> str:
    return type(options.get("solver", pipe.solver)).__name__


def _save(out: epath.Path, x: np.ndarray, texts: tuple[str, ...]) -> None:
    if out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("wb") as file:
            np.savez(file, image=x)
        return
    event = data.Feature(x.shape[1:], "float32", low=0.0, high=1.0)
    if len(texts) < 2:  # the pictures alone: a prompt may be longer than they are wide
        picture.save(out, x, event)
    else:
        picture.save(out, x, event, len(x) // len(texts), prompts=texts)
