"""Answers of batches by position, as the bytes that the store has, most of them in a temporary file.

No object is kept for an answer, so that the memory of a run does not grow by what it has answered.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np
from returns.result import Success

from llmhub.core.serialization import HEADER_SIZE, IS_TEXT, from_stored_response, unpack
from llmhub.engine.block_lookup import Int64Array, StoredBlock, fixed_fields
from llmhub.engine.call import Answer

ABSENT: Final = 0
"""Number of the piece of a position without an answer."""
IN_FILE: Final = 1
"""Number of the piece that is the temporary file; those in memory come after it."""
MAX_MEMORY_BYTES: Final = 4 << 20
"""Bytes that are kept in memory before a temporary file is made."""


class PackedAnswers:
    """Successful answers of batches by position.

    Parameters
    ----------
    size
        Number of positions.

    Notes
    -----
    Answers arrive in pieces, in any order. A piece is the concatenation of its values; arrays hold where in which piece
    the value of a position is. Where the disk is full, pieces stay in memory.
    """

    def __init__(self, size: int) -> None:
        self._pieces: list[bytes] = [b"", b""]
        self._memory_bytes = 0
        self._file: IO[bytes] | None = None
        self._piece_of = np.full(size, ABSENT, np.int32)
        self._starts = np.zeros(size, np.int64)
        self._sizes = np.zeros(size, np.int32)
        self._attempts = np.zeros(size, np.int16)
        self._is_text = np.zeros(size, np.bool_)

    def __len__(self) -> int:
        """Return the number of answers."""
        return int(np.count_nonzero(self._piece_of))

    def __contains__(self, position: int) -> bool:
        """Return whether a position has an answer here."""
        return bool(self._piece_of[position] != ABSENT)

    def contains(self, positions: Int64Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return for each position whether it has an answer here."""
        is_here: np.ndarray[Any, np.dtype[np.bool_]] = self._piece_of[positions] != ABSENT
        return is_here

    def add(self, positions: Sequence[int], values: Sequence[bytes], attempts: Sequence[int]) -> None:
        """Add answers.

        Parameters
        ----------
        positions
            Their positions.
        values
            What `llmhub.core.serialization.pack` returned for each.
        attempts
            The number of batches that each was sent in.
        """
        where = np.asarray(positions, np.int64)
        sizes = np.array([len(value) for value in values], np.int32)
        piece, first = self._keep(b"".join(values))
        self._starts[where] = first + np.cumsum(sizes) - sizes
        self._sizes[where] = sizes
        self._attempts[where] = attempts
        self._is_text[where] = [value[HEADER_SIZE] == IS_TEXT for value in values]
        self._piece_of[where] = piece

    def block(self, positions: Sequence[int] | Int64Array) -> StoredBlock:
        """Return the answers of those of ``positions``, all of which have one, that are single texts."""
        where = np.sort(np.asarray(positions, np.int64))
        texts = where[self._is_text[where]]
        sizes = self._sizes[texts].astype(np.int64)
        values, starts = self._read(texts), np.cumsum(sizes) - sizes
        return StoredBlock(texts, values, starts, fixed_fields(values, starts), self._attempts[texts])

    def answer(self, position: int, key: bytes) -> Answer:
        """Return the answer of a position, whose key this is, as an object."""
        stored = unpack(self._read(np.array([position])), key).unwrap()
        return Answer(
            Success(from_stored_response(stored)),
            attempts=int(self._attempts[position]),
            started_at=stored.started_at,
            dropped=stored.dropped,
            mode="batch",
        )

    def _keep(self, data: bytes) -> tuple[int, int]:
        """Keep a piece; return its number, and where in it the data begin."""
        if self._memory_bytes + len(data) > MAX_MEMORY_BYTES:
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="llmhub-answers-", buffering=0)  # noqa: SIM115 - closed with this object
                    weakref.finalize(self, self._file.close)
                first = self._file.seek(0, 2)
                if self._file.write(data) == len(data):
                    return IN_FILE, first
            except OSError:
                pass  # the disk is full
        self._memory_bytes += len(data)
        self._pieces.append(data)
        return len(self._pieces) - 1, 0

    def _read(self, positions: Int64Array) -> bytes:
        """Return the concatenated values of positions. Those beside each other are read together."""
        pieces, starts = self._piece_of[positions], self._starts[positions]
        stops = starts + self._sizes[positions]
        is_first = np.ones(len(positions), np.bool_)
        is_first[1:] = (pieces[1:] != pieces[:-1]) | (starts[1:] != stops[:-1])
        is_last = np.roll(is_first, -1)
        ranges = zip(pieces[is_first].tolist(), starts[is_first].tolist(), stops[is_last].tolist(), strict=True)
        found: list[bytes] = []
        for piece, start, stop in ranges:
            if piece == IN_FILE and self._file is not None:
                self._file.seek(start)
                found.append(self._file.read(stop - start))
            else:
                found.append(self._pieces[piece][start:stop])
        return b"".join(found)
