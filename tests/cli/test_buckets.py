"""A run in a bucket is the run that it would be in a folder, shown on an emulator of Google's."""

import json
import logging
import socket

import fsspec.asyn
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tensorboardX import record_writer

from sde_diffusion.cli import claim, main, run
from sde_diffusion.cli.run import enable_cache  # itself: the tests' own has another in its place
from sde_diffusion.config import schema as configs
from sde_diffusion.training.reporting import read_metrics

RUN = "gs://bucket/runs/tiny"
CACHE = "jax_compilation_cache_dir"
LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"


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


@pytest.fixture(scope="module")
def bucket(emulator, trained):
    """The same with the run of `trained` at RUN; who spoils it makes it whole again."""
    config = trained.parent / "tiny.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "enable_cache", lambda: None)
        assert main(["train", "--config", str(config), "--workdir", RUN]) == 0
    return emulator


def names(files, address):
    return {path.removeprefix(address.removeprefix("gs://") + "/") for path in files.find(address)}


def losses(files, address):
    lines = files.cat(f"{address}/metrics.jsonl").splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


@pytest.mark.slow
def test_a_run_leaves_what_it_leaves_in_a_folder(bucket, trained):
    here = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    written = {name for name in here if not name.startswith(("checkpoints", "tensorboard"))}
    assert {"config.json", "metrics.jsonl", "loss.png"} < written <= names(bucket, RUN)
    assert any(name.startswith("tensorboard/events") for name in names(bucket, RUN))
    records = {record["step"]: record["loss"] for record in read_metrics(trained)}
    assert losses(bucket, RUN) == records


@pytest.mark.slow
def test_its_samples_are_those_of_the_run_in_a_folder(bucket, call, trained, tmp_path):
    sample = ("sample", "--num", 20, "--out")
    assert call(*sample, f"{RUN}.npz", "--workdir", RUN)[0] == 0
    assert call(*sample, tmp_path / "folder.npz", "--workdir", trained)[0] == 0
    with bucket.open(f"{RUN}.npz") as file, np.load(file) as one:
        np.testing.assert_array_equal(one["image"], np.load(tmp_path / "folder.npz")["image"])


@pytest.mark.slow
def test_another_config_is_refused_and_with_overwrite_takes_the_place(bucket, call, tiny):
    other = "gs://bucket/other"
    for name in ("config.json", "metrics.jsonl", "checkpoints/8/commit_success.txt"):
        bucket.copy(f"{RUN}/{name}", f"{other}/{name}")
    code, _, err = call("train", "--config", tiny, "--workdir", other, "--config.optim.lr=0.01")
    assert code == 2
    assert "belongs to another config (optim.lr: 0.01 instead of 0.001)" in err
    config = configs.load(tiny, {"optim.lr": "0.01"})
    described = run.read_data(run.folder(RUN))
    claim.claim(run.folder(other), config, described, overwrite=True)
    assert names(bucket, other) == {"config.json", "data.json"}
    assert run.read_config(run.folder(other), {}).optim.lr == 0.01


def unfinished(files, checkpoint):
    # In a bucket nothing is renamed: a checkpoint is finished once this object is there.
    files.rm(f"{checkpoint}/commit_success.txt")


def damaged(files, checkpoint):
    largest = max(files.find(f"{checkpoint}/state"), key=lambda path: files.size(path))
    changed = bytearray(files.cat(largest))
    changed[len(changed) // 2] ^= 1
    files.pipe(largest, bytes(changed))


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [unfinished, damaged])
def test_a_checkpoint_that_is_not_whole_is_not_believed(bucket, call, tiny, spoil):
    before = losses(bucket, RUN)
    spoil(bucket, f"{RUN}/checkpoints/8")
    code, _, err = call("train", "--config", tiny, "--workdir", RUN)
    assert code == 0
    assert "resuming at step 4 of 8" in err
    assert losses(bucket, RUN) == before


def test_compiled_programs_are_kept_in_a_bucket_where_jax_is_told_so(emulator):
    before = {name: jax.config.values[name] for name in (CACHE, LEAST_SECONDS)}
    jax.config.update(CACHE, "gs://bucket/programs")
    jax.config.update(LEAST_SECONDS, 0.0)
    compilation_cache.reset_cache()
    try:
        enable_cache()
        jax.jit(lambda x: x * 7.25).lower(jax.ShapeDtypeStruct((4,), "float32")).compile()
        assert any(name.endswith("-cache") for name in names(emulator, "gs://bucket/programs"))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_a_bucket_that_does_not_exist_is_told_in_one_line_and_not_made(emulator, call, tiny):
    code, _, err = call("train", "--config", tiny, "--workdir", "gs://other/run")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("sde-diffusion: error: ")
    assert not emulator.exists("gs://other")


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
