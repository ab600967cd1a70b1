"""What must be right in a request whoever is asked."""

from __future__ import annotations

from llmhub.core.errors import InvalidRequest, LLMError
from llmhub.core.types import ROLES, CompletionRequest, ToolResult


def validate(request: CompletionRequest) -> LLMError | None:
    """Check what is wrong whoever is asked; ``None`` when nothing is.

    Examples
    --------
    >>> validate(CompletionRequest(model="", messages=())).path
    '$.model'
    """
    if not request.model.strip():
        return InvalidRequest(path="$.model", message="the model is empty; name one, such as 'openai/gpt-4o-mini'")
    if not request.messages:
        return InvalidRequest(path="$.messages", message="there are no messages; add at least one user message")
    for at, message in enumerate(request.messages):
        if message.role not in ROLES:
            return InvalidRequest(
                path=f"$.messages[{at}].role", message=f"unknown role {message.role!r}; use one of {', '.join(ROLES)}"
            )
        for index, part in enumerate(message.parts):
            if isinstance(part, ToolResult) and not part.id:
                return InvalidRequest(
                    path=f"$.messages[{at}].parts[{index}].id",
                    message="a tool result without an id; give it the id of the tool call it answers",
                )
    if request.n < 1:
        return InvalidRequest(path="$.n", message=f"n={request.n}; ask for at least one answer")
    return None
