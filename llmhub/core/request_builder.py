"""Requests built step by step: ``.build()`` type-checks only once there is a model and a message.

The state of a builder is a type parameter: `NoModel`, `WithModel` or `Ready`. mypy and pyright refuse
``.build()`` before `Ready`; at run time it is a clear error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.messages import parse_messages
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
        return RequestBuilder({**self.fields, "messages": parse_messages(messages)})

    def options(self, **options: object) -> RequestBuilder[S]:
        """Set any other fields of the request."""
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise BadRequestError(
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
            raise BadRequestError(
                InvalidRequest(path=f"$.{missing[0]}", message=f"call .{missing[0]}(...) before .build()")
            )
        return CompletionRequest(**self.fields)  # type: ignore[arg-type]


OPTIONS = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"}


def builder() -> RequestBuilder[NoModel]:
    """Begin a request."""
    return RequestBuilder()
