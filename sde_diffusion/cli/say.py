"""What a command says: on standard output, and by the first process of many alone."""

import logging

from sde_diffusion import distributed

log = logging.getLogger("sde_diffusion.cli")


def say(line: str) -> None:
    if distributed.is_first_process():
        print(line, flush=True)


def warn(line: str) -> None:
    """A line on standard error; what it is about does not end the command."""
    if distributed.is_first_process():
        log.warning("%s", line)
