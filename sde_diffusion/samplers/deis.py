"""DEIS: exponential Adams-Bashforth in eps over log-SNR."""

import dataclasses

from sde_diffusion.samplers.multistep import Multistep


@dataclasses.dataclass(frozen=True)
class DEIS(Multistep):
    """Exponential Adams-Bashforth in eps, of order 1 (DDIM), 2 or 3, with one evaluation a step.

        x_s = alpha_s / alpha_t x_t - sigma_s h (phi_1 eps + phi_2 d1 + (phi_2 + 2 q phi_3) d2)

    with phi_k at h; without d2 for order 2, without d1 and d2 for order 1. The polynomial is in
    lambda, as in diffusers' DEIS, where the paper's tAB is in t. Zhang & Chen 2023 (DEIS), eq. 14.
    """

    view = "eps"
    order: int = 3  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"DEIS takes order 1, 2 or 3, got {self.order}")
