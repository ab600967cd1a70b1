"""Simulated embeddings of every provider that has them: the server's side of each format.

Sources: the types of openai 3.57.0, google-genai 3.6.1 and cohere 5.18; the pages named in `llmhub.wire`
(read 2026-11-30); messages about texts that are too long as callers have reported them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from llmhub.core.types import Payload
from llmhub.sim.completions import count_tokens
from llmhub.sim.servers.payload_rules import as_mapping, as_text
from llmhub.sim.types import SimError, SimHttpRequest, SimRoute

if TYPE_CHECKING:
    import numpy as np

    Vectors = Sequence[np.ndarray[Any, np.dtype[np.float32]]]

MAX_TEXT_TOKENS: Final = 8192
MAX_REQUEST_TOKENS: Final = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SimEmbedRequest:
    """A request for vectors; ``encoding`` is how they are written: ``float``, ``base64`` or ``int8``.

    ``query`` is what texts are scored for, where they are reranked.
    """

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    encoding: str = "float"
    query: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(count_tokens, self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeEmbeddings:
    """Embeddings of a simulated provider.

    Parameters
    ----------
    match_route
        Route of a request, or ``None`` if it is for something else.
    parse
        Payload to request, or to the error that the provider would send.
    encode
        Request and vectors to the body of the reply.
    max_texts, max_tokens
        Texts and tokens of a request.
    headers
        Further headers of the reply.
    """

    match_route: Callable[[SimHttpRequest], SimRoute | None]
    parse: Callable[[Payload, SimRoute], SimEmbedRequest | SimError]
    encode: Callable[[SimEmbedRequest, Vectors], Payload]
    max_texts: int = 2048
    max_tokens: int = MAX_REQUEST_TOKENS
    headers: Callable[[SimEmbedRequest], Mapping[str, str]] = lambda _request: {}


def check_request(embeddings: FakeEmbeddings, request: SimEmbedRequest) -> SimError | None:
    """Return the error about a request that has too many texts, or one that is empty or too long."""
    count = len(request.texts)
    if not count or count > embeddings.max_texts:
        message = f"'input' must have 1 to {embeddings.max_texts} items, not {count}."
        return SimError(kind="invalid", message=message, param="input", model=request.model)
    if not all(request.texts):
        return SimError(kind="invalid", message="'$.input' is invalid. Inputs cannot be empty strings.", param="input")
    longest = max(map(count_tokens, request.texts))
    if longest > MAX_TEXT_TOKENS:
        message = (
            f"This model's maximum context length is {MAX_TEXT_TOKENS} tokens, however you requested {longest} tokens "
            f"({longest} in your prompt; 0 for the completion). Please reduce your prompt; or completion length."
        )
        return SimError(kind="invalid", message=message, model=request.model)
    if request.tokens > embeddings.max_tokens:
        message = f"Requested {request.tokens} tokens, max {embeddings.max_tokens} tokens per request"
        return SimError(kind="invalid", message=message, code="max_tokens_per_request", model=request.model)
    return None


def _texts(value: object) -> tuple[str, ...] | None:
    """Return a text or a list of texts; ``None`` for anything else."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return None


def _invalid(field: str) -> SimError:
    return SimError(kind="invalid", message=f"'{field}' must be a string or a list of strings.", param=field)


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


# OpenAI and compatible servers


def _match_openai(http_request: SimHttpRequest) -> SimRoute | None:
    is_match = http_request.method == "POST" and http_request.subpath.endswith("/embeddings")
    deployment = re.search(r"/deployments/([^/]+)/", http_request.subpath)
    return SimRoute(action="embed", model=unquote(deployment[1]) if deployment else "") if is_match else None


def _parse_openai(
    payload: Payload, route: SimRoute, *, dimensions: str = "dimensions", default: str = "float"
) -> SimEmbedRequest | SimError:
    texts = _texts(payload.get("input"))
    if texts is None:
        return _invalid("input")
    return SimEmbedRequest(
        model=as_text(payload.get("model")) or route.model,
        texts=texts,
        dimensions=_whole(payload.get(dimensions)),
        encoding=as_text(payload.get("encoding_format")) or default,
    )


