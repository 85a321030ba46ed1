"""Other projects' models, read as data: nothing is unpickled, nothing is downloaded.

`load(folder)` makes a `Pipeline` of a folder as diffusers writes it, and `save` writes such a
folder. `tensors` says how names and arrays correspond, `kinds` which classes are read.
"""

from sde_diffusion.pretrained.load import load
from sde_diffusion.pretrained.save import save

__all__ = ["load", "save"]
