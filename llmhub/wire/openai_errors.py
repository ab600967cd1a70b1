"""How OpenAI, Azure and compatible servers name what went wrong, whichever of OpenAI's two wires they speak.

Source: https://platform.openai.com/docs/guides/error-codes and recorded exchanges (read 2026-11-22).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.errors import (
    AuthFailed,
    ContentFiltered,
    ContextTooLong,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
)
from llmhub.wire.failure import Dictionary

ERRORS: Final = Dictionary(
    codes={
        **dict.fromkeys(("invalid_api_key", "authentication_error"), AuthFailed),
        **dict.fromkeys(("insufficient_quota", "billing_hard_limit_reached"), QuotaExhausted),
        **dict.fromkeys(("content_filter", "content_policy_violation", "bio_policy"), ContentFiltered),
        **dict.fromkeys(("image_content_policy_violation", "misalignment_policy_violation"), ContentFiltered),
        **dict.fromkeys(("model_not_found", "DeploymentNotFound"), NotFound),
        **dict.fromkeys(("rate_limit_exceeded", "RateLimitReached"), RateLimited),
        "context_length_exceeded": ContextTooLong,
        "permission_error": PermissionDenied,
        "server_error": ServerError,
        "overloaded_error": Overloaded,
    },
    words=(
        ("context length", ContextTooLong),
        ("context size", ContextTooLong),
        ("context window", ContextTooLong),
        ("prompt is too long", ContextTooLong),
        ("incorrect api key", AuthFailed),
        ("invalid api key", AuthFailed),
        ("insufficient permissions", PermissionDenied),
        ("potentially violating our usage policy", ContentFiltered),
    ),
)
