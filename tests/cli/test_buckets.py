"""A run in a bucket is the run that it would be in a folder, shown on an emulator of Google's."""

import json
import logging
import socket

import fsspec.asyn
import numpy as np
import pytest
from tensorboardX import record_writer

from sde_diffusion.training.reporting import read_metrics

RUN = "gs://bucket/runs/tiny"


@pytest.fixture(scope="module")
def emulator():
    """The file system of gs:// with one bucket, in the memory of this process."""
    server = pytest.importorskip("gcp_storage_emulator.server")
    objects = pytest.importorskip("gcp_storage_emulator.handlers.objects")
    gcsfs = pytest.importorskip("gcsfs.core")
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    running = server.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    download = objects.download

    def download_with_generation(request, response, storage, *args, **kwargs):
        download(request, response, storage, *args, **kwargs)
        if response.status < 400:
            which = request.params["bucket_name"], request.params["object_id"]
            response["x-goog-generation"] = storage.get_file_obj(*which)["generation"]

    with pytest.MonkeyPatch.context() as patch:
        # Google tells the version of an object with its bytes, and tensorstore relies on it.
        patch.setattr(objects, "download", download_with_generation)
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, f"http://localhost:{port}")
        # The emulator knows neither accounts, nor the protocol that gcsfs tries first, nor how to
        # move an object other than by a copy.
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        fsspec.register_implementation("gcs", gcsfs.GCSFileSystem, clobber=True)
        patch.setattr(gcsfs.GCSFileSystem, "_mv_file", fsspec.asyn.AsyncFileSystem._mv_file)
        # A client that leaves before the end of an answer is told with a stack trace.
        patch.setattr("socketserver.BaseServer.handle_error", lambda *_: None)
        logging.getLogger("gcp_storage_emulator").setLevel("CRITICAL")
        # For good: a writer that was closed writes once more when this process ends, and would wait
        # for the emulator then.
        del record_writer.GCSRecordWriter.__del__
        running.start()
        yield fsspec.filesystem("gcs")
        running.stop()


@pytest.fixture
def bucket(emulator):
    """The same, without what another test left there."""
    if emulator.exists(RUN):
        emulator.rm(RUN, recursive=True)
    return emulator


def names(files):
    return {path.removeprefix(RUN.removeprefix("gs://") + "/") for path in files.find(RUN)}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_in_a_folder(bucket, call, tiny, trained, tmp_path):
    code, out, err = call("train", "--config", tiny, "--workdir", RUN)
    assert code == 0, err
    assert f"trained to step 8: {RUN}" in out
    assert [record["step"] for record in read_metrics(RUN)] == [2, 4, 6, 8]
    left = {"config.json", "metrics.jsonl", "loss.png", "samples/step_0000008.png"}
    assert left <= names(bucket)
    assert any(name.startswith("tensorboard/events") for name in names(bucket))

    sample = ("sample", "--num", 20, "--out")
    assert call(*sample, tmp_path / "bucket.npz", "--workdir", RUN)[0] == 0
    assert call(*sample, tmp_path / "folder.npz", "--workdir", trained)[0] == 0
    with np.load(tmp_path / "bucket.npz") as one, np.load(tmp_path / "folder.npz") as other:
        np.testing.assert_array_equal(one["x"], other["x"])
    assert call(*sample, f"{RUN}/samples.png", "--workdir", RUN)[0] == 0
    assert bucket.cat(f"{RUN}/samples.png").startswith(b"\x89PNG")
    assert call("evaluate", "--workdir", RUN)[0] == 0
    assert "evaluation.json" in names(bucket)

    # Another config is refused, and with --overwrite takes the place.
    other = ("train", "--config", tiny, "--workdir", RUN, "--config.optim.lr=0.01")
    code, _, err = call(*other)
    assert code == 2
    assert "belongs to another config (optim.lr: 0.01 instead of 0.001)" in err
    assert call(*other, "--overwrite")[0] == 0
    assert "evaluation.json" not in names(bucket)


@pytest.mark.slow
def test_a_checkpoint_that_a_kill_left_unfinished_or_that_is_damaged_is_not_believed(
    bucket, call, tiny
):
    train = ("train", "--config", tiny, "--workdir", RUN)
    assert call(*train)[0] == 0
    whole = bucket.cat(f"{RUN}/metrics.jsonl")
    # In a bucket nothing is renamed: a checkpoint is finished once this object is there.
    bucket.rm(f"{RUN}/checkpoints/8/commit_success.txt")
    code, _, err = call(*train)
    assert code == 0
    assert "resuming at step 4 of 8" in err
    assert losses(bucket.cat(f"{RUN}/metrics.jsonl")) == losses(whole)

    data = max(bucket.find(f"{RUN}/checkpoints/8/state"), key=lambda path: bucket.size(path))
    changed = bytearray(bucket.cat(data))
    changed[len(changed) // 2] ^= 1
    bucket.pipe(data, bytes(changed))
    code, _, err = call(*train)
    assert code == 0
    assert "checkpoints/8 is damaged" in err
    assert "resuming at step 4 of 8" in err
    assert losses(bucket.cat(f"{RUN}/metrics.jsonl")) == losses(whole)


def losses(records):
    return [json.loads(line)["loss"] for line in records.splitlines()]


def test_a_bucket_that_does_not_exist_is_told_in_one_line_and_not_made(bucket, call, tiny):
    code, _, err = call("train", "--config", tiny, "--workdir", "gs://other/run")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("sde-diffusion: error: ")
    assert not bucket.exists("gs://other")


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "compare", "fit"])
def test_a_bucket_that_cannot_be_written_to_is_refused_in_one_line(call, command, tiny, tmp_path):
    arguments = {
        "train": ("--config", tiny),
        "sample": ("--out", tmp_path / "x.png"),
        "evaluate": (),
        "compare": ("--out", tmp_path / "out"),
        "fit": ("--nfe", 4, "--out", tmp_path / "fitted.json"),
    }[command]
    code, _, err = call(command, *arguments, "--workdir", "s3://bucket/run")
    assert code == 2
    assert err == (
        "sde-diffusion: error: --workdir s3://bucket/run: of buckets only gs:// can be written to; "
        "mount this one (mountpoint-s3, for example) and name its folder\n"
    )


def test_a_bucket_without_the_library_for_it_names_the_extra(call, tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = call("train", "--config", tiny, "--workdir", RUN)
    assert code == 2
    assert err == (
        f"sde-diffusion: error: --workdir {RUN}: gs:// needs gcsfs: "
        "pip install 'sde-diffusion[gcs]'\n"
    )
