"""Requests, responses and errors of the simulator, independent of the wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl

import msgspec

SimFinishReason: TypeAlias = Literal["stop", "length", "stop_sequence", "tool_calls"]
SimErrorKind: TypeAlias = Literal[
    "invalid", "auth", "forbidden", "not_found", "rate_limited", "quota", "server", "overloaded", "too_large"
]


@dataclass(frozen=True, slots=True)
class SimHttpRequest:
    """A received request. ``path`` is without the query, ``subpath`` also without the provider's prefix."""

    method: str
    path: str
    subpath: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = b""

    @property
    def query_parameters(self) -> dict[str, str]:
        """Parameters of the query."""
        return dict(parse_qsl(self.query, keep_blank_values=True)) if self.query else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRoute:
    """The model and options that the URL and the headers of a request select.

    Parameters
    ----------
    action
        ``ask`` for a completion, ``count`` for its input tokens, ``embed`` for embeddings, ``models`` for the list of
        models.
    model
        Model, if the URL has it.
    stream
        Whether the URL requests a stream.
    version
        Requested version of the API.
    as_array
        Send a stream as one JSON array instead of events.
    """

    action: Literal["ask", "count", "embed", "models"] = "ask"
    model: str = ""
    stream: bool = False
    version: str = ""
    as_array: bool = False


@dataclass(frozen=True, slots=True)
class SimMessage:
    """One message: role (``system``, ``user``, ``assistant``, ``tool``) and text."""

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffer:
    """Tools that the model may call.

    Parameters
    ----------
    schemas
        Schemas of the arguments, by name.
    required
        Whether a tool has to be called.
    parallel
        Whether several tools may be called at once.
    finish_as_stop
        Whether the finish reason of a tool call is that of a text.
    """

    schemas: Mapping[str, object] = field(default_factory=dict)
    required: bool = False
    parallel: bool = True
    finish_as_stop: bool = False


@dataclass(frozen=True, slots=True)
class SimToolCall:
    """One tool call."""

    name: str
    arguments: dict[str, object]

    @property
    def arguments_json(self) -> str:
        """The arguments as JSON."""
        return msgspec.json.encode(self.arguments).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRequest:
    """A request for a completion.

    Parameters
    ----------
    messages
        The conversation; system messages come first if the wire has them in a field of their own.
    sampling
        Sampling parameters that were set, under llmhub's names.
    reasoning_tokens
        Approximate reasoning tokens of the response; 0 if the model does not reason.
    uses_cache
        Whether the model caches long prompts.
    include_usage
        Whether a stream reports usage.
    schema
        Schema that the response must match, or ``None``.
    prompt, text
        Text of the last user message; text of all messages, which counts as input.

    Examples
    --------
    >>> SimRequest(model="m", messages=(SimMessage("system", "Be brief."), SimMessage("user", "Hi"))).prompt
    'Hi'
    """

    model: str
    messages: tuple[SimMessage, ...]
    stream: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    tools: ToolOffer = field(default_factory=ToolOffer)
    schema: object = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    reasoning_tokens: int = 0
    uses_cache: bool = False
    include_usage: bool = True
    as_array: bool = False
    prompt: str = field(init=False)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        """Find the prompt and join the text."""
        messages = self.messages
        prompt = next((message.text for message in reversed(messages) if message.role == "user"), "")
        text = prompt if len(messages) == 1 else "\n".join(message.text for message in messages)
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "text", text)


@dataclass(frozen=True, slots=True)
class SimChoice:
    """One choice: text or tool calls, and the finish reason; ``stopped_by`` is the stop sequence that was reached."""

    text: str
    finish_reason: SimFinishReason = "stop"
    stopped_by: str = ""
    tool_calls: tuple[SimToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimResponse:
    """A completion.

    Parameters
    ----------
    input_tokens, output_tokens
        Token counts, ``cached_tokens`` and ``reasoning_tokens`` included.
    id_digits
        40 hexadecimal digits of which wires make their ids.
    created
        Epoch seconds.
    duration_s
        Duration that the provider reports.
    """

    request: SimRequest
    choices: tuple[SimChoice, ...]
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    id_digits: str = "0" * 40
    created: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimError:
    """An error; without a ``message`` the provider uses its own text.

    Parameters
    ----------
    param, code
        Parameter at fault and the provider's error code, for wires that report them.
    retry_after_s
        Retry delay, for providers that report it.
    scope
        Exhausted limit: ``requests`` or ``tokens``.
    model, limit, requested
        Model whose limit was exceeded, the limit per minute, and what the request needs; for the message.
    """

    kind: SimErrorKind
    message: str = ""
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    scope: Literal["requests", "tokens"] = "requests"
    model: str = ""
    limit: int = 0
    requested: int = 1
