"""Requests built step by step: ``.build()`` type-checks only once there is a model and a message.

The state of a builder is a type parameter: `NoModel`, `WithModel` or `Ready`. mypy and pyright refuse
``.build()`` before `Ready`; at run time it is a clear error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.core.turns import turn_of
from llmhub.core.types import CompletionRequest, Message


class NoModel:
    """Nothing is set."""


class WithModel:
    """The model is set."""


class Ready:
    """Model and messages are set."""


S = TypeVar("S", NoModel, WithModel, Ready)


@dataclass(frozen=True, slots=True)
class RequestBuilder(Generic[S]):
    """Builds a `CompletionRequest`; each step gives a new builder.

    Examples
    --------
    >>> builder().model("openai/gpt-4o-mini").messages("Say hi").options(temperature=0).build().model
    'openai/gpt-4o-mini'
    """

    fields: Mapping[str, object] = field(default_factory=dict)

    def model(self: RequestBuilder[NoModel], model: str) -> RequestBuilder[WithModel]:
        """Set ``provider/model``."""
        return RequestBuilder({**self.fields, "model": model})

    def messages(
        self: RequestBuilder[WithModel] | RequestBuilder[Ready], *messages: str | Message | Mapping[str, object]
    ) -> RequestBuilder[Ready]:
        """Set the conversation; a string is a user's turn."""
        return RequestBuilder({**self.fields, "messages": messages_of(messages)})

    def options(self, **options: object) -> RequestBuilder[S]:
        """Set any other fields of the request."""
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise InvalidRequestError(
                InvalidRequest(
                    path=f"$.{unknown[0]}", message=f"no such parameter; there are {', '.join(sorted(OPTIONS))}"
                )
            )
        return RequestBuilder({**self.fields, **options})

    def build(self: RequestBuilder[Ready]) -> CompletionRequest:
        """Make the request.

        Raises
        ------
        InvalidRequestError
            When the model or the messages are missing.
        """
        missing = [name for name in ("model", "messages") if not self.fields.get(name)]
        if missing:
            raise InvalidRequestError(
                InvalidRequest(path=f"$.{missing[0]}", message=f"call .{missing[0]}(...) before .build()")
            )
        return CompletionRequest(**self.fields)  # type: ignore[arg-type]


OPTIONS = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"}


def builder() -> RequestBuilder[NoModel]:
    """Begin a request."""
    return RequestBuilder()


def messages_of(
    messages: str | Message | Mapping[str, object] | Iterable[str | Message | Mapping[str, object]],
) -> tuple[Message, ...]:
    """Read messages as people write them: strings, `Message`s, or mappings with ``role`` and ``content``.

    One that stands alone is the whole conversation.

    Examples
    --------
    >>> [m.role for m in messages_of(["Hi", {"role": "assistant", "content": "Hello"}])]
    ['user', 'assistant']

    Raises
    ------
    InvalidRequestError
        For anything else, naming which message.
    """
    if isinstance(messages, (str, Message, Mapping)) or not hasattr(messages, "__iter__"):
        return (_message(messages, 0),)
    return tuple(_message(message, at) for at, message in enumerate(messages))


def _message(message: object, at: int) -> Message:
    turn = turn_of(message)
    if isinstance(turn, Message):
        return turn
    raise InvalidRequestError(InvalidRequest(path=f"$.messages[{at}]", message=turn))
