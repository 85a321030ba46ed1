"""The U-Net of Ho et al. 2020."""

from sde_diffusion.networks.ncsnpp import NCSNpp


class DDPM(NCSNpp):
    """NCSN++ with every switch that it has over DDPM turned off; fields as there.

    Ho et al. 2020, app. B; the tree is that of the reference's own DDPM.
    """

    num_res_blocks: int = 2
    embedding_type: str = "positional"
    resblock_type: str = "ddpm"
    fir: bool = False
    progressive_input: str = "none"
    skip_rescale: bool = False
    scale_by_sigma: bool = False

    suffix = ""
