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
    lambda made: st.builds(
        made,
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


def test_every_kind_has_an_exception_of_its_own_and_there_is_no_other() -> None:
    assert set(EXCEPTIONS) == set(KINDS)
    assert len(set(EXCEPTIONS.values())) == len(KINDS)
    assert {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")} == {
        *(made.__name__ for made in EXCEPTIONS.values()),
        "CacheError",
        "ConnectorError",
        "ServerError",
    }


@given(failures)
def test_an_error_becomes_the_exception_of_its_kind_and_says_the_same(error: LLMError) -> None:
    raised = to_exception(error)
    assert type(raised) is EXCEPTIONS[type(error)]
    assert isinstance(raised, ConnectorError)
    assert raised.error is error
    assert str(raised) == str(error)


@given(failures)
def test_errors_and_exceptions_are_pickled_by_value(error: LLMError) -> None:
    assert pickle.loads(pickle.dumps(error)) == error
    assert copy.deepcopy(error) == error
    again = pickle.loads(pickle.dumps(to_exception(error)))
    assert (type(again), again.error, str(again)) == (EXCEPTIONS[type(error)], error, str(error))


@pytest.mark.parametrize(
    ("name", "builtin"),
    [("InvalidRequest", ValueError), ("TimedOut", TimeoutError), ("Disconnected", ConnectionError)],
)
def test_some_are_what_python_calls_them(name: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise to_exception(getattr(errors, name)())


def test_which_kinds_pass_and_which_last() -> None:
    assert {made.__name__ for made in KINDS} == LASTING | PASSING
    assert {made.__name__ for made in TRANSIENT} == PASSING
    assert {error_type_name(made()) for made in KINDS if is_transient(made())} == PASSING


@given(failures)
def test_the_providers_own_word_decides_over_the_kind(error: LLMError) -> None:
    said = error.should_retry
    assert is_transient(error) is (error_type_name(error) in PASSING if said is None else said)
    assert retry_after_s(error) == error.retry_after_s


@given(failures, kinds)
def test_errors_compare_by_kind_and_value(error: LLMError, other: type) -> None:
    twin = other(**{name: getattr(error, name) for name in error.__dataclass_fields__})
    assert (twin == error) is (type(error) is other)
    assert hash(copy.copy(error)) == hash(error)


@pytest.mark.parametrize("made", KINDS)
def test_errors_are_frozen_and_have_no_room_for_more(made: type) -> None:
    error = made(message="m")
    with pytest.raises((AttributeError, TypeError)):
        error.message = "other"
    assert not hasattr(error, "__dict__")


def test_an_error_says_who_what_where_and_with_which_status() -> None:
    assert str(RateLimited(message="slow down", provider="openai", status=429)) == "openai: slow down (429)"
    assert str(AuthFailed(path="$.model")) == "AuthFailed at $.model"


@given(failures)
def test_stamping_keeps_what_was_said(error: LLMError) -> None:
    done = with_context(error, provider="p", request_id="r", retry_after_s=9.0, should_retry=False)
    assert type(done) is type(error)
    assert done.provider == (error.provider or "p")
    assert done.request_id == (error.request_id or "r")
    assert done.retry_after_s == (9.0 if error.retry_after_s is None else error.retry_after_s)
    assert done.should_retry == (False if error.should_retry is None else error.should_retry)
    assert (done.message, done.status, done.code, done.path) == (error.message, error.status, error.code, error.path)


def test_an_exception_holds_a_table_that_was_paid_for() -> None:
    raised = to_exception(AuthFailed())
    assert raised.table is None
    raised.table = "rows"
    assert raised.table == "rows"
