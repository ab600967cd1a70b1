"""What passes between a caller and a simulated provider, in terms that no wire owns."""

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
    """A request as it came: ``path`` without the query, ``rest`` of it after the provider's prefix, raw ``query``."""

    method: str
    path: str
    subpath: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = b""

    @property
    def query_parameters(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(self.query, keep_blank_values=True)) if self.query else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRoute:
    """What a request's address and headers ask for.

    Parameters
    ----------
    action
        ``ask`` a model, or list the ``models``.
    model
        Where the address names it.
    stream
        Whether the address asks for a stream.
    version
        The api version asked for.
    array
        A stream as one JSON array instead of events.
    """

    action: Literal["ask", "models"] = "ask"
    model: str = ""
    stream: bool = False
    version: str = ""
    as_array: bool = False


@dataclass(frozen=True, slots=True)
class SimMessage:
    """One turn of a conversation: its role (``system``, ``user``, ``assistant``, ``tool``) and its text."""

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffer:
    """Tools that may be called.

    Parameters
    ----------
    schemas
        Each one's schema by its name.
    must
        Whether one of them has to be called.
    parallel
        Whether several may be called at once.
    silent
        Whether an answer that calls ends as one that does not.
    """

    schemas: Mapping[str, object] = field(default_factory=dict)
    required: bool = False
    parallel: bool = True
    finish_as_stop: bool = False


@dataclass(frozen=True, slots=True)
class SimToolCall:
    """One call of a tool."""

    name: str
    arguments: dict[str, object]

    @property
    def arguments_json(self) -> str:
        """The arguments as JSON."""
        return msgspec.json.encode(self.arguments).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRequest:
    """What is asked, whoever's wire it came on.

    Parameters
    ----------
    turns
        The conversation, system turns first where the wire keeps them apart.
    sampling
        The sampling parameters that were set, under llmhub's own names.
    reasoning
        About how many tokens of reasoning this model spends here; 0 where it does not reason.
    caches
        Whether this model reads long prompts from a cache.
    counted
        Whether a stream tells its usage.
    schema
        What the answer has to fit, if it has to fit anything.
    prompt, text
        The last user turn; and everything said, which is what is counted.

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
        turns = self.messages
        asked = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
        object.__setattr__(self, "prompt", asked)
        object.__setattr__(self, "text", asked if len(turns) == 1 else "\n".join(turn.text for turn in turns))


@dataclass(frozen=True, slots=True)
class SimChoice:
    """One answer and why it ended; ``stopped_by`` is the stop sequence that did it. Beside ``calls`` is no text."""

    text: str
    finish_reason: SimFinishReason = "stop"
    stopped_by: str = ""
    tool_calls: tuple[SimToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimResponse:
    """What is answered. ``input_tokens`` includes ``cached_tokens``; ``output_tokens`` includes ``reasoning_tokens``.

    Parameters
    ----------
    key
        40 hexadecimal digits from which a wire makes its ids.
    created
        Epoch seconds.
    duration_s
        How long the provider says it took.
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
    """Why there is no answer; an empty ``message`` leaves the wording to the provider.

    Parameters
    ----------
    param, code
        What is at fault and the provider's name for it, where the wire says so.
    retry_after_s
        When to come again, where the provider says so.
    scope
        What ran out: ``requests`` or ``tokens``.
    model, limit, asked
        For the words of a refusal: whose limit it is, how much a minute, and what was asked of it.
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
