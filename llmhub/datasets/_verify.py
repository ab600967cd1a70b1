"""`verify`: check whether a frozen dataset is unchanged and, if not, which rows changed.

Files are compared by their hashes and rows by their fingerprints in ``rows.lock``, which distinguishes a rewritten file
with the same content from changed rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from llmhub.core.errors import BadRequestError
from llmhub.datasets import dataset
from llmhub.datasets.dataset import REQUEST_COLUMNS, ROW_ID, ROW_RECORD_SIZE, ROWS_FILE, Frozen
from llmhub.datasets.fingerprint import FINGERPRINT_SIZE, Fingerprints
from llmhub.datasets.folder import file_sha256, read_file

ChangeKind: TypeAlias = Literal["answer", "input", "added", "missing"]
MAX_CHANGES: Final = 1000
"""Changes listed in a `Verification`; all are counted."""
CHANGES_SHOWN: Final = 10
CHANGE_TEXTS: Final[Mapping[ChangeKind, str]] = {
    "answer": "the response or a score changed",
    "input": "the input changed",
    "added": "the row was added",
    "missing": "the row is missing",
}


@dataclass(frozen=True, slots=True)
class RowChange:
    """Row that differs from the frozen one.

    Parameters
    ----------
    position
        Position of the row in the data; for a missing row, in ``rows.lock``.
    kind
        ``answer``, ``input``, ``added`` or ``missing``.
    row_id, provider, model, sample
        Identity of the row; empty for a missing row.
    """

    position: int
    kind: ChangeKind
    row_id: str = ""
    provider: str = ""
    model: str = ""
    sample: int | None = None

    def __str__(self) -> str:
        """Return the change in one line."""
        row = f" ({self.provider}/{self.model}, sample {self.sample}, {self.row_id})" if self.row_id else ""
        return f"row {self.position:,}{row}: {CHANGE_TEXTS[self.kind]}"


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of `llmhub.verify`; true if the dataset is unchanged.

    Parameters
    ----------
    content_sha256
        Content hash in the lock.
    rows
        Number of rows in the data.
    changed
        Number of rows that changed.
    changes
        The first thousand of them.
    problems
        Files that are missing, unreadable, or have another hash.
    """

    content_sha256: str
    rows: int
    changed: int = 0
    changes: tuple[RowChange, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing changed."""
        return not self.changed and not self.problems

    def __bool__(self) -> bool:
        """Return whether nothing changed."""
        return self.ok

    def __repr__(self) -> str:
        """Return the report."""
        return str(self)

    def __str__(self) -> str:
        """Return a report of several lines."""
        if self.ok:
            return f"intact: {self.rows:,} rows, content sha256 {self.content_sha256}"
        rows = f"changed: {self.changed:,} of {self.rows:,} rows" if self.changed else "changed"
        more = [f"... and {self.changed - CHANGES_SHOWN:,} more"] if self.changed > CHANGES_SHOWN else []
        return "\n".join([rows, *self.problems, *map(str, self.changes[:CHANGES_SHOWN]), *more])


def verify(path: str | Path) -> Verification:
    """Check whether a frozen dataset is unchanged, row by row.

    Parameters
    ----------
    path
        Folder written by `llmhub.freeze`.

    Returns
    -------
    Verification
        True if nothing changed; ``changes`` lists the rows that did.

    Raises
    ------
    BadRequestError
        The folder holds no frozen dataset.
    """
    folder = Path(path)
    lock = dataset.read_lock(folder)
    expected = str(lock["content_sha256"])
    problems = _file_problems(folder, lock)
    try:
        recorded = _to_records(read_file(folder / ROWS_FILE))
        data = dataset.read(folder)
    except OSError as error:
        return Verification(expected, 0, problems=(*problems, f"{ROWS_FILE}: {error.strerror or error}"))
    except (BadRequestError, ValueError) as error:
        return Verification(expected, 0, problems=(*problems, str(error)))
    rows = dataset.recompute_fingerprints(data)
    found = rows.content_sha256
    changes = _row_changes(recorded, _to_records(rows.rows_lock), data)
    if found == expected and not problems and not changes:
        return Verification(expected, data.table.num_rows)
    if found != expected and not changes:
        problems = (*problems, f"the content's sha256 is {found}, not {expected}")
    return Verification(expected, data.table.num_rows, len(changes), tuple(changes[:MAX_CHANGES]), problems)


def _to_records(rows_lock: bytes) -> Fingerprints:
    return np.frombuffer(rows_lock, np.uint8).reshape(-1, ROW_RECORD_SIZE)


def _file_problems(folder: Path, lock: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files that are missing or differ from their hash in the lock."""
    problems = []
    for name, expected in lock["files"].items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            problems.append(f"{name}: {error.strerror or error}")
            continue
        if found != expected:
            problems.append(f"{name}: its sha256 is {found}, not {expected}")
    return tuple(problems)


def _row_changes(recorded: Fingerprints, found: Fingerprints, data: Frozen) -> list[RowChange]:
    """Return the rows whose fingerprints differ from the recorded ones."""
    if recorded.shape == found.shape:
        positions = np.flatnonzero((recorded != found).any(axis=1))
        of_input = slice(None, FINGERPRINT_SIZE)
        input_changed = (recorded[positions, of_input] != found[positions, of_input]).any(axis=1)
        kinds: list[ChangeKind] = ["input" if changed else "answer" for changed in input_changed]
        return _identify(data.table, positions.tolist(), kinds)
    before, after = ([record.tobytes() for record in records] for records in (recorded, found))
    added, missing = _surplus(after, before), _surplus(before, after)
    identified = _identify(data.table, added, ["added"] * len(added))
    return [*identified, *(RowChange(position, "missing") for position in missing)]


def _surplus(records: Sequence[bytes], others: Sequence[bytes]) -> list[int]:
    """Return the positions of records that occur more often in ``records`` than in ``others``."""
    remaining = Counter(others)
    positions = []
    for position, record in enumerate(records):
        if remaining[record]:
            remaining[record] -= 1
        else:
            positions.append(position)
    return positions


def _identify(table: pa.Table, positions: Sequence[int], kinds: Sequence[ChangeKind]) -> list[RowChange]:
    rows = table.select([ROW_ID, *REQUEST_COLUMNS]).take(pa.array(positions, pa.int64())).to_pylist()
    return [RowChange(position, kind, **row) for position, kind, row in zip(positions, kinds, rows, strict=True)]
