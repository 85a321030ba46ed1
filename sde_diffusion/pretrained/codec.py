"""The codec of a pretrained pipeline."""

import os
from typing import Any

from sde_diffusion.codec import Codec
from sde_diffusion.pretrained.kinds import AUTOENCODER_KL
from sde_diffusion.pretrained.part import read_part


def read_codec(folder: str | os.PathLike[str], **options: Any) -> tuple[Codec, Any]:
    """The codec in the folder `vae` of a pipeline, and its parameters.

    The options and errors are those of `part.read_part`.
    """
    module, params, config = read_part(folder, AUTOENCODER_KL, **options)
    # Where a config has no factor, diffusers takes that of Stable Diffusion 1.
    scale, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    return Codec(module, 1.0 if scale is None else scale, shift or 0.0), params
