"""Every kind of source gives the rows, labels and range that were written, and names bad input."""

import sys
import types

import numpy as np
import pytest
from files import pixels, write_tar

from sde_diffusion.data import SOURCES, Feature, load

RNG = np.random.default_rng(0)


def test_digits_are_scikit_learns_images_in_whole_values_0_to_16():
    from sklearn.datasets import load_digits

    source, bunch = load("digits"), load_digits()
    image, label = source.arrays["image"], source.arrays["label"]
    assert source.features["image"] == Feature((8, 8, 1), "uint8", 0, 16)
    np.testing.assert_array_equal(image[..., 0], bunch.images)
    np.testing.assert_array_equal(label, bunch.target)
    assert source.features["label"].classes == tuple("0123456789")
    assert source.features["label"].counts == tuple(np.bincount(bunch.target))
    assert (image.min(), image.max()) == (0, 16)


def test_mixture2d_has_the_moments_of_each_gaussian_of_the_grid():
    source = load("mixture2d", num=50_000, seed=1)
    for k in range(25):
        x = source.arrays["x"][source.arrays["label"] == k]
        assert len(x) == pytest.approx(2000, abs=5 * np.sqrt(2000))
        centre = [-1 + 0.5 * (k % 5), -1 + 0.5 * (k // 5)]
        np.testing.assert_allclose(x.mean(axis=0), centre, atol=5 * 0.05 / np.sqrt(len(x)))
        np.testing.assert_allclose(np.cov(x.T), 0.05**2 * np.eye(2), atol=4e-4)


def test_mixture2d_is_the_same_for_the_same_seed_only():
    first, again, other = (load("mixture2d", num=10, seed=s).arrays["x"] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_npz_gives_what_was_saved_and_bytes_the_range_0_to_255(tmp_path):
    x, y = pixels(5), np.array([2, 0, 1, 1, 0])
    np.savez(tmp_path / "a.npz", image=x, label=y, caption=np.array(list("abcde")))
    source = load("npz", path=str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(source.arrays["image"], x)
    np.testing.assert_array_equal(source.arrays["label"], y)
    assert source[3]["caption"] == "d"
    assert source.features["image"] == Feature((4, 6, 3), "uint8", 0, 255)
    assert source.features["label"] == Feature(
        (), "int32", classes=("0", "1", "2"), counts=(2, 2, 1)
    )
    assert source.features["caption"] == Feature((), "str")


def test_npz_without_labels_is_unconditional_data(tmp_path):
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(5, 2)))
    source = load("npz", path=str(tmp_path / "a.npz"), low=-1.0, high=1.0)
    assert source.features == {"x": Feature((2,), "float64", -1, 1)}
    assert source.features.num_classes == 0


def test_npy_is_mapped_from_the_file_not_read(tmp_path):
    x = pixels(5)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(5))
    source = load("npy", path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"))
    assert isinstance(source.arrays["image"], np.memmap)
    np.testing.assert_array_equal(source.arrays["image"], x)
    np.testing.assert_array_equal(source.arrays["label"], np.arange(5))


def test_npy_events_that_are_no_images_are_named_x(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    assert load("npy", path=str(tmp_path / "x.npy"), low=0, high=1).features.event_name == "x"


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_pickle_in_an_array_file_is_an_error_and_does_not_run(tmp_path, kind):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    x, file = np.array([Payload()], dtype=object), tmp_path / f"a.{kind}"
    np.savez(file, x=x) if kind == "npz" else np.save(file, x, allow_pickle=True)
    with pytest.raises(ValueError, match=f"a.{kind}"):
        load(kind, path=str(file))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("keep", [0, 20, 0.5])
def test_a_truncated_array_file_is_named(tmp_path, kind, keep):
    file = tmp_path / f"a.{kind}"
    np.savez(file, x=pixels(5)) if kind == "npz" else np.save(file, pixels(5))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=f"a.{kind}"):
        load(kind, path=str(file))


def test_a_flipped_byte_in_an_npz_is_found(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, image=pixels(50))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: cannot read the array 'image'"):
        load("npz", path=str(file))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 2))}, "needs one of image, audio, x, mean, got images"),
        ({"x": np.zeros((2, 2))}, "needs its range, low and high"),
        (
            {"x": np.zeros((2, 2), np.uint8), "label": np.array([0, -1])},
            "labels must be whole numbers",
        ),
        (
            {"x": np.zeros((2, 2), np.uint8), "label": np.array([0.5, 1])},
            "labels must be whole number",
        ),
        (
            {"x": np.zeros((2, 2), np.uint8), "label": np.array([0, 1, 2])},
            "one row for each of the 2 records",
        ),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load("npz", path=str(tmp_path / "a.npz"))


