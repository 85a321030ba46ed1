"""The command convert: a pretrained model, or a run on one, for another library."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sde_diffusion import lora
from sde_diffusion.cli import codec, run
from sde_diffusion.cli.say import say
from sde_diffusion.config import adapters, codecs, folders, text_encoders
from sde_diffusion.data import Features


def convert(args: Namespace, overrides: dict[str, str]) -> None:
    """Write the model in `source` to --out: a folder for diffusers, or a file of adapters."""
    if (Path(args.source) / run.CONFIG).is_file() and not folders.is_pretrained(args.source):
        _of_run(args, overrides)
        return
    if overrides:
        raise ValueError(f"--config.{next(iter(overrides))}: a pretrained model has no config")
    for option in ("step", "ema"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} is for the folder of a run")
    if not Path(args.source).exists() and "://" not in args.source and args.to != "diffusers":
        raise FileNotFoundError(f"{args.source}: no such file")
    if args.to != "diffusers":
        raise ValueError(f"--to {args.to} is for the adapters of a run, which {args.source} is not")
    from sde_diffusion import pretrained

    pretrained.convert(
        args.source, args.out, like=args.like, variant=args.variant, dtype=args.dtype
    )
    say(f"{args.source} as a folder for {args.to}: {args.out}")


def _of_run(args: Namespace, overrides: dict[str, str]) -> None:
    """Write what a run made of a pretrained folder: its adapters, or all of its parameters."""
    for option in ("like", "variant"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option}: {args.source} is the folder of a run, which has none")
    workdir = run.folder(args.source, "source")
    config = run.read_config(workdir, overrides)
    base = config.init_from.path
    if not folders.is_pretrained(base):
        raise ValueError(
            f"{args.source} does not fine-tune a pretrained folder of diffusers, whose names other "
            f"libraries know: config.init_from.path is {base!r}"
        )
    features = codecs.sampled(run.read_data(workdir).features, codec.of_run(workdir, config))
    if adapters.has_adapters(config):
        _write_adapters(args, config, features)
        return
    if args.to != "diffusers":
        raise ValueError(f"--to {args.to} is for adapters, and {args.source} trains all parameters")
    from sde_diffusion import pretrained

    found = run.restore_params(workdir, config, features, step=args.step, ema=args.ema)
    parts = text_encoders.by_part(config, found.params)
    pretrained.save(args.out, base, parts, dtype=args.dtype)
    say(f"{args.source} at step {found.step} as a folder for diffusers: {args.out}")


def _write_adapters(args: Namespace, config: ConfigDict, features: Features) -> None:
    from sde_diffusion.pretrained import lora_files

    if not args.out.endswith(".safetensors"):
        raise ValueError(f"--out must end in .safetensors for adapters, got {args.out}")
    if Path(args.out).exists():
        raise FileExistsError(f"{args.out} is there already")
    workdir = run.folder(args.source)
    found = run.restore_adapters(workdir, config, features, step=args.step, ema=args.ema)
    made: Any = lora.scale(found.params, config.lora.weight * adapters.share(config))
    parts = text_encoders.by_part(config, made)
    lora_files.write(args.out, parts, form=args.to, dtype=args.dtype)
    say(
        f"{len(lora.by_name(made))} adapters of {args.source} at step {found.step} for {args.to}: "
        f"{args.out}; try it with sample --pretrained {config.init_from.path} --lora {args.out}"
    )
