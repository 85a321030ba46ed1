"""The texts of --prompt and --prompts: what they are as tokens, and what of them is not known."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from sde_diffusion import data
from sde_diffusion.cli.say import say, warn


def given(args: Namespace) -> tuple[str, ...] | None:
    """Every --prompt, then the lines of --prompts that are not blank; None where there is neither.

    Raises OSError for a file that cannot be read, and ValueError for one that is not UTF-8 or has
    no prompt.
    """
    if args.prompt is None and args.prompts is None:
        return None
    return (*(args.prompt or ()), *(() if args.prompts is None else _lines(args.prompts)))


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise type(error)(f"--prompts {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {path}: not UTF-8 ({error})") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(f"--prompts {path}: no prompt in this file, a line each")
    return found


def tokens(prompts: tuple[str, ...], feature: data.Feature, *, null: bool) -> np.ndarray:
    """The prompts as the tokens of a run, int32 [P, L]; what is unusual about them is said.

    Args:
        prompts: P texts.
        feature: the run's tokens.
        null: whether the network was trained without a text too, which an empty prompt needs.

    Raises ValueError for an empty prompt that the network does not know.
    """
    for prompt in prompts:
        if not prompt.strip():
            if not null:
                raise ValueError(
                    f"--prompt {prompt!r}: the network was never trained without a text "
                    "(config.conditions.tokens.drop is 0)"
                )
            say_no_text(prompt)
        elif feature.words is not None:
            missing = data.unknown_words(prompt, feature.words)
            if missing:
                warn(f"prompt {prompt!r}: the words of this run do not have {', '.join(missing)}")
    return np.stack([data.tokens_of(prompt.strip(), feature) for prompt in prompts])


def say_no_text(prompt: str) -> None:
    """Say what an empty prompt means."""
    say(f"the prompt {prompt!r} is no text: its samples are unconditional")
