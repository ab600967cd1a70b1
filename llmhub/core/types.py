"""Requests, responses, their parts and token counts: the values that all packages of llmhub exchange.

All of them are frozen dataclasses and compare by value. A field that is ``None`` was not set by the caller and is not
sent to the provider; ``0`` is a value like any other. Class and field names are part of every cache key.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Final, Literal, TypeAlias

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Payload: TypeAlias = dict[str, object]
"""A JSON object that is sent to a provider or was received from one; received ones are untrusted."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "other"]
ROLES: Final[tuple[Role, ...]] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Text:
    """Visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image, given by ``url`` (``https:`` or ``data:``) or as base64 ``data`` with its ``media_type``."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""

    def to_bytes(self) -> bytes:
        """Return the decoded ``data``; empty for an image that is given by its address.

        Examples
        --------
        >>> Image(data="iVBORw0KGgo=", media_type="image/png").to_bytes()[1:4]
        b'PNG'
        """
        return base64.b64decode(self.data)


@dataclass(frozen=True, slots=True)
class Document:
    """A file such as a PDF, given by ``url`` or as base64 ``data`` with its ``media_type``."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    name: str = ""

    def to_bytes(self) -> bytes:
        """Return the decoded ``data``; empty for a file that is given by its address."""
        return base64.b64decode(self.data)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's request to call a tool; ``arguments`` is JSON text, ``signature`` an opaque token to send back."""

    id: str
    name: str
    arguments: str = "{}"
    signature: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The output of a tool; ``id`` is the id of the call, ``name`` the name of the tool (some wires need it)."""

    id: str
    content: str | tuple[Text | Image, ...] = ""
    name: str = ""
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A model's reasoning; ``signature`` and ``redacted`` are opaque and are sent back verbatim."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model declined to answer; ``text`` is its explanation."""

    text: str


