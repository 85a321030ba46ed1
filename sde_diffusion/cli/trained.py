"""The network of a run as a problem that solvers are compared on, or fitted to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sde_diffusion import analytic, noise
from sde_diffusion.cli import asked, codec, draw, run, texts
from sde_diffusion.comparison import problems
from sde_diffusion.config import autoencoders, build, codecs, conditions
from sde_diffusion.data import Source, select, take


def trained_problem(
    workdir: epath.Path,
    overrides: dict[str, str],
    *,
    step: str | None = None,
    ema: str | None = None,
) -> problems.Problem:
    """The network of a run against the data that it was trained on, in the model's own range.

    Samples are conditioned on classes in the proportions of the data, or else as records drawn at
    random are.
    """
    config = run.read_config(workdir, overrides)
    autoencoders.require_denoiser(config, f"--workdir {workdir}")
    embedded = texts.of_source(config, build.source(config), workdir)
    source, no_text = embedded.source, embedded.no_text
    coder = codec.of_run(workdir, config)
    features = codecs.sampled(source.features, coder)
    params, done = run.restore_params(workdir, config, features, step=step, ema=ema)
    scaling, trained = build.scaling(config, features), build.model(config, params)
    read, frozen = (
        codecs.read(source.features, coder),
        {"codec": None if coder is None else coder.params},
    )
    names = build.record_names(config, source.features)

    def draw_data(key: jax.Array, num: int) -> jax.Array:
        rows = jax.random.choice(key, len(source), (num,), replace=num > len(source))
        # Read in the order of the file, which may be large, and given in that of the draw.
        places, back = np.unique(np.asarray(rows), return_inverse=True)
        batch = take(select(source, names), places)
        records = {name: jnp.asarray(values[back]) for name, values in batch.items()}
        return scaling.scale(
            read(noise.sample_keys(jax.random.fold_in(key, 1), num), records, frozen)
        )

    def cond_of(rows: np.ndarray) -> Any:
        named = asked.as_in_the_data(config, source, int(rows.max()) + 1, 0)
        cond = conditions.cond({name: jnp.asarray(each[rows]) for name, each in named.items()})
        return draw.guided_cond(config, cond, no_text)

    return problems.Problem(
        f"{workdir} at step {done}{f', ema {ema}' if ema else ''}",
        build.guided(config, trained),
        features.event.shape,
        draw_data,
        _exact(source, scaling.slope),
        cond_of if conditions.entries(config) or conditions.names(config) else None,
        len(source),
        build.sampling_t_min(config),
    )


def _exact(source: Source, slope: float) -> analytic.GaussianMixture | None:
    """The distribution that the data was drawn from, where it is known."""
    return problems.mixture2d() if source.name == "mixture2d" and slope == 1.0 else None
