# The public names of llmhub, once: `lazy_loader` reads this stub at run time, type checkers read it in place of
# `__init__.py`. `X as X` marks a name as exported.

import sys

import llmhub._signatures as _signatures  # noqa: PLR0402 - lazy_loader reads every `from` import

from . import bench as bench
from . import datasets as datasets
from . import distributed as distributed
from . import errors as errors
from . import evals as evals
from . import plots as plots
from . import sim as sim
from . import types as types
from .api import Completion as Completion
from .api import Job as Job
from .api import RankedText as RankedText
from .api import ahealth_check as ahealth_check
from .api import configure as configure
from .api import count_tokens as count_tokens
from .api import current_hub as current_hub
from .api import health_check as health_check
from .api import metadata as metadata
from .api import models as models
from .api import parse as parse
from .api import rehearsal as rehearsal
from .api import schema_of as schema_of
from .api import simulate as simulate
from .api import using as using
from .api.info import ledger as ledger
from .api.info import responses as responses
from .api.provider_batches import batches as batches
from .api.sink import Written as Written
from .cache.memory import MemoryCache as MemoryCache
from .cache.modes import CacheMode as CacheMode
from .cache.redis import RedisCache as RedisCache
from .cache.sqlite import DiskCache as DiskCache
from .cache.store import StoreError as StoreError
from .cache.tiered import TieredCache as TieredCache
from .core.errors import APIConnectionError as APIConnectionError
from .core.errors import APITimeoutError as APITimeoutError
from .core.errors import AuthenticationError as AuthenticationError
from .core.errors import BadRequestError as BadRequestError
from .core.errors import BudgetExceededError as BudgetExceededError
from .core.errors import CacheError as CacheError
from .core.errors import CancelledCallError as CancelledCallError
from .core.errors import ConnectorError as ConnectorError
from .core.errors import ContentFilterError as ContentFilterError
from .core.errors import ContextLengthExceededError as ContextLengthExceededError
from .core.errors import InternalServerError as InternalServerError
from .core.errors import LLMError as LLMError
from .core.errors import MalformedResponseError as MalformedResponseError
from .core.errors import NotFoundError as NotFoundError
from .core.errors import OverloadedError as OverloadedError
from .core.errors import PermissionDeniedError as PermissionDeniedError
from .core.errors import QuotaExceededError as QuotaExceededError
from .core.errors import RateLimitError as RateLimitError
from .core.errors import UnsupportedParameterError as UnsupportedParameterError
from .core.provider import Endpoint as Endpoint
from .core.types import CompletionRequest as CompletionRequest
from .core.types import CompletionResponse as CompletionResponse
from .core.types import Message as Message
from .core.types import Schema as Schema
from .core.types import StreamChunk as StreamChunk
from .core.types import Tool as Tool
from .datasets._diff import diff as diff
from .datasets._freeze import freeze as freeze
from .datasets._replay import replay as replay
from .datasets._verify import verify as verify
from .datasets.splits import split_by_hash as split_by_hash
from .engine.circuit_breaker import Breaker as Breaker
from .engine.health import Health as Health
from .engine.limits import Limit as Limit
from .engine.retry import Retry as Retry
from .engine.routing_policy import CostOptimized as CostOptimized
from .engine.routing_policy import Failover as Failover
from .engine.routing_policy import Hedge as Hedge
from .engine.routing_policy import LowLatency as LowLatency
from .engine.routing_policy import RoundRobin as RoundRobin
from .engine.routing_policy import Route as Route
from .engine.routing_policy import Weighted as Weighted
from .engine.transport import Timeout as Timeout
from .evals import scorers as scorers
from .evals import tasks as tasks
from .evals._scorer import scorer as scorer
from .hub import Hub as Hub
from .notebook.magic import load_ipython_extension as load_ipython_extension
from .notebook.magic import unload_ipython_extension as unload_ipython_extension
from .notebook.show import show as show
from .observability import logging as logging
from .observability import metrics as metrics
from .observability import tracing as tracing
from .plugins import PluginWarning as PluginWarning
from .plugins import load_plugins as load_plugins
from .security import credentials as credentials
from .security.patterns import RedactionPattern as RedactionPattern
from .security.redaction import Redactor as Redactor
from .security.redaction import presidio_recognizer as presidio_recognizer
from .tables.pandas_types import to_pandas as to_pandas
from .tables.rows import Row as Row
from .tables.tokenizers import EstimateWarning as EstimateWarning
from .tables.vectors import matrix as matrix
from .tables.vectors import similarity as similarity

# Functions with options: run time loads the functions themselves, type checkers and editors read signatures that list
# every option (`python -m tests.typing.write_signatures`).
if sys.version_info < (3,):  # noqa: UP036 - hides them from type checkers
    from .api import acomplete as acomplete
    from .api import acomplete_table as acomplete_table
    from .api import aembed as aembed
    from .api import aembed_table as aembed_table
    from .api import astream as astream
    from .api import complete as complete
    from .api import complete_parallel as complete_parallel
    from .api import complete_record_batches as complete_record_batches
    from .api import complete_table as complete_table
    from .api import embed as embed
    from .api import embed_table as embed_table
    from .api import plan as plan
    from .api import plan_embeddings as plan_embeddings
    from .api import rerank as rerank
    from .api import rerank_table as rerank_table
    from .api import stream as stream
    from .api import stream_table as stream_table
    from .api import submit as submit
    from .api import try_complete as try_complete
    from .evals._compare import compare as compare
    from .evals._evaluate import evaluate as evaluate
    from .notebook.accessor import llm as llm
    from .notebook.duckdb_functions import duckdb_functions as duckdb_functions

acomplete = _signatures.acomplete
acomplete_table = _signatures.acomplete_table
aembed = _signatures.aembed
aembed_table = _signatures.aembed_table
astream = _signatures.astream
compare = _signatures.compare
complete = _signatures.complete
complete_parallel = _signatures.complete_parallel
complete_record_batches = _signatures.complete_record_batches
complete_table = _signatures.complete_table
duckdb_functions = _signatures.duckdb_functions
embed = _signatures.embed
embed_table = _signatures.embed_table
evaluate = _signatures.evaluate
llm = _signatures.llm
plan = _signatures.plan
plan_embeddings = _signatures.plan_embeddings
rerank = _signatures.rerank
rerank_table = _signatures.rerank_table
stream = _signatures.stream
stream_table = _signatures.stream_table
submit = _signatures.submit
try_complete = _signatures.try_complete

__version__: str
