r"""ECT on CIFAR-10, a DDPM++ of 56 M parameters: a consistency model, begun at a diffusion model.

Geng et al. 2025 (Consistency models made easy; its repository locuslab/ect, run_ecm.sh): after
200,000 steps FID 3.86 with one evaluation and 2.15 with two, after 400,000 3.60 and 2.11. It begins
at EDM's unconditional network; here that is a run of edm_cifar10.py, in --config.init_from.path.
The reference trains with RAdam, which Adam with a warm-up stands in for.
Needs an accelerator, and CIFAR-10's binary archive in data/.

sde-diffusion train --config configs/few_steps/ect_cifar10.py --workdir runs/ect_cifar10 \
    --config.init_from.path=runs/edm_cifar10
"""

from pathlib import Path

from sde_diffusion.config import choice, load


def get_config():
    config = load(Path(__file__).parent / "edm_cifar10.py")
    config.network.dropout = 0.2
    # Its 8 stages are of 25,000 steps each.
    config.flow_map = choice("flow_map", "consistency", schedule="ect", huber=1e-6)
    config.optim.update(lr=1e-4, warmup=1000, ema_rates=(0.9999,))
    config.data.flip = False
    config.training.update(batch_size=128, steps=200_000)
    config.sampling.solver = choice("sampling.solver", "flow_map", gamma=1.0)
    config.sampling.steps = 2
    return config
