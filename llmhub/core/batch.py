"""Records that describe providers' Batch APIs: `BatchWire` is the format of one, beside `llmhub.core.provider.Wire`.

A batch is submitted in steps (upload a file, create the batch), polled, and its results are read line by line or page
by page. Every function is pure: it builds a request, or decodes a reply. A row's own reply goes through the
provider's ordinary decoder, so that a response is the same whichever way its request was sent.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest
from llmhub.core.types import CompletionRequest

KEY_CHARS: Final = 43
"""Characters of a request key of 32 bytes in base64 without padding."""
TOKEN_FIELD: Final = "llmhub"  # noqa: S105 - not a credential
"""Name under which a token stands in the metadata of a batch."""
TOKEN_PREFIX: Final = "llmhub-"  # noqa: S105 - as above
"""Beginning of the names of batches and files, before the token."""


LateReason: TypeAlias = Literal["expired", "cancelled", "missing"]
"""Why a row of an ended batch has no reply: not processed in time, cancelled, or absent from the results."""


def custom_id(key: bytes) -> str:
    """Return the id of a row: the request key in base64url, 43 characters that every provider accepts.

    Examples
    --------
    >>> custom_id(bytes(32))
    'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    return base64.urlsafe_b64encode(key)[:KEY_CHARS].decode()


