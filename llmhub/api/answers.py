"""Answers as typed values: what to ask for, and how to read what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, overload

from llmhub.api.options import found
from llmhub.core import schemas
from llmhub.core.types import JSON, Choice, CompletionResponse, Schema

T = TypeVar("T")


def schema_of(wanted: Schema | Mapping[str, JSON] | type[Any], name: str = "") -> Schema:
    """Make the schema that ``response_schema=`` makes of a JSON schema, a pydantic model or a dataclass.

    Raises
    ------
    InvalidRequestError
        What is wanted is no type and no schema.

    Examples
    --------
    >>> schema_of(list[int]).schema["properties"]
    {'value': {'type': 'array', 'items': {'type': 'integer'}}}
    """
    return found(schemas.schema_of(wanted, name))


@overload
def parse(answer: CompletionResponse | Choice | str, wanted: type[T]) -> T: ...
@overload
def parse(answer: CompletionResponse | Choice | str, wanted: Schema | Mapping[str, JSON]) -> Any: ...
def parse(answer: CompletionResponse | Choice | str, wanted: Any) -> Any:
    """Give the value that an answer spells.

    Parameters
    ----------
    answer
        A response (or one of its ``others``), or its text.
    wanted
        What was asked for with ``response_schema=``: a pydantic model or a dataclass gives an instance of it, a JSON
        schema plain values, which are not checked against it.

    Raises
    ------
    MalformedError
        The answer does not fit; its error's ``path`` says where.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    >>> parse('{"name": "Ada"}', Person)
    Person(name='Ada')
    """
    return found(schemas.parse(answer, wanted))
