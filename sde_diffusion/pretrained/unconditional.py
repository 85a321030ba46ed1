"""Models of pixels without text, DDPM's and NCSN++'s, from folders as diffusers writes them."""

from pathlib import Path
from typing import Any

from sde_diffusion.codec import Pixels
from sde_diffusion.model import from_network
from sde_diffusion.pipeline import Pipeline
from sde_diffusion.pretrained.folder import read_json
from sde_diffusion.pretrained.kinds import UNET_2D
from sde_diffusion.pretrained.part import read_part
from sde_diffusion.pretrained.schedule import Schedule, read_schedule
from sde_diffusion.pretrained.ve_schedule import VESchedule, read_ve_schedule

DDPM_STEPS, DDIM_STEPS = 1000, 50


def ddpm(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """DDPM, with any scheduler of a chain; DDPM's own takes each step of the chain by default."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    own = config.get("_class_name") == "DDPMScheduler"
    steps = config.get("num_train_timesteps", DDPM_STEPS) if own else DDIM_STEPS
    return _pipeline(folder, read_schedule(config, str(path)), Pixels(), steps, options)


def score_sde_ve(folder: Path, index: dict[str, Any], **options: Any) -> Pipeline:
    """NCSN++ on a variance exploding SDE, for pixels in [0, 1]."""
    path = folder / "scheduler" / "scheduler_config.json"
    schedule = read_ve_schedule(read_json(path), str(path))
    return _pipeline(folder, schedule, Pixels(centered=False), schedule.steps, options)


def _pipeline(
    folder: Path,
    schedule: Schedule | VESchedule,
    codec: Pixels,
    steps: int,
    options: dict[str, Any],
) -> Pipeline:
    network, params, config = read_part(folder / "unet", UNET_2D, **options)
    channels, size = network.in_channels, config.get("sample_size")
    if network.out_channels != channels:
        raise ValueError(
            f"{folder / 'unet'}: a network of {channels} channels that gives "
            f"{network.out_channels} tells a variance as well, which is not supported"
        )
    if not size:
        raise ValueError(f"{folder / 'unet'}: config.json has no sample_size")
    height, width = size if isinstance(size, list) else (size, size)
    return Pipeline(
        from_network(schedule.sde, network.apply, {"params": params}, schedule.parameterization),
        codec,
        {},
        None,
        schedule.grid,
        schedule.solver,
        (height, width),
        channels,
        guidance=1.0,
        clip=schedule.clip,
        steps=steps,
    )
