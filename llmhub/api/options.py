"""What a call takes besides its prompt and model: parameters of the answer, and how a run over a frame goes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, TypeVar

from returns.pipeline import is_successful
from returns.result import Result

from llmhub.cache.access import CacheMode, Mode, mode_of
from llmhub.core.errors import CacheFailedError, InvalidRequest, InvalidRequestError, LLMError, to_exception
from llmhub.core.schemas import schema_of
from llmhub.core.types import JSON, CompletionRequest, Message, Schema, Tool
from llmhub.engine.call import Answer
from llmhub.engine.run import Ran, Settled
from llmhub.engine.tally import Progress
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.tables.rows import Row

Prompt: TypeAlias = str | Message | Sequence[str | Message | Mapping[str, object]] | CompletionRequest
Models: TypeAlias = str | Sequence[str]
T = TypeVar("T")
Asking: TypeAlias = "str | Callable[[Row], str | Sequence[object] | None]"
"""What rows are asked: a template over the columns, or a function that gives a row's text or conversation."""
Report: TypeAlias = Callable[[Progress], None]


class Spending(TypedDict, total=False):
    """What a call may spend: ``budget_usd``, and ``allow_unpriced`` to let pass what has no known price."""

    budget_usd: float | Decimal
    allow_unpriced: bool


class Keeping(TypedDict, total=False):
    """What a call may do with the hub's cache: ``cache``, a `CacheMode` or the name of one."""

    cache: Mode | CacheMode


class Parameters(Spending, Keeping, total=False):
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


class Options(Parameters, total=False):
    """Parameters of an answer, and the ``system`` turn before the prompt."""

    system: str


class RunningOptions(TypedDict, total=False):
    """How a call over a frame goes."""

    concurrency: int
    progress: bool | Report
    on_error: Literal["row", "raise"]
    stream: bool


class MapOptions(RunningOptions, Spending, total=False):
    """What `map_rows` takes besides."""


class SayingOptions(Parameters, RunningOptions, total=False):
    """What is said beside the prompt of a row, and how often it is asked."""

    system: str | Callable[[Row], str | None]
    messages: str
    images: str
    n: int


class RowOptions(SayingOptions, total=False):
    """What a call over a frame takes besides: see `complete_table`."""

    schema: Schema | Mapping[str, JSON] | type[Any]


class FormOptions(SayingOptions, total=False):
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
    progress: bool | Report | None = None
    on_error: Literal["row", "raise"] = "row"
    stream: bool = False
    budget_usd: float | Decimal | None = None
    allow_unpriced: bool = False
    cache: CacheMode | str | None = None
    schema: Any = None
    schema_or_words: bool = False


RUN_OPTIONS: Final = frozenset(option.name for option in fields(RunOptions))
SPENDING_OPTIONS: Final = frozenset(Spending.__annotations__) | frozenset(Keeping.__annotations__)
ASIDE: Final = frozenset({"system", "messages", "images"})
"""Options that say something beside the prompt of a row."""
REQUEST_OPTIONS: Final = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"} | {"system"}


def parted(options: dict[str, Any]) -> tuple[CompletionRequest, RunOptions]:
    """Part what shapes the answer from what shapes the run."""
    run_options = RunOptions(**{name: options.pop(name) for name in list(options) if name in RUN_OPTIONS})
    concurrency = run_options.concurrency
    run_options = replace(
        run_options,
        n=_counted("n", run_options.n),
        concurrency=None if concurrency is None else _counted("concurrency", concurrency),
    )
    mode_of(run_options.cache, CacheMode())
    if run_options.on_error not in {"row", "raise"}:
        raise InvalidRequestError(
            InvalidRequest(path="on_error", message=f"{run_options.on_error!r} is not 'row' or 'raise'")
        )
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        known = ", ".join(sorted(REQUEST_OPTIONS | RUN_OPTIONS | ASIDE))
        raise InvalidRequestError(InvalidRequest(path=unknown[0], message=f"no such option; there are {known}"))
    return CompletionRequest(model="", messages=system_of(options), **request_of(options)), run_options


def request_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a request that options name; what an answer must be, as its schema."""
    given = {name: value for name, value in options.items() if name != "system"}
    if given.get("response_schema") is not None:
        given["response_schema"] = found(schema_of(given["response_schema"]))
    return given


def concurrency_of(hub: Hub, options: RunOptions) -> int:
    """Say how many calls may be under way at once.

    Raises
    ------
    InvalidRequestError
        More than the hub has connections for.
    """
    asked = options.concurrency
    if asked is not None and not 1 <= asked <= hub.pool_size:
        said = f"{asked} is outside 1..{hub.pool_size}, the connections of a provider; give Hub(pool_size=...)"
        raise InvalidRequestError(InvalidRequest(path="concurrency", message=said))
    return asked or hub.concurrency


def _counted(name: str, value: Any) -> int:
    """Give a count as a whole number, whichever library's it is."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidRequestError(InvalidRequest(path=name, message=f"{name}={value!r} is not a whole number from 1"))
    return int(value)


def system_of(options: Mapping[str, Any]) -> tuple[Message, ...]:
    """Give the turn that ``system=`` asks for."""
    return (Message("system", options["system"]),) if options.get("system") else ()


def warn_of(ran: Ran) -> None:
    """Tell the user what a run went on without."""
    if ran.store_error and not ran.gave_up:
        warnings.warn(ran.store_error, RuntimeWarning, stacklevel=2)
    if ran.damaged:
        many = "1 answer" if ran.damaged == 1 else f"{ran.damaged:,} answers"
        said = f"{many} in the cache could not be read back and had to be asked again; `llmhub cache verify` tells more"
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    if ran.unsure:
        said = (
            f"{ran.unsure:,} requests had been sent by a run that ended before the answers came, and may have been "
            "charged; Hub(ambiguous='resend' or 'error') says whether they are sent again"
        )
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    if ran.report_error:
        said = f"the progress function failed and was not called again: {ran.report_error}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)


def expect_store(ran: Ran) -> None:
    """Raise where a run was stopped because its cache failed."""
    if ran.gave_up:
        said = f"{ran.store_error}. Nothing more was sent, since the cache must not fail here (CacheMode(strict=True))"
        raise CacheFailedError(InvalidRequest(path="cache", message=said))


def warn_of_store(error: str) -> None:
    """Tell the user that a plan was made without the cache."""
    warnings.warn(f"the cache failed and was not used: {error}", RuntimeWarning, stacklevel=3)


def expect_rows(options: RunOptions, answers: Iterable[Settled | None]) -> None:
    """Raise the first failure of a row, where the caller wants that."""
    if options.on_error == "raise":
        outcomes = (answer.outcome for answer in answers if isinstance(answer, Answer))
        failed = next((outcome for outcome in outcomes if not is_successful(outcome)), None)
        expect(None if failed is None else failed.failure())


def found(result: Result[T, LLMError]) -> T:
    """Give what is in a result, or raise why there is nothing."""
    if is_successful(result):
        return result.unwrap()
    raise to_exception(result.failure())


def expect(wrong: LLMError | None) -> None:
    """Raise what is wrong, if anything is."""
    if wrong is not None:
        raise to_exception(wrong)
