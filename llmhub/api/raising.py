"""How failures leave the library: error values become exceptions here, and problems of a run become warnings.

Law: an exception raised once responses have arrived carries them, in ``table`` or ``response``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from returns.pipeline import is_successful
from returns.result import Result

from llmhub.core.errors import CacheError, InvalidRequest, LLMError, attach_table, to_exception
from llmhub.engine.call import Answer
from llmhub.engine.client import SendResult
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.row_outcome import RowOutcome
from llmhub.formatting.numbers import format_quantity

if TYPE_CHECKING:
    from llmhub.api.options import RunOptions

T = TypeVar("T")


def unwrap_or_raise(result: Result[T, LLMError]) -> T:
    """Return the value of a successful result, or raise its error."""
    if is_successful(result):
        return result.unwrap()
    raise to_exception(result.failure())


def raise_if_error(error: LLMError | None) -> None:
    """Raise the exception of an error value, if there is one."""
    if error is not None:
        raise to_exception(error)


def raise_first_row_error(options: RunOptions, outcomes: Iterable[RowOutcome | None]) -> None:
    """Raise the error of the first failed row if ``on_error="raise"``."""
    if options.on_error == "raise":
        results = (outcome.outcome for outcome in outcomes if isinstance(outcome, Answer))
        failed = next((result for result in results if not is_successful(result)), None)
        raise_if_error(None if failed is None else failed.failure())


def raise_if_cache_failed(result: FanOutResult | SendResult) -> None:
    """Raise if the run was stopped because its cache failed and is required (``CacheMode(strict=True)``)."""
    if result.stopped_by_store_failure:
        message = f"{result.store_error}. No further requests were sent, because CacheMode(strict=True) requires it"
        raise CacheError(InvalidRequest(path="cache", message=message))


@contextmanager
def keep_table(table: object) -> Iterator[None]:
    """Attach ``table`` to any exception that is raised in the block (see `llmhub.core.errors.attach_table`)."""
    try:
        yield
    except BaseException as error:
        attach_table(error, table)
        raise


def warn_run_problems(result: FanOutResult | SendResult, problems: Iterable[str] = ()) -> None:
    """Warn about problems that the run worked around. Under ``-W error`` this raises, so call it with `keep_table`."""
    for problem in problems:
        warnings.warn(problem, RuntimeWarning, stacklevel=2)
    if result.store_error and not result.stopped_by_store_failure:
        warnings.warn(result.store_error, RuntimeWarning, stacklevel=2)
    if result.damaged_values:
        message = (
            f"{format_quantity(result.damaged_values, 'cached response')} could not be decoded, so the requests were "
            "sent again; run `llmhub cache verify` for details"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    if result.ambiguous_count:
        message = (
            f"{format_quantity(result.ambiguous_count, 'request')} had been sent by a run that ended before the "
            "responses arrived, and may have been charged; Hub(ambiguous='resend' or 'error') decides whether such "
            "requests are sent again"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    if isinstance(result, FanOutResult) and result.progress_error:
        message = f"the progress function raised an error and was not called again: {result.progress_error}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def warn_cache_unavailable(error: str) -> None:
    """Warn that a plan was made without the cache."""
    warnings.warn(f"the cache failed and was not used for this plan: {error}", RuntimeWarning, stacklevel=3)
