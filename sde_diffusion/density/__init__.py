"""How likely data is: by the probability flow, by a bound, or under a solver's own steps.

`likelihood` integrates the probability flow with its divergence, and encodes and decodes along it.
`bound` is the variational bound. `pushforward` is the density of what a deterministic solver makes.
"""

from sde_diffusion.density.bound import Bound, variational_bound
from sde_diffusion.density.likelihood import (
    PROBES,
    Divergence,
    Exact,
    Hutchinson,
    Likelihood,
    bits_per_dim,
    decode,
    encode,
    log_likelihood,
)
from sde_diffusion.density.pushforward import Pushforward, pushforward

__all__ = [
    "PROBES",
    "Bound",
    "Divergence",
    "Exact",
    "Hutchinson",
    "Likelihood",
    "Pushforward",
    "bits_per_dim",
    "decode",
    "encode",
    "log_likelihood",
    "pushforward",
    "variational_bound",
]
