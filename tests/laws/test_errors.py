from __future__ import annotations

import copy
import pickle
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core import errors
from llmhub.core.errors import (
    EXCEPTIONS,
    TRANSIENT,
    AuthFailed,
    ConnectorError,
    LLMError,
    RateLimited,
    error_type_name,
    is_transient,
    retry_after_s,
    to_exception,
    with_context,
)

KINDS: tuple[type, ...] = typing.get_args(LLMError)
kinds = st.sampled_from(KINDS)
failures = kinds.flatmap(
    lambda error_type: st.builds(
        error_type,
        message=st.text(),
        provider=st.text(max_size=5),
        status=st.none() | st.integers(100, 599),
        code=st.text(max_size=5),
        path=st.text(max_size=5),
        request_id=st.text(max_size=5),
        retry_after_s=st.none() | st.floats(0, 1e6),
        should_retry=st.none() | st.booleans(),
    )
)

LASTING = {
    "InvalidRequest",
    "Unsupported",
    "AuthFailed",
    "PermissionDenied",
    "NotFound",
    "QuotaExhausted",
    "Malformed",
    "ContextTooLong",
    "ContentFiltered",
    "BudgetExceeded",
    "Cancelled",
}
PASSING = {"RateLimited", "Overloaded", "ServerError", "TimedOut", "Disconnected"}


def test_every_error_has_its_own_exception() -> None:
    assert set(EXCEPTIONS) == set(KINDS)
    assert len(set(EXCEPTIONS.values())) == len(KINDS)
    assert {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")} == {
        *(error_type.__name__ for error_type in EXCEPTIONS.values()),
        "CacheError",
        "ConnectorError",
        "ServerError",
    }


@given(failures)
def test_exception_has_the_text_of_its_error(error: LLMError) -> None:
    raised = to_exception(error)
    assert type(raised) is EXCEPTIONS[type(error)]
    assert isinstance(raised, ConnectorError)
    assert raised.error is error
    assert str(raised) == str(error)


@given(failures)
def test_errors_and_exceptions_can_be_pickled(error: LLMError) -> None:
    assert pickle.loads(pickle.dumps(error)) == error
    assert copy.deepcopy(error) == error
    again = pickle.loads(pickle.dumps(to_exception(error)))
    assert (type(again), again.error, str(again)) == (EXCEPTIONS[type(error)], error, str(error))


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("InvalidRequest", ValueError), ("TimedOut", TimeoutError), ("Disconnected", ConnectionError)],
)
def test_builtin_base_classes(name: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise to_exception(getattr(errors, name)())


def test_which_errors_are_transient() -> None:
    assert {error_type.__name__ for error_type in KINDS} == LASTING | PASSING
    assert {error_type.__name__ for error_type in TRANSIENT} == PASSING
    assert {error_type_name(error_type()) for error_type in KINDS if is_transient(error_type())} == PASSING


@given(failures)
def test_should_retry_takes_precedence(error: LLMError) -> None:
    should_retry = error.should_retry
    assert is_transient(error) is (error_type_name(error) in PASSING if should_retry is None else should_retry)
    assert retry_after_s(error) == error.retry_after_s


@given(failures, kinds)
def test_errors_compare_by_type_and_value(error: LLMError, other: type) -> None:
    twin = other(**{name: getattr(error, name) for name in error.__dataclass_fields__})
    assert (twin == error) is (type(error) is other)
    assert hash(copy.copy(error)) == hash(error)


@pytest.mark.parametrize("error_type", KINDS)
def test_errors_are_frozen_and_have_slots(error_type: type) -> None:
    error = error_type(message="m")
    with pytest.raises((AttributeError, TypeError)):
        error.message = "other"
    assert not hasattr(error, "__dict__")


def test_error_text() -> None:
    assert str(RateLimited(message="slow down", provider="openai", status=429)) == "openai: slow down (429)"
    assert str(AuthFailed(path="$.model")) == "AuthFailed at $.model"


@given(failures)
def test_with_context_keeps_existing_fields(error: LLMError) -> None:
    done = with_context(error, provider="p", request_id="r", retry_after_s=9.0, should_retry=False)
    assert type(done) is type(error)
    assert done.provider == (error.provider or "p")
    assert done.request_id == (error.request_id or "r")
    assert done.retry_after_s == (9.0 if error.retry_after_s is None else error.retry_after_s)
    assert done.should_retry == (False if error.should_retry is None else error.should_retry)
    assert (done.message, done.status, done.code, done.path) == (error.message, error.status, error.code, error.path)


def test_exception_holds_the_results_of_a_run() -> None:
    raised = to_exception(AuthFailed())
    assert raised.table is None
    raised.table = "rows"
    assert raised.table == "rows"
