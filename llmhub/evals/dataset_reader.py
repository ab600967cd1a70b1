"""Datasets in the forms in which people have them: frames, files, datasets of the ``datasets`` library, mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.tables import files


def read_dataset(dataset: Any, argument: str = "dataset") -> Any:
    """Read a file, a dataset of the ``datasets`` library, or rows as mappings; return a frame as it is.

    Raises
    ------
    BadRequestError
        It is none of these; the message names the ``argument``.
    """
    if isinstance(dataset, (str, Path)):
        path = Path(dataset)
        if not path.suffix and not path.exists():
            message = f"{str(dataset)!r} is not a file; load a dataset of a hub with datasets.load_dataset and pass it"
            raise invalid(argument, message)
        return files.read_table(path, argument)
    if hasattr(dataset, "with_format"):
        if isinstance(dataset, Mapping):
            splits = ", ".join(map(repr, dataset))
            raise invalid(argument, f"it has several splits ({splits}); pass one, such as dataset['test']")
        if hasattr(dataset, "__len__"):
            return dataset.with_format("arrow")[:]
        return _rows_to_table(list(dataset), argument)  # a dataset that is streamed
    return _rows_to_table(dataset, argument) if isinstance(dataset, (list, tuple)) else dataset


def _rows_to_table(rows: Sequence[Any], argument: str) -> pa.Table:
    """Return rows that are mappings as a table."""
    bad = next((row for row in rows if not isinstance(row, Mapping)), None)
    if bad is not None:
        raise invalid(argument, f"{bad!r:.80} is not a row; pass a frame, or a list of mappings of columns to values")
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except pa.ArrowException as error:
        raise invalid(argument, f"a column has values of several types ({error}); convert them to one type") from error