def test_the_kind_of_array_file_must_be_the_named_one(tmp_path):
    np.savez(tmp_path / "a.npz", x=pixels(2))
    np.save(tmp_path / "a.npy", pixels(2))
    with pytest.raises(ValueError, match="use the source 'npz'"):
        load("npy", path=str(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="use the source 'npy'"):
        load("npz", path=str(tmp_path / "a.npy"))


def cifar_files(num):
    """`num` images and labels for each of the six files, and the files' bytes as documented."""
    images = {f"data_batch_{i}.bin": pixels(num, 32, 32) for i in range(1, 6)}
    images["test_batch.bin"] = pixels(num, 32, 32)
    labels = {name: RNG.integers(0, 10, num) for name in images}
    encoded = {
        name: b"".join(
            bytes([label]) + b"".join(image[:, :, c].tobytes() for c in range(3))
            for image, label in zip(images[name], labels[name], strict=True)
        )
        for name in images
    }
    return images, labels, encoded


def write_archive(path, files, folder="cifar-10-batches-bin/"):
    write_tar(path, {folder + name: content for name, content in files.items()}, "w:gz")


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_reads_the_binary_archive_packed_or_not(tmp_path, packed):
    images, labels, files = cifar_files(3)
    path = tmp_path / "cifar-10-binary.tar.gz" if packed else tmp_path
    if packed:
        write_archive(path, {"readme.html": b"..."} | dict(reversed(files.items())))
    else:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    train, test = load("cifar10", path=str(path)), load("cifar10", path=str(path), split="test")
    train_images = np.concatenate([images[n] for n in names])
    np.testing.assert_array_equal(train.arrays["image"], train_images)
    np.testing.assert_array_equal(train.arrays["label"], np.concatenate([labels[n] for n in names]))
    np.testing.assert_array_equal(test.arrays["image"], images["test_batch.bin"])
    assert train.features["image"].range == (0, 255)
    assert train.features["label"].classes[:2] == ("airplane", "automobile")
    assert train.features.num_classes == 10


def test_cifar10_refuses_the_pickled_version(tmp_path):
    write_archive(tmp_path / "python.tar.gz", {"data_batch_1": b"(dp0"}, "cifar-10-batches-py/")
    with pytest.raises(ValueError, match=r"no data_batch_1\.bin in it: is it cifar-10-binary"):
        load("cifar10", path=str(tmp_path / "python.tar.gz"))


def test_cifar10_writes_nothing_outside_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "evil.tar.gz", cifar_files(1)[2], folder="../../")
    before = sorted(tmp_path.parent.rglob("*.bin"))
    load("cifar10", path=str(tmp_path / "evil.tar.gz"))
    assert sorted(tmp_path.parent.rglob("*.bin")) == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-1], r"data_batch_3\.bin is not whole records of 3073 bytes"),
        (lambda content: b"\x0b" + content[1:], "a label of 11"),
    ],
)
def test_cifar10_finds_spoilt_records(tmp_path, spoil, message):
    files = cifar_files(2)[2]
    files["data_batch_3.bin"] = spoil(files["data_batch_3.bin"])
    write_archive(tmp_path / "a.tar.gz", files)
    with pytest.raises(ValueError, match=message):
        load("cifar10", path=str(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("damage", ["truncated", "spoilt"])
def test_cifar10_names_a_damaged_archive(tmp_path, damage):
    file = tmp_path / "a.tar.gz"
    write_archive(file, cifar_files(2)[2])
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar\.gz"):
        load("cifar10", path=str(file))


def test_tfds_without_its_extra_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'sde-diffusion\[tfds\]'"):
        load("tfds", dataset="mnist")


def test_tfds_takes_the_features_image_and_label(monkeypatch):
    x, y = pixels(3, channels=1), np.array([4, 0, 1], np.int64)
    library = types.SimpleNamespace(
        load=lambda name, **_: (
            {"image": x, "label": y},
            types.SimpleNamespace(
                features={"image": None, "label": types.SimpleNamespace(names=list("abcdefghij"))}
            ),
        ),
        as_numpy=lambda data: data,
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", library)
    source = load("tfds", dataset="mnist")
    np.testing.assert_array_equal(source.arrays["image"], x)
    np.testing.assert_array_equal(source.arrays["label"], y)
    assert source.features["image"].range == (0, 255)
    assert source.features["label"].classes == tuple("abcdefghij")


def test_an_unknown_source_lists_the_choices_and_the_nearest():
    with pytest.raises(ValueError, match=r"'digit'.*'digits'.*" + ", ".join(SOURCES)):
        load("digit")


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match=r"'chanels'.*'channels'"):
        load("folder", path="x", chanels=1)


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="'folder' needs the field 'path'"):
        load("folder")


@pytest.mark.parametrize("kind", ["npz", "npy", "folder", "cifar10", "webdataset", "array_record"])
def test_a_missing_file_is_named(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match="nowhere: no such"):
        load(kind, path=str(tmp_path / "nowhere"))