def key_from_custom_id(text: str) -> bytes | None:
    """Return the request key of a row's id; ``None`` for an id that is none of ours.

    Examples
    --------
    >>> key_from_custom_id(custom_id(b"k" * 32)) == b"k" * 32, key_from_custom_id("0")
    (True, None)
    """
    if len(text) != KEY_CHARS or "+" in text or "/" in text:
        return None
    try:
        return binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "=", strict_mode=True)
    except (binascii.Error, ValueError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Limits of one batch.

    Parameters
    ----------
    rows, size
        Maximum number of rows, and of bytes of their encoding.
    min_rows
        Minimum number of rows.
    enqueued_tokens
        Estimated prompt tokens of one batch; ``None`` where the provider publishes none.
    window_s
        Seconds after which the provider gives a batch up.
    """

    rows: int
    size: int
    min_rows: int = 1
    enqueued_tokens: int | None = None
    window_s: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as far as it is submitted.

    Parameters
    ----------
    token
        Our own name of it, which the provider returns; letters, digits and hyphens.
    base_url
        Address of the Batch API.
    model
        The model's name at the provider.
    row_url
        URL of the same requests when they are sent one by one.
    rows
        Number of rows.
    created_at
        When it was begun (epoch seconds).
    storage, storage_url, role
        Object storage (``s3://bucket/path``), the address of its API and the role that may read it, for providers that
        need them.
    values
        What the steps so far returned; ``id`` is the provider's name of the batch.
    """

    token: str
    base_url: str
    model: str = ""
    row_url: str = ""
    rows: int = 0
    created_at: float = 0.0
    storage: str = ""
    storage_url: str = ""
    role: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The provider's id; empty before it is known."""
        return self.values.get("id", "")

    @property
    def name(self) -> str:
        """The name given to the batch and its files: prefix and token."""
        return TOKEN_PREFIX + self.token

    @property
    def bucket(self) -> str:
        """Name of the bucket in the object storage."""
        return self.storage.partition("://")[2].partition("/")[0]

    @property
    def object_name(self) -> str:
        """Name of the object with the rows, in the bucket."""
        folder = self.storage.partition("://")[2].partition("/")[2].strip("/")
        return f"{folder}/{self.name}.jsonl" if folder else f"{self.name}.jsonl"

    @property
    def storage_uri(self) -> str:
        """URI of the object with the rows, without its extension: results are put beside it."""
        scheme = self.storage.partition("://")[0]
        return f"{scheme}://{self.bucket}/{self.object_name.removesuffix('.jsonl')}"

    @property
    def row_path(self) -> str:
        """Path of the rows' URL from the API's version on, as files of rows name it (``/v1/chat/completions``)."""
        return row_path(self.row_url)


ROW_PATHS: Final = ("/chat/completions", "/responses", "/embeddings", "/completions")
"""Paths of requests that files of rows may hold."""


def row_path(url: str) -> str:
    """Return the path of a request as it stands in a file of rows.

    Examples
    --------
    >>> row_path("https://api.groq.com/openai/v1/chat/completions")
    '/v1/chat/completions'
    """
    path = url.partition("?")[0]
    return "/v1" + next((known for known in ROW_PATHS if path.endswith(known)), ROW_PATHS[0])


@dataclass(frozen=True, slots=True)
class StepRequest:
    """The request of one step of a submission.

    Parameters
    ----------
    http
        The request; its body is ignored if ``has_rows``.
    has_rows
        Whether the body is ``head``, the encoded rows and ``tail``.
    """

    http: HttpRequest
    has_rows: bool = False
    head: bytes = b""
    tail: bytes = b""


DecodeStep: TypeAlias = Callable[[HttpReply], Result[Mapping[str, str], LLMError]]


@dataclass(frozen=True, slots=True)
class BatchStep:
    """A step of a submission: its request, and what its successful reply returns for later ones."""

    encode: Callable[[Batch], StepRequest]
    decode: DecodeStep


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """The state of a batch as its provider reports it.

    Parameters
    ----------
    id
        The provider's id.
    ended
        Whether no more results will come.
    label
        The provider's own word for the state.
    token
        Our token, where the provider returned it.
    total, succeeded, failed
        Counts of rows; 0 where not reported.
    created_at
        Epoch seconds; 0 where not reported.
    files
        Names of result files, or of what else the results are read from.
    error
        Why the provider refused the batch as a whole.
    bad_rows
        Numbers of the rows it was refused for, from 1, and why.
    """

    id: str
    ended: bool
    label: str
    token: str = ""
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    created_at: float = 0.0
    files: tuple[str, ...] = ()
    error: LLMError | None = None
    bad_rows: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchPage:
    """One page of the list of batches, newest first, and the cursor of the next; empty at the end."""

    batches: tuple[BatchStatus, ...]
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """The result of one row: the reply as if it had been sent alone, or why there is none."""

    custom_id: str
    reply: HttpReply | None
    late: LateReason | None = None


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Rows of one document of results, and the cursor of the next; empty at the end."""

    rows: tuple[BatchRow, ...]
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class FilesPage:
    """Names of result files in a folder, and the cursor of the next page; empty at the end."""

    files: tuple[str, ...]
    cursor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWire:
    """The format of a Batch API. Every function returns on arbitrary input.

    Parameters
    ----------
    name
        Name of the format.
    limits
        Limits of one batch.
    separator
        Bytes between two encoded rows.
    encode_row
        Encodes the request of a row under its id.
    steps
        What submits a batch; the last step creates it, and only that one can cost anything.
    list_batches, decode_list
        Request of a page of the list of batches (cursor), and its reply.
    poll, decode_status
        Request of the state of a batch, and its reply.
    cancel
        Request that cancels a batch.
    results
        Request of one part of the results: a name of ``BatchStatus.files`` and a cursor.
    list_results, decode_results
        Request of the names of the files in a folder of ``BatchStatus.files``, and its reply; ``None`` where those are
        files themselves.
    decode_line
        Decodes one line of a result file; ``None`` where results are whole documents.
    decode_rows
        Decodes one document of results; ``None`` where they are lines.
    returns_token
        Whether listed batches have our token; otherwise a batch is recognized by its rows.
    keeps_results_of_expired
        Whether rows that were done when a batch expired can be read.
    """

    name: str
    limits: BatchLimits
    separator: bytes
    encode_row: Callable[[str, HttpRequest, Batch], bytes]
    steps: tuple[BatchStep, ...]
    list_batches: Callable[[Batch, str], HttpRequest]
    decode_list: Callable[[HttpReply], Result[BatchPage, LLMError]]
    poll: Callable[[Batch], HttpRequest]
    decode_status: Callable[[HttpReply], Result[BatchStatus, LLMError]]
    cancel: Callable[[Batch], HttpRequest]
    results: Callable[[Batch, str, str], HttpRequest]
    decode_line: Callable[[bytes], Result[BatchRow, LLMError]] | None = None
    decode_rows: Callable[[bytes], Result[RowsPage, LLMError]] | None = None
    list_results: Callable[[Batch, str, str], HttpRequest] | None = None
    decode_results: Callable[[HttpReply], Result[FilesPage, LLMError]] | None = None
    returns_token: bool = True
    keeps_results_of_expired: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchApi:
    """A provider's Batch API: the format, and where it is.

    Parameters
    ----------
    wire
        The format.
    base_url
        Address of the API, by endpoint.
    authorize
        Adds credentials where they differ from those of completions.
    limits
        Limits, where they differ from the format's.
    needs_storage
        Beginning of the URL of the object storage it needs (``s3://``); empty if it needs none.
    needs_role
        Whether it needs a role that may read the storage.
    storage_url
        Address of the API of the object storage, by endpoint.
    embed_wire
        The format of batches of embeddings; ``None`` if there are none.
    check
        What an endpoint lacks for batches; ``None`` if nothing.
    check_request
        What a request has that rows of batches cannot have; ``None`` if nothing.
    """

    wire: BatchWire
    base_url: Callable[[Endpoint], str]
    authorize: Callable[[Endpoint, HttpRequest, float], HttpRequest] | None = None
    limits: BatchLimits | None = None
    needs_storage: str = ""
    needs_role: bool = False
    storage_url: Callable[[Endpoint], str] | None = None
    embed_wire: BatchWire | None = None
    check: Callable[[Endpoint], LLMError | None] = lambda _endpoint: None
    check_request: Callable[[CompletionRequest], LLMError | None] | None = None

    @property
    def batch_limits(self) -> BatchLimits:
        """The limits that apply."""
        return self.limits or self.wire.limits


# Shared by the wires


def id_required(path: str, message: str) -> Callable[[BatchStatus], Result[BatchStatus, LLMError]]:
    """Return a function that refuses the state of a batch without id; ``path`` is where the id should have been."""
    return lambda status: Success(status) if status.id else Failure(Malformed(path=path, message=message))


def json_request(method: str, url: str, payload: Mapping[str, object] | None = None) -> HttpRequest:
    """Return a request with a JSON body, or without one.

    Examples
    --------
    >>> json_request("GET", "http://localhost/batches").body
    b''
    """
    headers = {} if payload is None else {"content-type": "application/json"}
    return HttpRequest(method, url, headers, b"" if payload is None else msgspec.json.encode(payload))


def multipart(batch: Batch, url: str, fields: Mapping[str, str]) -> StepRequest:
    """Return the upload of a batch's rows as a file named after it, in a form with some fields before it."""
    boundary = f"llmhub{batch.token}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{batch.name}.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    request = HttpRequest("POST", url, {"content-type": f"multipart/form-data; boundary={boundary}"})
    return StepRequest(request, True, ("".join(parts) + file).encode(), f"\r\n--{boundary}--\r\n".encode())


def returned_field(name: str, key: str = "id") -> DecodeStep:
    """Return the decoder of a step whose reply has the value ``key`` in the field ``name``."""

    def decode(reply: HttpReply) -> Result[Mapping[str, str], LLMError]:
        try:
            payload = msgspec.json.decode(reply.body)
        except (msgspec.DecodeError, RecursionError):
            payload = None
        value = payload.get(name) if isinstance(payload, dict) else None
        if not isinstance(value, str) or not value:
            return Failure(Malformed(path=f"$.{name}", message="the reply to a batch has no such field"))
        return Success({key: value})

    return decode
