"""The schema of an experiment's config, and the builder that turns a config into values.

`schema` declares every field with its default, and reads, overrides and compares configs. `build`
turns a config into an SDE, a network, a loss, a solver and the rest. Nothing below this package
and the command line sees a config.
"""

from sde_diffusion.config.schema import choice, default, load

__all__ = ["choice", "default", "load"]
