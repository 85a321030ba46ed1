"""The command sample: samples of a trained network, into a picture or an array file."""

import io
import time
from argparse import Namespace

import numpy as np
from etils import epath

from sde_diffusion import distributed
from sde_diffusion.cli import codec, draw, picture, pretrained, run, wishes
from sde_diffusion.cli.options import require_none, sampling_options
from sde_diffusion.cli.say import counted, say
from sde_diffusion.config import autoencoders, build, codecs

# Options that only --pretrained takes.
OF_PIPELINES = ("negative_prompt", "size", "tile", "like", "variant", "dtype")


def sample(args: Namespace, overrides: dict[str, str]) -> None:
    """Draw samples from a trained network into a picture or an array file; reads no data set."""
    out = epath.Path(args.out)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {out}")
    if args.num is not None and args.num < 1:
        raise ValueError(f"--num must be at least 1, got {args.num}")
    if args.pretrained is not None:
        pretrained.sample(args, overrides, out)
        return
    if args.workdir is None:
        raise ValueError("give --workdir, a trained run, or --pretrained, a pretrained folder")
    if args.lora:
        raise ValueError("--lora is for --pretrained; config.lora has the adapters of a run")
    require_none(args, OF_PIPELINES, "is for --pretrained")
    workdir = run.folder(args.workdir)
    config = run.read_config(workdir, sampling_options(args) | overrides)
    autoencoders.require_denoiser(config, f"--workdir {args.workdir}")
    described = run.read_data(workdir).features
    coder = codec.of_run(workdir, config)
    features, shown = codecs.sampled(described, coder), codecs.shown(described, coder)
    if out.suffix == ".png":
        picture.require_picture(out, shown)
    if coder is not None:
        _refuse_images(args)
    wish = wishes.wish(config, features, args, shown.event.shape[:2], workdir)
    build.solver(config), build.grid(config), build.mesh(config)
    run.enable_cache()
    params, step = run.restore_params(workdir, config, features, step=args.step, ema=args.ema)

    began = time.perf_counter()
    x, nfe = draw.draw(
        config,
        params,
        features,
        wish.num,
        seed=args.seed,
        under=wish.under,
        progress=True,
        coder=coder,
    )
    seconds = time.perf_counter() - began
    if distributed.is_first_process():
        if out.suffix == ".png":
            picture.save(out, x, shown.event, wish.columns, given=wish.given, prompts=wish.prompts)
        else:
            # Under the names of the data's records, so that the source "npz" reads the file.
            _save_arrays(out, {shown.event_name: x} | wish.labels)
    say(
        f"{counted(wish.num, 'sample')} of step {step} by {config.sampling.solver.name}, "
        f"{counted(nfe, 'evaluation')} each, in {seconds:.1f} s (compilation included): {out}"
    )


def _refuse_images(args: Namespace) -> None:
    for name in ("image", "mask", "super_resolve", "edit"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')}: the network of this run knows latents, and no images"
            )


def _save_arrays(path: epath.Path, arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
