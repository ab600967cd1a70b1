"""Requests whose provider's form is known but for their last text, as most requests of one program are.

Encoding a request takes a tenth of the CPU time of a completion. Parameters and messages before the last one recur, so
what surrounds the last text is encoded once (see `llmhub.core.prepared`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Final

from llmhub.core.prepared import PreparedPrompt
from llmhub.core.types import CompletionRequest, Text
from llmhub.engine.call import PreparedText, Target, preparer_by_target

MAX_FORMS: Final = 256
"""Forms that are kept; the oldest is dropped first."""
MAX_EARLIER_CHARACTERS: Final = 8192
"""Longest text before the last message of a form that is kept."""
UNSHARED: Final = ("tools", "response_schema", "extra")
"""Fields without which a request has a form: their values cannot be compared at once."""
_parameters: Final[Callable[[CompletionRequest], tuple[Any, ...]]] = attrgetter(
    *(each.name for each in fields(CompletionRequest) if each.name not in {"messages", *UNSHARED})
)


class PreparedRequests:
    """The forms of requests seen lately. Use it on one event loop only."""

    def __init__(self) -> None:
        self._forms: dict[tuple[Any, ...], Callable[[Target], PreparedPrompt]] = {}

    def __len__(self) -> int:
        """Return the number of forms that are kept."""
        return len(self._forms)

    def find(self, target: Target, request: CompletionRequest) -> PreparedText | None:
        """Return the shortcut for a request that is not streamed and names the target's model, if it has one."""
        messages = request.messages
        if request.tools or request.extra or request.response_schema is not None or not messages:
            return None
        last = messages[-1]
        if last.role != "user" or len(last.parts) != 1 or type(last.parts[0]) is not Text:
            return None
        earlier = messages[:-1]
        if not all(type(part) is Text for message in earlier for part in message.parts):
            return None
        form = (target.name, earlier, *_parameters(request))
        for_target = self._forms.get(form)
        if for_target is None:
            if sum(len(message.text) for message in earlier) > MAX_EARLIER_CHARACTERS:
                return None
            for_target = preparer_by_target(replace(request, messages=earlier), stream=False)
            if len(self._forms) >= MAX_FORMS:
                del self._forms[next(iter(self._forms))]
            self._forms[form] = for_target
        return PreparedText(request, for_target(target).http, last.parts[0].text, for_target)
