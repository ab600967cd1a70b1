"""What a call takes besides its prompt and model: parameters of the answer, and how a run over a frame goes.

What a call may spend: its own budget, and its hub's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, TypeVar

from returns.pipeline import is_successful
from returns.result import Result

from llmhub.cache.modes import CacheMode, Mode, resolve_mode
from llmhub.core.errors import BadRequestError, CacheError, InvalidRequest, LLMError, to_exception
from llmhub.core.json_schema import schema_of
from llmhub.core.types import JSON, CompletionRequest, Message, Schema, Tool
from llmhub.engine.call import Answer
from llmhub.engine.client import SendResult
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.progress import Progress
from llmhub.engine.row_outcome import RowOutcome
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.tables.rows import Row
import time

from llmhub.core.budget import nano_to_usd, parse_budget
from llmhub.engine.call import Target
from llmhub.engine.spending import Budgets, SharedBudget, TargetPrices

Prompt: TypeAlias = str | Message | Sequence[str | Message | Mapping[str, object]] | CompletionRequest


Models: TypeAlias = str | Sequence[str]


T = TypeVar("T")


TablePrompt: TypeAlias = "str | Callable[[Row], str | Sequence[object] | None]"
"""What rows are asked: a template over the columns, or a function that gives a row's text or conversation."""


ProgressCallback: TypeAlias = Callable[[Progress], None]


class BudgetOptions(TypedDict, total=False):
    """What a call may spend: ``budget_usd``, and ``allow_unpriced`` to let pass what has no known price."""

    budget_usd: float | Decimal
    allow_unpriced: bool


class CacheOptions(TypedDict, total=False):
    """What a call may do with the hub's cache: ``cache``, a `CacheMode` or the name of one."""

    cache: Mode | CacheMode


class RequestOptions(BudgetOptions, CacheOptions, total=False):
    """Parameters of an answer, as in `CompletionRequest`, and what it may cost."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: str | Sequence[str]
    seed: int
    presence_penalty: float
    frequency_penalty: float
    tools: Sequence[Tool]
    tool_choice: str
    parallel_tool_calls: bool
    logprobs: int
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None
    reasoning_effort: str
    reasoning_budget: int
    user: str
    extra: Mapping[str, JSON]
    unsupported: Literal["error", "drop"]


class CompletionOptions(RequestOptions, total=False):
    """Parameters of an answer, and the ``system`` turn before the prompt."""

    system: str


class ExecutionOptions(TypedDict, total=False):
    """How a call over a frame goes."""

    concurrency: int
    progress: bool | ProgressCallback
    on_error: Literal["row", "raise"]
    stream: bool


class MapOptions(ExecutionOptions, BudgetOptions, total=False):
    """What `map_rows` takes besides."""


class MessageOptions(RequestOptions, ExecutionOptions, total=False):
    """What is said beside the prompt of a row, and how often it is asked."""

    system: str | Callable[[Row], str | None]
    messages: str
    images: str
    n: int


class RowOptions(MessageOptions, total=False):
    """What a call over a frame takes besides: see `complete_table`."""

    schema: Schema | Mapping[str, JSON] | type[Any]


class TypedTableOptions(MessageOptions, total=False):
    """What a call takes besides that says itself what answers must be."""

    n_jobs: int


class TableOptions(RowOptions, total=False):
    """What a call that gives a whole table takes besides: see `complete_table`."""

    n_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a call over a frame is run."""

    n: int = 1
    concurrency: int | None = None
    progress: bool | ProgressCallback | None = None
    on_error: Literal["row", "raise"] = "row"
    stream: bool = False
    budget_usd: float | Decimal | None = None
    allow_unpriced: bool = False
    cache: CacheMode | str | None = None
    schema: Any = None
    schema_or_words: bool = False


RUN_OPTIONS: Final = frozenset(option.name for option in fields(RunOptions))


BUDGET_AND_CACHE_OPTIONS: Final = frozenset(BudgetOptions.__annotations__) | frozenset(CacheOptions.__annotations__)


MESSAGE_OPTIONS: Final = frozenset({"system", "messages", "images"})
"""Options that say something beside the prompt of a row."""


REQUEST_OPTIONS: Final = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"} | {"system"}


def split_options(options: dict[str, Any]) -> tuple[CompletionRequest, RunOptions]:
    """Part what shapes the answer from what shapes the run."""
    run_options = RunOptions(**{name: options.pop(name) for name in list(options) if name in RUN_OPTIONS})
    concurrency = run_options.concurrency
    run_options = replace(
        run_options,
        n=_positive_int("n", run_options.n),
        concurrency=None if concurrency is None else _positive_int("concurrency", concurrency),
    )
    resolve_mode(run_options.cache, CacheMode())
    if run_options.on_error not in {"row", "raise"}:
        raise BadRequestError(
            InvalidRequest(path="on_error", message=f"{run_options.on_error!r} is not 'row' or 'raise'")
        )
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        known = ", ".join(sorted(REQUEST_OPTIONS | RUN_OPTIONS | MESSAGE_OPTIONS))
        raise BadRequestError(InvalidRequest(path=unknown[0], message=f"no such option; there are {known}"))
    return CompletionRequest(model="", messages=system_messages(options), **request_fields(options)), run_options


