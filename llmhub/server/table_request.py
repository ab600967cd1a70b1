"""Requests for the rows of a table: their fields, and where these stand in the HTTP request.

A body is either the table itself (Arrow IPC or Parquet), with the fields in the query, or ``multipart/form-data`` with
a part ``request``, a JSON object, and a part ``table``. Fields are named as the arguments of `llmhub.complete_table`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from string import Formatter
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from llmhub.core.errors import invalid
from llmhub.core.types import Tool
from llmhub.core.validation import exceeds
from llmhub.server.dialects.hub_completions import HubTool
from llmhub.server.dialects.reading import check_urls

ARROW_STREAM: Final = "application/vnd.apache.arrow.stream"
ARROW_FILE: Final = "application/vnd.apache.arrow.file"
PARQUET: Final = "application/vnd.apache.parquet"
MULTIPART: Final = "multipart/form-data"
TABLE_TYPES: Final = (ARROW_STREAM, ARROW_FILE, PARQUET)
"""Media types of tables, as registered: https://www.iana.org/assignments/media-types (read 2026-11-30)."""
REQUEST_TYPES: Final = (*TABLE_TYPES, MULTIPART)
RESERVED_EXTRA: Final = frozenset(
    {
        *("model", "models", "route", "fallbacks", "base_url", "messages", "stream", "n", "best_of", "candidateCount"),
        *("candidate_count", "max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"),
        *("maxTokens", "num_predict", "input", "contents"),
    }
)
"""Names that ``extra`` may not set, at any depth: they would pass by the caller's models and budgets."""

MAX_WIDTH: Final = 1000
"""Largest width and precision in the templates of a client."""
DIGITS: Final = re.compile(r"[0-9]+")

Count = Annotated[int, Meta(ge=1)]


class TableRequest(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True, kw_only=True):
    """Fields of a request for the rows of a table, as in `llmhub.complete_table`.

    ``prompt`` is a template over columns, ``system`` a template or the name of a column, ``messages`` and ``images``
    are names of columns. ``mode`` is for runs and plans, ``pilot`` and ``count_tokens`` are for plans, ``name`` is for
    people.
    """

    model: str | list[str]
    prompt: str | None = None
    system: str | None = None
    messages: str | None = None
    images: str | None = None
    examples: list[Any] | None = None
    schema: dict[str, Any] | None = None
    response_schema: dict[str, Any] | None = None
    schema_or_words: bool = False
    n: Annotated[int, Meta(ge=1, le=1024)] = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: list[HubTool] | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    logprobs: int | None = None
    reasoning_effort: str | None = None
    reasoning_budget: int | None = None
    user: str | None = None
    extra: dict[str, Any] | None = None
    unsupported: Literal["error", "drop"] = "error"
    cache: Literal["read-write", "read-only", "write-only", "refresh", "off"] | None = None
    budget_usd: Decimal | None = None
    allow_unpriced: bool = False
    concurrency: Count | None = None
    stream: bool = False
    name: Annotated[str, Meta(max_length=200)] = ""
    mode: Literal["live", "batch"] = "live"
    late: Literal["wait", "live", "error"] = "wait"
    deadline: float | str | None = None
    batch_tokens: Count | None = None
    pilot: Annotated[int, Meta(ge=0)] = 0
    count_tokens: Annotated[int, Meta(ge=0)] = 0

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return [self.model] if isinstance(self.model, str) else self.model

    def options(self) -> dict[str, Any]:
        """Return the options of `llmhub.complete_table`, without those of the service alone."""
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name not in SERVICE_FIELDS}
        options = {name: value for name, value in given.items() if value is not None and value is not False}
        if self.mode == "live":
            options = {name: value for name, value in options.items() if name not in BATCH_FIELDS}
        if self.tools is not None:
            options["tools"] = [Tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in self.tools]
        if self.stop is not None:
            options["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return options


BATCH_FIELDS: Final = frozenset({"mode", "late", "deadline", "batch_tokens"})
SERVICE_FIELDS: Final = frozenset({"model", "prompt", "name", "pilot", "count_tokens"})
_decode: Final = msgspec.json.Decoder().decode


def request_from_query(values: Mapping[str, list[str]]) -> TableRequest:
    """Return the request in a query: a field by its name, and ``request``, a JSON object of fields.

    Raises
    ------
    BadRequestError
        A field is unknown or has a wrong value.

    Examples
    --------
    >>> request = request_from_query({"model": ["openai/gpt-4o-mini"], "prompt": ["{x}"], "temperature": ["0.5"]})
    >>> request.models, request.options()
    (['openai/gpt-4o-mini'], {'n': 1, 'temperature': 0.5, 'unsupported': 'error'})
    """
    fields: dict[str, Any] = {}
    for text in values.get("request", ()):
        fields |= _object(text.encode(), "request")
    for name, texts in values.items():
        if name != "request":
            fields[name] = texts if len(texts) > 1 or name in LISTS else texts[0]
    return _convert(fields, strict=False)


LISTS: Final = frozenset({"stop"})
"""Fields of the query that may be repeated, and are lists even if they are not."""


def request_from_json(body: bytes) -> TableRequest:
    """Return the request in a JSON object.

    Raises
    ------
    BadRequestError
        It is no object, or a field is unknown or has a wrong value.
    """
    return _convert(_object(body, "request"), strict=True)


def _object(body: bytes, path: str) -> dict[str, Any]:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(path, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid(path, f"must be a JSON object, not a {type(value).__name__}")
    return value


def _convert(fields: dict[str, Any], *, strict: bool) -> TableRequest:
    if not fields.get("model"):
        raise invalid("model", "is missing; pass 'provider/model', such as 'openai/gpt-4o-mini'")
    try:
        request = msgspec.convert(fields, TableRequest, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `")
        raise invalid(place.strip("`") or "request", message[:1].lower() + message[1:]) from None
    if request.budget_usd is not None and not request.budget_usd.is_finite():
        raise invalid("budget_usd", f"must be an amount in US dollars, not {request.budget_usd}")
    _check_extra(request.extra or {}, "extra")
    for field in ("prompt", "system"):
        _check_widths(getattr(request, field) or "", field)
    return request


def _check_widths(template: str, path: str) -> None:
    """Raise if a template formats a value to a text of any length."""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError:
        return  # the template's own parser has a better message
    widths = [number for _, _, spec, _ in pieces for number in DIGITS.findall(spec or "")]
    if any(exceeds(width, MAX_WIDTH) for width in widths):
        raise invalid(path, f"formats a value to more than {MAX_WIDTH:,} characters")


def _check_extra(value: Any, path: str) -> None:
    """Raise if a field that is passed on as it is would change what the service has checked."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in RESERVED_EXTRA:
                raise invalid(f"{path}.{name}", "cannot be set here; it has a field of its own, or is not permitted")
            _check_extra(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_extra(inner, f"{path}[{index}]")
    if path == "extra":
        check_urls(value, path)


def encode_request(request: TableRequest) -> bytes:
    """Return a request as JSON, from which `request_from_json` makes an equal one."""
    return msgspec.json.encode(request)
