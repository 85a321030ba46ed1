"""Records as protocol buffers of the type tensorflow.Example, without TensorFlow.

    Example  { Features features = 1; }          Features { map<string, Feature> feature = 1; }
    Feature  { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2;
                            Int64List int64_list = 3; } }
    BytesList { repeated bytes value = 1; }      FloatList, Int64List { repeated ... value = 1; }

Source: tensorflow/core/example/{example,feature}.proto. Parsing runs no code of the file's author.

In what `encode` writes, an image is a PNG file, a text is UTF-8, a whole number is an int64, and
every other array is the bytes of its values, little-endian, in row-major order.
"""

import functools
import io
from typing import Any

import numpy as np

from sde_diffusion.data.feature import Feature, Features
from sde_diffusion.data.source import Record

_KINDS = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}


def encode(record: Record, features: Features) -> bytes:
    """The bytes of a record with these features."""
    example = _message()()
    for name, feature in features.items():
        value, field = record[name], example.features.feature[name]
        if feature.dtype == "str":
            field.bytes_list.value.append(str(value).encode("utf-8"))
        elif is_image(name, feature):
            field.bytes_list.value.append(_png(value))
        elif not feature.shape and np.dtype(feature.dtype).kind in "iu":
            field.int64_list.value.append(int(value))
        else:
            array = np.asarray(value, np.dtype(feature.dtype).newbyteorder("<"))
            field.bytes_list.value.append(array.tobytes())
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> dict[str, list]:
    """The values of each feature of an Example: a list of bytes, floats or integers.

    Raises:
        ValueError: it is no Example.
    """
    from google.protobuf.message import DecodeError

    try:
        example = _message().FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a tensorflow.Example ({error})") from error
    values = {}
    for name, field in example.features.feature.items():
        kind = field.WhichOneof("kind")
        values[name] = [] if kind is None else list(getattr(field, kind).value)
    return values


def decode(values: list, feature: Feature) -> Any:
    """The array or text of one feature, but for images.

    Raises:
        ValueError: the values do not make an array of this shape and type.
    """
    if feature.dtype == "str":
        (text,) = values
        return text.decode("utf-8")
    if len(values) == 1 and isinstance(values[0], bytes):
        kind = np.dtype(feature.dtype)
        array = np.frombuffer(values[0], kind.newbyteorder("<")).astype(kind)
    else:
        array = np.array(values, feature.dtype)
    return array.reshape(feature.shape)


def is_image(name: str, feature: Feature) -> bool:
    """Whether the feature is stored as an encoded image."""
    shape = feature.shape
    return (
        name == "image" and feature.dtype == "uint8" and len(shape) == 3 and shape[2] in (1, 3, 4)
    )


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="PNG")
    return file.getvalue()


@functools.cache
def _message() -> Any:
    """The class of Example, in a pool of its own, so that TensorFlow may define it as well."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="sde_diffusion/example.proto", package="tensorflow", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto

    def add(owner: Any, name: str, kind: int, *, of: str = "", repeated: bool = False) -> Any:
        made = owner.field.add(name=name, number=len(owner.field) + 1, type=kind)
        made.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        if of:
            made.type_name = f".tensorflow.{of}"
        return made

    kinds = (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64)
    for name, kind in zip(_KINDS.values(), kinds, strict=True):
        add(file.message_type.add(name=name), "value", kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for name, message in _KINDS.items():
        add(feature, name, field.TYPE_MESSAGE, of=message).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", field.TYPE_STRING)
    add(entry, "value", field.TYPE_MESSAGE, of="Feature")
    add(features, "feature", field.TYPE_MESSAGE, of="Features.FeatureEntry", repeated=True)
    example = file.message_type.add(name="Example")
    add(example, "features", field.TYPE_MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
