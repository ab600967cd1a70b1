"""Whether a frozen dataset is what it was when it was frozen, and if not, which rows are not."""

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

ChangeKind: TypeAlias = Literal["answer", "input", "added", "missing"]


MAX_CHANGES: Final = 1000
"""Changes that are listed one by one; all are counted."""


CHANGES_SHOWN: Final = 10


CHANGE_TEXTS: Final[Mapping[ChangeKind, str]] = {
    "answer": "its answer, or what was made of it, changed",
    "input": "its input changed",
    "added": "it was not there",
    "missing": "it is gone",
}


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row that is not as it was frozen.

    Parameters
    ----------
    position
        Of the row in the data, or, where it is missing, in ``rows.lock``.
    what
        ``answer``, ``input``, ``added`` or ``missing``.
    row_id, provider, model, sample
        Which row that is now; empty where it is missing.
    """

    position: int
    kind: ChangeKind
    row_id: str = ""
    provider: str = ""
    model: str = ""
    sample: int | None = None

    def __str__(self) -> str:
        """Say it in a line."""
        who = f" ({self.provider}/{self.model}, sample {self.sample}, {self.row_id})" if self.row_id else ""
        return f"row {self.position:,}{who}: {CHANGE_TEXTS[self.kind]}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `llmhub.verify` found.

    Parameters
    ----------
    content_sha256
        As the lock has it.
    rows
        Rows looked at.
    changes
        Rows that changed, the first thousand; ``changed`` counts them all.
    problems
        Whatever else is wrong: a file that is missing, unreadable, or not the one that was written.
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
        """Be true where nothing changed."""
        return self.ok

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Say what was found, line by line."""
        if self.ok:
            return f"intact: {self.rows:,} rows, content sha256 {self.content_sha256}"
        rows = f"changed: {self.changed:,} of {self.rows:,} rows" if self.changed else "changed"
        more = [f"... and {self.changed - CHANGES_SHOWN:,} more"] if self.changed > CHANGES_SHOWN else []
        return "\n".join([rows, *self.problems, *map(str, self.changes[:CHANGES_SHOWN]), *more])


def verify(path: str | Path) -> Verification:
    """Say whether a frozen dataset is what it was, down to the row.

    Parameters
    ----------
    path
        The folder that `llmhub.freeze` wrote.

    Returns
    -------
    Verification
        True where nothing changed; ``changes`` names the rows that did.

    Raises
    ------
    InvalidRequestError
        The folder holds no frozen dataset.
    """
    folder = Path(path)
    lock = dataset.read_lock(folder)
    content = str(lock["content_sha256"])
    problems = _files(folder, lock)
    try:
        records = np.frombuffer((folder / ROWS_FILE).read_bytes(), np.uint8).reshape(-1, ROW_RECORD_SIZE)
        data = dataset.read(folder)
    except OSError as error:
        return Verification(content, 0, problems=(*problems, f"{ROWS_FILE}: {error.strerror or error}"))
    except (BadRequestError, ValueError) as error:
        return Verification(content, 0, problems=(*problems, str(error)))
    canon = dataset.recompute_fingerprints(data)
    now = canon.content_sha256
    changes = _changes(records, np.frombuffer(canon.rows_lock, np.uint8).reshape(-1, ROW_RECORD_SIZE), data)
    if now == content and not problems and not changes:
        return Verification(content, data.table.num_rows)
    if now != content and not changes:
        problems = (*problems, f"the content's sha256 is {now}, not {content}")
    return Verification(content, data.table.num_rows, len(changes), tuple(changes[:MAX_CHANGES]), problems)


def _files(folder: Path, lock: Mapping[str, Any]) -> tuple[str, ...]:
    """Hold the files against their hashes."""
    wrong = []
    for name, sha256 in lock["files"].items():
        try:
            found = dataset.file_sha256(folder / name)
        except OSError as error:
            wrong.append(f"{name}: {error.strerror or error}")
            continue
        if found != sha256:
            wrong.append(f"{name}: its sha256 is {found}, not {sha256}")
    return tuple(wrong)


def _changes(kept: Fingerprints, found: Fingerprints, data: Frozen) -> list[RowChange]:
    """Say which rows are not as the lock has them."""
    if kept.shape == found.shape:
        moved = np.flatnonzero((kept != found).any(axis=1))
        inputs = (kept[moved, :FINGERPRINT_SIZE] != found[moved, :FINGERPRINT_SIZE]).any(axis=1)
        whats: list[ChangeKind] = ["input" if one else "answer" for one in inputs]
        return _named(data.table, moved.tolist(), whats)
    before, now = ([one.tobytes() for one in side] for side in (kept, found))
    added = _beyond(now, before)
    gone = _beyond(before, now)
    return [*_named(data.table, added, ["added"] * len(added)), *(RowChange(at, "missing") for at in gone)]


def _beyond(these: Sequence[bytes], those: Sequence[bytes]) -> list[int]:
    """Give the positions of what is here more often than there."""
    left = Counter(those)
    found = []
    for at, one in enumerate(these):
        if left[one]:
            left[one] -= 1
        else:
            found.append(at)
    return found


def _named(table: pa.Table, positions: Sequence[int], whats: Sequence[ChangeKind]) -> list[RowChange]:
    """Say which rows these are."""
    rows = table.select([ROW_ID, *REQUEST_COLUMNS]).take(pa.array(positions, pa.int64())).to_pylist()
    return [RowChange(at, what, **row) for at, what, row in zip(positions, whats, rows, strict=True)]