def _encode_openai(request: SimEmbedRequest, vectors: Vectors, *, total_only: bool = False) -> Payload:
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, request.encoding)}
        for index, vector in enumerate(vectors)
    ]
    tokens = request.tokens
    usage = {"total_tokens": tokens} if total_only else {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _written(vector: Any, encoding: str) -> object:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    if encoding == "base64_int8":
        return base64.b64encode((vector * 127).astype("i1").tobytes()).decode()
    return [float(f"{number:.8g}") for number in vector.tolist()]


# Google


GEMINI_PATH: Final = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(batchEmbedContents|embedContent)")
VERTEX_PATH: Final = re.compile(r"/v1(?:beta1)?/projects/.+/publishers/google/models/([^/:]+):(predict|embedContent)")


def _match_google(pattern: re.Pattern[str], http_request: SimHttpRequest) -> SimRoute | None:
    match = pattern.fullmatch(http_request.subpath) if http_request.method == "POST" else None
    return SimRoute(action="embed", model=unquote(match[1]), version=match[2]) if match else None


def _parse_google(payload: Payload, route: SimRoute) -> SimEmbedRequest | SimError:
    """Parse a batch, a single content, or the instances of a prediction."""
    if route.version == "predict":
        instances: Any = payload.get("instances")
        texts = _texts([as_mapping(item).get("content") for item in instances or ()])
        dimensions = _whole(as_mapping(payload.get("parameters")).get("outputDimensionality"))
        encoding = "predict"
    else:
        items: Any = [payload] if route.version == "embedContent" else payload.get("requests")
        if not isinstance(items, list):
            return _invalid("requests")
        texts = _texts([_content_text(as_mapping(item)) for item in items])
        configs = [as_mapping(item.get("embedContentConfig")) or item for item in map(as_mapping, items)]
        dimensions = next((_whole(config.get("outputDimensionality")) for config in configs), None)
        encoding = route.version
    if texts is None:
        return _invalid("content")
    return SimEmbedRequest(model=route.model, texts=texts, dimensions=dimensions, encoding=encoding)


def _content_text(item: Mapping[str, object]) -> object:
    parts: Any = as_mapping(item.get("content")).get("parts")
    return "".join(as_text(as_mapping(part).get("text")) for part in parts) if isinstance(parts, list) else None


def _encode_google(request: SimEmbedRequest, vectors: Vectors) -> Payload:
    values = [_written(vector, "float") for vector in vectors]
    if request.encoding == "predict":
        counts = [{"token_count": count_tokens(text), "truncated": False} for text in request.texts]
        predictions = [
            {"embeddings": {"values": each, "statistics": count}} for each, count in zip(values, counts, strict=True)
        ]
        return {"predictions": predictions, "metadata": {"billableCharacterCount": sum(map(len, request.texts))}}
    usage = {"usageMetadata": {"promptTokenCount": request.tokens}}
    if request.encoding == "embedContent":
        return {"embedding": {"values": values[0]}, **usage}
    return {"embeddings": [{"values": each} for each in values], **usage}


# Cohere, and Bedrock


def _match_cohere(http_request: SimHttpRequest) -> SimRoute | None:
    is_match = http_request.method == "POST" and http_request.path.endswith("/v2/embed")
    return SimRoute(action="embed") if is_match else None


def _parse_cohere(payload: Payload, route: SimRoute) -> SimEmbedRequest | SimError:
    texts = _texts(payload.get("texts"))
    if texts is None:
        return _invalid("texts")
    if not as_text(payload.get("input_type")):
        message = "invalid request: valid input_type must be provided with the provided model"
        return SimError(kind="invalid", message=message, param="input_type")
    model = as_text(payload.get("model")) or route.model
    return SimEmbedRequest(model=model, texts=texts, dimensions=_whole(payload.get("output_dimension")))


def _encode_cohere(request: SimEmbedRequest, vectors: Vectors) -> Payload:
    return {
        "id": "00000000-0000-4000-8000-000000000000",
        "texts": list(request.texts),
        "embeddings": {"float": [_written(vector, "float") for vector in vectors]},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": request.tokens}},
        "response_type": "embeddings_by_type",
    }


INVOKE_PATH: Final = re.compile(r"/model/([^/]+)/invoke")


def _match_bedrock(http_request: SimHttpRequest) -> SimRoute | None:
    match = INVOKE_PATH.fullmatch(http_request.subpath) if http_request.method == "POST" else None
    return SimRoute(action="embed", model=unquote(match[1])) if match and "embed" in match[1] else None


def _parse_bedrock(payload: Payload, route: SimRoute) -> SimEmbedRequest | SimError:
    if "cohere." in route.model:
        return _parse_cohere(payload, route)
    text = payload.get("inputText")
    if not isinstance(text, str):
        return _invalid("inputText")
    return SimEmbedRequest(model=route.model, texts=(text,), dimensions=_whole(payload.get("dimensions")))


def _encode_bedrock(request: SimEmbedRequest, vectors: Vectors) -> Payload:
    if "cohere." in request.model:
        return {name: value for name, value in _encode_cohere(request, vectors).items() if name != "meta"}
    return {"embedding": _written(vectors[0], "float"), "inputTextTokenCount": request.tokens}


def _bedrock_headers(request: SimEmbedRequest) -> Mapping[str, str]:
    return {"x-amzn-bedrock-input-token-count": str(request.tokens)}


# Reranking


def _match_rerank(http_request: SimHttpRequest) -> SimRoute | None:
    is_match = http_request.method == "POST" and http_request.path.endswith("/rerank")
    return SimRoute(action="embed") if is_match else None


def _parse_rerank(payload: Payload, route: SimRoute) -> SimEmbedRequest | SimError:
    texts, query = _texts(payload.get("documents")), as_text(payload.get("query"))
    if texts is None or not query:
        return _invalid("documents" if query else "query")
    return SimEmbedRequest(model=as_text(payload.get("model")) or route.model, texts=texts, query=query)


def _encode_rerank(
    request: SimEmbedRequest, _vectors: Vectors, *, name: str = "results", units: bool = False
) -> Payload:
    """Score texts by the words that they share with the query, the best first."""
    wanted = set(re.findall(r"\w+", request.query.lower()))
    scores = [
        len(wanted & set(re.findall(r"\w+", text.lower()))) / (len(wanted) or 1) * 0.98 + 0.01 for text in request.texts
    ]
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
    found = [{"index": index, "relevance_score": round(scores[index], 6)} for index in ranked]
    if units:
        billed = {"search_units": -(-len(request.texts) // 100)}
        return {"id": "rerank-1", name: found, "meta": {"api_version": {"version": "2"}, "billed_units": billed}}
    tokens = request.tokens + count_tokens(request.query) * len(request.texts)
    return {"object": "list", "model": request.model, name: found, "usage": {"total_tokens": tokens}}


_RERANK: Final = FakeEmbeddings(match_route=_match_rerank, parse=_parse_rerank, encode=_encode_rerank, max_texts=1000)
RERANKING: Final[Mapping[str, FakeEmbeddings]] = MappingProxyType(
    {
        **dict.fromkeys(("vllm", "jina"), _RERANK),
        "voyage": replace(_RERANK, encode=partial(_encode_rerank, name="data")),
        **dict.fromkeys(("cohere", "cohere-native"), replace(_RERANK, encode=partial(_encode_rerank, units=True))),
    }
)
"""Scores of texts for a query, by provider."""
OPENAI: Final = FakeEmbeddings(match_route=_match_openai, parse=_parse_openai, encode=_encode_openai)
COHERE: Final = FakeEmbeddings(
    match_route=_match_cohere, parse=_parse_cohere, encode=_encode_cohere, max_texts=96, max_tokens=100_000
)
EMBEDDINGS: Final[Mapping[str, FakeEmbeddings]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("openai", "azure", "compatible", "together", "fireworks", "openrouter", "vllm", "databricks", "ollama",
             "lmstudio", "llamacpp", "litellm"),
            OPENAI,
        ),
        "mistral": replace(OPENAI, parse=partial(_parse_openai, dimensions="output_dimension"), max_tokens=16_384),
        "voyage": replace(
            OPENAI,
            parse=partial(_parse_openai, dimensions="output_dimension"),
            encode=partial(_encode_openai, total_only=True),
            max_texts=1000,
            max_tokens=120_000,
        ),
        "perplexity": replace(OPENAI, parse=partial(_parse_openai, default="base64_int8"), max_texts=512),
        "google": FakeEmbeddings(
            match_route=partial(_match_google, GEMINI_PATH), parse=_parse_google, encode=_encode_google, max_texts=100
        ),
        "vertex": FakeEmbeddings(
            match_route=partial(_match_google, VERTEX_PATH),
            parse=_parse_google,
            encode=_encode_google,
            max_texts=250,
            max_tokens=20_000,
        ),
        **dict.fromkeys(("cohere", "cohere-native"), COHERE),
        "bedrock": FakeEmbeddings(
            match_route=_match_bedrock,
            parse=_parse_bedrock,
            encode=_encode_bedrock,
            max_texts=96,
            headers=_bedrock_headers,
        ),
    }
)  # fmt: skip
"""Embeddings by provider."""
