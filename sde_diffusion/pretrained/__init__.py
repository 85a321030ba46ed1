"""Other projects' models, read as data: nothing is unpickled, nothing is downloaded.

`load(folder)` makes a `Pipeline` of a folder as diffusers writes it, `save` writes such a folder,
and `convert` makes one of a single file. `tensors` says how names and arrays correspond, `kinds`
which classes are read. `add_lora` merges the adapters in a file into a pipeline.
"""

from sde_diffusion.pretrained.convert import convert
from sde_diffusion.pretrained.load import load, load_text
from sde_diffusion.pretrained.lora_files import add_lora
from sde_diffusion.pretrained.save import save

__all__ = ["add_lora", "convert", "load", "load_text", "save"]
