"""`verify`: check whether a frozen dataset is unchanged and, if not, which rows changed.

Files are compared by their hashes and rows by their fingerprints in ``rows.lock``, which distinguishes a rewritten file
with the same content from changed rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, invalid
from llmhub.datasets import dataset
from llmhub.datasets.dataset import (
    REQUEST_COLUMNS,
    ROW_ID,
    ROW_RECORD_SIZES,
    ROWS_FILE,
    CanonicalRows,
    Frozen,
    row_ids,
)
from llmhub.datasets.fingerprint import FINGERPRINT_SIZE, Fingerprints
from llmhub.datasets.folder import LOCK_FILE, file_sha256, read_file
from llmhub.datasets.manifest import (
    DIGEST_PREFIX,
    MANIFEST_FILE,
    PublicKey,
    check_manifest,
    check_signature,
    load_public_key,
    manifest_digest,
)

ChangeKind: TypeAlias = Literal["answer", "input", "measurement", "row_id", "added", "missing"]
MAX_CHANGES: Final = 1000
"""Changes listed in a `Verification`; all are counted."""
CHANGES_SHOWN: Final = 10
CHANGE_TEXTS: Final[Mapping[ChangeKind, str]] = {
    "answer": "the response or a score changed",
    "input": "the input changed",
    "measurement": "a measurement changed (latency, cost, time, id or error text)",
    "row_id": "the row id is not that of the input",
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
        ``answer``, ``input``, ``measurement``, ``row_id``, ``added`` or ``missing``.
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
    """Result of checking a frozen dataset; true if nothing changed.

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
        Files that are missing, unreadable, added, or have another hash, with the fields that changed; and another
        digest or signature than expected.
    digest
        Digest of all files, from the manifest; empty for datasets of layout version 1.
    checked
        What the digest was checked against: ``expect``, ``signature``, or nothing.
    """

    content_sha256: str
    rows: int
    changed: int = 0
    changes: tuple[RowChange, ...] = ()
    problems: tuple[str, ...] = ()
    digest: str = ""
    checked: tuple[str, ...] = ()

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
            return f"intact: {self.rows:,} rows, content sha256 {self.content_sha256}\n{self._seal()}"
        rows = f"changed: {self.changed:,} of {self.rows:,} rows" if self.changed else "changed"
        more = [f"... and {self.changed - CHANGES_SHOWN:,} more"] if self.changed > CHANGES_SHOWN else []
        return "\n".join([rows, *self.problems, *map(str, self.changes[:CHANGES_SHOWN]), *more])

    def _seal(self) -> str:
        """Return what the digest was checked against."""
        if not self.digest:
            return "no manifest: written by an earlier version; freeze it again for a digest of all files"
        if self.checked:
            return f"digest {self.digest}, checked against {' and '.join(self.checked)}"
        return f"digest {self.digest}, not compared with one you keep: pass expect= or public_key="


def verify(path: str | Path, *, expect: str | None = None, public_key: PublicKey | None = None) -> Verification:
    """Check whether a frozen dataset is unchanged, file by file, field by field and row by row.

    Parameters
    ----------
    path
        Folder written by `llmhub.freeze`.
    expect
        Digest that `llmhub.freeze` returned. Without it or ``public_key``, a folder that was forged as a whole is
        reported as intact.
    public_key
        Ed25519 public key of the signer: a key of ``cryptography``, PEM bytes, or the path of a PEM file (the extra
        ``signing``).

    Returns
    -------
    Verification
        True if nothing changed; ``changes`` lists the rows that did, ``problems`` the files and fields.

    Raises
    ------
    BadRequestError
        The folder holds no frozen dataset, or an argument is no digest or key.
    """
    if expect is not None and not re.fullmatch(r"(sha256:)?[0-9a-f]{64}", expect):
        raise invalid("expect", f"{expect!r:.100} is not a digest; pass the one of freeze, such as 'sha256:...'")
    public_key = None if public_key is None else load_public_key(public_key)
    folder = Path(path)
    lock = dataset.read_lock(folder)
    digest, seal_problems = _check_seal(folder, lock, expect, public_key)
    given = (("the expected digest", expect), ("the signature", public_key))
    checked = tuple(name for name, value in given if value is not None)
    verification = _verify_rows(folder, lock, seal_problems)
    return replace(verification, digest=digest, checked=checked)


def _check_seal(
    folder: Path, lock: Mapping[str, Any], expect: str | None, public_key: PublicKey | None
) -> tuple[str, tuple[str, ...]]:
    """Return the digest, and what differs between the files and the manifest, the expected digest and the signature."""
    try:
        manifest = read_file(folder / MANIFEST_FILE)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and lock["version"] == 1 and expect is None and public_key is None:
            return "", _file_problems(folder, lock)
        missing = f"{MANIFEST_FILE}: {error.strerror or error}"
        return "", (missing, *_file_problems(folder, lock))
    digest = manifest_digest(manifest)
    problems = [*check_manifest(folder, manifest)]
    if expect is not None and digest.removeprefix(DIGEST_PREFIX) != expect.removeprefix(DIGEST_PREFIX):
        problems.insert(0, f"{MANIFEST_FILE}: its digest is {digest}, not {expect}")
    signature = check_signature(folder, manifest, public_key)
    problems += [signature] if signature else []
    listed = [problem for problem in _file_problems(folder, lock) if problem not in problems]
    return digest, (*problems, *(f"{LOCK_FILE} lists another hash than the manifest: {problem}" for problem in listed))


def _verify_rows(folder: Path, lock: Mapping[str, Any], problems: tuple[str, ...]) -> Verification:
    """Compare the rows with their fingerprints in ``rows.lock``."""
    expected = str(lock["content_sha256"])
    size = ROW_RECORD_SIZES[lock["version"]]
    try:
        recorded = _to_records(read_file(folder / ROWS_FILE), size)
        data = dataset.read(folder)
    except OSError as error:
        problem = f"{ROWS_FILE}: {error.strerror or error}"
        return Verification(expected, 0, problems=tuple(dict.fromkeys((*problems, problem))))
    except (BadRequestError, ValueError) as error:
        return Verification(expected, 0, problems=(*problems, str(error)))
    rows = dataset.recompute_fingerprints(data)
    found = rows.content_sha256
    changes, is_reordered = _row_changes(recorded, _to_records(rows.rows_lock, size), data)
    changes += _wrong_row_ids(rows, changes)
    problems = _explain_data_file(lock["data"], problems, changes, is_reordered=is_reordered, version=lock["version"])
    if is_reordered and not changes:
        problems = (*problems, f"{lock['data']}: the rows are in another order; each of them is intact")
    if found != expected and not changes:
        problems = (*problems, f"the content's sha256 is {found}, not {expected}")
    if lock["rows"] != data.table.num_rows and not changes:
        problems = (*problems, f"{LOCK_FILE}: rows is {lock['rows']:,}, but the data have {data.table.num_rows:,}")
    return Verification(expected, data.table.num_rows, len(changes), tuple(changes[:MAX_CHANGES]), problems)


def _explain_data_file(
    name: str, problems: tuple[str, ...], changes: Sequence[RowChange], *, is_reordered: bool, version: int
) -> tuple[str, ...]:
    """Add to the problem of a data file without changed rows that it was only re-encoded."""
    if changes or is_reordered:
        return problems
    intact = "every value is intact: the file was re-encoded"
    if version == 1:
        intact = "inputs, responses and scores of all rows are intact: a measurement was edited, or it was re-encoded"
    return tuple(
        f"{problem}; {intact}" if problem.startswith(f"{name}: its sha256") else problem for problem in problems
    )


def _to_records(rows_lock: bytes, size: int) -> Fingerprints:
    return np.frombuffer(rows_lock, np.uint8).reshape(-1, size)


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


def _row_changes(recorded: Fingerprints, found: Fingerprints, data: Frozen) -> tuple[list[RowChange], bool]:
    """Return the rows whose fingerprints differ from the recorded ones, and whether the rest is in another order.

    Rows are compared as multisets, so that one row that was inserted or removed is one change. A row that differs is
    matched with the recorded one at its position, or else of the same input.
    """
    if recorded.shape == found.shape and bool((recorded == found).all()):
        return [], False
    before, after = ([record.tobytes() for record in records] for records in (recorded, found))
    # Rows that are as they were need no match; equal rows elsewhere must not take their place.
    moved_before = [index for index, record in enumerate(before) if index >= len(after) or after[index] != record]
    moved_after = [index for index, record in enumerate(after) if index >= len(before) or before[index] != record]
    old, new = [before[index] for index in moved_before], [after[index] for index in moved_after]
    surplus = [moved_after[index] for index in _surplus(new, old)]
    missing = [moved_before[index] for index in _surplus(old, new)]
    lost = set(missing)
    by_input: dict[bytes, list[int]] = {}
    for position in reversed(missing):
        by_input.setdefault(before[position][:FINGERPRINT_SIZE], []).append(position)
    added, kinds = [], list[ChangeKind]()
    for position in surplus:
        match = position if position in lost else _pop_unmatched(by_input, after[position], lost)
        if match is not None:
            lost.discard(match)
        added.append(position)
        kinds.append("added" if match is None else _change_kind(before[match], after[position]))
    in_surplus, in_missing = set(surplus), set(missing)
    kept_before = [record for position, record in enumerate(before) if position not in in_missing]
    kept_after = [record for position, record in enumerate(after) if position not in in_surplus]
    identified = _identify(data.table, added, kinds)
    gone = [RowChange(position, "missing") for position in sorted(lost)]
    return [*identified, *gone], kept_before != kept_after


def _pop_unmatched(by_input: Mapping[bytes, list[int]], record: bytes, unmatched: set[int]) -> int | None:
    """Return a recorded row with the input of a record that is not matched yet."""
    candidates = by_input.get(record[:FINGERPRINT_SIZE], [])
    while candidates:
        position = candidates.pop()
        if position in unmatched:
            return position
    return None


def _change_kind(before: bytes, after: bytes) -> ChangeKind:
    """Return which of the fingerprints of a row changed first: input, content or measurements."""
    kinds: tuple[ChangeKind, ...] = ("input", "answer", "measurement")
    parts = range(0, len(before), FINGERPRINT_SIZE)
    changed = (before[start : start + FINGERPRINT_SIZE] != after[start : start + FINGERPRINT_SIZE] for start in parts)
    return next(kind for kind, is_changed in zip(kinds, changed, strict=False) if is_changed)


def _wrong_row_ids(rows: CanonicalRows, changes: Sequence[RowChange]) -> list[RowChange]:
    """Return the rows whose id is not that of their input, except those whose change is known."""
    expected = row_ids(rows.input_fingerprints)
    differs = pc.fill_null(pc.not_equal(rows.table.column(ROW_ID), expected), True)
    known = {change.position for change in changes if change.kind != "missing"}
    positions = [position for position in np.flatnonzero(differs.to_numpy()).tolist() if position not in known]
    return _identify(rows.table, positions, ["row_id"] * len(positions))


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
