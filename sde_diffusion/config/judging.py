"""Whether what a run draws can be judged by its captions, and what `config.eval` says of it.

`cli.captions` judges; `train` refuses the fields that `evaluate` would refuse after it.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from sde_diffusion import data
from sde_diffusion.config import conditions
from sde_diffusion.selection import unknown


def problems(config: ConfigDict, features: data.Features) -> Iterator[str]:
    """A line for each field of config.eval that does not fit; `features` are those of records."""
    captions, steps, parts = config.eval.captions, config.eval.judge_steps, config.eval.parts
    if captions < 0 or captions == 1:
        yield f"config.eval.captions must be at least 2, or 0 for no judge, got {captions}"
    if steps < 1:
        yield f"config.eval.judge_steps must be at least 1, got {steps}"
    if not parts:
        return
    source = config.data.source.name
    if source not in data.PARTS:
        yield (
            f"config.eval.parts: the data source {source!r} has no parts "
            "(--config.eval.parts= asks for none)"
        )
        return
    for part in parts:
        if part not in data.PARTS[source]:
            yield f"config.eval.parts: {unknown(f'part of {source}', part, data.PARTS[source])}"
    reason = why_not(config, features)
    if reason:
        yield f"config.eval.parts: {reason}"


def why_not(config: ConfigDict, features: data.Features) -> str:
    """Why pictures are not judged by their captions; "" where they are."""
    if not reads_text(config):
        return "the network reads no text"
    if "text" not in features:
        return "the records have no text"
    if features.event_name not in ("image", "mean"):
        return f"the records have no images, but {features.event_name}"
    if not config.eval.captions:
        return "config.eval.captions is 0"
    return ""


def reads_text(config: ConfigDict) -> bool:
    """Whether the network is told a text, as tokens or embeddings."""
    return "tokens" in conditions.names(config) or conditions.reads_text(config)