def request_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a request that options name; what an answer must be, as its schema."""
    given = {name: value for name, value in options.items() if name != "system"}
    if given.get("response_schema") is not None:
        given["response_schema"] = unwrap_or_raise(schema_of(given["response_schema"]))
    return given


def resolve_concurrency(hub: Hub, options: RunOptions) -> int:
    """Say how many calls may be under way at once.

    Raises
    ------
    InvalidRequestError
        More than the hub has connections for.
    """
    asked = options.concurrency
    if asked is not None and not 1 <= asked <= hub.pool_size:
        said = f"{asked} is outside 1..{hub.pool_size}, the connections of a provider; give Hub(pool_size=...)"
        raise BadRequestError(InvalidRequest(path="concurrency", message=said))
    return asked or hub.concurrency


def _positive_int(name: str, value: Any) -> int:
    """Give a count as a whole number, whichever library's it is."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BadRequestError(InvalidRequest(path=name, message=f"{name}={value!r} is not a whole number from 1"))
    return int(value)


def system_messages(options: Mapping[str, Any]) -> tuple[Message, ...]:
    """Give the turn that ``system=`` asks for."""
    return (Message("system", options["system"]),) if options.get("system") else ()


def warn_run_problems(ran: FanOutResult | SendResult) -> None:
    """Tell the user what a run went on without."""
    if ran.store_error and not ran.stopped_by_store_failure:
        warnings.warn(ran.store_error, RuntimeWarning, stacklevel=2)
    if ran.damaged_values:
        many = "1 answer" if ran.damaged_values == 1 else f"{ran.damaged_values:,} answers"
        said = f"{many} in the cache could not be read back and had to be asked again; `llmhub cache verify` tells more"
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    if ran.ambiguous_count:
        said = (
            f"{ran.ambiguous_count:,} requests had been sent by a run that ended before the answers came, and may have been "
            "charged; Hub(ambiguous='resend' or 'error') says whether they are sent again"
        )
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    if isinstance(ran, FanOutResult) and ran.progress_error:
        said = f"the progress function failed and was not called again: {ran.progress_error}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)


def raise_if_cache_failed(ran: FanOutResult | SendResult) -> None:
    """Raise where a run was stopped because its cache failed."""
    if ran.stopped_by_store_failure:
        said = f"{ran.store_error}. Nothing more was sent, since the cache must not fail here (CacheMode(strict=True))"
        raise CacheError(InvalidRequest(path="cache", message=said))


def warn_cache_unavailable(error: str) -> None:
    """Tell the user that a plan was made without the cache."""
    warnings.warn(f"the cache failed and was not used: {error}", RuntimeWarning, stacklevel=3)


def raise_first_row_error(options: RunOptions, answers: Iterable[RowOutcome | None]) -> None:
    """Raise the first failure of a row, where the caller wants that."""
    if options.on_error == "raise":
        outcomes = (answer.outcome for answer in answers if isinstance(answer, Answer))
        failed = next((outcome for outcome in outcomes if not is_successful(outcome)), None)
        raise_if_error(None if failed is None else failed.failure())


def unwrap_or_raise(result: Result[T, LLMError]) -> T:
    """Give what is in a result, or raise why there is nothing."""
    if is_successful(result):
        return result.unwrap()
    raise to_exception(result.failure())


def raise_if_error(wrong: LLMError | None) -> None:
    """Raise what is wrong, if anything is."""
    if wrong is not None:
        raise to_exception(wrong)


def budgets_for(
    hub: Hub, targets: Iterable[Target], budget_usd: float | Decimal | SharedBudget | None, *, allow_unpriced: bool
) -> Budgets | None:
    """Put together the budgets that a call must fit into; ``None`` where there is none.

    A `SharedBudget` instead of an amount is one that several calls share.

    Raises
    ------
    InvalidRequestError
        ``budget_usd`` is no amount; or there is a budget and no known price, and ``allow_unpriced`` is not said.
    """
    own = () if budget_usd is None else (as_shared_budget(budget_usd),)
    shared = () if hub.runtime.shared_budget is None else (hub.runtime.shared_budget,)
    budget = bool(own or shared)
    if not budget and not any(route.needs_prices for route in hub.directory.routes.values()):
        return None
    allowed = allow_unpriced or hub.allow_unpriced or not budget
    prices = TargetPrices(time.time)
    for target in targets:
        # Looked up here, too, since the first look loads the table, and nobody else should wait for that.
        if prices.lookup(target) is None and not allowed:
            said = (
                f"{target.name!r} has no known price, so no budget can hold it; "
                "give allow_unpriced=True to let it pass uncounted, or no budget_usd"
            )
            raise BadRequestError(InvalidRequest(path="model", message=said))
    return Budgets(own + shared, allowed) if budget else None


def as_shared_budget(budget_usd: float | Decimal | SharedBudget) -> SharedBudget:
    """Make one wallet for a budget that several calls share."""
    return budget_usd if isinstance(budget_usd, SharedBudget) else SharedBudget(parse_budget(budget_usd))


def split_budgets(hub: Hub, options: RowOptions, parts: int) -> tuple[Hub, RowOptions]:
    """Part every budget evenly among processes, which cannot see what the others spend."""
    if hub.budget_usd is not None:
        hub = replace(hub, budget_usd=_budget_share(hub.budget_usd, parts))
    limit: Any = options.get("budget_usd")
    return hub, options if limit is None else {**options, "budget_usd": _budget_share(limit, parts)}


def _budget_share(amount: float | Decimal, parts: int) -> Decimal:
    return nano_to_usd(parse_budget(amount).limit // max(parts, 1))
