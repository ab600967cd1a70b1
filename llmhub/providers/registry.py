"""The providers: one row each of who speaks which wire, where, signed how.

A row that differs in its body alone carries that as a small dialect; everything else is data. A plugin adds
a row; nobody subclasses.

Sources: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle, https://ai.google.dev/api,
https://docs.aws.amazon.com/bedrock/latest/APIReference, https://cloud.google.com/vertex-ai/docs/reference/rest and
the clients of anthropic 2.12.0 and google-genai 3.4.0 (Vertex AI's regions), each compatible provider's page on its
OpenAI API, and the addresses of recorded exchanges (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from llmhub.core.errors import DROP_HINT, Hint, InvalidRequest, LLMError, Unsupported
from llmhub.core.provider import Endpoint, HttpRequest, Provider, Wire
from llmhub.core.types import CacheMark, CompletionRequest, Part, Payload, Reasoning
from llmhub.providers import model_profiles, rate_limit_headers, schema_support
from llmhub.providers.auth import DEFAULT_AWS_REGION, api_key_header, bearer_token, bedrock_auth
from llmhub.wire import anthropic, bedrock_converse, gemini, ollama, openai_chat, openai_responses
from llmhub.wire.readers import as_list, as_text

PartTypes: TypeAlias = tuple[type[Part], ...]


CHAT_PATH: Final = "/chat/completions"


RESPONSES_PATH: Final = "/responses"


AZURE_VERSION: Final = "2024-10-21"


ANTHROPIC_VERSION: Final = "2023-06-01"


GEMINI_VERSION: Final = "v1beta"


GEMINI_KINDS: Final = frozenset({"models", "tunedModels"})


VERTEX_VERSION: Final = "v1"


VERTEX_KINDS: Final = frozenset({"publishers", "endpoints"})


VERTEX_REGION: Final = "global"


VERTEX_HOSTS: Final[Mapping[str, str]] = {
    "global": "aiplatform.googleapis.com",
    "us": "aiplatform.us.rep.googleapis.com",
    "eu": "aiplatform.eu.rep.googleapis.com",
}
"""Hosts of the regions that are larger than one place; any other has its own."""


VERTEX_CLAUDE: Final = {"anthropic_version": "vertex-2023-10-16"}
"""The version of Claude's API, which stands in the body where the model does in the address."""


def _at(base_url: str, path: str) -> Callable[[Endpoint, CompletionRequest, bool], str]:
    """Locate a wire whose path is the same for every model."""
    return lambda endpoint, _request, _stream: (endpoint.base_url or base_url) + path


def _azure(endpoint: Endpoint, request: CompletionRequest, _stream: bool) -> str:
    """Locate a deployment, or the v1 API, which takes its name from the body."""
    base = endpoint.base_url.removesuffix("/openai")
    if base.endswith("/openai/v1"):
        return base + CHAT_PATH
    if endpoint.api_version == "v1":
        return f"{base}/openai/v1{CHAT_PATH}"
    version = quote(endpoint.api_version or AZURE_VERSION, safe="")
    return f"{base}/openai/deployments/{_encoded(request.model)}{CHAT_PATH}?api-version={version}"


