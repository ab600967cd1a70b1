"""The values that every room speaks: one request, one response, their parts and their token counts.

All of them are frozen dataclasses and compare by value. A field that is ``None`` was not set by the
caller and does not reach a provider's wire; ``0`` is a value like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Final, Literal, TypeAlias

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Payload: TypeAlias = dict[str, object]
"""A JSON object on its way to or from a provider; what comes back is untrusted."""

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "other"]
ROLES: Final[tuple[Role, ...]] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Text:
    """Visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture, by ``url`` (``https:`` or ``data:``) or as base64 ``data`` with its ``image_media_type``."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A file such as a PDF, by ``url`` or as base64 ``data`` with its ``image_media_type``."""

    url: str = ""
    data: str = ""
    media_type: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool; ``arguments`` is JSON text, ``signature`` a token to send back as it came."""

    id: str
    name: str
    arguments: str = "{}"
    signature: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered; ``id`` is that of the call, ``name`` the tool's (some wires need it)."""

    id: str
    content: str | tuple[Text | Image, ...] = ""
    name: str = ""
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A model's reasoning; ``signature`` and ``redacted`` are opaque and go back verbatim."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model declined; what it said about it."""

    text: str


@dataclass(frozen=True, slots=True)
class CacheMark:
    """The prompt up to here is worth keeping in the provider's cache; ``ttl`` (``5m``, ``1h``) is how long."""

    ttl: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, the logarithm of its probability, and the likeliest tokens in its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How likely each token of an answer was: ``data`` is rows ``[token, logprob, [[token, logprob], ...]],`` as JSON.

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
            TokenLogprob(token, logprob, tuple((other, its) for other, its in top)) for token, logprob, top in rows
        )


@dataclass(frozen=True, slots=True)
class Opaque:
    """A part that llmhub does not read (a server tool's block, a citation): its JSON text, kept whole."""

    kind: str
    data: str


Part: TypeAlias = Text | Image | Document | ToolCall | ToolResult | Reasoning | Refusal | Opaque | CacheMark | Logprobs


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Parameters
    ----------
    role
        ``system``, ``user``, ``assistant`` or ``tool``.
    parts
        The content; a plain string is taken as one `Text`.

    Examples
    --------
    >>> Message("user", "Say hi").parts
    (Text(text='Say hi'),)
    """

    role: Role
    parts: tuple[Part, ...]

    def __init__(self, role: Role, parts: str | Part | Sequence[Part]) -> None:
        whole = (
            (Text(parts),) if isinstance(parts, str) else tuple(parts) if isinstance(parts, (list, tuple)) else (parts,)
        )
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", whole)

    @property
    def text(self) -> str:
        """The visible text of the turn."""
        return join_text(self.parts)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """The JSON schema an answer must satisfy.

    ``via`` says how it is asked for: ``native``, by the provider's mode for it; ``tool``, by a tool that must be
    called; empty, by whichever the model is known to take.
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
    """What to ask, in terms that no provider owns.

    Parameters
    ----------
    model
        At the door ``provider/model`` (``openai/gpt-4o-mini``); below it the provider's own name of the model.
    messages
        The conversation, oldest turn first; ``system`` turns may stand anywhere a provider permits.
    temperature, top_p, top_k, seed, presence_penalty, frequency_penalty
        Sampling; ``None`` leaves the provider's default. Ranges are the provider's and are checked before sending.
    max_tokens
        Upper bound of the answer in tokens, reasoning included.
    stop
        Strings that end the answer.
    tools, tool_choice, response_schema, reasoning_effort, reasoning_budget
        Tools, structured output and reasoning; the budget is in tokens.
    parallel_tool_calls
        Whether several tools may be called at once.
    n
        Answers wanted.
    logprobs
        Asks how likely each token of the answer was, and of so many others in its place; 0 for its own alone.
    user
        Your end user's pseudonymous id, where a provider takes one.
    extra
        Provider extras: merged into the payload last, so they win.
    unsupported
        ``error``: a parameter the provider cannot take fails the call. ``drop``: it is left out and said so.

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
        """Bring equal values to one form, so that equal requests have equal keys."""
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
    """Say whether a value is a number of any library's; what is not stays as it is, and is refused in time."""
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts with one meaning everywhere: input includes what was cached, output includes reasoning.

    ``None`` means that the provider did not say.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


NO_USAGE: Final = Usage()


@dataclass(frozen=True, slots=True)
class Choice:
    """One further answer to a request with ``n > 1``."""

    parts: tuple[Part, ...]
    finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        """The visible answer."""
        return join_text(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionResponse:
    """What a model answered.

    Parameters
    ----------
    parts
        The answer, in the order the model gave it.
    finish_reason
        ``stop``, ``length``, ``tool_calls``, ``content_filter``, ``refusal`` or ``other``.
    usage
        Token counts, normalised.
    served_model
        The model the provider says it used.
    request_id
        The provider's id of the call.
    others
        The second to n-th answer of a request with ``n > 1``.
    forced_tool
        Whether the answer came as the arguments of a tool that had to be called, as this model has no other way to
        hold it to a schema.

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
        """The visible answer."""
        return join_text(self.parts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools the model wants called."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def reasoning(self) -> str:
        """The reasoning the provider showed."""
        return "".join(part.text for part in self.parts if isinstance(part, Reasoning))

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """How likely each token was, where that was asked for and is told."""
        return tuple(token for part in self.parts if isinstance(part, Logprobs) for token in part.tokens)

    @property
    def refusal(self) -> str:
        """What the model said in declining."""
        return "".join(part.text for part in self.parts if isinstance(part, Refusal))

    def __repr__(self) -> str:
        """Show it in a line, in which nothing that the model wrote can act."""
        from llmhub.core.response_display import response_repr  # noqa: PLC0415 - which knows these types

        return response_repr(self)

    def _repr_html_(self) -> str:
        from llmhub.core.response_display import response_html  # noqa: PLC0415 - as above

        return response_html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamChunk:
    """What arrived since the last chunk; the closing one carries the whole ``response``.

    That one also says what the answer cost now (0 from the cache, ``None`` where the price or the counts are unknown),
    and what it is worth without the cache.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    response: CompletionResponse | None = None
    cost_usd: Decimal | None = None
    list_cost_usd: Decimal | None = None

    @property
    def usage(self) -> Usage:
        """The tokens of the whole answer, in the closing chunk; nothing is known of them before."""
        return NO_USAGE if self.response is None else self.response.usage


def join_text(parts: Sequence[Part]) -> str:
    """Join the visible text of ``parts``.

    Examples
    --------
    >>> join_text((Text("a"), Refusal("no"), Text("b")))
    'ab'
    """
    if len(parts) == 1 and type(parts[0]) is Text:
        return parts[0].text
    return "".join(part.text for part in parts if type(part) is Text)
