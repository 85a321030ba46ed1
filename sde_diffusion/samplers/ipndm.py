"""iPNDM: Adams-Bashforth in eps over sigma / alpha."""

import dataclasses

from sde_diffusion.samplers.exponential import (
    Span,
)
from sde_diffusion.samplers.multistep import Multistep
from sde_diffusion.sdes import SDE, Array


@dataclasses.dataclass(frozen=True)
class IPNDM(Multistep):
    """Adams-Bashforth in eps over rho = sigma / alpha, of order 1 (DDIM) to 4.

        d(x / alpha) / d rho = eps:   x_s = alpha_s / alpha_t x_t + alpha_s int P d rho

    The polynomial is in rho, with coefficients for the actual steps. For steps that are equal in
    rho they are the constants of iPNDM, (55, -59, 37, -9) / 24 for order 4, which on any other grid
    have order 2. Liu et al. 2022 (PNDM), eqs. 9, 12 and 13; Zhang & Chen 2023 (DEIS), whose rhoAB
    this is, of their eq. 18.
    """

    view = "eps"
    order: int = 4  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"IPNDM takes order 1, 2, 3 or 4, got {self.order}")

    def span(self, sde: SDE, t: Array, s: Array) -> Span:
        return Span.of_ratio(sde, t, s)
