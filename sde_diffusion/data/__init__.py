"""Data sets by name, batches of them on the host, and transforms of a batch on the device."""

from sde_diffusion.data.feature import EVENTS, Feature, Features, event_name
from sde_diffusion.data.labels import in_proportion
from sde_diffusion.data.pipeline import batches, one_pass
from sde_diffusion.data.source import ArraySource, Batch, Record, Source, from_arrays, take
from sde_diffusion.data.sources import PARTS, SOURCES, load
from sde_diffusion.data.sources.array_record import write_array_record
from sde_diffusion.data.sources.latents import StoredCodec, read_stored_codec
from sde_diffusion.data.text import byte_tokens, in_words, tokenized, tokens_of
from sde_diffusion.data.transforms import Scaling, dequantize, random_flip
from sde_diffusion.data.views import Alternating, Beside, Mapped, Rows, select
from sde_diffusion.data.vocabulary import unknown_words

__all__ = [
    "EVENTS",
    "PARTS",
    "SOURCES",
    "Alternating",
    "ArraySource",
    "Batch",
    "Beside",
    "Feature",
    "Features",
    "Mapped",
    "Record",
    "Rows",
    "Scaling",
    "Source",
    "StoredCodec",
    "batches",
    "byte_tokens",
    "dequantize",
    "event_name",
    "from_arrays",
    "in_proportion",
    "in_words",
    "load",
    "one_pass",
    "random_flip",
    "read_stored_codec",
    "select",
    "take",
    "tokenized",
    "tokens_of",
    "unknown_words",
    "write_array_record",
]