def _azure_responses(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Locate the Responses API: of v1, or of a dated version where one is named."""
    base = endpoint.base_url.removesuffix("/v1").removesuffix("/openai")
    if endpoint.api_version in {"", "v1"}:
        return f"{base}/openai/v1{RESPONSES_PATH}"
    return f"{base}/openai{RESPONSES_PATH}?api-version={quote(endpoint.api_version, safe='')}"


def _google(endpoint: Endpoint, request: CompletionRequest, stream: bool) -> str:
    """Locate a model, be it named bare or by its kind, and the method that streams or does not."""
    kind, slash, name = request.model.partition("/")
    kind, name = (kind, name) if slash and kind in GEMINI_KINDS else ("models", request.model)
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    version = quote(endpoint.api_version or GEMINI_VERSION, safe="")
    return f"{endpoint.base_url or GOOGLE_URL}/{version}/{kind}/{_encoded(name)}:{method}"


def _vertex(
    publisher: str, whole: str, streamed: str, endpoint: Endpoint, request: CompletionRequest, stream: bool
) -> str:
    """Locate a publisher's model, or one named by its path, in its project and region, and the method.

    An address of one's own may be the host's, with or without the API's version, or reach into a project's region.
    """
    region = endpoint.region or VERTEX_REGION
    version = quote(endpoint.api_version or VERTEX_VERSION, safe="")
    base = endpoint.base_url or f"https://{_vertex_host(region)}"
    if PROJECTS not in base:
        place = f"{PROJECTS}{quote(endpoint.project, safe=':')}/locations/{quote(region, safe='')}"
        base = f"{base.removesuffix(f'/{version}')}/{version}{place}"
    named = request.model.partition("/")[0] in VERTEX_KINDS
    model = request.model if named else f"publishers/{publisher}/models/{request.model}"
    method = streamed if stream else whole
    return f"{base}/{quote(model, safe='/@', errors='surrogatepass')}:{method}"


PROJECTS: Final = "/projects/"


def _bedrock(endpoint: Endpoint, request: CompletionRequest, stream: bool) -> str:
    """Locate a model or profile by its id or ARN, encoded whole, in its region."""
    base = endpoint.base_url or f"https://bedrock-runtime.{endpoint.region or DEFAULT_AWS_REGION}.amazonaws.com"
    return f"{base}/model/{_encoded(request.model)}/{'converse-stream' if stream else 'converse'}"


def _listing(base_url: str, path: str = "/models") -> Callable[[Endpoint], str]:
    """Locate what a key opens and nobody pays for: the list of models, say."""
    return lambda endpoint: (endpoint.base_url or base_url) + path


def _azure_listing(endpoint: Endpoint) -> str:
    base = endpoint.base_url.removesuffix("/v1").removesuffix("/openai")
    if endpoint.base_url.endswith("/openai/v1") or endpoint.api_version == "v1":
        return f"{base}/openai/v1/models"
    return f"{base}/openai/models?api-version={quote(endpoint.api_version or AZURE_VERSION, safe='')}"


def _google_listing(endpoint: Endpoint) -> str:
    return f"{endpoint.base_url or GOOGLE_URL}/{quote(endpoint.api_version or GEMINI_VERSION, safe='')}/models"


def _bedrock_listing(endpoint: Endpoint) -> str:
    """Locate the list of models, which is the control plane's."""
    base = endpoint.base_url.replace("://bedrock-runtime.", "://bedrock.", 1)
    return f"{base or f'https://bedrock.{endpoint.region or DEFAULT_AWS_REGION}.amazonaws.com'}/foundation-models"


def _vertex_listing(publisher: str, endpoint: Endpoint) -> str:
    """Locate the list of a publisher's models, which is open to every project."""
    base = endpoint.base_url or f"https://{_vertex_host(endpoint.region or VERTEX_REGION)}"
    return f"{base.partition(PROJECTS)[0].removesuffix('/v1')}/v1beta1/publishers/{publisher}/models"


def _vertex_host(region: str) -> str:
    return VERTEX_HOSTS.get(region) or f"{region}-aiplatform.googleapis.com"


def _databricks(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Locate a workspace's serving endpoints, be the address the workspace's or theirs."""
    return endpoint.base_url.removesuffix("/serving-endpoints") + "/serving-endpoints" + CHAT_PATH


def _ollama(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Locate Ollama's own chat, be the address the server's or that of its compatible endpoint."""
    return (endpoint.base_url or OLLAMA_URL).removesuffix("/v1") + "/api/chat"


def _ollama_tags(endpoint: Endpoint) -> str:
    return (endpoint.base_url or OLLAMA_URL).removesuffix("/v1") + "/api/tags"


def _encoded(model: str) -> str:
    return quote(model, safe="", errors="surrogatepass")


def _versioned(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    """Sign for Anthropic, whose version is a header."""
    version = {"anthropic-version": endpoint.api_version or ANTHROPIC_VERSION}
    bare = replace(request, headers={**request.headers, **version})
    return api_key_header("x-api-key")(endpoint, bare, now)


def _renamed(old: str, new: str, payload: Payload) -> Payload:
    return {new if name == old else name: value for name, value in payload.items()}


def _without(unwanted: str, payload: Payload) -> Payload:
    return {name: value for name, value in payload.items() if name != unwanted}


def _mistral(payload: Payload) -> Payload:
    """Write for Mistral, which counts a stream's tokens unasked and names the seed its own way."""
    return _renamed("seed", "random_seed", _without("stream_options", payload))


def _thinking(name: str, payload: Payload) -> Payload:
    """Give earlier reasoning back under the name a server takes it by."""
    turns: Any = payload.get("messages") or ()
    if not any(THOUGHT in turn for turn in turns):
        return payload
    return {**payload, "messages": [_renamed(THOUGHT, name, turn) for turn in turns]}


def _openai(payload: Payload) -> Payload:
    """Write for OpenAI, whose bound covers reasoning under a name of its own."""
    return _renamed("max_tokens", "max_completion_tokens", payload)


def _unasked(payload: Payload) -> Payload:
    """Write for servers that count a stream's tokens in every chunk and were not seen to take the wish for it."""
    return _without("stream_options", payload)


def _sayable(payload: Payload) -> Payload:
    """Write for OpenAI, which gives reasoning encrypted only of a model that reasons."""
    if model_profiles.is_reasoning_model(as_text(payload.get("model"))):
        return payload
    wanted = [name for name in as_list(payload.get("include")) if name != openai_responses.ENCRYPTED_REASONING]
    return {**_without("include", payload), **({"include": wanted} if wanted else {})}


def _vertex_claude(payload: Payload) -> Payload:
    """Write for Vertex AI, where the model stands in the address and Claude's version in the body."""
    return {**VERTEX_CLAUDE, **_without("model", payload)}


def _unpaid(name: str, endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Refuse to ask for a model without the project that pays for it."""
    if not endpoint.project and PROJECTS not in endpoint.base_url:
        said = f"{name} bills a Google Cloud project; give Endpoint(project=...)"
        return InvalidRequest(path="$.endpoint.project", message=said)
    return model_profiles.check_supported(name, endpoint, request)


def _picky(
    refused: frozenset[type[Part]],
    judge: Callable[[str, Endpoint, CompletionRequest], LLMError | None],
    name: str,
    endpoint: Endpoint,
    request: CompletionRequest,
) -> LLMError | None:
    """Refuse what a server is known not to take: of the parts of a turn, and as ``judge`` says."""
    for at, message in enumerate(request.messages):
        for index, part in enumerate(message.parts):
            if type(part) in refused:
                said = f"{name} does not take a {type(part).__name__}"
                return Unsupported(path=f"$.messages[{at}].parts[{index}]", message=said, hint=DROP_HINT)
    return judge(name, endpoint, request)


def _homeless(name: str, endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Refuse to ask a provider that has no public address and was given none."""
    if not endpoint.base_url:
        hint = Hint("base_url", provider=name)
        return InvalidRequest(path="$.endpoint.base_url", message=f"{name} has no public address", hint=hint)
    return model_profiles.check_supported(name, endpoint, request)


def _chat(
    name: str, base_url: str, *required_env: str, unsupported_parts: PartTypes = (Reasoning, CacheMark), **more: object
) -> Provider:
    """Make the row of a server that speaks Chat Completions under a bearer token; ``more`` is what differs.

    ``unsupported_parts`` are parts of a turn that the wire has and this server refuses.
    """
    row = Provider(
        name,
        openai_chat.WIRE,
        base_url,
        locate=_at(base_url, CHAT_PATH),
        authorize=bearer_token,
        limits=rate_limit_headers.rate_limit_reader(rate_limit_headers.OPENAI_HEADERS),
        unsupported=partial(
            _picky, frozenset(unsupported_parts), model_profiles.check_supported if base_url else _homeless, name
        ),
        structured_output_mode=partial(model_profiles.structured_output_mode, name),
        required_env=(required_env,) if required_env else (),
        signature_covers_body=False,
        health_url=_listing(base_url),
    )
    return replace(row, **more)  # type: ignore[arg-type] # the fields of a row


def _cloud(name: str, wire: Wire, publisher: str, whole: str, streamed: str, **more: object) -> Provider:
    """Make the row of a publisher's models on Vertex AI, asked under a Google Cloud token."""
    row = Provider(
        name,
        wire,
        f"https://{VERTEX_HOSTS[VERTEX_REGION]}",
        locate=partial(_vertex, publisher, whole, streamed),
        authorize=bearer_token,
        limits=rate_limit_headers.read_google_limits,
        unsupported=partial(_unpaid, name),
        structured_output_mode=partial(model_profiles.structured_output_mode, name),
        required_env=(("VERTEX_ACCESS_TOKEN", "GOOGLE_CLOUD_PROJECT"),),
        signature_covers_body=False,
        health_url=partial(_vertex_listing, publisher),
    )
    return replace(row, **more)  # type: ignore[arg-type] # the fields of a row


OLLAMA_URL: Final = "http://localhost:11434"


GOOGLE_URL: Final = "https://generativelanguage.googleapis.com"


ANTHROPIC_URL: Final = "https://api.anthropic.com"


THOUGHT: Final = "reasoning_content"
"""The name by which the wire gives earlier reasoning back."""


MARKS: Final = (CacheMark,)
"""What is refused of servers that were recorded with earlier reasoning in a request they answered."""


_ROWS: Final = (
    _chat("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", adapt=_openai, unsupported_parts=(Reasoning,)),
    _chat(
        "openai-responses",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        wire=openai_responses.WIRE,
        locate=_at("https://api.openai.com/v1", RESPONSES_PATH),
        adapt=_sayable,
        unsupported_parts=(),
    ),
    _chat(
        "azure",
        "",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_ENDPOINT",
        locate=_azure,
        authorize=api_key_header("api-key"),
        adapt=_openai,
        request_id_header="apim-request-id",
        health_url=_azure_listing,
    ),
    _chat(
        "azure-responses",
        "",
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_ENDPOINT",
        wire=openai_responses.WIRE,
        locate=_azure_responses,
        authorize=api_key_header("api-key"),
        adapt=_sayable,
        unsupported_parts=(CacheMark,),
        request_id_header="apim-request-id",
        health_url=_azure_listing,
    ),
    Provider(
        "anthropic",
        anthropic.WIRE,
        ANTHROPIC_URL,
        locate=_at(ANTHROPIC_URL, "/v1/messages"),
        authorize=_versioned,
        limits=rate_limit_headers.rate_limit_reader(rate_limit_headers.ANTHROPIC_HEADERS),
        unsupported=partial(model_profiles.check_supported, "anthropic"),
        structured_output_mode=partial(model_profiles.structured_output_mode, "anthropic"),
        required_env=(("ANTHROPIC_API_KEY",),),
        request_id_header="request-id",
        signature_covers_body=False,
        health_url=_listing(ANTHROPIC_URL, "/v1/models"),
    ),
    Provider(
        "google",
        gemini.WIRE,
        GOOGLE_URL,
        locate=_google,
        authorize=api_key_header("x-goog-api-key"),
        limits=rate_limit_headers.read_google_limits,
        unsupported=partial(model_profiles.check_supported, "google"),
        structured_output_mode=partial(model_profiles.structured_output_mode, "google"),
        required_env=(("GEMINI_API_KEY",), ("GOOGLE_API_KEY",)),
        request_id_header="",
        signature_covers_body=False,
        health_url=_google_listing,
    ),
    _cloud("vertex", gemini.WIRE, "google", "generateContent", "streamGenerateContent?alt=sse", request_id_header=""),
    _cloud(
        "vertex-anthropic",
        anthropic.WIRE,
        "anthropic",
        "rawPredict",
        "streamRawPredict",
        adapt=_vertex_claude,
        request_id_header="request-id",
    ),
    Provider(
        "bedrock",
        bedrock_converse.WIRE,
        f"https://bedrock-runtime.{DEFAULT_AWS_REGION}.amazonaws.com",
        locate=_bedrock,
        authorize=bedrock_auth,
        limits=rate_limit_headers.read_retry_after,
        unsupported=partial(model_profiles.check_supported, "bedrock"),
        structured_output_mode=partial(model_profiles.structured_output_mode, "bedrock"),
        required_env=(("AWS_BEARER_TOKEN_BEDROCK",), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        request_id_header="x-amzn-requestid",
        health_url=_bedrock_listing,
    ),
    _chat("compatible", "", unsupported_parts=MARKS),
    _chat("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    _chat(
        "mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        adapt=_mistral,
        limits=rate_limit_headers.rate_limit_reader(rate_limit_headers.MISTRAL_HEADERS),
        request_id_header="mistral-correlation-id",
    ),
    _chat("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY", unsupported_parts=MARKS),
    _chat("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    _chat(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        unsupported_parts=MARKS,
        adapt=partial(_thinking, "reasoning"),  # the name it answers under; recorded were details alone
        request_id_header="x-generation-id",
        health_url=_listing("https://openrouter.ai/api/v1", "/key"),  # its list of models is open to all
    ),
    _chat("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    _chat("xai", "https://api.x.ai/v1", "XAI_API_KEY", unsupported_parts=MARKS),
    _chat(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        limits=rate_limit_headers.rate_limit_reader(rate_limit_headers.CEREBRAS_HEADERS),
    ),
    _chat("perplexity", "https://api.perplexity.ai", "PERPLEXITY_API_KEY", adapt=_unasked, health_url=None),
    _chat("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN", health_url=None),
    _chat("ollama", f"{OLLAMA_URL}/v1", unsupported_parts=MARKS),
    _chat(
        "ollama-native",
        OLLAMA_URL,
        wire=ollama.WIRE,
        locate=_ollama,
        unsupported_parts=MARKS,
        request_id_header="",
        health_url=_ollama_tags,
    ),
    _chat(
        "vllm", "", unsupported_parts=MARKS, adapt=partial(_thinking, "reasoning")
    ),  # docs.vllm.ai, v0.26: no longer reasoning_content
    _chat("databricks", "", "DATABRICKS_TOKEN", "DATABRICKS_HOST", locate=_databricks, adapt=_unasked, health_url=None),
)


PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {row.name: replace(row, relax_schema=partial(schema_support.relax_schema, row.name)) for row in _ROWS}
)
"""Every provider by name; read-only."""
