"""Python functions as tools: their schema from type hints and docstring, and calls with a model's arguments."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from returns.pipeline import is_successful

from llmhub.core.errors import LLMError, invalid, to_exception
from llmhub.core.json_schema import ResponseParser, response_parser, schema_of
from llmhub.core.types import JSON, Tool

TOOL_FORMAT: Final = "pass a function, a Tool, or a mapping with 'name' and 'parameters' as OpenAI's API takes it"
SECTION: Final = re.compile(r"^\s*(Parameters|Args|Arguments|Returns|Yields|Raises|Examples?|Notes?)\s*:?\s*$")
DESCRIBED: Final = re.compile(r"^\s*(?::param\s+)?(\w+)\s*(?:\([^)]*\)\s*)?:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """A function that a model may call.

    Parameters
    ----------
    tool
        Its name, description and schema, as sent to the provider.
    function
        The function.
    parse
        Parses the JSON text of a call's arguments.
    """

    tool: Tool
    function: Callable[..., Any]
    parse: ResponseParser

    def arguments(self, text: str) -> dict[str, Any]:
        """Return the keyword arguments of a call, converted to the annotated types.

        Raises
        ------
        MalformedResponseError
            The arguments do not match the schema.
        """
        result = self.parse(text or "{}")
        if not is_successful(result):
            raise to_exception(result.failure())
        value = result.unwrap()
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def split_tools(tools: Any) -> tuple[Any, dict[str, ToolFunction]]:
    """Return tools as they are sent, and those of them that are functions, by name.

    Raises
    ------
    BadRequestError
        One of them is neither a function, a `Tool` nor a mapping that describes one; or two have the same name.

    Examples
    --------
    >>> def add(a: int, b: int = 1) -> int:
    ...     '''Add two numbers.'''
    ...     return a + b
    >>> (tool,), functions = split_tools([add])
    >>> tool.name, tool.description, tool.parameters["required"]
    ('add', 'Add two numbers.', ['a'])
    >>> functions["add"].arguments('{"a": 2}')
    {'a': 2, 'b': 1}
    """
    if isinstance(tools, (Tool, Mapping)) or callable(tools):
        tools = [tools]
    if not isinstance(tools, Iterable) or isinstance(tools, (str, bytes)):
        return tools, {}  # validation of the request names the type
    parsed: list[Tool] = []
    functions: dict[str, ToolFunction] = {}
    for index, given in enumerate(tools):
        path = f"tools[{index}]"
        if isinstance(given, Tool):
            tool = given
        elif isinstance(given, Mapping):
            tool = _from_mapping(given, path)
        elif callable(given):
            function = function_tool(given, path)
            functions[function.tool.name] = function
            tool = function.tool
        else:
            raise invalid(path, f"{type(given).__name__} is not a tool; {TOOL_FORMAT}")
        if any(other.name == tool.name for other in parsed):
            raise invalid(path, f"another tool is named {tool.name!r}; rename one")
        parsed.append(tool)
    return tuple(parsed), functions


def function_tool(function: Callable[..., Any], path: str = "tools") -> ToolFunction:
    """Return a function as a tool; descriptions come from its docstring (numpydoc, Google or reST).

    Raises
    ------
    BadRequestError
        It takes ``*args`` or ``**kwargs``, or an annotation has no JSON schema.
    """
    name = getattr(function, "__name__", "") or type(function).__name__
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", name):
        raise invalid(path, f"{name!r} cannot be the name of a tool; define a function with a name of letters")
    callee: Any = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(callee)
    except (NameError, TypeError) as error:
        raise invalid(path, f"the annotations of {name} cannot be resolved: {error}") from None
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
            raise invalid(path, f"{name} takes {parameter}; a tool has named parameters only")
        hint = hints.get(parameter.name, Any)
        has_default = parameter.default is not inspect.Parameter.empty
        default: Any = dataclasses.field(default_factory=partial(_identity, parameter.default))
        fields.append((parameter.name, hint, default) if has_default else (parameter.name, hint))
    arguments = dataclasses.make_dataclass(name, fields, kw_only=True)
    summary, described = _descriptions(inspect.getdoc(function) or "")
    schema = _unwrap(schema_of(arguments), path, name).schema
    optional = {field[0] for field in fields if len(field) > 2}  # noqa: PLR2004 - with a default
    tool = Tool(name, summary, _parameters(schema, described, optional))
    return ToolFunction(tool, function, _unwrap(response_parser(arguments), path, name))


def _identity(value: Any) -> Any:
    return value


def _unwrap(result: Any, path: str, name: str) -> Any:
    if is_successful(result):
        return result.unwrap()
    error: LLMError = result.failure()
    raise invalid(path, f"the parameters of {name} have no JSON schema: {error.message}")


def _parameters(schema: Mapping[str, JSON], described: Mapping[str, str], optional: set[str]) -> dict[str, JSON]:
    """Return the schema of parameters with their descriptions; those with a default are not required."""
    given: Any = schema.get("properties") or {}
    properties = {
        name: {**node, "description": described[name]} if name in described and isinstance(node, dict) else node
        for name, node in given.items()
    }
    required = [name for name in properties if name not in optional]
    own = {key: value for key, value in schema.items() if key not in {"title", "properties", "required"}}
    return {**own, "type": "object", "properties": properties, "required": required}


def _descriptions(doc: str) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring before its sections, and the descriptions of parameters."""
    summary: list[str] = []
    described: dict[str, str] = {}
    section, name = "", ""
    for line in doc.splitlines():
        heading = SECTION.match(line)
        entry = DESCRIBED.match(line)
        if heading:
            section, name = heading[1], ""
        elif line.strip().startswith(":param") and entry:
            section, name = "Args", entry[1]
            described[name] = entry[2].strip()
        elif line.strip().startswith(":"):
            section, name = "other", ""
        elif not section:
            summary.append(line)
        elif section in {"Parameters", "Args", "Arguments"} and line.strip(" -"):
            is_entry = entry is not None and (section != "Parameters" or line[:1] != " ")
            if entry is not None and is_entry:
                name = entry[1]
                described[name] = "" if section == "Parameters" else entry[2].strip()
            elif section == "Parameters" and line[:1] != " ":
                name = line.strip()
                described[name] = ""
            elif name:
                described[name] = f"{described[name]} {line.strip()}".strip()
    return "\n".join(summary).strip(), {name: text for name, text in described.items() if text}


def _from_mapping(given: Mapping[Any, Any], path: str) -> Tool:
    """Return a tool from a mapping of the Chat Completions, Responses or Messages API."""
    inner = given.get("function")
    described: Mapping[Any, Any] = inner if isinstance(inner, Mapping) else given
    name = described.get("name")
    parameters = described.get("parameters", described.get("input_schema", {}))
    if not isinstance(name, str) or not isinstance(parameters, Mapping):
        raise invalid(path, f"the mapping has no 'name' with a mapping as 'parameters'; {TOOL_FORMAT}")
    strict = described.get("strict")
    return Tool(name, str(described.get("description") or ""), dict(parameters), strict)


def result_text(value: Any) -> str:
    """Return what a tool returned as text for the model: text as it is, all other values as JSON.

    Examples
    --------
    >>> result_text("sunny"), result_text({"celsius": 21}), result_text(None)
    ('sunny', '{"celsius":21}', 'null')
    """
    if isinstance(value, str):
        return value
    if hasattr(value, "model_dump_json"):
        return str(value.model_dump_json())
    try:
        return msgspec.json.encode(value, enc_hook=_enc_hook).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return str(value)


def _enc_hook(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else str(value)
