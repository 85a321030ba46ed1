"""Messages of a command, printed by the first process only."""

import logging

from sde_diffusion import distributed

log = logging.getLogger("sde_diffusion.cli")


def say(line: str) -> None:
    if distributed.is_first_process():
        print(line, flush=True)


def warn(line: str) -> None:
    """Prints a line on standard error about something that does not end the command."""
    if distributed.is_first_process():
        log.warning("%s", line)


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 sample", "2 samples"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
