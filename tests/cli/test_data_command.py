"""A run on a user's own folder of images: it trains, and names its classes and a damaged image."""

import json

import numpy as np
from PIL import Image


def test_a_folder_with_classes_and_captions_trains(tiny, call, tmp_path):
    for i in range(12):
        path = tmp_path / "birds" / ("jay" if i % 3 else "owl") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 11, 3), 20 * i, np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"bird {i}")
    source = {"name": "folder", "path": tmp_path / "birds", "size": 4, "captions": "txt"}
    options = [f"--config.data.source.{key}={value}" for key, value in source.items()]
    options += ["--config.network.num_classes=2", "--config.training.batch_size=8"]
    run = ("train", "--config", tiny, "--workdir", tmp_path / "run", *options)
    code, out, err = call(*run, "--config.training.steps=3")
    assert (code, "classes: 0 jay (8), 1 owl (4)" in out) == (0, True), err
    losses = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert np.isfinite(losses[-1]["loss"])
    (tmp_path / "birds" / "jay" / "5.png").write_bytes(b"no image")
    code, _, err = call(*run[:4], tmp_path / "other", *options)
    assert code == 2
    assert "jay/5.png: cannot read this image" in err
