"""What both kinds of compare read and show: whole numbers, and a bar over the candidates."""

from collections.abc import Iterable, Sequence

from tqdm import tqdm

from sde_diffusion.comparison.candidates import Candidate


def numbers(flag: str, text: str) -> list[int]:
    """[5, 10] of "5,10"; ValueError, which names the flag, for other texts."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} takes whole numbers, as in 5,10,20; got {text!r}") from None


def progress(todo: Sequence[Candidate]) -> Iterable[Candidate]:
    """The candidates one by one, with a bar that names them."""
    bar = tqdm(todo, unit="row")
    for candidate in bar:
        bar.set_description(candidate.label)
        yield candidate
