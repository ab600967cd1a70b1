"""Values that requests, responses, providers and hooks are made of, for building them and for annotations."""

from __future__ import annotations

from llmhub.core.model_metadata import ModelMetadata
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider, RateLimitInfo, Wire
from llmhub.core.request_builder import RequestBuilder, builder
from llmhub.core.types import (
    CacheMark,
    Choice,
    CompletionRequest,
    CompletionResponse,
    Document,
    FinishReason,
    Image,
    Logprobs,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Schema,
    StreamChunk,
    Text,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.hooks import ErrorAction
from llmhub.engine.limits import FixedWindow, SlidingWindow, TokenBucket

__all__ = [
    "Answer",
    "CacheMark",
    "Call",
    "Choice",
    "CompletionRequest",
    "CompletionResponse",
    "Document",
    "Endpoint",
    "ErrorAction",
    "FinishReason",
    "FixedWindow",
    "HttpReply",
    "HttpRequest",
    "Image",
    "Logprobs",
    "Message",
    "Middleware",
    "ModelMetadata",
    "Opaque",
    "Part",
    "Provider",
    "RateLimitInfo",
    "Reasoning",
    "Refusal",
    "RequestBuilder",
    "Role",
    "Schema",
    "Send",
    "SlidingWindow",
    "StreamChunk",
    "Target",
    "Text",
    "TokenBucket",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Usage",
    "Wire",
    "builder",
]