@dataclass(frozen=True, slots=True)
class CacheMark:
    """End of a prefix for the provider to cache; ``ttl`` (``5m``, ``1h``) is how long."""

    ttl: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log probability, and the most likely alternatives as pairs of token and log probability."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log probabilities of a response's tokens.

    ``data`` is JSON, one ``[token, logprob, [[token, logprob], ...]],`` per token, so that fragments of a stream can be
    concatenated.

    Examples
    --------
    >>> Logprobs('["Hi",-0.5,[]],').tokens
    (TokenLogprob(token='Hi', logprob=-0.5, top=()),)
    """

    data: str = ""

    @property
    def tokens(self) -> tuple[TokenLogprob, ...]:
        """The tokens in order."""
        rows = json.loads(f"[{self.data.removesuffix(',')}]")
        return tuple(
            TokenLogprob(token, logprob, tuple((other, other_logprob) for other, other_logprob in top))
            for token, logprob, top in rows
        )


@dataclass(frozen=True, slots=True)
class Opaque:
    """A part that llmhub does not interpret (a server tool's block, a citation), kept as its JSON text."""

    kind: str
    data: str


Part: TypeAlias = Text | Image | Document | ToolCall | ToolResult | Reasoning | Refusal | Opaque | CacheMark | Logprobs


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Parameters
    ----------
    role
        ``system``, ``user``, ``assistant`` or ``tool``.
    parts
        The content; a plain string becomes one `Text`.

    Examples
    --------
    >>> Message("user", "Say hi").parts
    (Text(text='Say hi'),)
    """

    role: Role
    parts: tuple[Part, ...]

    def __init__(self, role: Role, parts: str | Part | Sequence[Part]) -> None:
        object.__setattr__(self, "role", role)
        if isinstance(parts, str):
            object.__setattr__(self, "parts", (Text(parts),))
        else:
            object.__setattr__(self, "parts", tuple(parts) if isinstance(parts, (list, tuple)) else (parts,))

    @property
    def text(self) -> str:
        """The visible text of the message."""
        return join_text(self.parts)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters`` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """The JSON schema that a response must match.

    ``via`` selects how it is enforced: ``native`` by the provider's structured output, ``tool`` by forcing a tool call
    whose arguments are the response, empty by whichever the model is known to support.
    """

    schema: Mapping[str, JSON]
    name: str = "answer"
    strict: bool = True
    via: Literal["", "native", "tool"] = ""


ToolChoice: TypeAlias = str
"""``auto``, ``none``, ``required``, or the name of a tool."""

OnUnsupported: TypeAlias = Literal["error", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A request for a completion, independent of the provider.

    Parameters
    ----------
    model
        ``provider/model`` (``openai/gpt-4o-mini``) in the public API; the provider's own model name inside llmhub.
    messages
        The conversation, oldest message first; ``system`` messages may stand wherever the provider permits them.
    temperature, top_p, top_k, seed, presence_penalty, frequency_penalty
        Sampling parameters; ``None`` is the provider's default. They are checked against the provider's ranges before
        the request is sent.
    max_tokens
        Maximum tokens of the response, reasoning included.
    stop
        Strings that end the response.
    tools, tool_choice, response_schema, reasoning_effort, reasoning_budget
        Tools, structured output and reasoning; the budget is in tokens.
    parallel_tool_calls
        Whether the model may call several tools at once.
    n
        Number of responses.
    logprobs
        Request log probabilities, with this many alternatives per token.
    user
        Your end user's pseudonymous id, for providers that accept one.
    extra
        Fields of the provider's own API, merged into the payload last, so that they take precedence.
    unsupported
        ``error``: a parameter that the provider does not support fails the call. ``drop``: it is omitted and listed in
        ``dropped_params``.

    Examples
    --------
    >>> CompletionRequest(model="openai/gpt-4o-mini", messages=(Message("user", "Say hi"),), temperature=0).temperature
    0.0
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_schema: Schema | None = None
    reasoning_effort: str | None = None
    reasoning_budget: int | None = None
    n: int = 1
    logprobs: int | None = None
    user: str | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)
    unsupported: OnUnsupported = "error"

    def __post_init__(self) -> None:
        """Normalize number and sequence types, so that equal requests have equal cache keys."""
        for name in FLOAT_FIELDS:
            value = getattr(self, name)
            if value is not None and (type(value) is not float or value == 0.0) and _is_number(value):
                object.__setattr__(self, name, float(value) or 0.0)
        for name in INT_FIELDS:
            value = getattr(self, name)
            if value is not None and type(value) is not int and _is_number(value) and value == value // 1:
                object.__setattr__(self, name, int(value))
        stop: object = self.stop
        if isinstance(stop, str):
            object.__setattr__(self, "stop", (stop,))
        for name in SEQUENCE_FIELDS:
            value = getattr(self, name)
            if type(value) is not tuple and hasattr(value, "__iter__"):
                object.__setattr__(self, name, tuple(value))


FLOAT_FIELDS: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
INT_FIELDS: Final = ("top_k", "max_tokens", "seed", "reasoning_budget", "n", "logprobs")
SEQUENCE_FIELDS: Final = ("messages", "stop", "tools")


def _is_number(value: object) -> bool:
    """Return whether ``value`` is a number of any library (``numpy.float64``); validation rejects all others later."""
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts with the same meaning for every provider; ``None`` if the provider did not report one.

    ``input_tokens`` includes cached ones, read and written; ``output_tokens`` includes reasoning.

    Parameters
    ----------
    cache_write_1h_tokens
        Those of ``cache_write_tokens`` that are kept for an hour, where they have a price of their own.
    service_tier
        Tier that was billed, where it is not the standard one: ``flex``, ``priority``, a search context of
        Perplexity's (``medium``, ``high``), or ``text`` of a model of Gemini that makes images.
    reported_cost_usd
        Cost as the provider itself reports it; it takes precedence over any price list.
    billed_units
        Names and numbers of what has a price of its own: tokens of audio (``audio:input_tokens``), which the counts
        above include, web searches (``web_search:requests``), tokens of the image model that a tool called
        (``gpt-image-2:image_output_tokens``).
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    service_tier: str = ""
    reported_cost_usd: Decimal | None = None
    billed_units: tuple[tuple[str, int], ...] = ()

    @property
    def has_billing_details(self) -> bool:
        """Whether it says more of its cost than the counts of `TOKEN_CLASSES` do.

        Examples
        --------
        >>> Usage(input_tokens=3, cache_write_1h_tokens=0).has_billing_details
        False
        >>> Usage(input_tokens=3, service_tier="flex").has_billing_details
        True
        """
        return bool(
            self.reported_cost_usd is not None or self.service_tier or self.cache_write_1h_tokens or self.billed_units
        )


AUDIO: Final = "audio"
"""Kind of those units that the token counts include."""
NO_USAGE: Final = Usage()
TOKEN_CLASSES: Final = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
"""Fields of `Usage` that every provider may report, in the order in which they are stored."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A further response to a request with ``n > 1``."""

    parts: tuple[Part, ...]
    finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        """The visible text."""
        return join_text(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResponse:
    """A model's response.

    Parameters
    ----------
    parts
        The content, in the model's order.
    finish_reason
        ``stop``, ``length``, ``tool_calls``, ``content_filter``, ``refusal`` or ``other``.
    usage
        Token counts, normalised.
    served_model
        Model that the provider reports to have used.
    request_id
        The provider's id of the call.
    others
        The second to n-th response to a request with ``n > 1``.
    forced_tool
        Whether the text came as the arguments of a forced tool call (see `Schema`).

    Examples
    --------
    >>> CompletionResponse(parts=(Reasoning("hm"), Text("Hi"), Text("!"))).text
    'Hi!'
    """

    parts: tuple[Part, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage = NO_USAGE
    served_model: str = ""
    request_id: str = ""
    others: tuple[Choice, ...] = ()
    forced_tool: bool = False

    @property
    def text(self) -> str:
        """The visible text."""
        return join_text(self.parts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls that the model requests."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def reasoning(self) -> str:
        """The reasoning text, as far as the provider shows it."""
        return "".join(part.text for part in self.parts if isinstance(part, Reasoning))

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Log probabilities per token; empty unless the request asked for them and the provider supports them."""
        return tuple(token for part in self.parts if isinstance(part, Logprobs) for token in part.tokens)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images that the model made; `Image.to_bytes` returns the content of one."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def refusal(self) -> str:
        """The text of a refusal; empty if the model did not refuse."""
        return "".join(part.text for part in self.parts if isinstance(part, Refusal))

    def __repr__(self) -> str:
        """Return one line, with control characters of the model's text made visible."""
        from llmhub.core.response_display import response_repr  # noqa: PLC0415 - it imports these types

        return response_repr(self)

    def _repr_html_(self) -> str:
        from llmhub.core.response_display import response_html  # noqa: PLC0415 - as above

        return response_html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamChunk:
    """The part of a response that arrived since the previous chunk of a stream.

    The last chunk has no content but the complete ``response``, the ``cost_usd`` of this call (0 from the cache,
    ``None`` if the price or the token counts are unknown) and its ``list_cost_usd`` without llmhub's cache.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    response: CompletionResponse | None = None
    cost_usd: Decimal | None = None
    list_cost_usd: Decimal | None = None

    @property
    def usage(self) -> Usage:
        """Token counts of the whole response in the last chunk; unknown in all others."""
        return NO_USAGE if self.response is None else self.response.usage


def join_text(parts: Sequence[Part]) -> str:
    """Return the visible text of ``parts``, joined.

    Examples
    --------
    >>> join_text((Text("a"), Refusal("no"), Text("b")))
    'ab'
    """
    if len(parts) == 1 and type(parts[0]) is Text:
        return parts[0].text
    return "".join(part.text for part in parts if type(part) is Text)
