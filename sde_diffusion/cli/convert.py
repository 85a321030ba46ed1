"""The command convert: a pretrained single file, or folder, as a folder that diffusers loads."""

from argparse import Namespace

from sde_diffusion.cli.say import say


def convert(args: Namespace, overrides: dict[str, str]) -> None:
    """Write the pipeline in the file or folder `source` into the folder --out."""
    if overrides:
        raise ValueError(f"--config.{next(iter(overrides))}: a pretrained model has no config")
    from sde_diffusion import pretrained

    pretrained.convert(
        args.source, args.out, like=args.like, variant=args.variant, dtype=args.dtype
    )
    say(f"{args.source} as a folder for {args.to}: {args.out}")
