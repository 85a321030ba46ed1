"""Data sets of tensorflow-datasets, behind the extra `tfds`."""

from sde_diffusion.data.source import ArraySource, from_arrays


def tfds(dataset: str, split: str = "train", data_dir: str | None = None) -> ArraySource:
    """The feature `image` of a data set, uint8 [N, H, W, C], and its `label` where it has one.

    All images are held in memory and must have one size.

    Args:
        dataset: its name at https://www.tensorflow.org/datasets/catalog, such as "mnist".
        split: such as "train" or "test[:1000]".
        data_dir: where prepared data is kept; None is the library's own choice.

    Raises:
        ImportError: the extra is not installed.
        ValueError: the data set has no feature `image`.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "data source 'tfds' needs tensorflow-datasets: pip install 'sde-diffusion[tfds]'"
        ) from error
    data, info = tensorflow_datasets.load(
        dataset, split=split, data_dir=data_dir, batch_size=-1, with_info=True
    )
    if "image" not in info.features:
        raise ValueError(f"tfds: {dataset!r} has no feature 'image', only {list(info.features)}")
    arrays = tensorflow_datasets.as_numpy(data)
    if "label" not in info.features:
        return from_arrays(dataset, {"image": arrays["image"]})
    records = {"image": arrays["image"], "label": arrays["label"]}
    return from_arrays(dataset, records, classes=info.features["label"].names)
