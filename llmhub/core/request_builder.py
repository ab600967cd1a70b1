"""Build requests step by step; ``.build()`` type-checks only after a model and a message were set.

The state of a builder is its type parameter: `NoModel`, `WithModel` or `Ready`. mypy and pyright reject ``.build()``
before `Ready`; at run time it raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from llmhub.core.errors import invalid
from llmhub.core.messages import parse_messages
from llmhub.core.types import CompletionRequest, Message


class NoModel:
    """State: nothing is set."""


class WithModel:
    """State: the model is set."""


class Ready:
    """State: model and messages are set."""


S = TypeVar("S", NoModel, WithModel, Ready)

OPTIONS: Final = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"}


@dataclass(frozen=True, slots=True)
class RequestBuilder(Generic[S]):
    """Immutable builder of a `CompletionRequest`; each step returns a new builder.

    Examples
    --------
    >>> builder().model("openai/gpt-4o-mini").messages("Say hi").options(temperature=0).build().model
    'openai/gpt-4o-mini'
    """

    fields: Mapping[str, object] = field(default_factory=dict)

    def model(self: RequestBuilder[NoModel], model: str) -> RequestBuilder[WithModel]:
        """Set the model, as ``provider/model``."""
        return RequestBuilder({**self.fields, "model": model})

    def messages(
        self: RequestBuilder[WithModel] | RequestBuilder[Ready], *messages: str | Message | Mapping[str, object]
    ) -> RequestBuilder[Ready]:
        """Set the conversation; a string is a user message."""
        return RequestBuilder({**self.fields, "messages": parse_messages(messages)})

    def options(self, **options: object) -> RequestBuilder[S]:
        """Set any other fields of the request.

        Raises
        ------
        BadRequestError
            If an option is not a field of `CompletionRequest`.
        """
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise invalid(f"$.{unknown[0]}", f"no such parameter; choose from {', '.join(sorted(OPTIONS))}")
        return RequestBuilder({**self.fields, **options})

    def build(self: RequestBuilder[Ready]) -> CompletionRequest:
        """Return the request.

        Raises
        ------
        BadRequestError
            If the model or the messages are missing.
        """
        missing = [name for name in ("model", "messages") if not self.fields.get(name)]
        if missing:
            raise invalid(f"$.{missing[0]}", f"call .{missing[0]}(...) before .build()")
        return CompletionRequest(**self.fields)  # type: ignore[arg-type]


def builder() -> RequestBuilder[NoModel]:
    """Return an empty request builder."""
    return RequestBuilder()
