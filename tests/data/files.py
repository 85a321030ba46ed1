"""Small images, and the files that hold them, for the tests of sources."""

import io
import tarfile

import numpy as np
from PIL import Image


def pixels(num, height=4, width=6, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, height, width, channels), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    """The bytes of an image file; `image` is an array or one of Pillow's images."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def write_files(root, files):
    """Files by name: bytes and texts as they are, arrays as images of the suffix's format."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            content = encoded(content)
        content = content.encode() if isinstance(content, str) else content
        (root / name).write_bytes(content)


def write_tar(path, files, mode="w"):
    """A tar file with these members, in their order."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            if isinstance(content, np.ndarray):
                content = encoded(content)
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
