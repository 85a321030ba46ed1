r"""MeanFlow on CIFAR-10, from nothing: one evaluation a sample.

Geng et al. 2025 (Mean Flows for one-step generative modeling): FID 2.92 with one evaluation. The
settings are those of the authors' cifar10_v0.sh (Gsunshine/py-meanflow): 16,000 epochs in batches
of 8 x 128, three quarters of the samples with two different times, power 0.75. The reference also
augments the images as EDM does, which is not here. The figure and the script could not be checked
again.
Needs accelerators, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/few_steps/meanflow_cifar10.py --config.preset=tpu \
    --workdir gs://bucket/meanflow_cifar10
"""

from sde_diffusion.config import choice, default


def get_config():
    config = default()
    config.sde = choice("sde", "flow")
    config.network = choice(
        "network",
        "ncsnpp",
        ch_mult=(2, 2, 2),
        embedding_type="positional",
        fir=False,
        progressive_input="none",
        scale_by_sigma=False,
        dropout=0.2,
    )
    config.parameterization = choice("parameterization", "flow", num_scales=1000)
    config.flow_map = choice(
        "flow_map", "meanflow", apart=0.75, power=0.75, floor=1e-3, improved=False
    )
    config.loss.weighting = choice("loss.weighting", "constant", on="velocity")
    config.loss.times = choice("loss.times", "logit_normal", mean=-2.0, std=2.0)
    config.data.source = choice("data.source", "cifar10", path="data/cifar-10-binary.tar.gz")
    config.optim.update(lr=6e-4, warmup=10_000, ema_rates=(0.9999, 0.99995, 0.9996))
    config.training.update(batch_size=1024, steps=800_000)
    config.sampling.solver = choice("sampling.solver", "flow_map")
    config.sampling.grid = choice("sampling.grid", "uniform")
    config.sampling.steps = 1
    return config
