"""What the tables and weights of a run's folder are as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from torch import Tensor

Columns = dict[str, Any]
"""A table: by name a column's values in a sequence or an array, as many in each; None and NaN are missing."""


def parquet(columns: Columns) -> bytes:
    """Write a table as Parquet."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    words = [field.name for field in table.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=words)
    return bytes(sink.getvalue())


def safetensors(parameters: Mapping[str, Tensor]) -> bytes:
    """Write weights as safetensors."""
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in parameters.items()})
