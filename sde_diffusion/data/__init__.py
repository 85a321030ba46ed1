from sde_diffusion.data.source import Source
from sde_diffusion.data.sources import load

__all__ = ["Source", "load"]
