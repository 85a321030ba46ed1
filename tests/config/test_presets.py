"""--config.preset=NAME sets several fields of a config at once."""

from pathlib import Path

import pytest

from sde_diffusion.config import schema as configs

CONFIGS = Path(__file__).parents[2] / "configs"
CIFAR10 = CONFIGS / "ve" / "cifar10_ncsnpp_continuous.py"


@pytest.mark.parametrize("path", [CIFAR10, CONFIGS / "digits.py"], ids=lambda path: path.stem)
def test_the_preset_for_tpus_computes_in_bfloat16_and_splits_the_state(path):
    config = configs.load(path, {"preset": "tpu"})
    assert config.network.dtype == "bfloat16"
    assert (config.mesh.data, config.mesh.fsdp) == (-1, -1)
    changed = configs.differences(config, configs.load(path))
    assert [line.partition(":")[0] for line in changed] == ["mesh.fsdp", "network.dtype"]


def test_a_field_beside_the_preset_has_the_last_word():
    config = configs.load(CIFAR10, {"mesh.fsdp": "4", "preset": "tpu"})
    assert (config.mesh.fsdp, config.network.dtype) == (4, "bfloat16")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"config\.preset 'tpus'.*tpu"):
        configs.load(CIFAR10, {"preset": "tpus"})
